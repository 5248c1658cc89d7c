"""Which keys clients ask for most, by what all nodes say together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ssl import SSLContext

from shoal.admin.connection import AdminConnection
from shoal.errors import ShoalError
from shoal.protocol.hot_keys import HotKeys
from shoal.shardmap import NodeAddress, ShardMap


@dataclass(frozen=True, slots=True)
class HotKeyRate:
    """What is asked of a key, a second, at all nodes together.

    Both rates are off by `error` together at the most, 19 times of 20. `share`: of all that is asked of its shard.
    """

    keyspace: str
    shard: int
    key: bytes
    reads: int
    writes: int
    error: int
    share: float


@dataclass(frozen=True, slots=True)
class HotKeysFound:
    """The keys, the first that is asked for most, and of the nodes that did not answer, why."""

    keys: list[HotKeyRate]
    answered: int
    silent: dict[str, str]


async def find_hot_keys(
    nodes: Sequence[NodeAddress], shard_map: ShardMap, shard: int, timeout_seconds: float, tls: SSLContext | None
) -> HotKeysFound:
    """Ask nodes, all at once. `shard` 0: of their busiest replicas."""
    answers = await asyncio.gather(*(_ask(node, shard, timeout_seconds, tls) for node in nodes))
    found = [answer for answer in answers if isinstance(answer, HotKeys)]
    silent = {node.id: answer for node, answer in zip(nodes, answers, strict=True) if isinstance(answer, str)}
    return HotKeysFound(merged(found, shard_map), len(found), silent)


async def _ask(node: NodeAddress, shard: int, timeout_seconds: float, tls: SSLContext | None) -> HotKeys | str:
    try:
        async with await AdminConnection.open(node.address, timeout_seconds, tls) as connection:
            return await connection.hot_keys(shard)
    except ShoalError as error:
        return str(error)


def merged(answers: Iterable[HotKeys], shard_map: ShardMap) -> list[HotKeyRate]:
    """Return what nodes say of each key together, the key first that is asked for most."""
    names = {keyspace.id: keyspace.name for keyspace in shard_map.keyspaces}
    rates: dict[int, int] = {}
    keyspaces: dict[int, str] = {}
    keys: dict[tuple[int, bytes], list[int]] = {}
    for answer in answers:
        for each in answer.shards:
            rates[each.shard] = rates.get(each.shard, 0) + each.rate
            keyspaces[each.shard] = names.get(each.keyspace, str(each.keyspace))
            for key in each.keys:
                known = keys.setdefault((each.shard, key.key), [0, 0, 0])
                for place, value in enumerate((key.reads, key.writes, key.error)):
                    known[place] += value
    found = [
        HotKeyRate(
            keyspaces[shard],
            shard,
            key,
            reads,
            writes,
            error,
            round(min(1.0, (reads + writes) / max(1, rates[shard])), 4),
        )
        for (shard, key), (reads, writes, error) in keys.items()
    ]
    return sorted(found, key=lambda hot: (-(hot.reads + hot.writes), hot.shard, hot.key))

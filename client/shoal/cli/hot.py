"""`shoal hot`: which keys clients ask for most, just now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ssl import SSLContext
from typing import Annotated

import msgspec
import typer

from shoal.admin.connection import AdminConnection
from shoal.admin.survey import fetch_shard_map
from shoal.bounds import MAX_SHARD
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, ClusterUrlOption, JsonOption, admin_options
from shoal.cli.output import note, print_json, print_table, shown
from shoal.cli.rows import EncodedRow, encoded_key
from shoal.errors import ShoalError, Unavailable
from shoal.options import Options
from shoal.protocol.hot_keys import HotKeys
from shoal.shardmap import NodeAddress, ShardMap

SHOWN_CHARACTERS = 60
DEFAULT_LIMIT = 20
LIMIT_MAX = 1000


class HotKeyView(EncodedRow, omit_defaults=True, kw_only=True):
    """One row of `shoal hot`: what is asked of a key, a second, at all nodes together.

    Both rates may be too low by `error` together. `share`: of all that is asked of its shard.
    """

    keyspace: str
    shard: int
    reads: int
    writes: int
    error: int
    share: float


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("hot")(hot)


def hot(
    shard: Annotated[
        int | None, typer.Option("--shard", min=1, max=MAX_SHARD, help="Of this shard; else of the busiest.")
    ] = None,
    keyspace: Annotated[str | None, typer.Option("--keyspace", metavar="NAME", help="Of this keyspace.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=LIMIT_MAX, help="So many keys.")] = DEFAULT_LIMIT,
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List the keys that clients read and write most, over about the last ten seconds.

    Estimated from a sample of requests. Exit code 5 if no node answers.
    """
    listed = asyncio.run(_hottest(admin_options(url), shard or 0, keyspace))[:limit]
    if as_json:
        print_json(listed)
        return
    print_table(
        ("key", "keyspace", "shard", "reads/s", "writes/s", "at most more", "of its shard"),
        [
            (
                _short(view),
                view.keyspace,
                view.shard,
                view.reads,
                view.writes,
                view.error,
                f"{100 * view.share:.0f} %",
            )
            for view in listed
        ],
    )


async def _hottest(options: Options, shard: int, keyspace: str | None) -> list[HotKeyView]:
    tls = options.tls_context()
    shard_map = await fetch_shard_map(options.seeds, options.timeout, tls)
    _check(shard_map, shard, keyspace)
    answers = await asyncio.gather(*(_ask(node, shard, options.timeout, tls) for node in shard_map.nodes))
    found = [answer for answer in answers if isinstance(answer, HotKeys)]
    silent = [
        f"{node.id}: {answer}" for node, answer in zip(shard_map.nodes, answers, strict=True) if isinstance(answer, str)
    ]
    if not found:
        raise Unavailable("no node answered: " + "; ".join(silent))
    for reason in silent:
        note(f"shoal: without what is asked of node {reason}")
    views = merged(found, shard_map)
    return views if keyspace is None else [view for view in views if view.keyspace == keyspace]


def _check(shard_map: ShardMap, shard: int, keyspace: str | None) -> None:
    if shard and all(known.id != shard for known in shard_map.shards):
        raise CommandFailed(f"no shard {shard}; `shoal shards` lists them", ExitCode.NOT_FOUND)
    names = sorted(known.name for known in shard_map.keyspaces)
    if keyspace is not None and keyspace not in names:
        raise CommandFailed(f"no keyspace {keyspace!r}; there are {', '.join(names)}", ExitCode.NOT_FOUND)


async def _ask(node: NodeAddress, shard: int, timeout_seconds: float, tls: SSLContext | None) -> HotKeys | str:
    try:
        async with await AdminConnection.open(node.address, timeout_seconds, tls) as connection:
            return await connection.hot_keys(shard)
    except ShoalError as error:
        return str(error)


def merged(answers: Iterable[HotKeys], shard_map: ShardMap) -> list[HotKeyView]:
    """Return what the nodes say of each key together, the key first that is asked for most."""
    names = {keyspace.id: keyspace.name for keyspace in shard_map.keyspaces}
    rates: dict[int, int] = {}
    keys: dict[tuple[int, bytes], list[int]] = {}
    keyspaces: dict[int, str] = {}
    for each in answers:
        for of_shard in each.shards:
            rates[of_shard.shard] = rates.get(of_shard.shard, 0) + of_shard.rate
            keyspaces[of_shard.shard] = names.get(of_shard.keyspace, str(of_shard.keyspace))
            for key in of_shard.keys:
                known = keys.setdefault((of_shard.shard, key.key), [0, 0, 0])
                for place, value in enumerate((key.reads, key.writes, key.error)):
                    known[place] += value
    views = [
        HotKeyView(
            **msgspec.structs.asdict(encoded_key(key)),
            keyspace=keyspaces[shard],
            shard=shard,
            reads=reads,
            writes=writes,
            error=error,
            share=round(min(1.0, (reads + writes) / max(1, rates[shard])), 4),
        )
        for (shard, key), (reads, writes, error) in keys.items()
    ]
    return sorted(views, key=lambda view: (-(view.reads + view.writes), view.shard, view.key or view.key_base64 or ""))


def _short(view: HotKeyView) -> str:
    text = shown(view.key.encode()) if view.key is not None else f"base64 {view.key_base64}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."

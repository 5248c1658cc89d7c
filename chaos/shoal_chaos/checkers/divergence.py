"""Do all replicas of a shard have the same rows at the same position? Each is asked, while nobody writes.

A state machine that is given equal logs must come to equal states; where one does not, some of its readers see another
database, and after a failover all do. Replicas are asked for checksums slice by slice, side by side. A slice that
differs is asked for again in smaller ones, down to the first row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ssl import SSLContext

from shoal.admin.connection import AdminConnection, WrongShard
from shoal.admin.survey import fetch_shard_map
from shoal.errors import Unavailable
from shoal.protocol.checksums import ChecksumCursor, ChecksumSlice
from shoal.shardmap import Shard

SLICE_ROWS = 1024
NARROWER = 8
RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Divergence:
    """Replicas of `shard` that have other rows than others behind `cursor`, at the same log index.

    `groups` are the nodes that agree with each other, the most numerous first.
    """

    shard: int
    index: int
    cursor: ChecksumCursor
    groups: tuple[tuple[str, ...], ...]
    sentence: str


class NotQuiet(Exception):
    """The replicas of a shard did not come to one position: somebody writes, or one of them is behind for good."""


async def find_violations(
    seeds: Sequence[str],
    patience_seconds: float = 30.0,
    *,
    without: Collection[str] = (),
    tls: SSLContext | None = None,
) -> list[Divergence]:
    """Compare all replicas of every shard; return the first difference of each.

    Args:
        seeds: addresses of nodes, one of which must answer.
        patience_seconds: how long a node may take to answer, and the replicas of one shard to come to one position: for each
            slice of its rows.
        without: nodes that are given up, whose replicas nobody asks.
        tls: None: connections are plain.

    Raises:
        NotQuiet: they did not come to one.
        Unavailable, DeadlineExceeded: a node that has a replica does not answer.
    """
    shard_map = await fetch_shard_map(seeds, tls=tls)
    found: list[Divergence] = []
    async with AsyncExitStack() as stack:
        connections = {
            node.id: await stack.enter_async_context(await _connect(node.address, patience_seconds, tls))
            for node in shard_map.nodes
            if node.id not in without and any(node.id in shard.replicas for shard in shard_map.shards)
        }
        for shard in shard_map.shards:
            replicas = {node: connections[node] for node in sorted(shard.replicas) if node in connections}
            if not replicas:
                continue
            divergence = await _Comparison(shard, replicas, patience_seconds).run()
            if divergence is not None:
                found.append(divergence)
    return found


async def _connect(address: str, patience_seconds: float, tls: SSLContext | None) -> AdminConnection:
    """Connect to a node, which may just be starting."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_seconds
    while True:
        try:
            return await AdminConnection.open(address, patience_seconds, tls=tls)
        except Unavailable:
            if loop.time() >= until:
                raise
        await asyncio.sleep(RETRY_SECONDS)


class _Moved(Exception):
    """The replicas are not at one position."""


class _Resharded(Exception):
    """Some have other microshards than the shard had when it was looked up."""


class _Comparison:
    """Of one shard. Each slice is compared at a position of its own, at which all replicas have to be.

    So entries that change no row begin nothing anew: nodes write some, with which they compare their replicas themselves.
    """

    def __init__(self, shard: Shard, replicas: Mapping[str, AdminConnection], patience_seconds: float) -> None:
        self._shard = shard.id
        self._ranges = shard.ranges
        self._replicas = replicas
        self._patience_seconds = patience_seconds
        self._until = 0.0
        """When patience ends: counted from the last slice that was compared."""

    async def run(self) -> Divergence | None:
        self._compared()
        while True:
            try:
                return await self._compare()
            except _Resharded as resharded:
                await self._look_again()
                await self._pause(resharded)

    def _compared(self) -> None:
        self._until = asyncio.get_running_loop().time() + self._patience_seconds

    async def _pause(self, why: Exception) -> None:
        if asyncio.get_running_loop().time() >= self._until:
            raise NotQuiet(f"shard {self._shard}: {why}") from why
        await asyncio.sleep(RETRY_SECONDS)

    async def _compare(self) -> Divergence | None:
        rows, cursor = SLICE_ROWS, ChecksumCursor()
        while True:
            try:
                slices = await self._slices(cursor, rows)
            except _Moved as moved:
                await self._pause(moved)
                continue
            self._compared()
            first = next(iter(slices.values()))
            if len({slice_.digest for slice_ in slices.values()}) > 1:
                if rows == 1:
                    return self._divergence(cursor, slices)
                rows = max(1, rows // NARROWER)
            elif first.next is None:
                return None
            else:
                cursor = first.next

    async def _slices(self, cursor: ChecksumCursor, rows: int) -> dict[str, ChecksumSlice]:
        answers = await asyncio.gather(*(self._slice(replica, cursor, rows) for replica in self._replicas.values()))
        slices = [answer for answer in answers if answer is not None]
        if len(slices) < len(answers):
            raise _Resharded("some have other microshards than it had when it was looked up")
        by_node = dict(zip(self._replicas, slices, strict=True))
        positions = {node: slice_.index for node, slice_ in by_node.items()}
        if len(set(positions.values())) > 1:
            raise _Moved(f"the replicas are at {positions}")
        return by_node

    async def _slice(self, replica: AdminConnection, cursor: ChecksumCursor, rows: int) -> ChecksumSlice | None:
        """Return a replica's checksum; None where it does not have the microshards that the shard was said to have."""
        try:
            return await replica.read_checksum(self._shard, self._ranges, cursor, max_rows=rows)
        except WrongShard:
            return None

    async def _look_again(self) -> None:
        """Take the shard's microshards from the newest map of its replicas' nodes."""
        maps = [await replica.shard_map() for replica in self._replicas.values()]
        newest = max(maps, key=lambda shard_map: shard_map.version)
        known = next((shard for shard in newest.shards if shard.id == self._shard), None)
        self._ranges = () if known is None else known.ranges

    def _divergence(self, cursor: ChecksumCursor, slices: Mapping[str, ChecksumSlice]) -> Divergence:
        by_digest: dict[bytes, list[str]] = {}
        for node, slice_ in slices.items():
            by_digest.setdefault(slice_.digest, []).append(node)
        groups = sorted(map(tuple, by_digest.values()), key=len, reverse=True)
        told = "; ".join(f"{', '.join(group)}: {_told(slices[group[0]])}" for group in groups)
        behind = f"behind {cursor.after!r} in microshard {cursor.microshard}" if cursor.after else "first of all"
        index = next(iter(slices.values())).index
        sentence = f"The replicas of shard {self._shard} differ at index {index}, {behind}: {told}."
        return Divergence(self._shard, index, cursor, tuple(groups), sentence)


def _told(slice_: ChecksumSlice) -> str:
    digest = slice_.digest.hex()
    if not slice_.rows:
        return f"no row there, checksum {digest}"
    if slice_.next is None:
        return f"the last row, checksum {digest}"
    return f"{slice_.next.after!r} in microshard {slice_.next.microshard}, checksum {digest}"

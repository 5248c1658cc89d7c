"""Connections that ask for much, and read the answers slowly or never."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from shoal.protocol.messages import Read, Request

from shoal_chaos.attackers.base import Assault, Attack, Family
from shoal_chaos.attackers.giant_values import VALUES, fill, key
from shoal_chaos.attackers.wire import Target, most_leading, wire

CONNECTIONS = 25
READS = 16
KEYS = 8
"""Of 1 MiB each."""

RECEIVE_BYTES = 4096
PIECE_BYTES = 16 * 1024
PIECE_SECONDS = 0.25
REQUEST_MS = 60_000


def giant_reads(target: Target, reads: int) -> list[Request]:
    """Return so many reads of `KEYS` giant values, all of shards that the node leads."""
    numbers = count()
    keys = target.by_shard(key(number).encode() for number in range(VALUES))
    each = [
        (shard, (found * KEYS)[first : first + KEYS])
        for shard, found in keys.items()
        for first in range(0, len(found), KEYS)
    ]
    return [
        Read(next(numbers), shard, target.keyspace.id, REQUEST_MS, asked)
        for shard, asked in (each[number % len(each)] for number in range(reads))
    ]


async def _connection(assault: Assault, target: Target, *, reads: bool) -> None:
    async with wire(assault, target.address, receive_bytes=RECEIVE_BYTES) as connection:
        if await connection.greet() is None:
            return
        await connection.ask(giant_reads(target, READS))
        while assault.left and not connection.over:
            if reads:
                await connection.read_some(PIECE_BYTES)
            await asyncio.sleep(min(PIECE_SECONDS, assault.left))


def _connections(*, reads: bool) -> Callable[[Assault], Awaitable[None]]:
    async def run(assault: Assault) -> None:
        target = await most_leading(assault)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(_connection(assault, target, reads=reads))

    return run


ATTACKS = (
    Attack(
        "never-reads",
        Family.SLOW_READER,
        f"{CONNECTIONS} connections that ask for {READS * KEYS} MiB each and read nothing",
        _connections(reads=False),
        fill,
    ),
    Attack(
        "reads-slowly",
        Family.SLOW_READER,
        f"{CONNECTIONS} connections that ask for {READS * KEYS} MiB each and read 64 KiB/s",
        _connections(reads=True),
        fill,
    ),
)

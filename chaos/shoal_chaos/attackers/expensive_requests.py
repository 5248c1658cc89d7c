"""Small requests that are much work for a node, in frames of our own making: what anybody can send, some kB at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import (
    GetShardMap,
    GetStatus,
    Hello,
    OpenSession,
    Ping,
    Read,
    ReadPage,
    Request,
    Scan,
)
from shoal.protocol.version import NEWEST, OLDEST

from shoal_chaos.attackers import giant_values
from shoal_chaos.attackers.base import Assault, Attack, Family
from shoal_chaos.attackers.slow_reader import giant_reads
from shoal_chaos.attackers.wire import Target, Wire, dial, most_leading, wire

STATUSES = 2_000
CHECKSUMS = 8_000
SCANS = 4_000
GIANT_READS = 200
PAGES = 2_000
MAPS = 2_000
PINGS = 10_000
OPENINGS = 4_096
LONG_KEYS = 65_536
LONG_READS = 2
ROWS = 20_000
LONG_VALUE = b"l" * 1_000
LONG_ROWS = [b"expensive-long-%d" % number for number in range(64)]
"""So many that some are of a shard that the node leads."""

FRAME_SECONDS = 1.0
"""Between two frames: a few kB a second are enough."""

OPENING_SECONDS = 0.05
REQUEST_MS = 60_000

Frame = Callable[[Target], Sequence[Request]]


async def _fill(assault: Assault) -> None:
    """Write rows for scans and checksums to go through."""
    async with assault.client() as db:
        await db.put_many({f"expensive-{number}": b"e" * 100 for number in range(ROWS)}, timeout=60)
        await db.put_many(dict.fromkeys(LONG_ROWS, LONG_VALUE))


def _frames(frame: Frame, pause_seconds: float = FRAME_SECONDS) -> Callable[[Assault], Awaitable[None]]:
    """Return an attack that sends the same frame again and again, on one connection, and reads the answers."""

    async def run(assault: Assault) -> None:
        target = await most_leading(assault)
        requests = frame(target)
        while assault.left:
            async with wire(assault, target.address) as connection:
                if await connection.greet() is not None:
                    await _send_and_read(assault, connection, requests, pause_seconds)
            await asyncio.sleep(min(FRAME_SECONDS, assault.left))

    return run


async def _send_and_read(assault: Assault, connection: Wire, requests: Sequence[Request], pause_seconds: float) -> None:
    reading = asyncio.create_task(connection.read_answers())
    try:
        while assault.left and not connection.over:
            await connection.ask(requests)
            await asyncio.sleep(min(pause_seconds, assault.left))
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _frames_and_gone(frame: Frame) -> Callable[[Assault], Awaitable[None]]:
    """Return an attack that sends a frame, does not wait for the answers, and does so again."""

    async def run(assault: Assault) -> None:
        target = await most_leading(assault)
        requests = frame(target)
        while assault.left:
            connection = await dial(assault, target.address)
            try:
                # Greeting and frame at once: the node need not have said a word.
                await connection.send(encode_frame([Hello("client", OLDEST, NEWEST)]))
                await connection.ask(requests)
                await asyncio.sleep(min(FRAME_SECONDS, assault.left))
            finally:
                await connection.close()

    return run


def _statuses(_: Target) -> Sequence[Request]:
    return [GetStatus(number) for number in range(STATUSES)]


def _checksums(target: Target) -> Sequence[Request]:
    shards = target.led
    return [
        ReadChecksum(number, shard.id, shard.ranges, ChecksumCursor(), 1 << 20)
        for number, shard in ((number, shards[number % len(shards)]) for number in range(CHECKSUMS))
    ]


def _scans(target: Target) -> Sequence[Request]:
    shards = target.led
    return [
        Scan(number, shard.id, target.keyspace.id, REQUEST_MS, shard.ranges, b"", b"", False, False, 1 << 20)
        for number, shard in ((number, shards[number % len(shards)]) for number in range(SCANS))
    ]


def _pages(target: Target) -> Sequence[Request]:
    shards = target.led
    return [
        ReadPage(number, shard.id, target.keyspace.id, REQUEST_MS, shard.ranges, b"", 1 << 20)
        for number, shard in ((number, shards[number % len(shards)]) for number in range(PAGES))
    ]


def _long_answers(target: Target) -> Sequence[Request]:
    """Return reads of the same row so often that the answer of each would be longer than a frame."""
    shard, keys = next(iter(target.by_shard(LONG_ROWS).items()))
    return [Read(number, shard, target.keyspace.id, REQUEST_MS, keys[:1] * LONG_KEYS) for number in range(LONG_READS)]


async def _openings(assault: Assault) -> None:
    target = await most_leading(assault)
    numbers = count()
    async with wire(assault, target.address) as connection:
        if await connection.greet() is None:
            return
        reading = asyncio.create_task(connection.read_answers())
        while assault.left and not connection.over:
            await connection.ask([OpenSession(next(numbers), target.led[0].id) for _ in range(OPENINGS)])
            await asyncio.sleep(min(OPENING_SECONDS, assault.left))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _attack(name: str, words: str, run: Callable[[Assault], Awaitable[None]]) -> Attack:
    return Attack(name, Family.EXPENSIVE_REQUESTS, words, run, _fill)


ATTACKS = (
    _attack("statuses", f"a frame a second of {STATUSES:,} GetStatus", _frames(_statuses)),
    _attack("checksums", f"a frame a second of {CHECKSUMS:,} ReadChecksum", _frames(_checksums)),
    _attack("raw-scans", f"a frame a second of {SCANS:,} Scans of all that a shard has", _frames(_scans)),
    _attack("raw-scans-gone", "the same, and the client has gone before an answer comes", _frames_and_gone(_scans)),
    Attack(
        "raw-giant-reads",
        Family.EXPENSIVE_REQUESTS,
        f"a frame a second of {GIANT_READS} Reads of 8 MiB",
        _frames(lambda target: giant_reads(target, GIANT_READS)),
        giant_values.fill,
    ),
    _attack("pages", f"a frame a second of {PAGES:,} ReadPage", _frames(_pages)),
    _attack(
        "maps", f"a frame a second of {MAPS:,} GetShardMap", _frames(lambda _: [GetShardMap(n) for n in range(MAPS)])
    ),
    _attack("pings", f"a frame a second of {PINGS:,} Pings", _frames(lambda _: [Ping(n) for n in range(PINGS)])),
    _attack(
        "long-answers",
        f"a frame a second of {LONG_READS} Reads of {LONG_KEYS:,} keys, 64 MiB each",
        _frames(_long_answers),
    ),
    _attack("session-openings", f"{OPENINGS:,} sessions opened every {1000 * OPENING_SECONDS:g} ms", _openings),
)

"""Legal writes that are much more work to apply, to keep, or to read past, than to send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count, islice

from shoal.protocol.digest import RangeDigest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Atomic,
    DeleteRange,
    KeyAbsent,
    OpenSession,
    Operation,
    Put,
    RangeUnchanged,
    SessionOpened,
    Write,
)
from shoal.shardmap import Ranges, one_microshard

from shoal_chaos.attackers.base import Assault, Attack, Family
from shoal_chaos.attackers.wire import Target, most_leading, wire

WRITE_SECONDS = 1.0
WRITE_MS = 10_000

PUTS_BESIDE_RANGES = RANGES = 1_000
PUTS_BESIDE_CONDITIONS, CONDITIONS = 1_000, 8
"""About the heaviest writes that are accepted: what is refused costs a node much less."""
FAILING = 62
FAILING_WRITES_A_SECOND = 1_500
FOUND_BYTES = 1_000
PREFIXES_AT_ONCE = 1_000
WHOLE_RANGES_AT_ONCE = 4
DELETED = 100_000
DELETED_BATCH = 2_000
HIDDEN_SCANS = 8

Operations = Callable[[Target, int], list[Operation]]
"""Of write number n; all of one shard that the target leads."""


def _keys(target: Target, prefix: str) -> list[bytes]:
    """Return keys of the first shard that the target leads, in partitions of their own."""
    shard = target.led[0].id
    each = (b"%s%d/" % (prefix.encode(), number) for number in count())
    led = (key for key in each if target.routes.shard_of(target.keyspace, key) == shard)
    return list(islice(led, RANGES))


def _ranges(target: Target) -> list[Operation]:
    puts: list[Operation] = [Put(key + b"x", b"v") for key in _keys(target, "u")]
    ranges = [
        DeleteRange(one_microshard(target.keyspace.microshard_of(key)), key, key[:-1] + b"0")
        for key in _keys(target, "w")
    ]
    return [*puts, *ranges]


def _conditions(target: Target) -> list[Operation]:
    keys = _keys(target, "u")[:PUTS_BESIDE_CONDITIONS]
    puts: list[Operation] = [Put(key + b"x", b"v") for key in keys]
    empty = RangeDigest()
    empty.add([], [])
    everywhere: Ranges = target.led[0].ranges
    condition = RangeUnchanged(everywhere, b"y", b"z", empty.value())
    return [*puts, *(Atomic([condition], [Put(keys[number] + b"c", b"")]) for number in range(CONDITIONS))]


def _failing(target: Target) -> list[Operation]:
    key = _keys(target, "f")[0]
    found: Operation = Put(key, b"f" * FOUND_BYTES)
    return [found, *(Atomic([KeyAbsent(key)], [Put(key, b"")]) for _ in range(FAILING))]


def _writes(make: Callable[[Target], list[Operation]], pause_seconds: float) -> Callable[[Assault], Awaitable[None]]:
    """Return an attack that makes the same write, in sessions of its own, again and again."""

    async def run(assault: Assault) -> None:
        target = await most_leading(assault)
        operations = encode_operations(make(target))
        shard, keyspace = target.led[0].id, target.keyspace.id
        async with wire(assault, target.address) as connection:
            if await connection.greet() is None:
                return
            opened = await connection.ask_for(OpenSession(1, shard), SessionOpened)
            reading = asyncio.create_task(connection.read_answers())
            number = 0
            while assault.left and not connection.over and opened is not None:
                number += 1
                await connection.ask([Write(number, shard, keyspace, opened.session, number, WRITE_MS, operations)])
                await asyncio.sleep(min(pause_seconds, assault.left))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    return run


async def _prefixes(assault: Assault) -> None:
    numbers = count()
    async with assault.client() as db:
        while assault.left:
            each = [f"gone-{number}/" for number in islice(numbers, PREFIXES_AT_ONCE)]
            await asyncio.gather(*(assault.call(lambda prefix=prefix: db.delete_prefix(prefix)) for prefix in each))  # type: ignore[misc]


async def _whole_ranges(assault: Assault) -> None:
    numbers = count()

    async def delete(start: str) -> None:
        await db.delete_range(start, start + "x")

    async with assault.client() as db:
        await assault.many(WHOLE_RANGES_AT_ONCE, lambda: delete(f"gone-{next(numbers):06}"))


def _deleted_keys() -> Sequence[Sequence[str]]:
    return [
        [f"hidden/{number:06}" for number in range(first, first + DELETED_BATCH)]
        for first in range(0, DELETED, DELETED_BATCH)
    ]


async def _fill_with_deleted(assault: Assault) -> None:
    async with assault.client(60.0) as db:
        for keys in _deleted_keys():
            await db.put_many(dict.fromkeys(keys, b"h"))
        for keys in _deleted_keys():
            await db.delete_many(keys)


async def _scan_hidden(assault: Assault) -> None:
    async def first(*, reverse: bool) -> None:
        async for _ in db.scan("hidden/", limit=1, reverse=reverse):
            pass

    async with assault.client() as db:
        await assault.many(HIDDEN_SCANS, lambda: first(reverse=assault.random.random() < 0.5))


def _attack(
    name: str,
    words: str,
    run: Callable[[Assault], Awaitable[None]],
    prepare: Callable[[Assault], Awaitable[None]] | None = None,
) -> Attack:
    found = Attack(name, Family.EXPENSIVE_REQUESTS, words, run)
    return found if prepare is None else Attack(name, Family.EXPENSIVE_REQUESTS, words, run, prepare)


ATTACKS = (
    _attack(
        "write-of-ranges",
        f"a write a second of {PUTS_BESIDE_RANGES:,} puts and {RANGES:,} range deletes",
        _writes(_ranges, WRITE_SECONDS),
    ),
    _attack(
        "write-of-conditions",
        f"a write a second of {PUTS_BESIDE_CONDITIONS:,} puts and {CONDITIONS} conditions over a whole shard",
        _writes(_conditions, WRITE_SECONDS),
    ),
    _attack(
        "failing-conditions",
        f"up to {FAILING_WRITES_A_SECOND:,} writes a second of {FAILING} conditions that fail",
        _writes(_failing, 1 / FAILING_WRITES_A_SECOND),
    ),
    _attack("deleted-prefixes", f"{PREFIXES_AT_ONCE:,} delete_prefix at once, again and again", _prefixes),
    _attack(
        "deleted-ranges",
        f"{WHOLE_RANGES_AT_ONCE} callers of delete_range over all microshards",
        _whole_ranges,
    ),
    _attack(
        "hidden-rows",
        f"{HIDDEN_SCANS} callers that look for the first or last row where {DELETED:,} were deleted",
        _scan_hidden,
        _fill_with_deleted,
    ),
)

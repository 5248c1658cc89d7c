"""Values of the greatest size that is allowed, written and read by many at once."""

from __future__ import annotations

import asyncio
from itertools import count

from shoal import AsyncClient

from shoal_chaos.attackers.base import Assault, Attack, Family

VALUE_BYTES = 1024 * 1024
VALUES = 64
FILL_AT_ONCE = 4
FILL_SECONDS = 30.0
CALL_SECONDS = 30.0
"""Values for 200 callers are to pass one connection to each node, read by a process of the lowest priority."""
READERS = 200
WRITERS = 32
MANY = 300
PARTITION_VALUES = 200
VALUE = b"g" * VALUE_BYTES


def key(number: int) -> str:
    """Return the name of a giant value that `fill` has written."""
    return f"giant-{number % VALUES}"


async def fill(assault: Assault) -> None:
    """Write the values, few at once."""
    async with assault.client(FILL_SECONDS) as db:
        for first in range(0, VALUES, FILL_AT_ONCE):
            await asyncio.gather(*(db.put(key(number), VALUE) for number in range(first, first + FILL_AT_ONCE)))


async def _fill_partition(assault: Assault) -> None:
    async with assault.client(FILL_SECONDS) as db:
        for number in range(PARTITION_VALUES):
            await db.put(f"giant/{number}", VALUE)


async def _reads(assault: Assault) -> None:
    async with assault.client(CALL_SECONDS) as db:
        await assault.many(READERS, lambda: db.get(key(assault.random.randrange(VALUES))))


async def _get_many(assault: Assault) -> None:
    keys = [key(number) for number in range(MANY)]
    async with assault.client(CALL_SECONDS) as db:
        await assault.again_and_again(lambda: db.get_many(keys))


async def _writes(assault: Assault) -> None:
    numbers = count()

    async def put(db: AsyncClient) -> None:
        await db.put(key(next(numbers)), VALUE)

    async with assault.client(CALL_SECONDS) as db:
        await assault.many(WRITERS, lambda: put(db))


async def _nothing(assault: Assault) -> None:
    await asyncio.sleep(assault.left)


ATTACKS = (
    Attack(
        "giant-reads", Family.GIANT_VALUES, f"{READERS} callers that read values of 1 MiB", _reads, fill, valid=True
    ),
    Attack(
        "giant-get-many",
        Family.GIANT_VALUES,
        f"calls that read {MANY} values of 1 MiB each",
        _get_many,
        fill,
        valid=True,
    ),
    Attack("giant-writes", Family.GIANT_VALUES, f"{WRITERS} callers that write values of 1 MiB", _writes, valid=True),
    Attack(
        "giant-rows-at-rest",
        Family.GIANT_VALUES,
        f"{PARTITION_VALUES} values of 1 MiB in one partition, which nodes count in the background",
        _nothing,
        _fill_partition,
    ),
)

"""Shoal's own client, used as if nobody else were there: whole-keyspace scans at once, huge calls, closed loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

from shoal import AsyncClient

from shoal_chaos.attackers.base import Assault, Attack, Family

ROWS = 2_000
SCAN_ROWS = 10
SCANS = (64, 150, 300)
MANY_KEYS = 20_000
MANY_CALLERS = 4
PUT_CALLERS = 256
TRANSACTIONS = 50
VALUE = b"x" * 100


async def fill(assault: Assault) -> None:
    """Write rows to be found."""
    async with assault.client() as db:
        await db.put_many({f"greedy-{number}": VALUE for number in range(ROWS)})


async def _scan(db: AsyncClient, start: int) -> None:
    async for _ in db.scan(f"greedy-{start}", limit=SCAN_ROWS):
        pass


def _scans(callers: int) -> Callable[[Assault], Awaitable[None]]:
    async def run(assault: Assault) -> None:
        async with assault.client() as db:
            await assault.many(callers, lambda: _scan(db, assault.random.randrange(ROWS)))

    return run


async def _get_many(assault: Assault) -> None:
    keys = [f"greedy-{number % ROWS}" for number in range(MANY_KEYS)]
    async with assault.client() as db:
        await assault.many(MANY_CALLERS, lambda: db.get_many(keys))


async def _puts(assault: Assault) -> None:
    async with assault.client() as db:
        await assault.many(PUT_CALLERS, lambda: db.put(f"greedy-{assault.random.randrange(ROWS)}", VALUE))


async def _transactions(assault: Assault) -> None:
    """Each scans the keyspace and finds nothing; that nobody has put anything there is a condition of its commit."""
    numbers = count()

    async def scan_and_put(db: AsyncClient) -> None:
        async with db.transaction() as tx:
            async for _ in tx.scan("seat"):
                pass
            tx.put(f"other-{next(numbers)}", VALUE)

    async with assault.client() as db, asyncio.TaskGroup() as group:
        group.create_task(assault.many(TRANSACTIONS, partial(scan_and_put, db)))
        group.create_task(assault.many(TRANSACTIONS, lambda: db.put(f"greedy-{assault.random.randrange(ROWS)}", VALUE)))


ATTACKS = (
    *(
        Attack(
            f"scans-{callers}",
            Family.GREEDY_CLIENT,
            f"{callers} scans at once of {SCAN_ROWS} rows, without a partition",
            _scans(callers),
            fill,
        )
        for callers in SCANS
    ),
    Attack(
        "huge-get-many",
        Family.GREEDY_CLIENT,
        f"{MANY_CALLERS} callers that read {MANY_KEYS:,} small rows in a call",
        _get_many,
        fill,
    ),
    Attack("closed-loop-puts", Family.GREEDY_CLIENT, f"{PUT_CALLERS} callers that write without pause", _puts, fill),
    Attack(
        "scanning-transactions",
        Family.GREEDY_CLIENT,
        f"{TRANSACTIONS} transactions at once that scan the keyspace, beside {TRANSACTIONS} callers that write",
        _transactions,
        fill,
    ),
)

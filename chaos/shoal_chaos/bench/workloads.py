"""What the callers of a benchmark do: single operations, the six YCSB workloads, and scans.

YCSB (Cooper and others, SoCC 2010, table 2): a is half reads, half updates; b 95% reads; c reads only; d 95% reads of what
was inserted lately; e 95% short scans, 5% inserts; f half reads, half read-modify-writes. Keys are zipfian.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import shoal
from shoal.results import Consistency

from shoal_chaos.bench.zipf import Zipfian, scattered

DRAWN = 1 << 16
MAX_SCAN_ROWS = 100


class Workload(StrEnum):
    """What the callers do."""

    PUT = "put"
    GET = "get"
    SCAN = "scan"
    A = "a"
    B = "b"
    C = "c"
    D = "d"
    E = "e"
    F = "f"


READ_SHARE = {Workload.A: 0.5, Workload.B: 0.95, Workload.C: 1.0, Workload.D: 0.95, Workload.E: 0.95, Workload.F: 0.5}

Operation = Callable[[int], Awaitable[int]]
"""Does call number n of the run; returns how many rows it wrote or read."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is written and read: `keys` keys of 16 bytes, values of `value_bytes`."""

    keys: int
    value_bytes: int

    def key(self, number: int) -> bytes:
        return b"k%015d" % number

    def value(self) -> bytes:
        return bytes(Random(0).randbytes(self.value_bytes))


def operation_of(db: shoal.AsyncClient, workload: Workload, shape: Shape, consistency: Consistency | None) -> Operation:
    """Return what one call of `workload` does; reads are at level `consistency`, None for the client's own."""
    value = shape.value()
    keys = [shape.key(number) for number in range(shape.keys)]

    async def put(number: int) -> int:
        await db.put(keys[number % shape.keys], value)
        return 1

    async def get(number: int) -> int:
        await db.get(keys[number % shape.keys], consistency=consistency)
        return 1

    async def scan(_: int) -> int:
        rows = 0
        async for _row in db.scan(keys_only=True, consistency=consistency):
            rows += 1
        return rows

    simple: dict[Workload, Operation] = {Workload.PUT: put, Workload.GET: get, Workload.SCAN: scan}
    return simple[workload] if workload in simple else _ycsb(db, workload, shape, keys, value, consistency)


def _ycsb(
    db: shoal.AsyncClient,
    workload: Workload,
    shape: Shape,
    keys: list[bytes],
    value: bytes,
    consistency: Consistency | None,
) -> Operation:
    random = Random(1)
    zipfian = Zipfian(shape.keys, random)
    ranks = [zipfian.draw() for _ in range(DRAWN)]
    chosen = [keys[scattered(rank, shape.keys)] for rank in ranks]
    share = READ_SHARE[workload]
    reads = [random.random() < share for _ in range(DRAWN)]
    lengths = [random.randint(1, MAX_SCAN_ROWS) for _ in range(DRAWN)]
    inserted = shape.keys

    async def insert() -> int:
        nonlocal inserted
        number, inserted = inserted, inserted + 1
        await db.put(shape.key(number), value)
        return 1

    async def read_or_update(number: int) -> int:
        at = number % DRAWN
        if reads[at]:
            await db.get(chosen[at], consistency=consistency)
        else:
            await db.put(chosen[at], value)
        return 1

    async def read_latest_or_insert(number: int) -> int:
        at = number % DRAWN
        if not reads[at]:
            return await insert()
        await db.get(shape.key(max(0, inserted - 1 - ranks[at])), consistency=consistency)
        return 1

    async def scan_or_insert(number: int) -> int:
        at = number % DRAWN
        if not reads[at]:
            return await insert()
        rows = 0
        async for _ in db.scan(start=chosen[at], limit=lengths[at], consistency=consistency):
            rows += 1
        return rows

    async def read_or_modify(number: int) -> int:
        at = number % DRAWN
        await db.get(chosen[at], consistency=consistency)
        if not reads[at]:
            await db.put(chosen[at], value)
        return 1

    if workload is Workload.D:
        return read_latest_or_insert
    if workload is Workload.E:
        return scan_or_insert
    return read_or_modify if workload is Workload.F else read_or_update

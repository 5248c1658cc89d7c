"""Calls that are much work for nodes and little for who makes them, in a closed loop or an open one, from a process of its own.

A call is a scan: of 500 keys of one partition, which one shard answers, or of ten rows over all microshards of a keyspace,
for which all its shards are asked. Either is several times as much work for the nodes as for the client: so the client is not
what is measured, though all share one machine. In an open loop a call that is due is made, whether or not earlier ones are
answered, and has a deadline; what was answered after it is of no use to anybody.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import msgspec
import uvloop
from shoal import AsyncClient, ShoalError

PARTITIONS = 40
ROWS = 500
"""Of each partition."""
SCAN_ROWS = 10
FILL_ROWS = 2_000
NICENESS = 10
START_SECONDS = 60.0
END_SECONDS = 30.0
PAUSE_SECONDS = 0.01
LATE = 2.0
"""A client that does not end a call within so many times its deadline is not waited for."""
READY, GO = b"ready\n", b"go\n"


class Demand(msgspec.Struct, frozen=True):
    """What one process asks for.

    Args:
        whole: scans are of the whole keyspace.
        callers: of a closed loop, each of which makes its next call when the last is answered; 0: an open loop.
        rate: of an open loop, calls a second.
        timeout: of each call (s).
        priority: "": the client's own.
    """

    url: str
    seconds: float
    whole: bool = False
    callers: int = 0
    rate: float = 0.0
    timeout: float = 1.0
    priority: str = ""
    seed: int = 0


class Met(msgspec.Struct):
    """What became of the calls: how many were due, and answered within their deadlines; the others by kind.

    `processor`: the share of one core that the process took.
    """

    due: int = 0
    answered: int = 0
    errors: dict[str, int] = {}
    processor: float = 0.0


@asynccontextmanager
async def demanding(demands: Sequence[Demand]) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Have processes ready that ask for these; see `met`."""
    pipe = asyncio.subprocess.PIPE
    asked = [msgspec.json.encode(demand).decode() for demand in demands]
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, __file__, each, stdin=pipe, stdout=pipe) for each in asked
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                ready = await process.stdout.readline()
            assert ready == READY
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def met(processes: Sequence[asyncio.subprocess.Process], seconds: float) -> Met:
    """Let all of them ask now; return what became of it, in all."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(GO)
    total = Met()
    for process in processes:
        assert process.stdout is not None
        async with asyncio.timeout(seconds + END_SECONDS):
            one = msgspec.json.decode(await process.stdout.readline(), type=Met)
        total.due += one.due
        total.answered += one.answered
        total.processor += one.processor
        total.errors = dict(Counter(total.errors) + Counter(one.errors))
    return total


class _Asking:
    def __init__(self, db: AsyncClient, demand: Demand) -> None:
        self.met = Met()
        self._db = db
        self._demand = demand
        self._random = Random(demand.seed)
        self._open: set[asyncio.Task[None]] = set()
        self._until = 0.0

    async def fill(self) -> None:
        keys = [f"demand-{partition:02}/{row:06}" for partition in range(PARTITIONS) for row in range(ROWS)]
        for first in range(0, len(keys), FILL_ROWS):
            await self._db.put_many(dict.fromkeys(keys[first : first + FILL_ROWS], b"d" * 100), timeout=START_SECONDS)

    async def run(self) -> None:
        demand = self._demand
        began, processor = time.monotonic(), time.process_time()
        self._until = began + demand.seconds
        if demand.callers:
            await asyncio.gather(*(self._again_and_again() for _ in range(demand.callers)))
        else:
            await self._as_due(began)
        self.met.processor = (time.process_time() - processor) / (time.monotonic() - began)

    async def _again_and_again(self) -> None:
        while time.monotonic() < self._until:
            if not await self._call():
                await asyncio.sleep(PAUSE_SECONDS)

    async def _as_due(self, due: float) -> None:
        while due < self._until:
            while due <= time.monotonic():
                task = asyncio.create_task(self._call_once())
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                due += 1 / self._demand.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*self._open)

    async def _call_once(self) -> None:
        await self._call()

    async def _call(self) -> bool:
        self.met.due += 1
        prefix = f"demand-{self._random.randrange(PARTITIONS):02}/"
        scan = (
            self._db.scan(start=prefix, limit=SCAN_ROWS)
            if self._demand.whole
            else self._db.scan(prefix, limit=ROWS, keys_only=True)
        )
        began = time.monotonic()
        try:
            async with asyncio.timeout(LATE * self._demand.timeout):
                async for _ in scan:
                    pass
        except (ShoalError, TimeoutError) as error:
            kind = type(error).__name__
            self.met.errors[kind] = self.met.errors.get(kind, 0) + 1
            return False
        self.met.answered += time.monotonic() - began <= self._demand.timeout
        return True


async def _serve(demand: Demand) -> None:
    joint = "&" if "?" in demand.url else "?"
    url = f"{demand.url}{joint}priority={demand.priority}" if demand.priority else demand.url
    async with AsyncClient(url, timeout=demand.timeout) as db:
        asking = _Asking(db, demand)
        await asking.fill()
        _say(READY)
        if await asyncio.to_thread(sys.stdin.buffer.readline) != GO:
            return
        await asking.run()
        _say(msgspec.json.encode(asking.met) + b"\n")


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.nice(NICENESS)
    uvloop.run(_serve(msgspec.json.decode(sys.argv[1], type=Demand)))

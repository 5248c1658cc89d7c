"""A mixed load at a fixed rate, whatever the cluster does (an open loop), and how long each call took.

A call that is due is made, whether or not earlier ones are answered; its latency counts from when it was due, so that a
stall is not hidden by calls that were never made. The load has a process to itself, so that whatever else a benchmark does
holds up none of its calls.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random

import msgspec
import uvloop
from shoal import AsyncClient, AsyncTransaction, ShoalError

KEYS = 20_000
VALUE_BYTES = 100
FILL_BATCH = 1_000

MIX = {"put": 0.40, "get": 0.40, "eventual": 0.10, "increment": 0.05, "transaction": 0.05}


START_SECONDS = 60.0
READY = b"ready\n"


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call: of which kind, when it was due (on the monotonic clock), how long after that it was answered, in seconds."""

    kind: str
    due: float
    seconds: float


class FailedCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A call that failed, and how."""

    kind: str
    due: float
    error: str


class Seen(msgspec.Struct):
    """What became of the calls."""

    calls: list[Call] = []
    failed: list[FailedCall] = []


@asynccontextmanager
async def steady_load(url: str, rate: float, mix: Mapping[str, float] = MIX, keys: int = KEYS) -> AsyncIterator[Seen]:
    """Make calls for the length of an `async with` block; what became of them is there when it is over.

    Args:
        mix: by kind of call, which share of them are of it.
        keys: how many there are, all written at the beginning.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, url, str(rate), json.dumps(dict(mix)), str(keys),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            ready = await process.stdout.readexactly(len(READY))
        assert ready == READY
        seen = Seen()
        yield seen
        process.stdin.close()
        found = msgspec.msgpack.decode(await process.stdout.read(), type=Seen)
        seen.calls, seen.failed = found.calls, found.failed
    except BaseException:
        process.kill()
        raise
    finally:
        await process.wait()


class SteadyLoad:
    """The load: `rate` calls a second."""

    def __init__(self, db: AsyncClient, rate: float, mix: Mapping[str, float], keys: int) -> None:
        self.seen = Seen()
        self._db = db
        self._rate = rate
        self._mix = mix
        self._keys = keys
        self._random = Random(0)
        self._value = self._random.randbytes(VALUE_BYTES)
        self._open: set[asyncio.Task[None]] = set()
        self._calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: db.put(self._key(), self._value),
            "get": lambda: db.get(self._key()),
            "eventual": lambda: db.get(self._key(), consistency="eventual", max_staleness=5.0),
            "increment": lambda: db.increment(f"{self._random.randrange(keys)}/count"),
            "transaction": self._copy,
        }

    async def fill(self) -> None:
        """Write every key once."""
        for first in range(0, self._keys, FILL_BATCH):
            await self._db.put_many(
                {f"{number}/a": self._value for number in range(first, min(first + FILL_BATCH, self._keys))}
            )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make calls for the length of an `async with` block, and wait for the last answers."""
        gc.collect()
        gc.freeze()
        pacing = asyncio.create_task(self._pace())
        try:
            yield
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
            await asyncio.gather(*self._open)
            gc.unfreeze()

    async def _pace(self) -> None:
        kinds, weights = list(self._mix), list(self._mix.values())
        due = time.monotonic()
        while True:
            while due <= time.monotonic():
                (kind,) = self._random.choices(kinds, weights)
                task = asyncio.create_task(self._call(kind, due))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                due += 1 / self._rate
            await asyncio.sleep(due - time.monotonic())

    async def _call(self, kind: str, due: float) -> None:
        try:
            await self._calls[kind]()
        except ShoalError as error:
            self.seen.failed.append(FailedCall(kind, due, repr(error)))
        else:
            self.seen.calls.append(Call(kind, due, time.monotonic() - due))

    def _key(self) -> str:
        return f"{self._random.randrange(self._keys)}/a"

    async def _copy(self) -> None:
        """Copy a row to another of its partition, in a transaction that is tried again when others were in between."""
        partition = self._random.randrange(self._keys)

        async def copy(tx: AsyncTransaction) -> None:
            tx.put(f"{partition}/b", await tx.get(f"{partition}/a") or self._value)

        await self._db.run(copy)


async def _serve(url: str, rate: float, mix: Mapping[str, float], keys: int) -> None:
    """Make calls until stdin ends, and write to stdout what became of them."""
    loop = asyncio.get_running_loop()
    async with AsyncClient(url) as db:
        load = SteadyLoad(db, rate, mix, keys)
        await load.fill()
        async with load.running():
            sys.stdout.buffer.write(READY)
            sys.stdout.buffer.flush()
            ended = asyncio.Event()
            loop.add_reader(sys.stdin.fileno(), ended.set)
            await ended.wait()
            loop.remove_reader(sys.stdin.fileno())
    sys.stdout.buffer.write(msgspec.msgpack.encode(load.seen))


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])))

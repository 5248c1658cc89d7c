"""A data set into the database and back out of it, in chunks, several at a time, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from shoal import AsyncClient
from shoal.cli.progress import Progress

CHUNK_ROWS = 1000
CHUNKS_AT_ONCE = 4

Rows = Sequence[tuple[bytes, bytes]]


async def write_all(db: AsyncClient, rows: Rows) -> None:
    """Write every row."""

    async def write(chunk: Rows) -> int:
        await db.put_many(dict(chunk))
        return 0

    await _in_chunks("writing", rows, write)


async def count_wrong(db: AsyncClient, rows: Rows, label: str = "reading back") -> int:
    """Read every row back; return how many are missing or differ."""

    async def compare(chunk: Rows) -> int:
        values = await db.get_many([key for key, _ in chunk])
        return sum(1 for (_, expected), found in zip(chunk, values, strict=True) if found != expected)

    return await _in_chunks(label, rows, compare)


async def _in_chunks(label: str, rows: Rows, work: Callable[[Rows], Awaitable[int]]) -> int:
    """Do `work` on all rows, chunk by chunk; return the sum of what it returned."""
    left = iter(rows)
    total = done = 0
    with Progress(label, len(rows)) as progress:

        async def take_chunks() -> None:
            nonlocal total, done
            while chunk := list(islice(left, CHUNK_ROWS)):
                total += await work(chunk)
                done += len(chunk)
                progress.update(done, done)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CHUNKS_AT_ONCE):
                tasks.create_task(take_chunks())
    return total

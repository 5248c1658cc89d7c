"""So many scans are under way at once; others wait a little, and are refused. Stand-ins take the place of the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shoal.errors import Overloaded
from shoal_server.api import paging
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.paging import ScanService


class NoRows:
    cursor = "end"

    def __aiter__(self) -> NoRows:
        return self

    async def __anext__(self) -> tuple[bytes, bytes]:
        raise StopAsyncIteration


class EmptyCluster:
    """Stands for the gateway and for its client."""

    async def client(self, request: Any, seconds: float | None) -> EmptyCluster:
        return self

    def scan(self, *_: object, **__: object) -> NoRows:
        return NoRows()


class SlowReader:
    """Takes its page when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.ready = asyncio.Event()

    async def take(self, page: Any) -> None:
        self.asked.set()
        await self.ready.wait()


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> ScanService:
    monkeypatch.setattr(paging, "SCANS_MAX", 2)
    return ScanService(EmptyCluster())  # type: ignore[arg-type]


async def begin(scans: ScanService) -> tuple[SlowReader, asyncio.Task[None]]:
    reader = SlowReader()
    task = asyncio.create_task(scans.scan(pb.ScanRequest(), reader.take, None))
    await reader.asked.wait()
    return reader, task


async def test_one_scan_too_many_is_refused_when_it_has_waited_in_vain(scans):
    slow = [await begin(scans) for _ in range(2)]
    with pytest.raises(Overloaded, match=r"2 scans under way.* within 0.01 s; nothing was read") as refused:
        await scans.scan(pb.ScanRequest(), SlowReader().take, 0.01)
    assert refused.value.retry_after is not None
    for reader, task in slow:
        reader.ready.set()
        await task


async def test_one_scan_too_many_goes_on_when_another_has_ended(scans):
    (first, first_task), (second, second_task) = [await begin(scans) for _ in range(2)]
    third = SlowReader()
    waiting = asyncio.create_task(scans.scan(pb.ScanRequest(), third.take, None))
    first.ready.set()
    await first_task
    await third.asked.wait()
    for reader in (second, third):
        reader.ready.set()
    await asyncio.gather(second_task, waiting)


async def test_scans_that_end_early_leave_their_places(scans):
    for _ in range(3):
        _, task = await begin(scans)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

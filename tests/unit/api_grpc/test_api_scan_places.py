"""So many scans are under way at once; others wait a little, and are refused. Stand-ins take the place of the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shoal.errors import Overloaded
from shoal_server.api import scan_places
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.paging import ScanService
from shoal_server.api.scan_places import ScanPlaces
from shoal_server.grpc_places import CALL, Call, Caller


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
    monkeypatch.setattr(scan_places, "SCANS_MAX", 2)
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


async def hold(places: ScanPlaces, lane: int, entered: list[int], leave: asyncio.Event) -> None:
    async with places.place(lane, 30.0):
        entered.append(lane)
        await leave.wait()


async def test_a_caller_with_many_scans_leaves_places_for_others(monkeypatch):
    monkeypatch.setattr(scan_places, "SCANS_MAX", 16)
    places, entered, leave = ScanPlaces(), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(hold(places, 0, entered, leave)) for _ in range(100)]
    await asyncio.sleep(0)
    assert entered == [0] * 12
    tasks += [asyncio.create_task(hold(places, lane, entered, leave)) for lane in (1, 1, 2, 3)]
    await asyncio.wait_for(_until(lambda: len(entered) == 16), 10)
    assert sorted(entered[12:]) == [1, 1, 2, 3]
    leave.set()
    await asyncio.gather(*tasks)
    assert len(entered) == 104


async def test_a_place_that_is_free_is_for_who_has_fewest(monkeypatch):
    monkeypatch.setattr(scan_places, "SCANS_MAX", 4)
    places, entered, first = ScanPlaces(), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(hold(places, 0, entered, first)) for _ in range(4)]
    await asyncio.sleep(0)
    later = asyncio.Event()
    tasks += [asyncio.create_task(hold(places, lane, entered, later)) for lane in (0, 0, 0, 0, 1, 2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait_for(_until(lambda: len(entered) == 5), 10)
    assert entered[4] == 1
    first.set()
    later.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_gives_up_waiting_takes_no_place(monkeypatch):
    monkeypatch.setattr(scan_places, "SCANS_MAX", 1)
    places, entered, leave = ScanPlaces(), list[int](), asyncio.Event()
    held = asyncio.create_task(hold(places, 0, entered, leave))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(hold(places, 1, entered, leave))
    await asyncio.sleep(0)
    given_up.cancel()
    leave.set()
    await asyncio.gather(held, given_up, return_exceptions=True)
    await asyncio.wait_for(hold(places, 2, entered, leave), 10)
    assert entered == [0, 2]


async def test_a_reader_that_takes_a_page_just_in_time_gives_way_all_the_same(monkeypatch):
    monkeypatch.setattr(scan_places, "SCANS_MAX", 1)
    monkeypatch.setattr(scan_places, "UNREAD_SECONDS", 0.2)
    places = ScanPlaces()

    async def dawdle() -> None:
        task = asyncio.current_task()
        assert task is not None
        CALL.set(Call(Caller("", 0, lambda _: None), task, 0.0))
        async with places.place(0, None):
            while True:
                await places.read(asyncio.sleep(0.05))

    slow = asyncio.create_task(dawdle())
    await asyncio.sleep(0)
    entered, leave = list[int](), asyncio.Event()
    leave.set()
    await asyncio.wait_for(hold(places, 1, entered, leave), 10)
    assert entered == [1]
    with pytest.raises(asyncio.CancelledError):
        await slow


async def _until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)

"""What a listener accepts at once is bounded, whatever has come; the others wait, and get in when there is room."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from shoal_server.listener import AT_ONCE, Listener
from shoal_server.observe import page_connections
from shoal_server.observe.page_connections import PagePlaces
from shoal_server.process.machine import resident_bytes

from .server import serving

MOST = 8


class Guest(asyncio.Protocol):
    """A connection that says nothing."""

    def __init__(self, there: set[Guest]) -> None:
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._there.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def listening(there: set[Guest], has_room: Callable[[int], bool], said: list[str]) -> AsyncIterator[int]:
    listener = Listener(
        lambda: Guest(there), lambda _, reason: said.append(reason), lambda task: said.append(str(task)), has_room
    )
    port = await listener.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await listener.close()
        for guest in list(there):
            guest.transport.close()


async def test_no_more_are_accepted_than_there_is_room_for_and_all_get_in_in_the_end():
    there: set[Guest] = set()
    most = 0

    def has_room(beginning: int) -> bool:
        nonlocal most
        most = max(most, len(there) + beginning)
        return len(there) + beginning < MOST

    said: list[str] = []
    async with listening(there, has_room, said) as port:
        callers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5 * MOST)]
        left = list(callers)
        while left:
            await until(lambda: len(there) == min(MOST, len(left)))
            for _, writer in left[:MOST]:
                writer.close()
            del left[:MOST]
        await until(lambda: not there)
    assert most == MOST
    assert said == []


async def test_a_crowd_is_accepted_a_few_at_a_time():
    there: set[Guest] = set()
    most = 0

    def has_room(beginning: int) -> bool:
        nonlocal most
        most = max(most, beginning)
        return True

    async with listening(there, has_room, []) as port:
        callers = [asyncio.open_connection("127.0.0.1", port) for _ in range(20 * AT_ONCE)]
        _ends = await asyncio.gather(*callers)
        await until(lambda: len(there) == len(callers))
    assert most <= 4 * AT_ONCE


async def test_who_was_refused_gives_up_its_connection_to_who_comes():
    async with serving() as server:
        reception = server.reception
        refused = [await server.connect() for _ in range(3)]
        for client in refused:
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: len(reception._lingering) == 3)
        reception._connections_max = 4
        assert reception.has_room(0)
        assert not reception.has_room(1)
        await until(lambda: len(reception._inbound) == 2)
        assert reception.has_room(1)
        there = await server.client()
        assert await there.is_served()


async def test_pages_have_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_connections, "OPEN_MAX", 4)

    async def answer(path: str, accept: str) -> page_connections.Page:
        raise NotImplementedError

    places = PagePlaces(answer, asyncio.get_running_loop())
    assert places.has_room(3)
    assert not places.has_room(4)


def test_what_a_process_has_of_memory_is_known_without_a_descriptor():
    assert resident_bytes() > 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Path("/proc/self/statm").read_text()
        assert resident_bytes() > 1 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

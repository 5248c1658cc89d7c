"""What gRPC says last reaches the caller, however the connections end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from shoal_server.api.front import front
from shoal_server.api.front.requests import DATA, GOAWAY, HEADERS, SETTINGS, frame
from shoal_server.local.layout import free_ports
from shoal_server.node.memory import MemoryBudget

PATIENCE_SECONDS = 20.0
SPOKEN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, b"\x83")
MORE = frame(DATA, 0, 1, b"\x00\x00\x00\xff\xff" + bytes(10_000))
LAST = frame(DATA, 0, 1, bytes(range(256)) * 64) * 6


class Door:
    """One, with a caller before it, and behind it somebody in gRPC's place who is slow to hear what comes."""

    def __init__(self, found: front.Front, behind: socket.socket, port: int) -> None:
        self.front = found
        self.caller: socket.socket
        self._behind = behind
        self._port = port
        self._heard: socket.socket

    async def dial(self) -> None:
        self.caller = socket.socket()
        self.caller.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self.caller, ("127.0.0.1", self._port))

    async def talk(self) -> None:
        await self.dial()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.caller, SPOKEN)
        self._heard, _ = await loop.sock_accept(self._behind)
        while SETTINGS not in await loop.sock_recv(self._heard, 1 << 16):
            pass

    def end(self) -> None:
        """Have gRPC say its last and end."""
        assert self._heard.send(LAST) == len(LAST)
        self._heard.close()

    async def rest(self) -> bytes:
        """Return what the caller hears until the other side ends."""
        pieces: list[bytes] = []
        while piece := await asyncio.get_running_loop().sock_recv(self.caller, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    (port,) = free_ports(1)
    found = front.Front(
        f"127.0.0.1:{port}",
        None,
        MemoryBudget(0),
        message_most=1 << 20,
        callers=10,
        refused=lambda address, why: None,
        make_room=lambda: None,
        loop=asyncio.get_running_loop(),
    )
    with socket.socket(socket.AF_UNIX) as behind:
        behind.setblocking(False)
        behind.bind(found.path)
        behind.listen()
        await found.start()
        made = Door(found, behind, port)
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield made
            made.caller.close()
            await found.close_door()
            await found.close()


def on_uvloop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run it as the API is run: what a loop does with a connection that ends is its own."""

    def run() -> None:
        uvloop.run(scenario())

    run.__name__ = scenario.__name__
    return run


@on_uvloop
async def test_a_caller_that_goes_on_talking_hears_what_was_said_before_the_end() -> None:
    async with door() as made:
        await made.talk()
        # The door hears this first, and cannot send it on any more.
        made.caller.send(MORE)
        made.end()
        assert await made.rest() == LAST


@on_uvloop
async def test_a_caller_whose_talk_is_not_heard_any_more_is_not_cut_off_before_it_has_read() -> None:
    async with door() as made:
        await made.talk()
        made.end()
        await asyncio.sleep(0.1)
        made.caller.send(MORE)
        await asyncio.sleep(0.1)
        assert await made.rest() == LAST


@on_uvloop
async def test_the_end_of_the_node_waits_for_what_callers_were_told_last() -> None:
    async with door() as made:
        await made.talk()
        made.end()
        closed = asyncio.create_task(made.front.close())
        assert await made.rest() == LAST
        made.caller.close()
        await closed
        assert not made.front.connections


@on_uvloop
async def test_whoever_was_not_let_in_yet_hears_that_the_node_ends() -> None:
    async with door() as made:
        made.front._resets.charge("127.0.0.1", 1_000_000, made.front.now)
        await made.dial()
        while not made.front.connections:
            await asyncio.sleep(0)
        closed = asyncio.create_task(made.front.close())
        said = await made.rest()
        assert said[said.index(bytes((GOAWAY,)), 9) :].endswith(b"the node is stopping")
        made.caller.close()
        await closed


@on_uvloop
async def test_a_caller_that_never_ends_its_side_does_not_keep_the_node() -> None:
    async with door() as made:
        await made.talk()
        made.end()
        await made.front.close()
        while made.front.connections:
            await asyncio.sleep(0)

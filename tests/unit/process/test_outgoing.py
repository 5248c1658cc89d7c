"""What a connection has still to send, on real sockets, plain and over TLS: bounded, counted, seen to move."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import cast

import pytest
import trustme
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.process.outgoing import GIVEN_BYTES, PIECE_BYTES, Outgoing

MOST = 1 << 20
RECEIVE_BYTES = 64 * 1024
SLACK_BYTES = 64 * 1024
"""What of an account is not said for the sake of speed, and what TLS puts around it."""


class Sender(asyncio.Protocol):
    """The side that sends."""

    def __init__(self, tls: bool) -> None:
        self.tls = tls
        self.memory = MemoryBudget(1 << 30)
        self.told: list[bool] = []
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's own.
        self.transport = cast(asyncio.Transport, transport)
        self.outgoing = Outgoing(self.transport, self.memory, MOST, self.told.append, tls=self.tls)

    def connection_lost(self, exc: Exception | None) -> None:
        self.outgoing.end()
        self.ended.set()

    def pause_writing(self) -> None:
        self.outgoing.pause()

    def resume_writing(self) -> None:
        self.outgoing.resume()


class Pair:
    """A sender, and the socket of who is to read. Small buffers of the system, so that little is hidden there."""

    def __init__(self, sender: Sender, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sender = sender
        self.reader = reader
        self.writer = writer

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 20)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    tls: bool = request.param
    here = there = None
    if tls:
        authority = trustme.CA()
        here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(here)
        authority.configure_trust(there)
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    near.setblocking(False)
    await loop.sock_connect(near, listening.getsockname())
    far, _ = await loop.sock_accept(listening)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECEIVE_BYTES)
    listening.close()
    host = "127.0.0.1" if tls else None
    sender = Sender(tls)
    opened, _ = await asyncio.gather(
        asyncio.open_connection(sock=near, ssl=there, server_hostname=host, limit=4096),
        loop.connect_accepted_socket(lambda: sender, far, ssl=here),
    )
    try:
        yield Pair(sender, *opened)
    finally:
        opened[1].transport.abort()
        sender.transport.abort()
        await asyncio.wait_for(sender.ended.wait(), 20)
        assert sender.memory.used(Account.ANSWERS) == 0


async def test_all_that_is_sent_arrives_in_its_order_however_long(pair: Pair):
    frames = [bytes([number]) * size for number, size in enumerate((10, PIECE_BYTES * 3 + 1, 1, GIVEN_BYTES * 9, 100))]
    for frame in frames:
        pair.sender.outgoing.write(frame)
    for frame in frames:
        assert await pair.read(len(frame)) == frame
    assert pair.sender.outgoing.unsent == 0


async def test_what_is_not_read_is_counted_and_said_to_be_too_much(pair: Pair):
    sender = pair.sender
    sender.outgoing.write(bytes(4 * MOST))
    assert sender.told == [True]
    assert sender.outgoing.unsent > 2 * MOST
    assert abs(sender.memory.used(Account.ANSWERS) - sender.outgoing.unsent) < SLACK_BYTES
    await pair.read(3 * MOST)
    assert sender.told == [True]
    await pair.read(MOST)
    assert sender.told == [True, False]
    sender.outgoing.look(0.0)
    assert sender.memory.used(Account.ANSWERS) == 0


async def test_a_transport_is_given_no_more_than_it_should_hold(pair: Pair):
    for _ in range(64):
        pair.sender.outgoing.write(bytes(MOST // 8))
    assert pair.sender.transport.get_write_buffer_size() < GIVEN_BYTES + MOST // 4
    assert pair.sender.outgoing.unsent > 6 * MOST


async def test_a_reader_that_takes_little_moves_and_one_that_takes_nothing_does_not(pair: Pair):
    outgoing = pair.sender.outgoing
    assert outgoing.look(0.0) == 0.0
    outgoing.write(bytes(8 * MOST))
    assert outgoing.look(1.0) == 0.0
    await asyncio.sleep(0.05)
    outgoing.look(2.0)
    assert outgoing.look(31.0) == 29.0
    await pair.read(MOST)
    assert outgoing.look(32.0) == 0.0
    assert outgoing.look(33.0) == 1.0
    await pair.read(7 * MOST)
    assert outgoing.look(40.0) == 0.0
    assert outgoing.look(90.0) == 0.0


async def test_how_long_what_waits_will_take_goes_by_its_pace(pair: Pair):
    outgoing = pair.sender.outgoing
    assert outgoing.seconds_left(0.0) == 0.0
    outgoing.write(bytes(8 * MOST))
    outgoing.look(10.0)
    assert outgoing.seconds_left(11.0) == 0.0
    assert outgoing.seconds_left(12.0) == float("inf")
    await pair.read(2 * MOST)
    left = outgoing.unsent
    assert outgoing.seconds_left(14.0) == pytest.approx(4.0 * left / (8 * MOST - left), rel=0.2)


async def test_what_is_finished_is_sent_before_the_end(pair: Pair):
    pair.sender.outgoing.write(bytes(3 * MOST))
    pair.sender.outgoing.write(b"the end")
    pair.sender.outgoing.finish()
    await pair.read(3 * MOST)
    assert await asyncio.wait_for(pair.reader.read(), 20) == b"the end"

"""Frames that take their time to arrive: the client hears that they are arriving, and no more than now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shoal.protocol.frames import FrameReader, answer_decoder, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Ping, Request, Welcome, Working
from shoal.protocol.version import NEWEST, OLDEST
from shoal.shardmap import ShardMap
from shoal_server.process.connections import Inbound


class Host:
    """Takes clients, and keeps what they ask."""

    max_frame_bytes = 1 << 24
    client_output_bytes = 1 << 20
    secure = False

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def welcome(self, version: int) -> Welcome:
        return Welcome(version, "c", "n1", "i1", 1, 1, 1, 1, ShardMap(1, "c", (), (), ()))

    def client_opened(self, connection: Inbound, certificate: object) -> int:
        return 1

    def from_client(self, client: int, requests: list[Request]) -> None:
        self.requests += requests

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *_: ""


class Wire:
    """A transport that keeps what is written to it, as answers."""

    def __init__(self) -> None:
        self.frames = FrameReader()
        self.answers: list[Any] = []
        self.greeted = False

    def write(self, data: bytes) -> None:
        for body in self.frames.feed(data):
            if self.greeted:
                self.answers += answer_decoder.decode(body)
            else:
                self.greeted = isinstance(greeting_decoder.decode(body)[0], Welcome)

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def setsockopt(self, *_: int) -> None: ...

    def is_closing(self) -> bool:
        return False


async def test_a_client_hears_that_its_frame_is_arriving() -> None:
    host, wire = Host(), Wire()
    inbound = Inbound(host, asyncio.get_running_loop())  # type: ignore[arg-type]
    inbound.connection_made(wire)  # type: ignore[arg-type]
    hello = encode_frame([Hello("client", OLDEST, NEWEST)])
    inbound.data_received(hello[:5])
    inbound.data_received(hello[5:])
    assert wire.greeted
    assert wire.answers == [], "who has not been welcomed is told nothing before"
    frame = encode_frame([Ping(number) for number in range(1, 5000)])
    for at in range(0, len(frame), 100):
        inbound.data_received(frame[at : at + 100])
    assert len(host.requests) == 4999
    assert wire.answers == [Working()], "as often as pieces arrive would be a frame for each of them"
    await asyncio.sleep(0.3)
    inbound.data_received(frame[:100])
    assert wire.answers == [Working(), Working()]


async def test_a_peer_hears_nothing_of_it() -> None:
    host, wire = Host(), Wire()
    inbound = Inbound(host, asyncio.get_running_loop())  # type: ignore[arg-type]
    inbound.connection_made(wire)  # type: ignore[arg-type]
    inbound.data_received(encode_frame([Hello("peer", OLDEST, NEWEST, "c", "n2", "i2")]))
    assert wire.greeted
    inbound.data_received(encode_frame([Ping(1)])[:10])
    assert wire.answers == []

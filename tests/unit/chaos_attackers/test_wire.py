"""What a connection with frames of our own making counts, of a node that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal.protocol.frames import FrameReader, encode_frame
from shoal.protocol.messages import Done, Failure, Ping, Refused, Welcome, Working
from shoal.shardmap import ShardMap
from shoal_chaos.attackers.base import Assault, Ground
from shoal_chaos.attackers.wire import wire

WELCOME = encode_frame([Welcome(1, "c", "n1", "i", 1 << 24, 1 << 12, 1 << 20, 1 << 23, ShardMap(1, "c", (), (), ()))])
OVERLOADED = Failure(1, "overloaded", "too many requests")
UNAVAILABLE = Failure(2, "unavailable", "no leader")
SECONDS = 20.0


@asynccontextmanager
async def node(*says: bytes, ends: bool = False) -> AsyncIterator[str]:
    """A node that says one thing for each frame that it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        left = list(says)
        while left and (data := await reader.read(65536)):
            for _ in frames.feed(data):
                writer.write(left.pop(0))
        if not ends:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def assault() -> Assault:
    return Assault(Ground("shoal://127.0.0.1:1/default", ("127.0.0.1:1",), seconds=SECONDS))


async def test_answers_are_told_from_refusals() -> None:
    attack = assault()
    answers = encode_frame([Done(1), OVERLOADED, UNAVAILABLE, Working()])
    async with node(WELCOME, answers, ends=True) as address, wire(attack, address) as connection:
        assert await connection.greet() is not None
        await connection.ask([Ping(1), Ping(2), Ping(3)])
        await asyncio.wait_for(connection.read_answers(), SECONDS)
    deeds = attack.deeds
    assert (deeds.requests, deeds.answered, deeds.overloaded, deeds.failed) == (3, 1, 1, 1)
    assert deeds.words["overloaded"] == "too many requests"
    assert deeds.connections == 1
    assert deeds.received_bytes > len(WELCOME)


async def test_whoever_is_refused_has_the_reason() -> None:
    attack = assault()
    refusal = encode_frame([Refused("overloaded", "no place for another client")])
    async with node(refusal) as address, wire(attack, address) as connection:
        assert await connection.greet() is None
        assert connection.over
    assert attack.deeds.refused_connections == 1
    assert attack.deeds.words["overloaded"] == "no place for another client"


async def test_an_answer_of_the_kind_that_was_asked_for_is_returned() -> None:
    attack = assault()
    async with node(WELCOME, encode_frame([Done(7)])) as address, wire(attack, address) as connection:
        await connection.greet()
        assert await connection.ask_for(Ping(7), Done) == Done(7)
    assert attack.deeds.answered == 1


async def test_no_more_is_read_than_was_to_be() -> None:
    attack = assault()
    async with node(WELCOME + bytes(1 << 24)) as address, wire(attack, address, receive_bytes=4096) as connection:
        await asyncio.wait_for(connection.send(b""), SECONDS)
        await connection.send(encode_frame([Ping(1)]))
        await connection.read_some(4096)
        assert 0 < attack.deeds.received_bytes <= 4096

"""One node asked directly: what comes back when it answers, refuses, is silent, or is no Shoal node."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch

import pytest
from shoal.admin import connection
from shoal.admin.connection import AdminConnection, NotLeader
from shoal.errors import DeadlineExceeded, InvalidArgument, ProtocolMismatch, Unavailable
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Failure, GetStatus, Refused, ShardMapReply, TransferLeader, Welcome

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_it_knows_the_map_from_the_greeting_and_asks_for_it_again(fake):
    async with await AdminConnection.open(fake.addresses["n1"]) as node:
        assert node.welcome.node == "n1"
        fake.script.leaders[1] = "n3"
        assert {shard.id: shard.leader for shard in (await node.shard_map()).shards}[1] == "n3"
        assert (await node.status()).node == "n1"


async def test_not_leader_carries_the_route(fake):
    async with await AdminConnection.open(fake.addresses["n1"]) as node:
        with pytest.raises(NotLeader) as caught:
            await node.transfer_leader(1, "n3")
        assert caught.value.route.leader == "n2"
        assert caught.value.shard == 1


async def test_a_servers_deadline_is_passed_on_in_its_words(fake):
    fake.script.failures[TransferLeader] = Failure(0, "deadline_exceeded", "n3 did not catch up", maybe_applied=True)
    async with await AdminConnection.open(fake.addresses["n1"]) as node:
        with pytest.raises(DeadlineExceeded, match="n3 did not catch up") as caught:
            await node.transfer_leader(1, "n3")
        assert caught.value.maybe_applied


async def test_silence_is_a_deadline_and_the_connection_can_still_be_used(fake):
    fake.script.silent.add(GetStatus)
    async with await AdminConnection.open(fake.addresses["n1"], 0.2) as node:
        with pytest.raises(DeadlineExceeded):
            await node.status()
        fake.script.silent.clear()
        assert (await node.status()).node == "n1"


async def trickle(writer: asyncio.StreamWriter, data: bytes, pieces: int, seconds: float) -> None:
    step = -(-len(data) // pieces)
    for number in range(pieces):
        writer.write(data[number * step : (number + 1) * step])
        await asyncio.sleep(seconds)


def slowly_greeting(fake, pieces: int) -> Behaviour:
    """Greet, and answer one request for a map, in so many pieces, 0.1 s apart."""
    shard_map = fake._map("n1")
    limits = (1 << 24, 4096, 1 << 20, 8 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await trickle(writer, encode_frame([Welcome(1, "c", "n1", "i", *limits, shard_map)]), pieces, 0.1)
        await trickle(writer, encode_frame([ShardMapReply(1, shard_map)]), pieces, 0.1)
        await asyncio.sleep(1)

    return serve


async def test_an_answer_that_is_still_arriving_is_no_silence(fake):
    async with listening(slowly_greeting(fake, 8)) as address, await AdminConnection.open(address, 0.3) as node:
        assert await node.shard_map() == fake._map("n1")


async def test_an_answer_does_not_arrive_for_ever(fake):
    with patch.object(connection, "ARRIVING_SECONDS", 0.5):
        async with listening(slowly_greeting(fake, 100)) as address:
            with pytest.raises(DeadlineExceeded):
                await AdminConnection.open(address, 0.3)


async def test_an_answer_that_stops_halfway_is_a_deadline(fake):
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(encode_frame([ShardMapReply(1, fake._map("n1"))])[:-5])
        await asyncio.sleep(2)

    async with listening(half) as address:
        with pytest.raises(DeadlineExceeded):
            await AdminConnection.open(address, 0.3)


async def test_a_connection_that_breaks_is_unavailable(fake):
    async with await AdminConnection.open(fake.addresses["n1"]) as node:
        fake.take_down("n1")
        with pytest.raises(Unavailable):
            await node.status()


async def test_a_refusal_is_raised_in_the_nodes_words():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(encode_frame([Refused("invalid_argument", "go away")]))

    async with listening(refuse) as address:
        with pytest.raises(InvalidArgument, match="go away"):
            await AdminConnection.open(address)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack(">II", 1, checksum(b"\xc1")) + b"\xc1", encode_frame([])]
)
async def test_what_is_no_shoal_node_is_told_apart(said):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)

    async with listening(answer) as address:
        with pytest.raises(ProtocolMismatch):
            await AdminConnection.open(address)


async def test_nobody_there_is_unavailable():
    with pytest.raises(Unavailable, match="cannot connect"):
        await AdminConnection.open("127.0.0.1:1")

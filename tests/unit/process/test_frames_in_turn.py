"""Many frames that come at once are taken in turn, however short they are: nobody is muted by them."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Ping
from shoal_server.node.memory import Account
from shoal_server.process.connections import AT_ONCE_BYTES, FRAME_NS, Inbound
from shoal_server.process.long_frames import ROUND_BYTES
from shoal_server.raft.messages import Heartbeat

from .server import Client, Server, serving

MANY = 5000
AT_ONCE = ROUND_BYTES // FRAME_NS + AT_ONCE_BYTES // 512 + 1
"""Frames that a connection may have taken before others have their turn."""


def framed(body: bytes) -> bytes:
    return struct.pack(">II", len(body), checksum(body)) + body


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def peer_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[Client, Inbound]:
    """Return both ends of a peer's connection."""
    monkeypatch.setattr(server.reception, "check_peer", lambda _hello, _certificate: "")
    peer = await server.connect()
    await peer.greet(role="peer", node="n2")
    (found,) = [connection for connection in server.reception._inbound if connection.peer]
    return peer, found


@pytest.mark.parametrize("body", [b"\x90", b"\xdc\x00\x00", b"\xdd\x00\x00\x00\x00"], ids=["90", "dc", "dd"])
async def test_a_frame_without_requests_ends_its_connection_in_words(body: bytes):
    async with serving() as server:
        client, beside = await server.client(), await server.client()
        client.writer.write(framed(body) * 1000)
        refused = await client.refusal()
        assert refused.code == ErrorCode.PROTOCOL_MISMATCH.value
        assert refused.message == "a frame without a request in it"
        assert await beside.is_served()


async def test_a_frame_without_messages_ends_a_peers_connection(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        peer, connection = await peer_of(server, monkeypatch)
        peer.writer.write(framed(b"\x90"))
        await until(lambda: connection.over)
        assert (await peer.refusal()).message == "a frame without a message in it"


async def test_of_many_frames_that_come_at_once_few_are_taken_before_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
):
    async with serving() as server:
        _client = await server.client()
        connection = server.reception.clients[1]
        taken: list[int] = []

        def take(number: int, requests: list[Any], size: int) -> bool:
            taken.extend(request.request for request in requests)
            return True

        monkeypatch.setattr(server.node, "receive_client", take)
        before = 0
        connection.data_received(b"".join(encode_frame([Ping(number)]) for number in range(MANY)))
        while len(taken) < MANY:
            assert len(taken) - before <= AT_ONCE
            assert connection.held
            before = len(taken)
            await asyncio.sleep(0)
        assert taken == list(range(MANY))
        await until(lambda: not connection.paused)
        assert connection.held == server.node.memory.used(Account.FRAMES) == 0


async def test_connections_on_which_many_frames_come_have_their_turn_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
):
    async with serving() as server:
        _clients = [await server.client() for _ in range(30)]
        taken = dict.fromkeys(server.reception.clients, 0)

        def take(number: int, requests: list[Any], size: int) -> bool:
            taken[number] += len(requests)
            return True

        monkeypatch.setattr(server.node, "receive_client", take)
        for connection in server.reception.clients.values():
            connection.data_received(encode_frame([Ping(1)]) * MANY)
        before = sum(taken.values())
        while sum(taken.values()) < MANY * len(taken):
            await asyncio.sleep(0)
            assert sum(taken.values()) - before <= AT_ONCE + 4 * AT_ONCE_BYTES // 512
            before = sum(taken.values())
            assert max(taken.values()) - min(taken.values()) <= 2 * AT_ONCE


async def test_who_is_paused_in_the_midst_of_what_has_come_has_no_more_of_it_taken(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        _client = await server.client()
        connection = server.reception.clients[1]
        taken, may_send = [0], False

        def take(number: int, requests: list[Any], size: int) -> bool:
            taken[0] += len(requests)
            return may_send

        monkeypatch.setattr(server.node, "receive_client", take)
        connection.data_received(encode_frame([Ping(1)]) * MANY)
        for _ in range(20):
            await asyncio.sleep(0)
        assert taken[0] <= AT_ONCE_BYTES // 512 + 1
        assert connection.held
        may_send = True
        server.reception.resume([1])
        await until(lambda: taken[0] == MANY)


async def test_peers_frames_are_taken_in_turn_and_wait_for_no_clients(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        there = [await server.client() for _ in range(50)]
        _, peer = await peer_of(server, monkeypatch)
        monkeypatch.setattr(server.node, "receive_client", lambda *_: True)
        taken = 0

        def take(_: str, messages: list[Any]) -> None:
            nonlocal taken
            taken += len(messages)

        monkeypatch.setattr(server.node, "receive_peer", take)
        for connection in server.reception.clients.values():
            connection.data_received(encode_frame([Ping(1)]) * MANY)
        peer.data_received(encode_frame([Heartbeat(1, 1, 1, True)]) * MANY)
        rounds = 0
        while taken < MANY:
            before = taken
            await asyncio.sleep(0)
            assert taken - before <= AT_ONCE
            rounds += 1
        assert rounds <= 2 * MANY // (AT_ONCE_BYTES // 512), "its turn comes in every round"
        assert len(there) == sum(bool(connection.held) for connection in server.reception.clients.values())


async def test_what_waits_of_a_connection_goes_with_it(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        _client = await server.client()
        connection = server.reception.clients[1]
        monkeypatch.setattr(server.node, "receive_client", lambda *_: False)
        connection.data_received(encode_frame([Ping(1)]) * MANY)
        assert server.node.memory.used(Account.FRAMES) == connection.held > 0
        connection.abort()
        await until(lambda: not server.reception.clients)
        assert connection.held == server.node.memory.used(Account.FRAMES) == 0

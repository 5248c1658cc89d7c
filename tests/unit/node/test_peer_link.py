"""The link to a peer: what is sent into a connection that is over is dropped, and harms nobody; a dead one is redialled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest
import uvloop
from shoal.protocol.frames import FrameReader, encode_frame
from shoal.protocol.messages import Hello, Welcome
from shoal.shardmap import ShardMap
from shoal_server.node.memory import LEAST_BYTES, MemoryBudget
from shoal_server.process import peers as peers_module
from shoal_server.process.peers import PeerLink
from shoal_server.process.silence import NO_SIGNS
from shoal_server.raft.messages import AppendEntries, EntryKind, Heartbeat, sealed

WELCOME = Welcome(1, "c", "n2", "i", 1 << 20, 4096, 1 << 20, 1 << 20, ShardMap(1, "c", (), (), ()))


class Peer(asyncio.Protocol):
    """Welcomes whoever connects."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reader.feed(data) and self.transport is not None:
            self.transport.write(encode_frame([WELCOME]))


async def listen() -> tuple[asyncio.Server, list[Peer]]:
    """Accept connections; return the server, and where its ends of them are to be."""
    peers: list[Peer] = []

    def accept() -> Peer:
        peers.append(Peer())
        return peers[-1]

    return await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0), peers


def link_to(
    server: asyncio.Server, connected: Callable[[str], None], lost: Callable[[str], None], support_ns: int = 60 * 10**9
) -> PeerLink:
    """Return a link to a peer that answers no heartbeat."""
    return PeerLink(
        "n2",
        f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
        lambda: Hello("peer", 1, 1, "c", "n1", "i"),
        max_frame_bytes=1 << 20,
        check=lambda _: "",
        connected=connected,
        lost=lost,
        signs_of=lambda _: NO_SIGNS,
        clock=time.monotonic_ns,
        support_ns=support_ns,
        memory=MemoryBudget(LEAST_BYTES),
    )


async def send_at_every_step_of_a_peers_end() -> int:
    loop = asyncio.get_running_loop()
    server, peers = await listen()
    connected, lost = asyncio.Event(), asyncio.Event()
    link = link_to(server, lambda _: connected.set(), lambda _: lost.set())
    task = asyncio.create_task(link.run())
    await asyncio.wait_for(connected.wait(), 10)
    sends = 0
    errors: list[BaseException] = []

    def send() -> None:
        nonlocal sends
        try:
            link.send([Heartbeat(1, 1, 1, True)])
        except RuntimeError as error:
            errors.append(error)
        sends += 1
        if not lost.is_set():
            loop.call_soon(send)

    assert peers[0].transport is not None
    peers[0].transport.abort()
    loop.call_soon(send)
    await asyncio.wait_for(lost.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    if errors:
        raise errors[0]
    return sends


def test_sending_goes_on_in_every_turn_while_a_peer_dies() -> None:
    assert uvloop.run(send_at_every_step_of_a_peers_end()) > 0


async def events_of_a_link_whose_peer_is_silent() -> list[str]:
    server, peers = await listen()
    events: list[str] = []
    again = asyncio.Event()

    def connected(_: str) -> None:
        events.append("connected")
        if len(events) > 1:
            again.set()

    link = link_to(server, connected, lambda _: events.append("lost"), support_ns=10**8)
    task = asyncio.create_task(link.run())
    await asyncio.wait_for(again.wait(), 60)
    seen = [*events, f"{len(peers)} connections"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    return seen


def test_a_link_whose_peer_answers_nothing_is_dropped_and_dialled_anew_though_nothing_broke_it() -> None:
    assert uvloop.run(events_of_a_link_whose_peer_is_silent()) == ["connected", "lost", "connected", "2 connections"]


async def redial_a_peer_that_is_there() -> None:
    server, peers = await listen()
    connected, lost = asyncio.Event(), asyncio.Event()
    link = link_to(server, lambda _: connected.set(), lambda _: lost.set())
    task = asyncio.create_task(link.run())
    async with asyncio.timeout(10):
        await connected.wait()
        connected.clear()
        assert peers[0].transport is not None
        peers[0].transport.abort()
        await lost.wait()
        link.is_there()
        await connected.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()


def test_a_peer_that_has_connected_itself_is_dialled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "REDIAL_SECONDS", 3600.0)
    uvloop.run(redial_a_peer_that_is_there())


class DistantPeer(Peer):
    """Welcomes whoever connects, in pieces."""

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        welcome = encode_frame([WELCOME])
        if self.transport is not None:
            for number, at in enumerate(range(0, len(welcome), 10)):
                loop.call_later(0.15 * number, self.transport.write, welcome[at : at + 10])


async def test_a_greeting_that_is_still_arriving_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the shard map; a link on which that takes its time would never be made."""
    monkeypatch.setattr(peers_module, "DIAL_SECONDS", 0.3)
    server = await asyncio.get_running_loop().create_server(DistantPeer, "127.0.0.1", 0)
    connected = asyncio.Event()
    task = asyncio.create_task(link_to(server, lambda _: connected.set(), lambda _: None).run())
    await asyncio.wait_for(connected.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()


class CountingPeer(Peer):
    """Keeps how long the frames are that come after the greeting."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[int] = []

    def data_received(self, data: bytes) -> None:
        for body in self._reader.feed(data):
            self.frames.append(len(body))
            if len(self.frames) == 1 and self.transport is not None:
                self.transport.write(encode_frame([WELCOME]))


async def test_a_turns_messages_go_in_frames_that_arrive_one_after_the_other() -> None:
    """A peer answers none of a frame before it has it all, which on a slow link would be long after the heartbeats'."""
    peer = CountingPeer()
    server = await asyncio.get_running_loop().create_server(lambda: peer, "127.0.0.1", 0)
    connected = asyncio.Event()
    link = link_to(server, lambda _: connected.set(), lambda _: None)
    task = asyncio.create_task(link.run())
    await asyncio.wait_for(connected.wait(), 10)
    entry = sealed(1, 1, 2, EntryKind.COMMAND, b"x" * 100_000)
    appends = [AppendEntries(group, 1, 1, 1, 0, [entry], 1) for group in range(1, 65)]
    link.send(list(appends))
    async with asyncio.timeout(10):
        while sum(peer.frames) < 64 * 100_000:
            await asyncio.sleep(0.01)
    assert max(peer.frames) <= 1024 * 1024
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()

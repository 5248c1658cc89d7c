"""Node cores wired by hand: three nodes in memory, one clock, and frames that arrive unless a test cuts the way."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest
from shoal.protocol.frames import HEADER_BYTES, answer_decoder, encode_frame, encode_operations
from shoal.protocol.messages import Answer, Freshness, OpenSession, Operation, Read, Request, SessionOpened, Write
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.outbox import peer_decoder
from shoal_server.node.replica import Replica
from shoal_server.node.request_frames import decode_requests
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.storage.layout import expiry_prefix, prefix_end
from shoal_server.storage.watched import WatchedEngine

MS = 1_000_000
START_MS = 1_700_000_000_000
STEP = MS
NODES = ("n1", "n2", "n3")
SHARD = 1


class Nodes:
    """Three nodes, with one shard unless others are named.

    Time stands still but for `pass_time`; every turn's frames arrive a step later. `wall_off_ms` says by how much the wall
    clocks of some of them are wrong.

    `answers` are all answers to a client's requests, by its number for them; `frames` are those of peers under way, as
    (sender, receiver, body).
    """

    def __init__(
        self,
        settings: NodeSettings | None = None,
        shards: tuple[Shard, ...] = (),
        cluster_id: str = "known",
        microshards: int = 4,
    ) -> None:
        self.now = 1_000_000 * MS
        self.wall_ms = START_MS
        self.wall_off_ms: dict[str, int] = {}
        self.settings = settings or NodeSettings()
        keyspace = Keyspace(1, "default", microshards, b"/")
        self.shard_map = ShardMap(
            1,
            "test",
            tuple(NodeAddress(name, f"{name}:1") for name in NODES),
            (keyspace,),
            shards or (Shard(SHARD, 1, (MicroshardRange(0, microshards),), NODES),),
            cluster_id,
        )
        self.engines = {name: WatchedEngine() for name in NODES}
        self.nodes: dict[str, Node] = {}
        self.cut: set[tuple[str, str]] = set()
        self.slow_flushes: set[str] = set()
        self.answers: dict[int, list[Answer]] = {}
        self.entries: dict[str, int] = {}
        self.frames: list[tuple[str, str, bytes]] = []
        self._request = 0
        self._session = b""
        self._number = 0
        for place, name in enumerate(NODES):
            identity = NodeIdentity("test", name, f"{name}-1", 1)
            self.nodes[name] = Node(
                identity, self.shard_map, self.engines[name], self.settings, Random(place), self.now
            )
        for name, node in self.nodes.items():
            for other in NODES:
                if other != name:
                    node.peer_connected(other)

    # -- time

    def step(self) -> None:
        """Take a turn on every node; what they say arrives before the next."""
        self.now += STEP
        self.wall_ms += STEP // MS
        frames, self.frames = self.frames, []
        for sender, receiver, body in frames:
            if (sender, receiver) not in self.cut:
                self.nodes[receiver].receive_peer(sender, peer_decoder.decode(body))
        for name, node in self.nodes.items():
            turn = node.turn(self.now, self.wall_ms + self.wall_off_ms.get(name, 0))
            self._take(name, turn.to_peers, {})
            if turn.sync is not None:
                node.synced(turn.sync)
            end = node.finish_turn(self.now)
            self._take(name, end.to_peers, end.to_clients)
            if end.flush is not None and name not in self.slow_flushes:
                node.flushed(end.flush)

    def _take(self, sender: str, to_peers: dict[str, list[Any]], to_clients: dict[int, list[Answer]]) -> None:
        self.frames += [(sender, peer, self.encoded(messages)) for peer, messages in to_peers.items()]
        for answers in to_clients.values():
            for answer in answer_decoder.decode(encode_frame(answers)[HEADER_BYTES:]):
                self.answers.setdefault(answer.request, []).append(answer)  # type: ignore[union-attr]

    def pass_time(self, milliseconds: int) -> None:
        for _ in range(milliseconds * MS // STEP):
            self.step()

    def until(self, what: Callable[[], bool], milliseconds: int = 5000) -> None:
        for _ in range(milliseconds * MS // STEP):
            if what():
                return
            self.step()
        raise AssertionError(f"it did not come about within {milliseconds} ms")

    def encoded(self, messages: list[Any]) -> bytes:
        """Return the body of a frame."""
        return encode_frame(messages)[HEADER_BYTES:]

    # -- nodes

    def replica(self, name: str) -> Replica:
        return self.nodes[name].replicas[SHARD]

    @property
    def leader(self) -> str:
        """The node that leads under a lease, once there is one that all know who can hear it."""

        def leading() -> list[str]:
            return [name for name in NODES if self.replica(name).group.read_index(self.now) is not None]

        self.until(lambda: bool(leading()))
        return leading()[0]

    @property
    def others(self) -> list[str]:
        leader = self.leader
        return [name for name in NODES if name != leader]

    def isolate(self, name: str) -> None:
        """No frame of a peer reaches `name`, and none of its own arrives; nobody is told."""
        self.cut |= {(name, other) for other in NODES} | {(other, name) for other in NODES}

    def heal(self) -> None:
        self.cut.clear()

    # -- a client

    def ask(self, node: str, make: Callable[[int], Request]) -> int:
        """Send a request as it would come over a socket; return its number."""
        self._request += 1
        body = encode_frame([make(self._request)])[HEADER_BYTES:]
        requests, refused = decode_requests(body, traced=False)
        self.nodes[node].receive_client(1, [*cast(list[Request], requests), *refused])
        return self._request

    def answer(self, request: int) -> Answer:
        """Wait for the answer to a request; there must be exactly one, also some time later."""
        self.until(lambda: request in self.answers)
        [answer] = self.answers[request]
        return answer

    def ask_and_wait(self, node: str, make: Callable[[int], Request]) -> Answer:
        return self.answer(self.ask(node, make))

    def write(self, *operations: Operation, fast: bool = False, number: int | None = None) -> int:
        """Send a write to the leader; return its request's number."""
        leader = self.leader
        if not self._session:
            opened = self.ask_and_wait(leader, lambda request: OpenSession(request, SHARD))
            assert isinstance(opened, SessionOpened)
            self._session = opened.session
        if number is None:
            self._number += 1
            number = self._number
        session, body = self._session, encode_operations(list(operations))
        return self.ask(leader, lambda request: Write(request, SHARD, 1, session, number, 1000, body, fast))

    def read(self, node: str, *keys: bytes, freshness: Freshness) -> int:
        """Send a read to a node; return its request's number."""
        return self.ask(node, lambda request: Read(request, SHARD, 1, 1000, list(keys), freshness))

    def forget_session(self) -> None:
        """Write as a session that no shard knows."""
        self._session = b"somebody else's!"

    # -- what is stored

    def stored_keys(self, name: str) -> list[bytes]:
        """The user keys and index rows that are physically there."""
        engine, machine = self.engines[name], self.replica(name).machine
        found: list[bytes] = []
        for microshard, prefix in machine.prefixes.items():
            for each in (prefix, expiry_prefix(1, microshard, machine.state.generation)):
                found += [key[len(each) :] for key, _ in engine.scan(engine.data, each, prefix_end(each))]
        return sorted(found)


class OneNode:
    """One of the nodes, which takes turns while the others stand still, and what it answers to several clients, by client."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self.nodes = nodes
        self.name = name
        self.node: Node = nodes.nodes[name]
        self.answers: dict[int, list[Answer]] = {}
        self.resumed: list[int] = []
        self.wake_at = 0

    def send(self, client: int, *requests: Request, size: int = 0) -> bool:
        return self.node.receive_client(client, list(requests), size or 20 * len(requests))

    def take_turn(self, milliseconds: int = 1) -> dict[int, list[Answer]]:
        """Take a turn of this node alone; return what it answered."""
        self.nodes.now += milliseconds * MS
        self.nodes.wall_ms += milliseconds
        turn = self.node.turn(self.nodes.now, self.nodes.wall_ms)
        if turn.sync is not None:
            self.node.synced(turn.sync)
        end = self.node.finish_turn(self.nodes.now)
        self.resumed += end.resumed
        self.wake_at = end.wake_at
        for client, answers in end.to_clients.items():
            self.answers.setdefault(client, []).extend(answers)
        return end.to_clients


@pytest.fixture
def nodes() -> Nodes:
    """Three nodes, of which one leads."""
    started = Nodes()
    assert started.leader
    return started


@pytest.fixture
def make_nodes() -> type[Nodes]:
    """The class: call it with settings."""
    return Nodes

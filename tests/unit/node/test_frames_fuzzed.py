"""Garbage, and frames that are nearly right, to a real node: it refuses them, serves the others, and holds little."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import HEADER_BYTES, FrameReader, answer_decoder, encode_frame, encode_operations
from shoal.protocol.messages import GetStatus, Hello, OpenSession, Put, Read, Scan, StatusReply, Write
from shoal.shardmap import MicroshardRange
from shoal_server.local.layout import free_ports
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    EntryKind,
    Heartbeat,
    HeartbeatAnswer,
    VoteRequest,
    sealed,
)

MIB = 1 << 20
ELSEWHERE = 1 << 20
"""A shard that is not here: those of a peer's messages may be mutated, but not into an order to the one that serves."""
HELLO = Hello(role="client", oldest=1, newest=1)
PEER = Hello(role="peer", oldest=1, newest=1, cluster="fuzzed", node="n2", incarnation="i")


class Process:
    """A node that leads one shard by itself; the other node of its cluster is whoever says so."""

    def __init__(self, folder: Path) -> None:
        self.port, other = free_ports(2)
        config = folder / "cluster.yaml"
        config.write_text(
            "cluster: fuzzed\nnodes:\n"
            f"  - {{id: n1, address: 127.0.0.1:{self.port}, data: ./n1}}\n"
            f"  - {{id: n2, address: 127.0.0.1:{other}, data: ./n2}}\n"
            "keyspaces: {default: {microshards: 4, shards: 1, voters: 1}}\n"
            "storage: {block_cache: 1MiB, write_buffer: 4MiB}\n"
        )
        self.log = folder / "n1.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal.cli", "node", "--config", str(config), "--id", "n1"],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                self.served = self.connect()
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self._reader = FrameReader()
        self.served.sendall(encode_frame([HELLO]))
        while not self._reader.feed(self.served.recv(65536)):
            pass

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def connect(self) -> socket.socket:
        found = socket.create_connection(("127.0.0.1", self.port), 10)
        found.settimeout(10)
        return found

    def still_serves(self) -> None:
        """Ask on a connection that was there all the time."""
        self.served.sendall(encode_frame([GetStatus(7)]))
        bodies: list[bytes] = []
        while not bodies:
            bodies = self._reader.feed(self.served.recv(65536))
        [answer] = answer_decoder.decode(bodies[0])
        assert isinstance(answer, StatusReply)
        assert [(each.shard, each.role, each.failure) for each in answer.replicas] == [(1, "leader", None)]
        assert self.process.poll() is None

    def say(self, *pieces: bytes) -> None:
        """Connect, send all that, and read to the end of what the node says."""
        with self.connect() as connection, suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            with suppress(OSError):  # it is over already
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    found = Process(tmp_path_factory.mktemp("fuzzed"))
    deadline = time.monotonic() + 30
    while True:
        with suppress(AssertionError):
            found.still_serves()
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = found.memory_bytes
    yield found
    grown = found.memory_bytes - before
    found.process.kill()
    found.process.wait()
    assert grown < 64 * MIB
    events = [json.loads(line) for line in found.log.read_text().splitlines() if line.startswith("{")]
    assert not [event for event in events if "exception" in event or event.get("event") == "node_failed"]
    assert "Traceback" not in found.log.read_text()


EVERYWHERE = (MicroshardRange(0, 4),)
CLIENTS = [
    OpenSession(1, 1),
    Write(2, 1, 1, b"0123456789abcdef", 1, 1000, encode_operations([Put(b"k", b"v" * 40)])),
    Read(3, 1, 1, 1000, [b"k", b"another"]),
    Scan(4, 1, 1, 1000, EVERYWHERE, b"", b"", False, False, 100),
    GetStatus(5),
]
PEERS = [
    Heartbeat(1, 2, 1, True),
    HeartbeatAnswer(1, 1000, 1),
    AppendEntries(
        ELSEWHERE, 3, 4, 2, 4, [sealed(ELSEWHERE, 3, index, EntryKind.COMMAND, b"payload") for index in (5, 6)], 1
    ),
    AppendAccepted(ELSEWHERE, 3, 5, 4, 1),
    VoteRequest(ELSEWHERE, 3, 9, 3, True, False),
]


def framed(body: bytes) -> bytes:
    return struct.pack(">II", len(body), checksum(body)) + body


@st.composite
def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """Return a body with some bytes changed, cut out, doubled or put in."""
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "put", "end", "double"])):
            case "change" if data:
                data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xCF, 0xD9, 0xDD, 0xDF, 0xFF]))
            case "cut":
                del data[at : at + draw(st.integers(1, 9))]
            case "put":
                data[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "end":
                del data[at:]
            case _:
                data += data[at : at + 64]
    return bytes(data)


def bodies(messages: list[msgspec.Struct]) -> st.SearchStrategy[bytes]:
    chosen = st.lists(st.sampled_from(messages), min_size=1, max_size=3)
    return chosen.flatmap(lambda some: mutated(encode_frame(list(some))[HEADER_BYTES:]))


quickly = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@quickly
@given(data=st.one_of(st.binary(max_size=300), mutated(encode_frame([HELLO])), mutated(encode_frame([PEER]))))
def test_whatever_comes_before_a_greeting(node: Process, data: bytes) -> None:
    node.say(data)
    node.still_serves()


@quickly
@given(body=st.one_of(mutated(encode_frame([HELLO])[HEADER_BYTES:]), mutated(encode_frame([PEER])[HEADER_BYTES:])))
def test_greetings_that_are_nearly_right(node: Process, body: bytes) -> None:
    node.say(framed(body), encode_frame([CLIENTS[0]]))
    node.still_serves()


@quickly
@given(some=st.lists(bodies(CLIENTS), min_size=1, max_size=4), whole=st.booleans(), rest=st.binary(max_size=40))
def test_requests_that_are_nearly_right(node: Process, some: list[bytes], whole: bool, rest: bytes) -> None:
    sent = [framed(body) if whole else struct.pack(">II", len(body), checksum(body) ^ 1) + body for body in some]
    node.say(encode_frame([HELLO]), *sent, rest)
    node.still_serves()


@quickly
@given(some=st.lists(bodies(PEERS), min_size=1, max_size=4), whole=st.booleans(), rest=st.binary(max_size=40))
def test_messages_of_a_peer_that_are_nearly_right(node: Process, some: list[bytes], whole: bool, rest: bytes) -> None:
    sent = [framed(body) if whole else struct.pack(">II", len(body), checksum(body) ^ 1) + body for body in some]
    node.say(encode_frame([PEER]), *sent, rest)
    node.still_serves()


def test_a_peer_that_is_right_is_heard(node: Process) -> None:
    """Else the others here would prove nothing."""
    with node.connect() as connection:
        connection.sendall(encode_frame([PEER]) + encode_frame(list(PEERS)))
        assert FrameReader().feed(connection.recv(65536))
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while connection.recv(65536):
                pass
    node.still_serves()


def test_long_frames_that_are_announced_to_greet_are_not_waited_for(node: Process) -> None:
    before = node.memory_bytes
    open_ones = [node.connect() for _ in range(100)]
    for connection in open_ones:
        with suppress(ConnectionError):
            connection.sendall(struct.pack(">II", 16 * MIB, 0) + bytes(MIB))
    node.still_serves()
    assert node.memory_bytes - before < 32 * MIB
    for connection in open_ones:
        connection.close()

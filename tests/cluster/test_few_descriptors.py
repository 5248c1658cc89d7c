"""A node with few descriptors, all of whose ports are crowded at once, opens no more of them than it has, and goes on."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import shoal
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Hello
from shoal.protocol.version import NEWEST, OLDEST
from shoal_server.local.layout import free_ports

DESCRIPTORS = 480
CROWD = 400
"""Connections at each port: more than there are descriptors in all."""
WAVES = 4
LEFT = 32
PATIENCE_SECONDS = 60.0
HELLO = encode_frame([Hello("client", OLDEST, NEWEST)])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class Node:
    """The process."""

    def __init__(self, folder: Path) -> None:
        self.ports = free_ports(3)
        data, admin, metrics = self.ports
        config = folder / "cluster.yaml"
        config.write_text(
            f"cluster: few\nnodes:\n  - {{id: n1, address: '127.0.0.1:{data}', admin: '127.0.0.1:{admin}', "
            f"metrics: '127.0.0.1:{metrics}', data: {folder / 'n1'}}}\n"
            "keyspaces:\n  default: {microshards: 64, shards: 2, voters: 1}\nstorage: {write_buffer: 1MiB}\n"
        )
        self.log = folder / "n1.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal", "node", "--config", str(config), "--id", "n1"],
                stdout=log,
                stderr=log,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)),
            )
        self.url = f"shoal://127.0.0.1:{data}/default?timeout=20s"

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(20)


def crowd(port: int, says: bytes) -> list[socket.socket]:
    """Connect as often as that, faster than anybody accepts it."""
    ends = [socket.socket() for _ in range(CROWD)]
    for end in ends:
        end.setblocking(False)
        end.connect_ex(("127.0.0.1", port))
    for end in ends:
        with suppress(OSError):  # it has to wait, or was refused
            end.send(says)
    return ends


async def test_all_ports_crowded_at_once_take_nothing_of_what_the_database_needs(node: Node):
    data, admin, metrics = node.ports
    most = 0
    async with shoal.AsyncClient(node.url) as db:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                await db.put("there", b"1")
                break
            except shoal.ShoalError:
                assert time.monotonic() < deadline, node.log.read_text()[-2000:]
        for wave in range(WAVES):
            ends = [
                end
                for port, says in (
                    (data, HELLO),
                    (data, b"GET / HTTP/1.1\r\n\r\n"),
                    (admin, PREFACE),
                    (metrics, b"GET /metrics HTTP/1.1\r\n"),
                    (metrics, b"GET /metrics HTTP/1.1\r\n\r\n"),
                )
                for end in crowd(port, says)
            ]
            for number in range(10):
                await db.put(f"key-{wave}-{number}", bytes(200_000))
                most = max(most, node.descriptors())
            for end in ends:
                end.close()
        await db.put("there", b"2")
        assert node.process.poll() is None, node.log.read_text()[-2000:]
    words = node.log.read_text()
    assert "Too many open files" not in words
    assert "Traceback" not in words
    assert most <= DESCRIPTORS - LEFT, "the database has descriptors that are left"

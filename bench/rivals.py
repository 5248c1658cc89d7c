"""etcd and Redis as three replicas on loopback, and the load generators that their own users would take.

etcd: Debian's `etcd-server`, driven by `h2load` (package `nghttp2-client`) with a serialized gRPC body. Redis: Debian's
`redis-server`, append-only file synced on every write, two replicas, driven by `redis-benchmark`.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = b"k%015d" % 1
START_SECONDS = 15.0
CONNECTIONS_MAX = 100
"""h2load spreads concurrency over at most so many connections, the rest over streams."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to. `latency_ms`: the median where the generator says it, else the mean (etcd's)."""

    per_second: float
    latency_ms: float


@contextmanager
def processes(commands: list[list[str]], folder: Path) -> Iterator[None]:
    """Run processes for the length of a `with` block; end them and nothing else."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"process-{number}.log").open("wb") as log:
                running.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def missing(*programs: str) -> str:
    """Return "" where all programs are installed, else what to do."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"no {', '.join(absent)}: apt-get install etcd-server nghttp2-client redis-server" if absent else ""


def grpc_body(*fields: bytes) -> bytes:
    """Return a gRPC message whose fields 1, 2, ... are these bytes: all that Put and Range need."""
    message = b""
    for number, value in enumerate(fields, start=1):
        size = len(value)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        message += bytes([number << 3 | 2]) + length + value
    return b"\x00" + len(message).to_bytes(4, "big") + message


class Etcd:
    """Three members. Requests go to the leader."""

    name = "etcd"
    unavailable = missing("etcd", "h2load")

    def __init__(self, folder: Path, ports: list[int], value: bytes) -> None:
        self._folder = folder
        self._clients, self._peers = ports[:3], ports[3:6]
        (folder / "put.body").write_bytes(grpc_body(KEY, value))
        (folder / "get.body").write_bytes(grpc_body(KEY))
        self._leader = self._clients[0]

    def commands(self) -> list[list[str]]:
        cluster = ",".join(f"e{n}=http://127.0.0.1:{port}" for n, port in enumerate(self._peers))
        return [
            [
                "etcd", "--name", f"e{n}", "--data-dir", str(self._folder / f"e{n}"), "--log-level", "error",
                "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--listen-client-urls", f"http://127.0.0.1:{client}",
                "--advertise-client-urls", f"http://127.0.0.1:{client}", "--initial-cluster", cluster,
            ]
            for n, (client, peer) in enumerate(zip(self._clients, self._peers, strict=True))
        ]  # fmt: skip

    def prepare(self) -> None:
        """Wait until the cluster answers, find its leader by trying, and write the key that is read."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            found = {port: self._load(port, "Put", "put", 1, 1) for port in self._clients}
            if all(figures.per_second > 0 for figures in found.values()):
                break
            if time.monotonic() > deadline:
                raise RuntimeError("etcd did not answer in time")
        # A follower forwards each write to the leader: the leader is the one that answers fastest.
        self._leader = min(found, key=lambda port: found[port].latency_ms)

    def run(self, operation: str, concurrency: int, seconds: float) -> Figures:
        method = "Put" if operation == "put" else "Range"
        return self._load(self._leader, method, operation, concurrency, seconds)

    def _load(self, port: int, method: str, body: str, concurrency: int, seconds: float) -> Figures:
        connections = min(concurrency, CONNECTIONS_MAX)
        output = subprocess.run(
            [
                "h2load", "-D", str(max(1, round(seconds))), "--warm-up-time", "1", "-t", "1", "-c", str(connections),
                "-m", str(-(-concurrency // connections)), "-d", str(self._folder / f"{body}.body"),
                "-H", "content-type: application/grpc", "-H", "te: trailers",
                f"http://127.0.0.1:{port}/etcdserverpb.KV/{method}",
            ],
            capture_output=True, text=True, check=False, timeout=seconds + 30,
        ).stdout  # fmt: skip
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
        mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", output)
        failed = re.search(r"(\d+) failed", output)
        if rate is None or mean is None or (failed is not None and int(failed[1])):
            return Figures(0, 0)
        return Figures(float(rate[1]), float(mean[1]) * {"us": 0.001, "ms": 1, "s": 1000}[mean[2]])


class Redis:
    """One primary that syncs its append-only file on every write, and two replicas that it does not wait for."""

    name = "Redis"
    unavailable = missing("redis-server", "redis-benchmark")

    def __init__(self, folder: Path, ports: list[int], value: bytes) -> None:
        self._folder = folder
        self._ports = ports[:3]
        self._value_bytes = len(value)

    def commands(self) -> list[list[str]]:
        commands = []
        for number, port in enumerate(self._ports):
            data = self._folder / f"r{number}"
            data.mkdir()
            command = [
                "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always",
            ]  # fmt: skip
            commands.append(command + (["--replicaof", "127.0.0.1", str(self._ports[0])] if number else []))
        return commands

    def prepare(self) -> None:
        time.sleep(3)

    def run(self, operation: str, concurrency: int, seconds: float) -> Figures:
        # redis-benchmark counts requests, not seconds: a short run says how many make a run of the length wanted.
        probe = self._load(operation, concurrency, max(2000, concurrency * 20))
        return self._load(operation, concurrency, int(probe.per_second * seconds) + 1)

    def _load(self, operation: str, concurrency: int, requests: int) -> Figures:
        output = subprocess.run(
            [
                "redis-benchmark", "-h", "127.0.0.1", "-p", str(self._ports[0]), "-t",
                "set" if operation == "put" else "get", "-c", str(concurrency), "-n", str(requests),
                "-d", str(self._value_bytes), "-r", "100000", "--csv",
            ],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        row = next(csv.DictReader(io.StringIO(output)))
        return Figures(float(row["rps"]), float(row["p50_latency_ms"]))

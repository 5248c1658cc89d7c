"""Three nodes that are attacked: their processes, what these hold in memory, and whether they let anybody else in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from shoal.options import split_address
from shoal.protocol.frames import FrameReader, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Welcome
from shoal.protocol.version import NEWEST, OLDEST
from shoal_chaos.attackers.base import Ground, Needs
from shoal_chaos.clusters.configuration import Configuration
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_server.api.generated import shoal_pb2, shoal_pb2_grpc
from shoal_server.local.layout import free_ports, generated_config

NODES = 3
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 1024; exec "$@"', "sh")
KNOCK_SECONDS = 0.5
ANSWER_SECONDS = 2.0
"""Who is not let in within this stands before a shut door."""


class TlsMissing(Exception):
    """What makes certificates is not installed."""


class AttackedCluster:
    """Three nodes with eight shards, at the default settings."""

    def __init__(self, folder: Path, needs: Needs = Needs.NOTHING, keyspaces: str = "") -> None:
        """
        Args:
            needs: what is special about it.
            keyspaces: further lines of its configuration, which ends with keyspaces.

        Raises:
            TlsMissing: it needs certificates, and nothing here can make them.
        """
        ports = free_ports(3 * NODES)
        nodes, admin, metrics = ports[:NODES], ports[NODES : 2 * NODES], ports[2 * NODES :]
        text = generated_config(NODES, nodes, (), admin, metrics) + keyspaces
        if needs is Needs.TLS:
            _certify(folder)
            text += "tls: {certificate: node.crt, key: node.key, authorities: ca.pem}\n"
        self.processes = ProcessCluster(folder, Configuration(text))
        if needs is Needs.FEW_DESCRIPTORS:
            self.processes.wrappers.update(dict.fromkeys(self.processes.names, FEW_DESCRIPTORS))
        self._pages = tuple(f"127.0.0.1:{port}" for port in metrics)
        self._grpc = () if needs is Needs.TLS else tuple(f"127.0.0.1:{port}" for port in admin)
        self.needs = needs

    async def start(self) -> None:
        self.processes.start_all()
        await self.processes.ready()

    async def stop(self) -> None:
        await self.processes.stop_all()

    def ground(self, seed: int, seconds: float) -> Ground:
        """Return what an attacker needs to know."""
        addresses = self.processes.addresses
        return Ground(self.processes.url, addresses, self._pages, self._grpc, seed, seconds)


def _certify(folder: Path) -> None:
    try:
        import trustme
    except ImportError as error:
        raise TlsMissing("trustme is not installed, which makes certificates") from error
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(folder / "node.crt")
    made.private_key_pem.write_to_path(folder / "node.key")


# -- doors


@dataclass(frozen=True, slots=True)
class Knock:
    """One that came to a door: which, when, and whether it was let in."""

    door: str
    at: float
    welcome: bool


class Doors:
    """Comes to each port of the nodes twice a second: as a client, for the pages, by gRPC."""

    def __init__(self, ground: Ground, *, tls: bool) -> None:
        self.knocks: list[Knock] = []
        self._ground = ground
        self._tls = tls

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Knock for the length of an `async with` block."""
        ground = self._ground
        async with AsyncExitStack() as stack:
            doors: dict[str, Callable[[], Awaitable[bool]]] = {
                f"client at {address}": lambda address=address: _greeted(address) for address in ground.addresses
            }
            if self._tls:
                doors = {
                    f"TLS at {address}": lambda address=address: self._shakes(address) for address in ground.addresses
                }
            doors["/healthz"] = lambda: _page(ground.pages[0], "/healthz")
            doors["/readyz"] = lambda: _page(ground.pages[0], "/readyz")
            if ground.grpc:
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(ground.grpc[0]))
                stub = shoal_pb2_grpc.ShoalStub(channel)
                doors["gRPC"] = lambda: _called(stub)
            tasks = [asyncio.create_task(self._knock(name, door)) for name, door in doors.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def shut(self, began: float, ended: float) -> list[Knock]:
        """Return those that were not let in, of a time."""
        return [knock for knock in self.within(began, ended) if not knock.welcome]

    def within(self, began: float, ended: float) -> list[Knock]:
        """Return those of a time."""
        return [knock for knock in self.knocks if began <= knock.at < ended]

    async def _knock(self, name: str, door: Callable[[], Awaitable[bool]]) -> None:
        while True:
            at = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    welcome = await door()
            except (OSError, EOFError, grpc.aio.AioRpcError):
                welcome = False
            self.knocks.append(Knock(name, at, welcome))
            await asyncio.sleep(max(0.0, at + KNOCK_SECONDS - time.monotonic()))

    async def _shakes(self, address: str) -> bool:
        from shoal.options import parse_url

        return await _greeted(address, parse_url(self._ground.url).tls_context())


async def _greeted(address: str, tls: object = None) -> bool:
    """Whether a new client is welcome."""
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(encode_frame([Hello("client", OLDEST, NEWEST)]))
        frames = FrameReader()
        while data := await reader.read(65536):
            for body in frames.feed(data):
                return isinstance(greeting_decoder.decode(body)[0], Welcome)
        return False
    finally:
        writer.transport.abort()


async def _page(address: str, path: str) -> bool:
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    finally:
        writer.transport.abort()


async def _called(stub: object) -> bool:
    await stub.Get(shoal_pb2.GetRequest(keyspace="default", key=b"0/a"), timeout=ANSWER_SECONDS)
    return True

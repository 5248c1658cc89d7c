"""Connections over TLS that do not come about: what either side hears of it, and that others are not disturbed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import SSLContext
from typing import Any, get_args

import pytest
import shoal
import trustme
from shoal.admin.connection import AdminConnection
from shoal.protocol.frames import FrameReader, encode_frame, greeting_decoder
from shoal.protocol.messages import (
    GetStatus,
    Hello,
    InstallShardMap,
    Refused,
    Request,
    SetLogLevel,
    TransferLeader,
    Welcome,
)
from shoal.protocol.quotas import SetQuotaShares
from shoal.protocol.version import NEWEST, OLDEST
from shoal.shardmap import ShardMap
from shoal.tls import TlsFiles, client_context
from shoal_server import secure_listener
from shoal_server.certificates import Certificate, Certificates
from shoal_server.config.schema import TlsConfig
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.request_frames import OF_CLIENTS, OF_MANAGERS
from shoal_server.process.connections import Inbound
from shoal_server.secure_listener import SecureListener

EMPTY_MAP = ShardMap(0, "c", (), (), ())
PATIENCE_SECONDS = 10.0


class Host:
    """A node process that welcomes everybody, and notes whom it has to do with."""

    max_frame_bytes = 1 << 20
    client_output_bytes = 1 << 20
    memory = MemoryBudget(1 << 30)

    def __init__(self, secure: bool) -> None:
        self.secure = secure
        self.refusals: list[tuple[str, str]] = []
        self.refused_one = asyncio.Event()
        self.requests: list[Request] = []
        self.certificates: list[Certificate] = []

    def welcome(self, version: int) -> Welcome:
        size = self.max_frame_bytes
        return Welcome(version, "c", "n1", "i", size, 100, size, size, EMPTY_MAP)

    def check_peer(self, hello: Hello, certificate: Certificate) -> str:
        self.certificates.append(certificate)
        return ""

    def note(self, address: str, reason: str) -> None:
        self.refusals.append((address, reason))
        self.refused_one.set()

    def refused(self, connection: Inbound, reason: str, peer: str, client: int | None) -> None:
        self.note(connection.address, reason)

    def check_client(self, connection: Inbound, hello: Hello) -> Refused | None:
        return None

    def client_opened(self, connection: Inbound, certificate: Certificate, priority: str) -> int:
        self.certificates.append(certificate)
        return 1

    def from_client(self, client: int, requests: list[Request], size: int) -> bool:
        self.requests += requests
        return True

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *_: ""


class Place:
    """A port over TLS or without, and certificates to come with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.issue("node.pem", "127.0.0.1")
        self._ends: list[Any] = []
        self.host: Host
        self.address = ""

    def issue(self, file: str, *names: str, authority: trustme.CA | None = None, days: float = 30) -> None:
        now = datetime.now(UTC)
        made = (authority or self.authority).issue_cert(
            *names, not_before=now - timedelta(days=60), not_after=now + timedelta(days=days)
        )
        made.private_key_and_cert_chain_pem.write_to_path(self.folder / file)

    def context(self, certificate: str = "", authority: str = "ca.pem") -> SSLContext:
        certfile = str(self.folder / certificate) if certificate else ""
        return client_context(TlsFiles(str(self.folder / authority), certfile))

    def url(self, certificate: str = "", authority: str = "ca.pem") -> str:
        own = f"&certfile={self.folder / certificate}" if certificate else ""
        return f"shoals://{self.address}/default?timeout=5s&cafile={self.folder / authority}{own}"

    async def listen(self, *, clients: str = "none", secure: bool = True) -> None:
        self.host = Host(secure)
        loop = asyncio.get_running_loop()

        def made() -> Inbound:
            return Inbound(self.host, loop)

        if not secure:
            server = await loop.create_server(made, "127.0.0.1", 0)
            self._ends.append(server.close)
            port = server.sockets[0].getsockname()[1]
        else:
            node = self.folder / "node.pem"
            config = TlsConfig(certificate=node, key=node, authorities=self.folder / "ca.pem", clients=clients)
            certificates = Certificates(config, "n1", "127.0.0.1:1")
            listener = SecureListener(certificates, made, self.host.note, lambda task: None)
            port = await listener.start("127.0.0.1", 0)
            self._ends.append(listener.close)
        self.address = f"127.0.0.1:{port}"

    async def refusal(self) -> str:
        """Return why a connection was turned away; the address of whom is noted with it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.host.refused_one.wait()
        address, reason = self.host.refusals[-1]
        assert address.startswith("127.0.0.1:")
        return reason

    async def still_serves(self) -> None:
        async with await AdminConnection.open(self.address, PATIENCE_SECONDS, self.context("node.pem")) as connection:
            assert connection.welcome.node == "n1"

    async def close(self) -> None:
        for end in self._ends:
            ended = end()
            if ended is not None:
                await ended


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


async def both(place: Place, error: type[shoal.ShoalError], url: str, tls: SSLContext | None) -> list[str]:
    """Return what the application's client says, and what the operator's tools say."""
    with pytest.raises(error) as application:
        async with shoal.AsyncClient(url):
            pass
    with pytest.raises(error) as operator:
        await AdminConnection.open(place.address, PATIENCE_SECONDS, tls)
    return [str(application.value), str(operator.value)]


async def test_a_plain_client_is_told_that_the_port_speaks_tls(place):
    await place.listen()
    url = f"shoal://{place.address}/default?timeout=5s"
    for said in await both(place, shoal.ProtocolMismatch, url, None):
        assert "speaks TLS only: use a shoals:// URL" in said
    assert "does not speak TLS" in await place.refusal()
    await place.still_serves()


async def test_a_client_with_tls_is_told_that_the_port_is_plain(place):
    await place.listen(secure=False)
    for said in await both(place, shoal.ProtocolMismatch, place.url(), place.context()):
        assert "does not answer in TLS" in said
        assert "shoal://" in said
    assert "speaks TLS, which is not switched on here" in await place.refusal()


async def test_a_client_that_does_not_know_the_authority_is_told_what_to_give(place):
    await place.listen()
    trustme.CA().cert_pem.write_to_path(place.folder / "other.pem")
    for said in await both(
        place, shoal.Unauthenticated, place.url(authority="other.pem"), place.context("", "other.pem")
    ):
        assert "give the authority's, as a cafile" in said
    assert "does it trust the authority" in await place.refusal()
    await place.still_serves()


async def test_a_foreign_certificate_of_a_client_is_refused_in_words(place):
    await place.listen()
    place.issue("foreign.pem", "somebody@example.org", authority=trustme.CA())
    for said in await both(place, shoal.Unauthenticated, place.url("foreign.pem"), place.context("foreign.pem")):
        assert "does not take this side's certificate" in said
    assert "its certificate is refused" in await place.refusal()
    await place.still_serves()


async def test_an_expired_certificate_of_a_client_is_refused_in_words(place):
    await place.listen()
    place.issue("expired.pem", "somebody@example.org", days=-1)
    for said in await both(place, shoal.Unauthenticated, place.url("expired.pem"), place.context("expired.pem")):
        assert "certificate expired" in said
    assert "certificate has expired" in await place.refusal()


async def test_a_client_without_a_certificate_is_told_that_it_needs_one(place):
    await place.listen(clients="required")
    for said in await both(place, shoal.Unauthenticated, place.url(), place.context()):
        assert "wants a client's certificate" in said
    assert "it has no certificate" in await place.refusal()
    place.issue("client.pem", "somebody@example.org")
    async with await AdminConnection.open(place.address, PATIENCE_SECONDS, place.context("client.pem")):
        pass


async def test_a_certificate_for_another_host_is_refused_by_the_client(place):
    await place.listen()
    url = place.url().replace("127.0.0.1", "localhost")
    with pytest.raises(shoal.Unauthenticated, match="another name than the address says"):
        async with shoal.AsyncClient(url):
            pass


async def test_a_connection_that_says_nothing_holds_up_nobody_and_is_closed(place, monkeypatch):
    await place.listen()
    host, port = place.address.split(":")
    _, silent = await asyncio.open_connection(host, int(port))
    await place.still_serves()
    silent.close()
    await place.refusal()
    monkeypatch.setattr(secure_listener, "HANDSHAKE_SECONDS", 0.1)
    place.host.refused_one.clear()
    reader, silent = await asyncio.open_connection(host, int(port))
    assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
    assert "no handshake within" in await place.refusal()
    silent.close()


async def test_garbage_ends_its_own_connection_only(place):
    await place.listen()
    host, port = place.address.split(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(200), bytes(64)):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(garbage)
            place.host.refused_one.clear()
            await place.refusal()
    await place.still_serves()


async def greet(place: Place, hello: Hello, certificate: str) -> tuple[Any, asyncio.StreamWriter]:
    host, port = place.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=place.context(certificate))
    writer.write(encode_frame([hello]))
    return await answer_of(reader), writer


async def answer_of(reader: asyncio.StreamReader) -> Any:
    frames = FrameReader()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (bodies := frames.feed(data := await reader.read(4096))):
            assert data, "the connection was closed without a word"
    return greeting_decoder.decode(bodies[0])[0]


@pytest.mark.parametrize("role", ["peer", "client"])
async def test_a_peer_or_client_is_judged_by_the_certificate_of_its_connection(place, role):
    await place.listen()
    peer = Hello(role, OLDEST, NEWEST, "c", "n2", "i")
    for certificate in ("node.pem", ""):
        welcome, writer = await greet(place, peer, certificate)
        assert isinstance(welcome, Welcome)
        writer.close()
    with_one, without = place.host.certificates
    assert ("IP Address", "127.0.0.1") in with_one["subjectAltName"]
    assert without == {}


def test_it_is_said_of_every_request_whether_clients_may_ask_it() -> None:
    of_clients = {
        "OpenSession",
        "Write",
        "Read",
        "ReadPage",
        "Scan",
        "GetShardMap",
        "GetStatus",
        "Ping",
        "GetHotKeys",
        "ReadChecksum",
    }
    of_managers = {
        "TransferLeader",
        "InstallShardMap",
        "ChangeMembership",
        "DropReplica",
        "SplitShard",
        "BeginIncoming",
        "BeginOutgoing",
        "StoreMoved",
        "SealMicroshards",
        "AdoptMicroshards",
        "ForgetMoved",
        "CancelMigration",
        "ReadMoving",
        "SetLogLevel",
        "SkipEntry",
        "SetQuotaShares",
    }
    assert {kind.__name__ for kind in OF_CLIENTS} == of_clients
    assert {kind.__name__ for kind in OF_MANAGERS} == of_managers
    # A new one is of managers unless it is said that clients may ask it.
    assert {kind.__name__ for kind in get_args(Request)} == of_clients | of_managers


@pytest.mark.parametrize(
    "request_",
    [SetQuotaShares(2, 1, 1, ()), SetLogLevel(2, "debug"), TransferLeader(2, 1, "n2", 1000)],
    ids=["quotas", "log level", "leader"],
)
async def test_what_changes_a_node_takes_a_certificate(place, request_):
    await place.listen()
    async with await AdminConnection.open(place.address, PATIENCE_SECONDS, place.context()) as connection:
        connection._writer.write(encode_frame([request_]))
        refused = greeting_decoder.decode(await connection._next_frame())[0]
        assert (refused.code, place.host.requests) == ("unauthenticated", [])
        assert "SHOAL_CERTFILE" in refused.message
    async with await AdminConnection.open(place.address, PATIENCE_SECONDS, place.context("node.pem")) as connection:
        connection._writer.write(encode_frame([request_]))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not place.host.requests:
                await asyncio.sleep(0)


@pytest.mark.parametrize("certificate", ["", "node.pem"])
async def test_what_only_managers_ask_takes_a_certificate(place, certificate):
    await place.listen()
    async with await AdminConnection.open(place.address, PATIENCE_SECONDS, place.context(certificate)) as connection:
        connection._writer.write(encode_frame([GetStatus(1), InstallShardMap(2, EMPTY_MAP, [])]))
        if certificate:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(place.host.requests) < 2:
                    await asyncio.sleep(0)
        else:
            refused = greeting_decoder.decode(await connection._next_frame())[0]
            assert isinstance(refused, Refused)
            assert refused.code == "unauthenticated"
            assert place.host.requests == []

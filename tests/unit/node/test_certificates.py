"""The certificates of a process: what is refused, and how files that change are taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog.testing
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from shoal.tls import TlsFiles, client_context
from shoal_server.certificates import Certificates, CertificatesRefused, host_of, names_host
from shoal_server.config.schema import TlsConfig
from shoal_server.secure_listener import SecureListener

ADDRESS = "127.0.0.1:7400"
NOW = datetime.now(UTC)


class Folder:
    """A process's three files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = trustme.CA()
        self.trust(self.authority)
        self.issue()

    @property
    def config(self) -> TlsConfig:
        names = {"certificate": "node.crt", "key": "node.key", "authorities": "ca.pem"}
        return TlsConfig(**names).beside(self.path)

    @property
    def cafile(self) -> Path:
        return self.path / "ca.pem"

    def trust(self, *authorities: trustme.CA) -> None:
        self.cafile.write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities))

    def issue(self, *names: str, authority: trustme.CA | None = None, since: float = -1, until: float = 30) -> None:
        """Have a new certificate and key. `since`, `until`: days from now."""
        made = (authority or self.authority).issue_cert(
            *(names or ("127.0.0.1",)), not_before=NOW + timedelta(days=since), not_after=NOW + timedelta(days=until)
        )
        made.cert_chain_pems[0].write_to_path(self.path / "node.crt")
        made.private_key_pem.write_to_path(self.path / "node.key")

    def load(self) -> Certificates:
        return Certificates(self.config, "n1", ADDRESS)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def events() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured  # type: ignore[misc]


def refusal(folder: Folder) -> str:
    with pytest.raises(CertificatesRefused) as refused:
        folder.load()
    key = (folder.path / "node.key").read_text()
    assert not any(line in str(refused.value) for line in key.splitlines() if len(line) > 40), (
        "keys are nobody's business"
    )
    return str(refused.value)


def test_a_file_that_is_not_there_is_named(folder):
    folder.cafile.unlink()
    assert "ca.pem' cannot be read: No such file" in refusal(folder)


def test_a_key_of_another_certificate_is_refused(folder):
    key = folder.path / "node.key"
    kept = key.read_bytes()
    folder.issue()
    key.write_bytes(kept)
    assert "is not that of the certificate" in refusal(folder)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(folder):
    key = folder.path / "node.key"
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert "the key has a password" in refusal(folder)


def test_garbage_is_refused(folder):
    folder.cafile.write_text("these are no certificates")
    assert "no certificates of authorities" in refusal(folder)


def test_a_certificate_that_peers_would_refuse_is_refused_at_the_start(folder):
    folder.issue(until=-0.5)
    assert "certificate has expired" in refusal(folder)
    folder.issue(since=1)
    assert "not yet valid" in refusal(folder)
    folder.issue(authority=trustme.CA())
    assert "one of the authorities" in refusal(folder)
    folder.issue("10.1.2.3", "node.example")
    assert "for '127.0.0.1'" in refusal(folder)


@pytest.mark.parametrize(
    ("names", "host", "named"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.2"], "127.0.0.1", False),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["node1.example"], "Node1.Example", True),
        (["*.example.org"], "node1.example.org", True),
        (["*.example.org"], "a.node1.example.org", False),
        (["*.example.org"], "example.org", False),
        (["node1.example"], "127.0.0.1", False),
        (["somebody@example.org"], "example.org", False),
    ],
)
def test_a_certificate_is_for_the_hosts_that_it_names(names, host, named, folder):
    kinds = {True: "IP Address", False: "DNS"}
    entries = [("email" if "@" in name else kinds[name[0].isdigit() or ":" in name], name) for name in names]
    assert names_host({"subjectAltName": tuple(entries)}, host) is named


def test_no_certificate_names_no_host():
    assert not names_host({}, "127.0.0.1")


def test_a_host_is_what_stands_before_the_port():
    assert [host_of(each) for each in ("h:1", "[::1]:7400", "127.0.0.1:7400")] == ["h", "::1", "127.0.0.1"]


async def serial_at(port: int, cafile: Path) -> str:
    """Return which certificate is presented at a port of loopback to a client that trusts `cafile`."""
    context = client_context(TlsFiles(str(cafile)))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return str(writer.get_extra_info("peercert")["serialNumber"])
    finally:
        writer.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(data)


async def test_new_connections_have_the_new_certificate_and_old_ones_go_on(folder, events):
    certificates = folder.load()
    listener = SecureListener(certificates, Echo, lambda address, reason: None, lambda task: None)
    port = await listener.start("127.0.0.1", 0)
    first = await serial_at(port, folder.cafile)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(TlsFiles(str(folder.cafile))))
    successor = trustme.CA()
    folder.trust(folder.authority, successor)
    folder.issue(authority=successor)
    certificates.look()
    assert [event["event"] for event in events] == ["certificates_loaded"]
    newest = folder.path / "successor.pem"
    successor.cert_pem.write_to_path(newest)
    assert await serial_at(port, newest) != first
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    writer.close()
    await listener.close()


async def test_a_bad_file_is_refused_once_and_the_old_ones_go_on(folder, events):
    certificates = folder.load()
    listener = SecureListener(certificates, Echo, lambda address, reason: None, lambda task: None)
    port = await listener.start("127.0.0.1", 0)
    first = await serial_at(port, folder.cafile)
    (folder.path / "node.key").write_text("half a key")
    for _ in range(3):
        certificates.look()
    assert [event["event"] for event in events] == ["certificates_refused"]
    assert "half a key" not in str(events)
    assert await serial_at(port, folder.cafile) == first
    certificates.look(asked=True)
    assert len(events) == 2, "who asks is told, also where nothing has changed"
    folder.issue()
    certificates.look()
    assert events[-1]["event"] == "certificates_loaded"
    assert await serial_at(port, folder.cafile) != first
    await listener.close()


def test_files_that_have_not_changed_are_left_alone(folder, events):
    certificates = folder.load()
    assert certificates.expires == int((NOW + timedelta(days=30)).timestamp())
    certificates.look()
    assert events == []


def test_a_certificate_that_ends_soon_is_complained_about(folder, events):
    folder.issue(until=3)
    folder.load()
    assert [event["event"] for event in events] == ["certificate_expires_soon"]

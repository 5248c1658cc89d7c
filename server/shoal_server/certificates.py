"""The certificates of a process: loaded, proved, followed when their files change.

What is handed out are contexts that stand for the newest files: a connection that begins takes what is current, one that
is there keeps what it began with. Files that are not in order change nothing. Nothing here logs or repeats what a file holds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from ssl import (
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_TLS_CLIENT,
    PROTOCOL_TLS_SERVER,
    MemoryBIO,
    SSLCertVerificationError,
    SSLContext,
    SSLError,
    SSLObject,
    SSLWantReadError,
    TLSVersion,
    cert_time_to_seconds,
)
from typing import Any, TypeAlias

import structlog
from shoal.errors import InvalidArgument
from shoal.tls import TlsFiles, client_context, load_authorities, load_certificate

from shoal_server.config.schema import TlsConfig
from shoal_server.invariants import invariant

log = structlog.get_logger("shoal.node")

LOOK_SECONDS = 5.0
"""How often the files are looked at."""
EXPIRES_SOON_SECONDS = 7 * 24 * 3600
REMINDER_SECONDS = 24 * 3600
IDENTITY_BYTES = 16
FLIGHTS_MAX = 10
"""The most turns of a handshake in memory; TLS 1.2 takes four."""

Certificate: TypeAlias = Mapping[str, Any]
"""What `SSLSocket.getpeercert` returns of a certificate that was checked; empty: there is none."""


class CertificatesRefused(Exception):
    """The files cannot be used; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class PemFiles:
    """What gRPC is given."""

    certificate: bytes
    key: bytes
    authorities: bytes


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One state of the files, proved to be in order."""

    stamps: tuple[tuple[int, int, int], ...]
    accepting: SSLContext
    dialling: SSLContext
    pem: PemFiles
    expires: float


class _Following(SSLContext):
    """Makes each connection with the context that is current then. asyncio and uvloop ask a context for nothing else."""

    def __new__(cls, certificates: Certificates, *, accepting: bool) -> _Following:  # noqa: ARG004 - for `__init__`
        return super().__new__(cls, PROTOCOL_TLS_SERVER if accepting else PROTOCOL_TLS_CLIENT)

    def __init__(self, certificates: Certificates, *, accepting: bool) -> None:
        self._certificates = certificates
        self._accepting = accepting

    def wrap_bio(
        self,
        incoming: MemoryBIO,
        outgoing: MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: Any = None,
    ) -> SSLObject:
        """As of the context that is current."""
        loaded = self._certificates.loaded
        context = loaded.accepting if self._accepting else loaded.dialling
        made = context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        self._made(made, outgoing)
        return made

    def _made(self, made: SSLObject, outgoing: MemoryBIO) -> None:
        """A connection's TLS was made, which writes to `outgoing`."""


class _Accepted(SSLObject):
    """One accepted connection's TLS, which keeps what it has to say of a handshake that fails."""

    last_words: bytes = b""
    outgoing: MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except SSLWantReadError:
            raise
        except SSLError:
            # asyncio throws them away with the connection, so that the other side would never know why.
            self.last_words = self.outgoing.read()
            raise


class Handshake(_Following):
    """The context of one accepted connection."""

    def __init__(self, certificates: Certificates, *, accepting: bool) -> None:
        super().__init__(certificates, accepting=accepting)
        self._accepted: _Accepted | None = None

    def _made(self, made: SSLObject, outgoing: MemoryBIO) -> None:
        assert isinstance(made, _Accepted), "contexts that accept make these"
        made.outgoing = outgoing
        self._accepted = made

    def last_words(self) -> bytes:
        """Return TLS's own message to the other side of why the handshake has failed; empty: there is none."""
        return b"" if self._accepted is None else self._accepted.last_words


class Certificates:
    """The certificate, the key and the authorities of one process."""

    def __init__(self, config: TlsConfig, process: str, address: str) -> None:
        """Load the files.

        Args:
            process: the node's or manager's id, for the log.
            address: `host:port` where others find the process: its certificate must name the host.

        Raises:
            CertificatesRefused: they are not in order.
        """
        invariant(
            None not in (config.certificate, config.key, config.authorities), "TLS that is on has all three files"
        )
        self.clients_required = config.clients == "required"
        self._process = process
        self._host = host_of(address)
        self._files = TlsFiles(str(config.authorities), str(config.certificate), str(config.key))
        self._refused: tuple[tuple[int, int, int], ...] = ()
        self._reminded = -math.inf
        self._asked = asyncio.Event()
        self.loaded = self._load(self._stamps())
        self._remind()
        self.dialling: SSLContext = _Following(self, accepting=False)
        """For connections that the process opens."""

    def handshake(self) -> Handshake:
        """Return the context of one connection that others have opened."""
        return Handshake(self, accepting=True)

    @property
    def expires(self) -> float:
        """When the certificate ends, in seconds since 1970."""
        return self.loaded.expires

    # -- following the files

    def ask(self) -> None:
        """Have `follow` look at the files now, and say what comes of it."""
        self._asked.set()

    async def follow(self) -> None:
        """Take over what the files become, looking now and then, and when asked to, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            self.look(asked=asked)
            self._remind()

    def look(self, *, asked: bool = False) -> None:
        """Take over the files where they have changed and are in order; each state of them is judged once.

        Args:
            asked: somebody wants to hear what comes of it, also where nothing has changed.
        """
        try:
            stamps = self._stamps()
            if not asked and stamps in (self.loaded.stamps, self._refused):
                return
            self._refused = stamps
            self.loaded = self._load(stamps)
        except CertificatesRefused as error:
            log.error("certificates_refused", node=self._process, reason=str(error))
            return
        self._refused = ()
        self._reminded = -math.inf
        log.info("certificates_loaded", node=self._process, expires=_day(self.loaded.expires))

    def _remind(self) -> None:
        """Warn of a certificate that ends soon, once a day."""
        now = time.time()
        if self.loaded.expires - now < EXPIRES_SOON_SECONDS and now - self._reminded > REMINDER_SECONDS:
            self._reminded = now
            log.warning("certificate_expires_soon", node=self._process, expires=_day(self.loaded.expires))

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Return what tells one state of the files from another, links followed."""
        stamps: list[tuple[int, int, int]] = []
        for file in (self._files.cafile, self._files.certfile, self._files.keyfile):
            try:
                status = Path(file).stat()
            except (OSError, ValueError):  # a ValueError is a path that cannot be one
                stamps.append((0, 0, 0))  # loading says what is the matter
            else:
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamps)

    def _load(self, stamps: tuple[tuple[int, int, int], ...]) -> _Loaded:
        files = self._files
        try:
            dialling = client_context(files)
            accepting = SSLContext(PROTOCOL_TLS_SERVER)
            accepting.minimum_version = TLSVersion.TLSv1_2
            accepting.sslobject_class = _Accepted
            # gRPC's callers insist on it; Shoal's own say nothing of it, and are asked nothing.
            accepting.set_alpn_protocols(["h2"])
            accepting.verify_mode = CERT_REQUIRED if self.clients_required else CERT_OPTIONAL
            load_authorities(accepting, files.cafile)
            load_certificate(accepting, files.certfile, files.keyfile)
            pem = PemFiles(*(Path(file).read_bytes() for file in (files.certfile, files.keyfile, files.cafile)))
        except (InvalidArgument, OSError) as error:
            raise CertificatesRefused(str(error)) from error
        certificate = self._prove(accepting, dialling)
        expires = float(cert_time_to_seconds(certificate["notAfter"]))
        return _Loaded(stamps, accepting, dialling, pem, expires)

    def _prove(self, accepting: SSLContext, dialling: SSLContext) -> Certificate:
        """Have the process greet itself, in memory, as its peers will do; return its certificate."""
        to_server, to_client = MemoryBIO(), MemoryBIO()
        server = accepting.wrap_bio(to_server, to_client, server_side=True)
        client = dialling.wrap_bio(to_client, to_server, server_hostname=self._host)
        try:
            for _ in range(FLIGHTS_MAX):
                if _advance(client) & _advance(server):
                    return server.getpeercert() or {}
        except SSLCertVerificationError as error:
            raise CertificatesRefused(
                f"peers would refuse the certificate in {self._files.certfile!r}: {error.verify_message}; it must be of "
                f"one of the authorities in {self._files.cafile!r}, valid now, for {self._host!r}, and for servers and clients"
            ) from error
        except SSLError as error:
            raise CertificatesRefused(
                f"no handshake is possible with {self._files.certfile!r}: {error.reason}"
            ) from error
        raise CertificatesRefused(f"no handshake with {self._files.certfile!r} comes to an end")


def open_certificates(config: TlsConfig, process: str, address: str) -> Certificates | None:
    """Return the certificates of a process; None where TLS is off.

    Raises:
        CertificatesRefused: they are not in order.
    """
    return Certificates(config, process, address) if config.on else None


def host_of(address: str) -> str:
    """Return the host of `host:port`, without an IPv6 address's brackets."""
    return address.rpartition(":")[0].strip("[]")


def names_host(certificate: Certificate, host: str) -> bool:
    """Say whether a certificate is for `host`, a name or an IP address, by the rules that clients check servers by."""
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        _, _, domain = name.partition(".")
        return any(
            kind == "DNS" and (given.lower() == name or (bool(domain) and given.lower() == f"*.{domain}"))
            for kind, given in names
        )
    return any(kind == "IP Address" and ipaddress.ip_address(given) == wanted for kind, given in names)


def identity_of(certificate: Certificate) -> bytes:
    """Return a short name for whom a certificate is of, the same for each that he has in time; empty: there is none.

    That is its subject, and the other names in it: some authorities put nothing that tells two apart into the first.
    """
    if not certificate:
        return b""
    names = certificate.get("subject", ()), sorted(certificate.get("subjectAltName", ()))
    return sha256(repr(names).encode()).digest()[:IDENTITY_BYTES]


def _advance(side: SSLObject) -> bool:
    """Go on with a handshake; return whether this side has finished."""
    try:
        side.do_handshake()
    except SSLWantReadError:
        return False
    return True


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

"""The data port over TLS: accepts connections, sees each through its handshake, and says why where that fails.

asyncio's own servers say nothing of a handshake that fails: not to the log, and not to the other side, whose alert they drop.

Whoever connects begins its handshake at once: those that are idle hold up nobody. There is a place for each, among those who
have not said who they are (places.py), where the oldest gives way.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLCertVerificationError, SSLError

from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Refused

from shoal_server.certificates import Certificates

HANDSHAKE_SECONDS = 5.0
BACKLOG = 1024
ACCEPT_PAUSE_SECONDS = 0.5
"""What is waited where the system has no room for another connection."""
SHUTDOWN_SECONDS = 2.0
"""How long a connection that is closed may take to say so in TLS."""
LINGER_SECONDS = 1.0
"""How long a refused connection may take to read why."""
WORDS_BYTES = 4096

_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_SPEAK_TLS = "this port speaks TLS only: use a shoals:// URL, and switch `tls` on in the configuration of nodes"


class Handshake:
    """One that is under way, with somebody at an address without the port."""

    def __init__(self, host_address: str, spare: socket.socket) -> None:
        self.host_address = host_address
        self.gave_way = ""
        self._spare = spare

    def give_way(self, message: str) -> None:
        """End, since somebody else needs the place."""
        self.gave_way = message
        # Cancelling would leave the loop's own socket open; so it finds that the other side has ended.
        with suppress(OSError):
            self._spare.shutdown(socket.SHUT_RDWR)


class SecureListener:
    """Listens at one address."""

    def __init__(
        self,
        certificates: Certificates,
        made: Callable[[], asyncio.Protocol],
        refused: Callable[[str, str], None],
        failed: Callable[[asyncio.Task[None]], None],
        *,
        began: Callable[[Handshake], None] = lambda _: None,
        ended: Callable[[Handshake], None] = lambda _: None,
    ) -> None:
        """
        Args:
            made: makes the protocol of a connection, which begins when its handshake is over.
            refused: told the address of whom no connection came about with, and why.
            failed: called with the task that accepts, if it has ended by itself, which it never should.
            began, ended: told of every handshake.
        """
        self._certificates = certificates
        self._made = made
        self._refused = refused
        self._failed = failed
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._shaking: set[asyncio.Task[None]] = set()
        self._began = began
        self._ended = ended

    async def start(self, host: str, port: int) -> int:
        """Listen, at every address that `host` has; return the port, which the system chooses for 0.

        Raises:
            OSError: that is not possible.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            # As asyncio does: an IPv6 address is for IPv6 alone, and others may have the IPv4 one.
            listening = socket.create_server((address[0], port), family=family, backlog=BACKLOG)
            listening.setblocking(False)
            self._sockets.append(listening)
            task = asyncio.create_task(self._accept(listening))
            task.add_done_callback(self._failed)
            self._accepting.append(task)
            port = listening.getsockname()[1]
        return port

    async def close(self) -> None:
        """Accept no more, and give up handshakes that are under way."""
        for task in self._accepting:
            task.remove_done_callback(self._failed)
        tasks = [*self._accepting, *self._shaking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                self._refused("", f"a connection could not be accepted: {error}")
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
            else:
                task = asyncio.create_task(self._shake_hands(accepted, address[0], address[1]))
                self._shaking.add(task)
                task.add_done_callback(self._shaking.discard)

    async def _shake_hands(self, accepted: socket.socket, host: str, port: int) -> None:
        try:
            # The loop closes its own socket where the handshake fails; this one still has a way to the other side.
            with accepted.dup() as spare:
                handshake = Handshake(host, spare)
                self._began(handshake)
                try:
                    await self._admit(accepted, spare, f"{host}:{port}", handshake)
                finally:
                    self._ended(handshake)
        except OSError as error:
            accepted.close()
            self._refused(f"{host}:{port}", f"a connection could not be accepted: {error}")

    async def _admit(self, accepted: socket.socket, spare: socket.socket, address: str, place: Handshake) -> None:
        loop = asyncio.get_running_loop()
        handshake = self._certificates.handshake()
        try:
            await loop.connect_accepted_socket(
                self._made,
                accepted,
                ssl=handshake,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except Exception as error:  # the root of the connection's task: others are not to suffer from it
            self._refused(address, place.gave_way or _words(error))
            if place.gave_way:
                return
            plain = isinstance(error, SSLError) and error.reason in _PLAIN
            refusal = encode_frame([Refused(ErrorCode.PROTOCOL_MISMATCH.value, _SPEAK_TLS)])
            await _say(spare, refusal if plain else handshake.last_words())


async def _say(connection: socket.socket, words: bytes) -> None:
    """Send a few last words; wait a little until they are read, since closing may take them back."""
    if not words:
        return
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):  # the other side is gone, or does not read: it has refused to hear why
        async with asyncio.timeout(LINGER_SECONDS):
            await loop.sock_sendall(connection, words)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, WORDS_BYTES):
                pass


def _words(error: Exception) -> str:
    """Return why a handshake failed, as seen from the side that was connected to."""
    if isinstance(error, SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, SSLError):
        reason = error.reason or "unknown"
        if reason in _PLAIN:
            return "it does not speak TLS, which this port demands"
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "it has no certificate, which clients need here"
        return f"the handshake failed: {reason.lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError | ConnectionAbortedError):  # the latter is asyncio's word for it
        return f"no handshake within {HANDSHAKE_SECONDS:g} seconds"
    if isinstance(error, ConnectionError):
        return "it broke off the handshake: does it trust the authority of this certificate, and know the name in it?"
    return f"the handshake failed: {error!r}"

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
from shoal_server.listener import Listener
from shoal_server.places import UNFINISHED_MAX

HANDSHAKE_SECONDS = 5.0
SHUTDOWN_SECONDS = 2.0
"""How long a connection that is closed may take to say so in TLS."""
LINGER_SECONDS = 1.0
"""How long a refused connection may take to read why."""
WORDS_BYTES = 4096
SAYING_MAX = 16
"""So many whose handshake failed may read why, and so many handshakes may be on their way to their end."""

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


class SecureListener(Listener):
    """Listens at one address."""

    def __init__(
        self,
        certificates: Certificates,
        made: Callable[[], asyncio.Protocol],
        refused: Callable[[str, str], None],
        failed: Callable[[asyncio.Task[None]], None],
        has_room: Callable[[int], bool] = lambda _: True,
        *,
        handshakes: int = UNFINISHED_MAX,
        began: Callable[[Handshake], None] = lambda _: None,
        ended: Callable[[Handshake], None] = lambda _: None,
    ) -> None:
        """
        Args:
            made: makes the protocol of a connection, which begins when its handshake is over.
            handshakes: so many go on at once, with a few more that are being ended; others wait in the system.
            began, ended: told of every handshake.
        """
        super().__init__(made, refused, failed, self._may_begin)
        self._certificates = certificates
        self._room_for = has_room
        self._handshakes = handshakes + SAYING_MAX
        self._saying = 0
        self._began = began
        self._ended = ended

    def _may_begin(self, beginning: int) -> bool:
        return beginning < self._handshakes and self._room_for(beginning)

    async def _begin(self, accepted: socket.socket, host: str, port: int) -> None:
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
            if self._saying < SAYING_MAX:
                self._saying += 1
                try:
                    await _say(spare, refusal if plain else handshake.last_words())
                finally:
                    self._saying -= 1


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

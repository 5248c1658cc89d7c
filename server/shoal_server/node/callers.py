"""Who the clients of a node are, as far as it matters to their sessions: what TLS has proven of them, and whose they are.

The core knows a client by a number. What is drawn here is all that the node draws for clients; in production it has to be
what nobody can predict.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from shoal.protocol.messages import SESSION_ID_BYTES

from shoal_server.storage.session_rows import SessionOwner

NOBODY_PROVEN = b""
"""In place of an identity: nothing is proven."""
TOKEN_BYTES = 16


class Callers:
    """The clients that are connected. A client that nobody has introduced is one of whom nothing is proven."""

    __slots__ = ("_addresses", "_identities", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._identities: dict[int, bytes] = {}
        self._addresses: dict[int, str] = {}

    def introduce(self, client: int, identity: bytes, address: str) -> None:
        """A client has connected.

        Args:
            identity: names whom its certificate is of, empty where it has none.
            address: where it comes from.
        """
        if identity:
            self._identities[client] = identity
        else:
            self._addresses[client] = address

    def gone(self, client: int) -> None:
        self._identities.pop(client, None)
        self._addresses.pop(client, None)

    def identity(self, client: int) -> bytes:
        """Return of whom a client's requests are, empty where that is not proven."""
        return self._identities.get(client, NOBODY_PROVEN)

    def owner(self, client: int) -> SessionOwner:
        """Return whose the sessions are that a client opens: its identity's, or its address's, at every node the same."""
        identity = self._identities.get(client)
        if identity is not None:
            return SessionOwner(identity, proven=True)
        address = self._addresses.get(client, "")
        return SessionOwner(blake2b(address.encode(), digest_size=TOKEN_BYTES).digest(), proven=False)

    def draw_session(self) -> bytes:
        """Return the id of a new session."""
        return self._random.randbytes(SESSION_ID_BYTES)

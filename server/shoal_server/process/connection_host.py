"""What connections to a node need of its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from shoal.protocol.messages import Failure, Hello, Refused, Welcome

from shoal_server.certificates import Certificate
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.outbox import PeerMessage
from shoal_server.node.request_frames import Received
from shoal_server.process.long_frames import LongFrames

C = TypeVar("C", contravariant=True)


class ConnectionHost(Protocol[C]):
    """See the module's first line. `C`: what connections are."""

    max_frame_bytes: int
    long_frames: LongFrames
    """By which clients' connections go on in turn; and `peer_frames`: those of peers."""
    peer_frames: LongFrames
    client_output_bytes: int
    memory: MemoryBudget
    secure: bool
    """Whether connections are TLS."""

    def welcome(self, version: int) -> Welcome: ...
    def check_peer(self, hello: Hello, certificate: Certificate) -> str:
        """Return "" where the peer is one of ours, else why it is not."""
        ...

    def check_client(self, connection: C, hello: Hello) -> Refused | None:
        """Return None where the client is welcome."""
        ...

    def refused(self, connection: C, reason: str, peer: str, client: int | None) -> None:
        """Note that a connection is turned away."""
        ...

    def failed(self, failures: list[Failure]) -> None:
        """Note that requests of a client make no sense, or that their answers are too long."""
        ...

    def frame_damaged(self) -> None:
        """Note that a frame did not arrive as it was sent."""
        ...

    def inbound_opened(self, connection: C) -> None: ...
    def inbound_closed(self, connection: C) -> None: ...
    def peer_sends(self, peer: str, size: int) -> None:
        """Note that so many bytes of a peer have come, be it of a frame that is not complete yet."""
        ...

    def client_opened(self, connection: C, certificate: Certificate, priority: str) -> int: ...
    def client_closed(self, client: int) -> None: ...
    def client_is_behind(self, client: int, behind: bool) -> None: ...
    def peer_opened(self, peer: str, connection: C) -> None: ...
    def from_client(self, client: int, requests: Sequence[Received], size: int) -> bool:
        """Take a frame of `size` bytes; say whether the next may be received, before the connection's `resume_reading`."""
        ...

    def from_peer(self, peer: str, messages: list[PeerMessage]) -> None: ...
    def take_frame(self, connection: C, size: int) -> bool:
        """Take so many bytes more of an incomplete frame, once there is room for them; where none can be made, refuse it."""
        ...

"""What a turn of the node has to say: messages gathered per peer and answers gathered per client."""

from __future__ import annotations

from typing import TypeAlias

from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.frames import Decoder
from shoal.protocol.messages import Answer, Failure
from shoal.shardmap import Shard

from shoal_server.invariants import invariant
from shoal_server.node.digests import DigestReport, DigestVerdict
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion
from shoal_server.raft.messages import Heartbeat, HeartbeatAnswer, RaftMessage
from shoal_server.storage.snapshot import SnapshotAck, SnapshotChunk, SnapshotWanted

PeerMessage: TypeAlias = (
    RaftMessage
    | Heartbeat
    | HeartbeatAnswer
    | SnapshotChunk
    | SnapshotAck
    | SnapshotWanted
    | FreshnessQuestion
    | FreshnessAnswer
    | DigestReport
    | DigestVerdict
)

peer_decoder: Decoder[list[PeerMessage]] = Decoder(list[PeerMessage])
"""Of the frames that nodes send each other."""

NOBODY = -1
"""In place of a client: the node itself, which waits for no answer."""


class Outbox:
    """Collects a turn's messages, so that each peer and each client gets one frame.

    `failed` are the codes of what was refused; `uncommitted` says whose writes were, since too many wait for a majority, and of
    which keyspace.
    """

    __slots__ = ("failed", "map_version", "to_clients", "to_peers", "uncommitted")

    def __init__(self, map_version: int) -> None:
        self.map_version = map_version
        self.failed: list[ErrorCode] = []
        self.uncommitted: list[tuple[int, int]] = []
        self.to_peers: dict[str, list[PeerMessage]] = {}
        self.to_clients: dict[int, list[Answer]] = {}

    def send(self, peer: str, message: PeerMessage) -> None:
        messages = self.to_peers.get(peer)
        if messages is None:
            self.to_peers[peer] = [message]
        else:
            messages.append(message)

    def answer(self, client: int, answer: Answer) -> None:
        if client == NOBODY:
            return
        answers = self.to_clients.get(client)
        if answers is None:
            self.to_clients[client] = [answer]
        else:
            answers.append(answer)

    def fail(
        self,
        client: int,
        request: int,
        code: ErrorCode,
        message: str,
        *,
        maybe_applied: bool = False,
        retry_after_ms: int = 0,
        route: Shard | None = None,
        reason: OverloadReason | None = None,
        only_adding: bool = False,
    ) -> None:
        """Answer that `request` was refused or failed."""
        invariant(
            reason is not None or code is not ErrorCode.OVERLOADED, "who is refused hears of what there is too much"
        )
        self.failed.append(code)
        words = "" if reason is None else reason.value
        self.answer(
            client,
            Failure(
                request, code.value, message, maybe_applied, retry_after_ms, route, self.map_version, words, only_adding
            ),
        )

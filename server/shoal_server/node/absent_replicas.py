"""What a node answers where it has no replica of the shard that a peer speaks of: what cannot become untrue, no more."""

from __future__ import annotations

from shoal_server.node.outbox import Outbox, PeerMessage
from shoal_server.raft.messages import LeaderQuestion, Resigned
from shoal_server.storage.snapshot import SnapshotAck, SnapshotChunk


def answer_for_absent(sender: str, message: PeerMessage, outbox: Outbox) -> None:
    """Answer a message for a replica that is not here, or not yet, where somebody waits for the answer.

    Whoever asks whether this node still leads in a term heard from it in that term, which had been on this disk before.
    Here nothing leads now. A replica that is opened later is either the one that led, and finds that term or a later one
    on the disk, or a new one in place of one that was removed, and neither votes nor campaigns before its log has a
    membership that is newer than that removal (see administration.py). Neither ever leads in that term again; and an
    answer that is not given binds a voter to this process for as long as it lives.
    """
    if isinstance(message, LeaderQuestion):
        outbox.send(sender, Resigned(message.group, message.term))
    elif isinstance(message, SnapshotChunk):
        problem = f"there is no replica of shard {message.group} here"
        outbox.send(sender, SnapshotAck(message.group, message.transfer, message.number, problem))

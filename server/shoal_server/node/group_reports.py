"""What a replica's group has found out that somebody should hear of: it is logged."""

from __future__ import annotations

import structlog

from shoal_server.raft.ready import LostEntries

log = structlog.get_logger("shoal.node")

OUT_OF_TERMS = (
    "its group has come to the last term there is and elects no leader any more: restore the shard from a backup"
)


def report_out_of_terms(shard: int) -> None:
    """A shard's group can have no more elections."""
    log.error("group_out_of_terms", shard=shard, reason=OUT_OF_TERMS)


def report_lost_entries(shard: int, lost_entries: list[LostEntries]) -> None:
    """Peers lack entries that they had acknowledged."""
    for lost in lost_entries:
        log.error(
            "replica_lost_entries",
            node=lost.node,
            shard=shard,
            acknowledged=lost.acknowledged,
            missing=lost.missing,
            reason=f"the disk of {lost.node} had confirmed them: it lies, or its files were damaged; they are "
            f"sent again, but the node cannot be relied on: replace it",
        )

"""What a shard's rows need as time passes: expired ones are removed, and a clock that a wrong one has set is set back."""

from __future__ import annotations

import structlog

from shoal_server.node.outbox import NOBODY
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import PurgeCommand, SetClockCommand
from shoal_server.shard.machine import ShardStateMachine

log = structlog.get_logger("shoal.node")


def due_upkeep(
    machine: ShardStateMachine, node: str, time_ms: int, beyond_ms: int, purge_rows: int
) -> QueuedCommand | None:
    """Return the command that is due, if any.

    Removal cannot be undone: it goes by what this node takes for the time, not by the shard's clock where that is later.

    Args:
        node: this one.
        time_ms: the time, which is settled (Unix ms).
        beyond_ms: a shard's clock that is ahead of it by more was set by a wrong one.
        purge_rows: the most rows that one command removes.
    """
    ahead_ms = machine.state.clock_ms - time_ms
    if ahead_ms > beyond_ms:
        log.error(
            "shard_clock_set_back",
            node=node,
            shard=machine.shard.id,
            ahead_ms=ahead_ms,
            reason="a wrong wall clock had set it; rows with a time to live may live longer, or be there again",
        )
        return QueuedCommand(NOBODY, 0, SetClockCommand(time_ms, machine.state.clock_ms), None, 0)
    if machine.expiry.due_at > time_ms:
        return None
    rows = machine.expiry.due(time_ms, purge_rows)
    if not rows:
        return None
    return QueuedCommand(NOBODY, 0, PurgeCommand(rows), None, sum(len(key) for _, _, key in rows))

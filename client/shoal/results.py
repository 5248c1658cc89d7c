"""What calls take and return: levels, times, and immutable records that say which sequence number they were served at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

Duration: TypeAlias = float | timedelta
"""A time: a number of seconds, or a `timedelta`."""

Durability: TypeAlias = Literal["quorum", "fast"]
"""How safe a write was when it was acknowledged: "quorum" is on disk at a majority of the shard's voters; "fast" is
queued at the shard's leader, and lost if that fails before a majority has it."""

Consistency: TypeAlias = Literal["strong", "read_your_writes", "eventual"]
"""What a read may miss: "strong" nothing; "read_your_writes" what the session neither wrote nor read; "eventual" what
was acknowledged less than `max_staleness` ago."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A write that was done, at sequence number `seq` of its shard.

    Writes that reached the shard together share one `seq`. To write on condition that nothing has changed since, take
    the seq from a read: what a put returned may be that of a later put of the same key, too.

    `results` are those of the operations that have one, in order: an increment's sum; 1 or 0 of a touch.
    """

    seq: int
    durability: Durability = "quorum"
    results: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and what is known of it.

    Args:
        seq: the sequence number of its shard that it was written at.
        expires_at: when it expires, in seconds of Unix time by the cluster's clocks; None: never.
        staleness: nothing is missing that was acknowledged so many seconds or longer before the call began; 0.0 where
            the shard's leader answered.
        served_by: the node that answered.
    """

    value: bytes
    seq: int
    expires_at: float | None
    staleness: float
    served_by: str

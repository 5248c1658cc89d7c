"""A hold: how long requests of one kind wait that a shard's leader has refused as too many."""

from __future__ import annotations

from shoal.routing.calls import Trouble


class Hold:
    """Requests of one kind, which the leader has refused as too many: they wait, and those of other kinds do not.

    `until`: as long as that (seconds). `refusals`: those in a row; the last one came at `refused_at`, and `trouble` says why.
    """

    __slots__ = ("refusals", "refused_at", "trouble", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.refused_at = 0.0
        self.refusals = 0
        self.trouble: Trouble | None = None

    def end(self) -> None:
        """One was served."""
        self.until = 0.0
        self.refusals = 0
        self.trouble = None

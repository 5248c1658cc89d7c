"""Refusals that wait for a name: a replica that does not know who leads now says so once it does, or after a while."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_NS = 250_000_000
"""A transfer takes some milliseconds; an election may take longer, and then the same is asked again."""


@dataclass(frozen=True, slots=True)
class HeldRefusal:
    """A request that the next leader is to be asked."""

    client: int
    request: int
    maybe_applied: bool


class Handover:
    """The time from the beginning of a transfer, or the loss of a leader, until the new leader is known.

    Without it, a client would be told that nobody leads, or one who is gone, and guess, and wait, and ask again.
    """

    __slots__ = ("_held", "_until")

    def __init__(self) -> None:
        self._held: list[HeldRefusal] = []
        self._until = 0

    @property
    def under_way(self) -> bool:
        return self._until > 0

    def begin(self, now: int) -> None:
        """Note that it is not known who leads at `now`, nanoseconds."""
        self._until = now + PATIENCE_NS

    def is_overdue(self, now: int) -> bool:
        return now >= self._until

    def hold(self, client: int, request: int, maybe_applied: bool) -> None:
        """Keep a refusal until `end`."""
        self._held.append(HeldRefusal(client, request, maybe_applied))

    def end(self) -> list[HeldRefusal]:
        """Return all that waited."""
        held, self._held = self._held, []
        self._until = 0
        return held

"""What simulated clients did and saw, kept for the checkers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from shoal_chaos.checkers import counters, expirations, serializability, sessions, staleness
from shoal_chaos.checkers.linearizability import RegisterOperation
from shoal_chaos.checkers.linearizability import find_violation as find_register_violation

BANK_ACCOUNTS = tuple(b"bank/%d" % number for number in range(4))
BANK_START = 100
"""An account that was never written holds so much."""
COUNTER = b"counter"


@dataclass(slots=True, frozen=True)
class SharedWrite:
    """A row that was put into a range which several clients read; it was acknowledged at `ended`."""

    key: bytes
    began: int
    ended: int


@dataclass(slots=True)
class Histories:
    """Everything that happened in one run; times are true, in nanoseconds.

    `expiry_allowance_ns`: by so much rows may live too short or too long.
    """

    registers: dict[bytes, list[RegisterOperation]] = field(default_factory=dict)
    session_events: list[sessions.SessionEvent] = field(default_factory=list)
    acknowledged: list[staleness.AcknowledgedWrite] = field(default_factory=list)
    bounded_reads: list[staleness.BoundedRead] = field(default_factory=list)
    increments: list[counters.Increment] = field(default_factory=list)
    transactions: list[serializability.Transaction] = field(default_factory=list)
    audits: list[serializability.BankRead] = field(default_factory=list)
    looks: list[expirations.Look] = field(default_factory=list)
    expiry_allowance_ns: int = 0
    shared_writes: list[SharedWrite] = field(default_factory=list)

    def violations(self, counted: int) -> Iterator[str]:
        """Yield, in words, what the checkers find.

        Args:
            counted: the counter, read when all clients had ended.
        """
        for key in sorted(self.registers):
            part = find_register_violation(self.registers[key])
            if part is not None:
                lines = "\n".join(f"  {operation}" for operation in part[-12:])
                yield f"the history of {key!r} is not linearizable; these operations cannot be:\n{lines}"
        for found in sessions.find_violations((*self.session_events, *self._events_by_key())):
            yield found.sentence
        for late in staleness.find_violations(self.acknowledged, self.bounded_reads):
            yield late.sentence
        for look in expirations.find_violations(self.looks, self.expiry_allowance_ns):
            yield look.sentence
        for wrong in counters.find_violations(self.increments, counted):
            yield wrong.sentence
        cycle = serializability.find_violation(self.transactions, strict=True)
        if cycle is not None:
            yield str(cycle)
        for broken in serializability.find_bank_violations(self.audits, BANK_START * len(BANK_ACCOUNTS)):
            yield broken.sentence

    def _events_by_key(self) -> Iterator[sessions.SessionEvent]:
        """Yield the events of sessions once more, each key as a shard of its own.

        A key may come to another shard, and seqs go on rising there: so they are compared across shards, too.
        """
        places = {key: -place for place, key in enumerate(sorted(self.registers), 1)}
        for event in self.session_events:
            yield replace(event, shard=places[event.key])

"""What simulated clients did and saw, kept for the checkers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shoal_chaos.checkers import counters, serializability, sessions, staleness
from shoal_chaos.checkers.linearizability import RegisterOperation
from shoal_chaos.checkers.linearizability import find_violation as find_register_violation

BANK_ACCOUNTS = tuple(b"bank/%d" % number for number in range(4))
BANK_START = 100
"""An account that was never written holds so much."""
COUNTER = b"counter"


@dataclass(slots=True)
class Histories:
    """Everything that happened in one run; times are true, in nanoseconds."""

    registers: dict[bytes, list[RegisterOperation]] = field(default_factory=dict)
    session_events: list[sessions.SessionEvent] = field(default_factory=list)
    acknowledged: list[staleness.AcknowledgedWrite] = field(default_factory=list)
    bounded_reads: list[staleness.BoundedRead] = field(default_factory=list)
    increments: list[counters.Increment] = field(default_factory=list)
    transactions: list[serializability.Transaction] = field(default_factory=list)
    audits: list[serializability.BankRead] = field(default_factory=list)

    def violations(self) -> Iterator[str]:
        """Yield, in words, what the checkers find."""
        for key in sorted(self.registers):
            prefix = find_register_violation(self.registers[key])
            if prefix is not None:
                lines = "\n".join(f"  {operation}" for operation in prefix[-12:])
                yield f"the history of {key!r} is not linearizable; its last operations:\n{lines}"
        for found in sessions.find_violations(self.session_events):
            yield found.sentence
        for late in staleness.find_violations(self.acknowledged, self.bounded_reads):
            yield late.sentence
        for wrong in counters.find_violations(self.increments, None):
            yield wrong.sentence
        cycle = serializability.find_violation(self.transactions, strict=True)
        if cycle is not None:
            yield str(cycle)
        for broken in serializability.find_bank_violations(self.audits, BANK_START * len(BANK_ACCOUNTS)):
            yield broken.sentence

"""What became of a workload's calls, and which values nobody may ever read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shoal import (
    ConditionFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    Overloaded,
    ProtocolMismatch,
    ShoalError,
    TooStale,
    TransactionConflict,
    Unavailable,
)

EXPECTED = (DeadlineExceeded, OutcomeUnknown, Overloaded, TooStale, TransactionConflict, Unavailable)
"""The errors that faults are an excuse for."""

SHOWN = 5


def says_another_cluster(error: ShoalError) -> bool:
    """Return whether an error tells that another cluster has taken the place of the client's own."""
    return isinstance(error, ProtocolMismatch | OutcomeUnknown) and "another cluster" in str(error)


class Recorder:
    """Every value is written at most once, so whoever reads it tells which call it is of."""

    def __init__(self) -> None:
        self.done = 0
        self.unknown = 0
        self.not_done = 0
        self.other_clusters = False
        """Whether calls may end since another cluster answers in place of the client's own."""
        self.errors: Counter[str] = Counter()
        self.last_errors: dict[str, ShoalError] = {}
        self._made = 0
        self._attempted: set[bytes] = set()
        self._refused: dict[bytes, str] = {}
        self._seen: set[bytes] = set()
        self._problems: list[str] = []

    def new_value(self) -> bytes:
        """Return a value that was never written before."""
        self._made += 1
        value = b"v%d" % self._made
        self._attempted.add(value)
        return value

    def attempting(self, value: bytes) -> None:
        """Note a value, of the workload's own making, that was never written before."""
        self._attempted.add(value)

    def wrote(self) -> None:
        """Note a write that was acknowledged."""
        self.done += 1

    def saw(self, *values: bytes | None) -> None:
        """Note values that were read."""
        self.done += 1
        self._seen.update(value for value in values if value is not None)

    def refused(self, why: str, *values: bytes) -> None:
        """Note values whose write was surely not done."""
        self.not_done += 1
        self._refused.update(dict.fromkeys(values, why))

    def failed(self, error: ShoalError, *values: bytes) -> bool:
        """Note a write that ended with an error; return whether it may have been done."""
        self._expect(error)
        if not error.maybe_applied:
            self.refused(repr(error), *values)
        else:
            self.unknown += 1
        return error.maybe_applied

    def read_failed(self, error: ShoalError) -> None:
        """Note a read that ended with an error."""
        self._expect(error)
        if error.maybe_applied:
            self.complain(f"A read ended with an error that says it may have been done: {error!r}.")

    def complain(self, problem: str) -> None:
        """Note what is wrong whatever else happened."""
        self._problems.append(problem)

    def violations(self) -> Iterator[str]:
        """Yield, in words, what was read and cannot have been written, and errors that nothing excuses."""
        yield from self._problems
        ghosts = sorted(self._seen & self._refused.keys())
        for value in ghosts[:SHOWN]:
            yield f"{value!r} was read, but its write was surely not done: {self._refused[value]}"
        for value in sorted(self._seen - self._attempted)[:SHOWN]:
            yield f"{value!r} was read, and nobody wrote it."

    def _expect(self, error: ShoalError) -> None:
        self.errors[type(error).__name__] += 1
        self.last_errors[type(error).__name__] = error
        told = self.other_clusters and says_another_cluster(error)
        if not isinstance(error, EXPECTED) and not isinstance(error, ConditionFailed) and not told:
            self.complain(f"A call ended with {error!r}.")
        if isinstance(error, Unavailable | Overloaded) and error.maybe_applied:
            self.complain(f"An error of this kind says that nothing was done, and that it may have been: {error!r}.")

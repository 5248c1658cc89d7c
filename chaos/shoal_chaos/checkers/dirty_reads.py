"""Did a committed transaction read what was never committed (G1a), or what its writer itself wrote over (G1b)?

Adya, "Weak consistency" (1999), section 3.2, for registers in which no value is ever written twice, so that a value tells
whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

TransactionOutcome = Literal["committed", "aborted", "unknown"]
"""Unknown: it may have been committed, or may yet be."""


class WrittenValue(NamedTuple):
    """A transaction wrote `value` to `key`; not `last`: it wrote another there afterwards."""

    transaction: int
    value: bytes
    last: bool
    outcome: TransactionOutcome


class ReadValue(NamedTuple):
    """A committed transaction read `value` at `key`, which another one wrote."""

    transaction: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class DirtyRead:
    """garbage: nobody wrote it at all."""

    anomaly: Literal["G1a", "G1b", "garbage"]
    read: ReadValue
    sentence: str


def find_violations(written: Mapping[bytes, Iterable[WrittenValue]], reads: Iterable[ReadValue]) -> list[DirtyRead]:
    """Return the dirty reads, in the given order.

    Args:
        written: by key, of all transactions, whatever became of them.
    """
    writers = {(key, each.value): each for key, values in written.items() for each in values}
    found: list[DirtyRead] = []
    for read in reads:
        writer = writers.get((read.key, read.value))
        told = f"T{read.transaction} read {read.value!r} in {read.key!r}"
        if writer is None:
            found.append(DirtyRead("garbage", read, f"{told}, and nobody wrote it."))
        elif writer.outcome == "aborted":
            found.append(DirtyRead("G1a", read, f"G1a: {told}, but T{writer.transaction} was aborted."))
        elif not writer.last:
            found.append(DirtyRead("G1b", read, f"G1b: {told}, which T{writer.transaction} wrote over itself."))
    return found

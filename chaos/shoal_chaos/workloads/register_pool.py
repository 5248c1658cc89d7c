"""Registers that are replaced by new ones before their histories are too long to be judged."""

from __future__ import annotations

from collections.abc import Iterator

from shoal_chaos.checkers.linearizability import RegisterOperation, find_violation

MOST_OPERATIONS = 4000
MOST_UNKNOWN = 8
"""Each comparison of unknown outcome may double the orders that the checker has to try."""

LAST_SHOWN = 12


class RegisterPool:
    """A few registers at a time, each with its history."""

    def __init__(self, prefix: str, count: int) -> None:
        self.histories: dict[str, list[RegisterOperation]] = {}
        self._prefix = prefix
        self._current = [self._new() for _ in range(count)]
        self._unknown = dict.fromkeys(self._current, 0)

    def key(self, place: int) -> str:
        """Return the key of a register that may still be used."""
        key = self._current[place % len(self._current)]
        if len(self.histories[key]) >= MOST_OPERATIONS or self._unknown[key] >= MOST_UNKNOWN:
            key = self._current[place % len(self._current)] = self._new()
            self._unknown[key] = 0
        return key

    def add(self, key: str, operation: RegisterOperation, *, unknown: bool = False) -> None:
        """Record an operation; `unknown`: it is a write whose outcome is."""
        self.histories[key].append(operation)
        self._unknown[key] += unknown

    def check(self) -> Iterator[str]:
        """Yield the registers whose histories are not linearizable."""
        for key, history in self.histories.items():
            part = find_violation(history)
            if part is not None:
                lines = "\n".join(f"  {operation}" for operation in part[-LAST_SHOWN:])
                yield f"the history of {key!r} is not linearizable; of its {len(history)} operations these cannot be:\n{lines}"

    def _new(self) -> str:
        key = f"{self._prefix}-{len(self.histories)}"
        self.histories[key] = []
        return key

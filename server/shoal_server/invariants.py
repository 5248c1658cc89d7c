"""Checks of what must always hold: they stay on in production, and stop the process rather than go on with a lie."""

from __future__ import annotations


class InvariantViolated(RuntimeError):
    """Something that must always hold does not: a fault of Shoal itself."""


def invariant(condition: bool, words: str) -> None:
    """Raise `InvariantViolated(words)` unless `condition` holds. Unlike `assert`, it is never stripped."""
    if not condition:
        raise InvariantViolated(words)

"""The one way in which placement states what must hold."""

from __future__ import annotations


def invariant(condition: bool, words: str) -> None:
    """Raise `AssertionError` where `condition` does not hold, also under `python -O`."""
    if not condition:
        raise AssertionError(f"placement invariant broken: {words}")

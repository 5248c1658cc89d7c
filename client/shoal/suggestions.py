"""The nearest right name to a wrong one, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(wrong: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return the question whether the most similar of the known names was meant; "" where none is similar.

    Args:
        similarity: how similar it has to be at least, from 0 to 1, as `difflib` counts.
    """
    near = get_close_matches(wrong, list(known), 1, similarity)
    return f"did you mean {near[0]!r}?" if near else ""

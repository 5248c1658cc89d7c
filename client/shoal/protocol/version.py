"""The protocol's version, and how two sides agree on one.

Messages are MessagePack arrays that may grow at their end: a reader ignores fields it does not know and fills in the
defaults of those it misses. A change that this does not cover raises `NEWEST`; `OLDEST` is the oldest still spoken.
"""

from __future__ import annotations

OLDEST = 1
NEWEST = 1


def agree(theirs_oldest: int, theirs_newest: int) -> int | None:
    """Return the newest version that both sides speak, or None where there is none."""
    version = min(NEWEST, theirs_newest)
    return version if version >= max(OLDEST, theirs_oldest) else None

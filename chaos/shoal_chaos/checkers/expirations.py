"""Was any key visible after its time, or gone before it?

A key with a time to live expires between two instants of the client's clock: that time after the write was invoked, and
after it was acknowledged. No read may see it later, and a strong one that ends sooner must.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When a key expires: between these two, in nanoseconds of the history's clock."""

    earliest: int
    latest: int


@dataclass(frozen=True, slots=True)
class Look:
    """Somebody looked for a key, from `invoked` to `completed` in nanoseconds of the history's clock.

    Attributes:
        how: names the kind of call in what is reported.
        weak: what it shows may be old, so that a key may be missing from it.
        life: of the key, as acknowledged before the call and unchanged during it.
    """

    key: str
    how: str
    there: bool
    weak: bool
    life: Lifetime
    invoked: int
    completed: int


@dataclass(frozen=True, slots=True)
class ExpirationViolation:
    """A look that saw too much or too little."""

    look: Look
    sentence: str


def find_violations(looks: Iterable[Look], allowance_ns: int) -> list[ExpirationViolation]:
    """Return the looks that saw a key after it had expired, or missed it before, in the given order.

    Args:
        allowance_ns: by how much the clocks of who asked and of who answered may differ, in nanoseconds.
    """
    found: list[ExpirationViolation] = []
    for look in looks:
        late, early = look.invoked - look.life.latest, look.life.earliest - look.completed
        if look.there and late > allowance_ns:
            sentence = f"A call ({look.how}) saw {look.key} {late / 1e6:.1f} ms after it had expired."
        elif not look.there and not look.weak and early > allowance_ns:
            sentence = f"A call ({look.how}) did not see {look.key} {early / 1e6:.1f} ms before it expires."
        else:
            continue
        found.append(ExpirationViolation(look, sentence))
    return found

"""The integers that values may spell, as counters do: applications and nodes have to read them alike."""

from __future__ import annotations

MAX_INTEGER = (1 << 63) - 1
MIN_INTEGER = -(1 << 63)
INTEGERS = range(MIN_INTEGER, MAX_INTEGER + 1)

_MAX_DIGITS = 20


def parse_integer(value: bytes) -> int | None:
    """Return the integer that a value spells in decimal digits, or None where it does not, or not in 64 bits."""
    digits = value[1:] if value[:1] == b"-" else value
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        return None
    number = int(value)
    return number if number in INTEGERS else None

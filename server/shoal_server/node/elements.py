"""How many elements there are in what is encoded as MessagePack: found without decoding it, since each takes time and memory.

A few bytes make an element, so that a message has a million of them long before it is too long.
"""

from __future__ import annotations

KEY_BYTES = 64
"""About what an object with a few bytes in it takes in memory, with its place in a list: a key."""
OPERATION_BYTES = 160
"""Likewise an operation of a write, or a part of one, with its key and its value, besides their bytes."""
RANGE_BYTES = 144
"""Likewise a range of microshards, with its two numbers."""
ELEMENT_NS = 250
"""What it takes to decode one of them."""

_SMALL = (b"\xc4", b"\xc5\x00", b"\xc6\x00\x00", b"\x92", b"\xdc\x00", b"\xdd\x00\x00")
"""So begin bytes, and pairs, in each of the ways in which they may be written that is no longer than what is in them."""


def small_elements(encoded: bytes) -> int:
    """Return how many byte strings and pairs there are at most: cheap, a few nanoseconds a byte.

    Bytes within others may look like them: of random ones, one in a hundred does.
    """
    return sum(map(encoded.count, _SMALL))


_ARRAYS = (*range(0x90, 0xA0), 0xDC, 0xDD)
_NO_ARRAYS = bytes(byte for byte in range(256) if byte not in _ARRAYS)
_NO_HEADS = bytes(byte for byte in _NO_ARRAYS if byte not in (0xC4, 0xC5, 0xC6))


def arrays_in(encoded: bytes) -> int:
    """Return how many arrays there are at most: about a nanosecond a byte. Of random bytes one in fourteen looks like one."""
    return len(encoded.translate(None, _NO_ARRAYS))


def arrays_and_bytes_in(encoded: bytes) -> int:
    """Return how many arrays and byte strings there are at most, likewise."""
    return len(encoded.translate(None, _NO_HEADS))


def length_of_array(encoded: bytes | memoryview) -> int:
    """Return how many items an array says that it has, which what is encoded begins with; 0 for what is none."""
    first = encoded[0] if encoded else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(encoded[1:3], "big")
    return int.from_bytes(encoded[1:5], "big") if first == 0xDD else 0


_FIXED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xCA: 4, 0xCB: 8} | {
    0xD4 + power: 1 + (1 << power) for power in range(5)
}
"""By first byte, how many follow it: numbers, and extensions of a fixed size."""
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
"""By first byte, in how many bytes behind it its size stands: bytes, texts, extensions."""
_NESTING = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""By first byte, in how many bytes the number of elements stands, and of how many parts each is: arrays and maps."""


def elements_in(encoded: bytes | memoryview, most: int) -> int:
    """Return how many elements what is encoded as MessagePack has, those in others included; or that it has more than `most`.

    Slow: some tenths of a microsecond for each.

    What ends early, or is no MessagePack, has as many as come before: whoever decodes it will say what is wrong.
    """
    at, seen, left, size = 0, 0, 1, len(encoded)
    while left and at < size:
        left -= 1
        seen += 1
        if seen + left > most:
            return most + 1
        first = encoded[at]
        at += 1
        if first <= 0x7F or first >= 0xE0 or 0xC0 <= first <= 0xC3:
            continue
        if first <= 0x8F:
            left += 2 * (first & 0x0F)
        elif first <= 0x9F:
            left += first & 0x0F
        elif first <= 0xBF:
            at += first & 0x1F
        elif first in _FIXED:
            at += _FIXED[first]
        elif first in _SIZED:
            width = _SIZED[first]
            at += width + int.from_bytes(encoded[at : at + width], "big") + (0xC7 <= first <= 0xC9)
        else:
            width, parts = _NESTING[first]
            left += parts * int.from_bytes(encoded[at : at + width], "big")
            at += width
    return seen

"""Decodes the operations of a write, unless there are more of them than a node does at once.

A few bytes make an operation, so that a batch may have a million: nobody decodes those only to refuse them. How many a batch
has is known from its first bytes. What one of them has in it (conditions, parts, ranges) is counted, where there may be much
of it, without being decoded, and no further than is accepted.
"""

from __future__ import annotations

from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Operation
from shoal.write_costs import PLAIN_US, WRITE_US

MAX_OPERATIONS = WRITE_US // PLAIN_US
"""Of one write: more are more work than is accepted, whatever they are."""
MAX_ELEMENTS = 6 * MAX_OPERATIONS
"""Of MessagePack, in the operations of one write, however nested: so many have no operations that would be accepted."""

SMALL_BYTES = 512 * 1024
"""Batches of so many bytes are decoded whatever they are."""
BATCH_BYTES = 1024 * 1024
"""Clients make no larger batches of calls that are independent; in those it is only looked whether there can be so much."""

_BYTES_8 = b"\xc4"
"""Whatever has a short key has this byte; others may be it, too."""


class TooManyOperations(Exception):
    """A write has more operations, or more in them, than a node does at once: the message says how many."""


def decode_write(encoded: bytes) -> list[Operation]:
    """Return the operations of a write.

    Raises:
        TooManyOperations: there are more than can be done at once.
        MsgspecError: they are no operations.
    """
    count = operations_in(encoded)
    if count > MAX_OPERATIONS:
        raise TooManyOperations(f"{count} operations")
    if len(encoded) > SMALL_BYTES and _may_be_dense(encoded) and has_more_elements(encoded, MAX_ELEMENTS):
        raise TooManyOperations(f"{count} operations with more than {MAX_ELEMENTS} keys, values and ranges in them")
    return operations_decoder.decode(encoded)


def _may_be_dense(encoded: bytes) -> bool:
    return len(encoded) > BATCH_BYTES or encoded.count(_BYTES_8) > 2 * MAX_OPERATIONS


def operations_in(encoded: bytes) -> int:
    """Return how many operations a write says that it has, without decoding it; 0 for what is no list."""
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


def has_more_elements(encoded: bytes, most: int) -> bool:
    """Say whether what is encoded as MessagePack has more elements than `most`, those in others included.

    What ends early, or is no MessagePack, has as many as come before: whoever decodes it will say what is wrong.
    """
    at, seen, left, size = 0, 0, 1, len(encoded)
    while left and at < size:
        left -= 1
        seen += 1
        if seen + left > most:
            return True
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
    return False

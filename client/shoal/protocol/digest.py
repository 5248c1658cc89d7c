"""The digest of what a range read saw, by which a transaction later asks whether the range has changed.

It covers the keys and the seqs they were written at, in key order. A write gives a key another seq, and a new or a
missing key another sequence of keys; so equal digests mean equal contents (BLAKE2b, 128 bits). It begins with the number
of rows, so that whoever compares need not read on where there are more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import Struct as _Layout

_HASH_BYTES = 16
_COUNT = _Layout(">I")
DIGEST_BYTES = _COUNT.size + _HASH_BYTES
_ROW = _Layout(">QI")


class RangeDigest:
    """Takes in the rows of a range, in key order."""

    __slots__ = ("_hash", "_rows")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=_HASH_BYTES)
        self._rows = 0

    def add(self, keys: Sequence[bytes], seqs: Iterable[int]) -> None:
        """Take in rows that follow those taken in before."""
        self._rows += len(keys)
        self._hash.update(b"".join(_ROW.pack(seq, len(key)) + key for key, seq in zip(keys, seqs, strict=True)))

    def value(self) -> bytes:
        """Return the digest of the rows so far."""
        return _COUNT.pack(self._rows) + self._hash.digest()


def rows_of(digest: bytes) -> int:
    """Return the number of rows that a digest covers; -1 for what is no digest."""
    if len(digest) != DIGEST_BYTES:
        return -1
    (rows,) = _COUNT.unpack_from(digest)
    return int(rows)

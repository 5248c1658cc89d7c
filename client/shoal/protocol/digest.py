"""The digest of what a range read saw, by which a transaction later asks whether the range has changed.

It covers the keys and the seqs they were written at, in key order. A write gives a key another seq, and a new or a
missing key another sequence of keys; so equal digests mean equal contents (BLAKE2b, 128 bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct as _Layout

DIGEST_BYTES = 16
_ROW = _Layout(">QI")


class RangeDigest:
    """Takes in the rows of a range, in key order."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=DIGEST_BYTES)

    def add(self, keys: Iterable[bytes], seqs: Iterable[int]) -> None:
        """Take in rows that follow those taken in before."""
        self._hash.update(b"".join(_ROW.pack(seq, len(key)) + key for key, seq in zip(keys, seqs, strict=True)))

    def value(self) -> bytes:
        """Return the digest of the rows so far."""
        return self._hash.digest()

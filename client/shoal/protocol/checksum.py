"""The checksum of what travels and of what is stored: of frames, log entries and pieces of snapshots."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

_LOW = 0xFFFFFFFF


def checksum(data: bytes, before: int = 0) -> int:
    """Return 32 bits that are other ones where `data` is not what it was: the low ones of XXH3, as RocksDB has it.

    Args:
        before: the checksum of what belongs before it, and is not in it.
    """
    return xxh3_64_intdigest(data, before) & _LOW

"""From a key to its microshard: the one computation that client and server must agree on for ever.

The microshard is CRC-32 (ISO-HDLC, as in zlib) of the partition, modulo the keyspace's number of microshards. The
function is part of the disk and wire format; tests pin it with vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32


def partition_of(key: bytes, delimiter: bytes) -> bytes:
    """Return the partition of `key`: the bytes up to and with the first `delimiter`, else the whole key.

    An empty delimiter means that every key is a partition of its own.
    """
    if delimiter:
        at = key.find(delimiter)
        if at >= 0:
            return key[: at + len(delimiter)]
    return key


def microshard_of(key: bytes, delimiter: bytes, microshards: int) -> int:
    """Return the microshard of `key`, from 0 to `microshards - 1`."""
    return crc32(partition_of(key, delimiter)) % microshards


def microshards_of(keys: Iterable[bytes], delimiter: bytes, microshards: int) -> list[int]:
    """Return what `microshard_of` does of each key: written out, since a node does it for each key that is read or written."""
    if not delimiter:
        return [crc32(key) % microshards for key in keys]
    size = len(delimiter)
    return [crc32(key if (at := key.find(delimiter)) < 0 else key[: at + size]) % microshards for key in keys]

"""Keys of the journal that the source of a migration keeps of what changes in the microshards it is to part with.

A row names what an entry of the log has changed: a key, or a range that it cleared. Both have the index of that entry, so
that the journal is the same on every replica. Ranges come before the keys of the same entry: an entry may clear a range
and write into it, and whoever follows the journal in its order then never clears what is to stay.
"""

from __future__ import annotations

from struct import Struct as Layout

from shoal.bounds import MAX_BOUND, MAX_INDEX

from shoal_server.storage.decoding import NotARow, decoded
from shoal_server.storage.layout import DATA_PREFIX_BYTES, SYSTEM_KEYSPACE, expiry_prefix

CLEARED = 0
CHANGED = 1

_SUFFIX = Layout(">QBI")
_INDEX = Layout(">Q")


def journal_prefix(group: int, generation: int) -> bytes:
    """Return what all rows of a replica's journal begin with."""
    return expiry_prefix(SYSTEM_KEYSPACE, group, generation)


def journal_suffix(index: int, kind: int, microshard: int, key: bytes) -> bytes:
    """Return what comes behind the prefix. `key`: the one that was changed, or the start of the range cleared."""
    return _SUFFIX.pack(index, kind, microshard) + key


def journal_start(index: int) -> bytes:
    """Return what comes before everything that entries behind `index` have changed."""
    return _INDEX.pack(index + 1)


def split_journal_suffix(suffix: bytes) -> tuple[int, int, int, bytes]:
    """Take `journal_suffix` apart: index, kind, microshard, key.

    Raises:
        NotARow: it is none.
    """
    if not _SUFFIX.size <= len(suffix) <= _SUFFIX.size + MAX_BOUND:
        raise NotARow(f"a journal row's key has {len(suffix)} bytes behind its prefix")
    index, kind, microshard = _SUFFIX.unpack_from(suffix)
    if kind not in (CLEARED, CHANGED) or index > MAX_INDEX:
        raise NotARow(f"entry {index} has done what is of no kind that this Shoal knows, {kind}")
    return int(index), int(kind), int(microshard), suffix[_SUFFIX.size :]


def split_journal_key(key: bytes) -> tuple[int, int, int, bytes]:
    """Take the key of a stored row of a journal apart: index, kind, microshard, key.

    Raises:
        Damaged: it is none.
    """
    return decoded("data", key, b"", _split_journal_key)


def _split_journal_key(key: bytes, _: bytes) -> tuple[int, int, int, bytes]:
    return split_journal_suffix(key[DATA_PREFIX_BYTES:])

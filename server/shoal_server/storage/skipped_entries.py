"""Log entries that an operator has told this node not to apply: they count as doing nothing, now and after each start."""

from __future__ import annotations

from struct import Struct as Layout

import msgspec
from shoal.bounds import Checksum, Count, Term

from shoal_server.raft.messages import Entry
from shoal_server.storage.decoding import RowCodec, decoded
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import FORMAT
from shoal_server.storage.meta_rows import MetaKind

_KEY = Layout(">cIQ")
_SKIPPED = MetaKind.SKIPPED.letter
_LAST_INDEX = (1 << 64) - 1


class SkippedEntry(msgspec.Struct, frozen=True, array_like=True):
    """Which of the entries that may stand at an index is meant."""

    term: Term
    checksum: Checksum
    format: Count = FORMAT


_codec = RowCodec(SkippedEntry, "meta", FORMAT)


def skipped_keys(shard: int) -> tuple[bytes, bytes]:
    """Return between which keys all rows of a shard are: the first, and the one behind the last."""
    return _KEY.pack(_SKIPPED, shard, 0), _KEY.pack(_SKIPPED, shard, _LAST_INDEX)


def describe_entry(entry: Entry) -> str:
    """Say which entry of a log is meant, so that it can be named in an order."""
    return f"entry {entry.index} (term {entry.term}, checksum {entry.checksum:08x}, {len(entry.payload)} bytes)"


def put_skipped(batch: Batch, engine: Engine, shard: int, index: int, skipped: SkippedEntry) -> None:
    """Store that the entry at `index` is not to be applied."""
    batch.put(_KEY.pack(_SKIPPED, shard, index), _codec.encode(skipped), engine.meta)


def load_skipped(engine: Engine, shard: int) -> dict[int, SkippedEntry]:
    """Return the entries of a shard's log that are not to be applied here, by index."""
    found: dict[int, SkippedEntry] = {}
    for key, row in engine.scan(engine.meta, *skipped_keys(shard)):
        found[decoded("meta", key, row, _index_of)] = _codec.decode(key, row)
    return found


def _index_of(key: bytes, _: bytes) -> int:
    return int(_KEY.unpack(key)[2])


def drop_skipped(batch: Batch, engine: Engine, shard: int) -> None:
    """Forget all of a shard's: its replica goes."""
    batch.delete_range(*skipped_keys(shard), engine.meta)

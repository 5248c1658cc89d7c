"""Keys and values on disk, and their versions. Pure; its bytes are pinned by test vectors.

Families and their keys:

- log: group (4 bytes) | index (8) -> format (1) | term (8) | kind (1) | checksum (4) | payload
  and, in place of a group, 0: the other copy of a row of the meta family whose kind is stored twice, see twice.py:
  0 (4) | letter (1) | group (4) -> as there
- data: keyspace (4) | microshard (4) | generation (4) | user key -> flags (1) | seq (8) [| expiry (8)] | value
  and, with the keyspace's highest bit set, the expiry index: ... | generation (4) | expiry (8) | user key -> nothing
  and, in place of a keyspace, 0: the rest of a replica's applied state, which must be durable together with its rows:
  0 (4) | group (4) | 0 (4) -> checksum of what follows (4) | AppliedState
  0 (4) | group (4) | 2^32 - 1 (4) -> SplitOff, of a replica that a split made
  0 (4) | group (4) | generation (4) | session (16) | slot (2) -> a deduplication session, see session_rows.py
  2^31 (4) | group (4) | generation (4) | index (8) | kind (1) | microshard (4) | user key -> the end of a range, or
  nothing: the journal of a migration's source, see journal.py
- meta: one letter for the kind of row (see meta_rows.py), then its key -> a MessagePack array, with its format, or a number

An expiry is in milliseconds of Unix time. The index may name rows that are gone or have another expiry by now; a row that
expires is always in it, at its expiry or later by a 64th of its time to live.

Integers are big-endian, so that the order of keys is the order of numbers. A *generation* keeps rows apart that are of one
microshard and of one node: see generations.py. The rows that a replica has of a microshard are one contiguous range.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import TypeGuard

import msgspec
from shoal.bounds import (
    MAX_KEY,
    MAX_SEQ,
    MAX_UNIX_MS,
    Count,
    LogIndex,
    Term,
    Version,
)
from shoal.shardmap import Shard

from shoal_server.raft.messages import Entry, HardState, entry_checksum
from shoal_server.storage.decoding import NotARow, RowCodec, damaged_row, decoded
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.meta_rows import MetaKind

FORMAT = 1
"""Of the whole data folder; a newer one is refused when the folder is opened."""

_DATA_PREFIX = Layout(">III")
_LOG_KEY = Layout(">IQ")
_LOG_HEADER = Layout(">BQBI")
_VALUE_HEADER = Layout(">BQ")
_EXPIRING_HEADER = Layout(">BQQ")
_EXPIRY = Layout(">Q")
_GROUP_KEY = Layout(">cI")

DATA_PREFIX_BYTES = _DATA_PREFIX.size
VALUE_HEADER_BYTES = _VALUE_HEADER.size
_EXPIRING_HEADER_BYTES = _EXPIRING_HEADER.size
_PLAIN = FORMAT << 4
_EXPIRES = 1
_EXPIRING = _PLAIN | _EXPIRES
_INDEX_BIT = 1 << 31
_SEQ_TOO_HIGH = MAX_SEQ >> 56
"""No seq but the very last has this first byte."""
_EXPIRY_TOO_HIGH = MAX_UNIX_MS >> 48
"""No expiry but the very last has this second byte; the first is 0."""

SHARD_MAP_ROW = MetaKind.SHARD_MAP.letter
DERIVED_MAP_ROW = MetaKind.DERIVED_MAP.letter
EPOCH_ROW = MetaKind.EPOCH.letter
PROMISED_ROW = MetaKind.PROMISED.letter
GENERATION_ROW = MetaKind.GENERATION.letter


KEYSPACE_BYTES = 4
NUMBER_BYTES = 8
"""Of other numbers that are rows of their own."""

SYSTEM_KEYSPACE = 0
"""No keyspace of users: what a replica applied besides their rows."""
NO_GENERATION = 0
"""Before the first one."""
LAST_GENERATION = (1 << 32) - 1
"""Behind every one."""


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix` (which must not be all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])


# -- data


def data_prefix(keyspace: int, microshard: int, generation: int) -> bytes:
    """Return what all data keys of a microshard begin with."""
    return _DATA_PREFIX.pack(keyspace, microshard, generation)


def value_header(seq: int, expiry: int = 0) -> bytes:
    """Return what is stored before a value written at `seq`. `expiry`: Unix milliseconds, 0 for never."""
    if expiry:
        return _EXPIRING_HEADER.pack(_EXPIRING, seq, expiry)
    return _VALUE_HEADER.pack(_PLAIN, seq)


def row_expiry(row: bytes) -> int:
    """Return when a stored row expires (Unix milliseconds), 0 for never."""
    if row[0] & _EXPIRES:
        (expiry,) = _EXPIRY.unpack_from(row, VALUE_HEADER_BYTES)
        return int(expiry)
    return 0


def row_seq(row: bytes) -> int:
    """Return the seq that a stored row was written at."""
    return int.from_bytes(row[1:VALUE_HEADER_BYTES], "big")


def row_value(row: bytes) -> bytes:
    """Return the value of a stored row."""
    return row[_EXPIRING_HEADER_BYTES if row[0] & _EXPIRES else VALUE_HEADER_BYTES :]


def row_problem(row: bytes) -> str:
    """Return "", or why this is no row as it would be stored."""
    if not row or row[0] not in (_PLAIN, _EXPIRING):
        return "it is of no format that this Shoal has"
    if len(row) < (_EXPIRING_HEADER_BYTES if row[0] == _EXPIRING else VALUE_HEADER_BYTES):
        return f"it has {len(row)} bytes"
    if row_seq(row) > MAX_SEQ or row_expiry(row) > MAX_UNIX_MS:
        return f"it was written at {row_seq(row)}, to expire at {row_expiry(row)}"
    return ""


def whole_row(key: bytes, row: bytes) -> bytes:
    """Return a user row as an engine has it under `key`.

    Raises:
        Damaged: it is none.
    """
    if len(row) >= VALUE_HEADER_BYTES and row[1] < _SEQ_TOO_HIGH:
        kind = row[0]
        if kind == _PLAIN:
            return row
        if kind == _EXPIRING and len(row) >= _EXPIRING_HEADER_BYTES and not row[9] and row[10] < _EXPIRY_TOO_HIGH:
            return row
    problem = row_problem(row)
    if problem:
        raise damaged_row("data", key, problem)
    return row


def is_visible(row: bytes | None, now: int) -> TypeGuard[bytes]:
    """Say whether a row is there and has not expired at `now` (Unix milliseconds)."""
    return row is not None and (row[0] == _PLAIN or row_expiry(row) > now)


def split_rows(
    keys: list[bytes], rows: list[bytes | None], now: int
) -> tuple[list[bytes | None], list[int], list[int]]:
    """Split stored rows into values (None: absent or expired at `now`), seqs (0: absent), and expiries.

    Expiries (Unix milliseconds, 0 for never) are beside the values, or an empty list where no row expires.

    Args:
        keys: what the rows are stored under.

    Raises:
        Damaged: one is no row as it would be stored.
    """
    start = VALUE_HEADER_BYTES
    header_of = _VALUE_HEADER.unpack_from
    present = list(filter(None, rows))
    if len(present) == len(rows) and rows and min(map(len, present)) >= start:
        # As nearly all are: all there, and none of them expires. The loop below comes to the same.
        seqs = [seq for kind, seq in map(header_of, present) if kind == _PLAIN and seq <= MAX_SEQ]
        if len(seqs) == len(present):
            return [row[start:] for row in present], seqs, []
    values: list[bytes | None] = []
    seqs = []
    for row in rows:
        if row is None:
            values.append(None)
            seqs.append(0)
            continue
        if len(row) < start:
            break
        kind, seq = header_of(row)
        if kind != _PLAIN or seq > MAX_SEQ:
            break
        values.append(row[start:])
        seqs.append(seq)
    else:
        return values, seqs, []
    shown = [
        row if row is not None and is_visible(whole_row(key, row), now) else None
        for key, row in zip(keys, rows, strict=True)
    ]
    return (
        [None if row is None else row_value(row) for row in shown],
        [0 if row is None else row_seq(row) for row in shown],
        [0 if row is None else row_expiry(row) for row in shown],
    )


def expiry_prefix(keyspace: int, microshard: int, generation: int) -> bytes:
    """Return what all keys of a microshard's expiry index begin with."""
    return _DATA_PREFIX.pack(keyspace | _INDEX_BIT, microshard, generation)


def expiry_prefix_beside(prefix: bytes) -> bytes:
    """Return the `expiry_prefix` of the microshard and generation that a `data_prefix` is of."""
    return bytes((prefix[0] | _INDEX_BIT >> 24,)) + prefix[1:]


def expiry_suffix(expiry: int, key: bytes = b"") -> bytes:
    """Return what comes behind the prefix for a user key; without one, what all keys of that expiry begin with."""
    return _EXPIRY.pack(expiry) + key


def no_later_than(place: bytes) -> int:
    """Return an expiry that no row behind a place among `expiry_suffix`es is before."""
    return min(int.from_bytes(place[: _EXPIRY.size].ljust(_EXPIRY.size, b"\0"), "big"), MAX_UNIX_MS)


def split_expiry_suffix(suffix: bytes) -> tuple[int, bytes]:
    """Take `expiry_suffix` apart.

    Raises:
        NotARow: it is none.
    """
    if not _EXPIRY.size <= len(suffix) <= _EXPIRY.size + MAX_KEY:
        raise NotARow(f"an index row's key has {len(suffix)} bytes behind its prefix")
    (expiry,) = _EXPIRY.unpack_from(suffix)
    if not 0 < expiry <= MAX_UNIX_MS:
        raise NotARow(f"it is to expire at {expiry}")
    return int(expiry), suffix[_EXPIRY.size :]


def split_expiry_key(key: bytes) -> tuple[int, bytes]:
    """Take a key of the expiry index apart: when (Unix milliseconds), and the user key.

    Raises:
        Damaged: it is none.
    """
    return decoded("data", key, b"", _split_expiry_key)


def _split_expiry_key(key: bytes, _: bytes) -> tuple[int, bytes]:
    return split_expiry_suffix(key[DATA_PREFIX_BYTES:])


# -- log


def log_key(group: int, index: int) -> bytes:
    return _LOG_KEY.pack(group, index)


def encode_entry(entry: Entry) -> bytes:
    """Encode a log entry as stored; its index is in its key."""
    return _LOG_HEADER.pack(FORMAT, entry.term, entry.kind, entry.checksum) + entry.payload


def decode_entry(key: bytes, row: bytes) -> Entry:
    """Decode a stored log entry.

    Raises:
        Damaged: the row is damaged or of a newer format.
    """
    if len(row) < _LOG_HEADER.size or row[0] != FORMAT or len(key) != _LOG_KEY.size:
        raise Damaged("log", f"log row {key.hex()} is damaged or of a newer format: {row[: _LOG_HEADER.size].hex()}")
    _, term, kind, checksum = _LOG_HEADER.unpack_from(row)
    group, index = _LOG_KEY.unpack(key)
    payload = row[_LOG_HEADER.size :]
    if entry_checksum(group, term, index, kind, payload) != checksum:
        raise Damaged("log", f"entry {index} of shard {group} is not what was proposed: its checksum is another")
    return Entry(term, index, kind, payload, checksum)


# -- data: what of a replica's applied state is not the rows of its microshards


def applied_state_key(group: int) -> bytes:
    return data_prefix(SYSTEM_KEYSPACE, group, NO_GENERATION)


# -- meta: rows of the node and of its replicas


class LogStart(msgspec.Struct, frozen=True, array_like=True):
    """The log holds what comes after (index, term)."""

    index: LogIndex
    term: Term
    format: Count = FORMAT


_log_start_codec = RowCodec(LogStart, "meta", FORMAT)
_hard_state_encoder = msgspec.msgpack.Encoder()
_hard_state_decoder = msgspec.msgpack.Decoder(HardState)


def peer_key(node: str) -> bytes:
    return MetaKind.PEER.letter + node.encode()


def group_key(kind: MetaKind, group: int) -> bytes:
    """Return the key of the row that a group has of a kind."""
    return _GROUP_KEY.pack(kind.letter, group)


def hard_state_key(group: int) -> bytes:
    return group_key(MetaKind.HARD_STATE, group)


def staging_key(group: int) -> bytes:
    """Return the key of the mark that a snapshot is being staged."""
    return group_key(MetaKind.STAGING, group)


def origin_key(group: int) -> bytes:
    """Return the key of how a replica came to this node."""
    return group_key(MetaKind.ORIGIN, group)


def stored_groups(engine: Engine) -> set[int]:
    """Return the groups of which the node has a vote, or knows how their replica came to it."""
    groups: set[int] = set()
    for kind in (MetaKind.HARD_STATE, MetaKind.ORIGIN):
        for key, _ in engine.scan(engine.meta, kind.letter, prefix_end(kind.letter)):
            groups.add(group_of(key))
    return groups


def strays_key(shard: int) -> bytes:
    """Return the key of the mark that a replica of `shard` has left rows behind, nobody knows which."""
    return group_key(MetaKind.STRAYS, shard)


def marked_strays(engine: Engine) -> dict[int, int]:
    """Return the keyspaces, by shard, of all such marks.

    Raises:
        Damaged: one cannot be read.
    """
    letter = MetaKind.STRAYS.letter
    rows = engine.scan(engine.meta, letter, prefix_end(letter))
    return {group_of(key): decode_number(key, row, KEYSPACE_BYTES) for key, row in rows}


def load_number(engine: Engine, key: bytes, size: int) -> int | None:
    """Return the number that a row is, of `size` bytes; None: there is none.

    Raises:
        Damaged: it cannot be read, or is none.
    """
    row = engine.get(engine.meta, key)
    return None if row is None else decode_number(key, row, size)


def decode_number(key: bytes, row: bytes, size: int) -> int:
    """Return the number that a row of the meta family is, of `size` bytes.

    Raises:
        Damaged: it is none.
    """
    if len(row) != size:
        raise damaged_row("meta", key, f"it has {len(row)} bytes, and not {size}")
    return int.from_bytes(row, "big")


def group_of(key: bytes) -> int:
    """Return whose row a key of the meta family is that begins with a group.

    Raises:
        Damaged: there is no group in it.
    """
    return decoded("meta", key, b"", _group_of)


def _group_of(key: bytes, _: bytes) -> int:
    return int(_GROUP_KEY.unpack_from(key)[1])


def failure_key(group: int) -> bytes:
    """Return the key of why a replica serves nothing."""
    return group_key(MetaKind.FAILURE, group)


def log_start_key(group: int) -> bytes:
    return group_key(MetaKind.LOG_START, group)


def encode_log_start(start: LogStart) -> bytes:
    return _log_start_codec.encode(start)


def encode_hard_state(state: HardState) -> bytes:
    return _hard_state_encoder.encode(state)


def decode_hard_state(_: bytes, row: bytes) -> HardState:
    return _hard_state_decoder.decode(row)


class SplitOff(msgspec.Struct, frozen=True, array_like=True):
    """What a replica that a split made was to be, and in which version of the shard map it would be first."""

    child: Shard
    map_version: Version
    format: Count = FORMAT


_split_off_codec = RowCodec(SplitOff, "data", FORMAT)


def split_off_key(group: int) -> bytes:
    return data_prefix(SYSTEM_KEYSPACE, group, LAST_GENERATION)


def encode_split_off(split_off: SplitOff) -> bytes:
    return _split_off_codec.encode(split_off)


def is_split_off(engine: Engine, group: int) -> bool:
    """Say whether a split made a replica of this shard here, as far as that can be read."""
    try:
        return engine.get(engine.data, split_off_key(group)) is not None
    except Damaged:
        # Nearly always a neighbour's damage. Where it is not, the log lacks what was applied, and the node does not start.
        return False


def load_split_off(engine: Engine, group: int) -> SplitOff | None:
    """Return what a split was to make of this shard here, or None where none did.

    Raises:
        Damaged: it cannot be read.
    """
    key = split_off_key(group)
    split_off = _split_off_codec.load(engine, key)
    if split_off is not None and split_off.child.id != group:
        raise damaged_row("data", key, f"it is of shard {split_off.child.id}")
    return split_off


def load_log_start(engine: Engine, group: int) -> LogStart:
    """Return where a replica's log begins."""
    return _log_start_codec.load(engine, log_start_key(group)) or LogStart(0, 0)


# -- data: deduplication sessions


def sessions_prefix(group: int, generation: int) -> bytes:
    """Return what the slots of all sessions of a replica begin with."""
    return data_prefix(SYSTEM_KEYSPACE, group, generation)

"""Deduplication sessions as stored: one row for each that says whose it is, and one for each of its last writes.

    0 (4) | group (4) | generation (4) | session (16) | 0 (2)        -> format (1) | proven (1) | used at (8) | owner's token
    0 (4) | group (4) | generation (4) | session (16) | 1 + slot (2) -> format (1) | kept (1) | number (8) | seq (8) |
                                                                        used at (8) | results

So the rows of a session lie together, and the one that says whose it is comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct as Layout

import msgspec
from shoal.bounds import MAX_DIGEST, MAX_SEQ, Token
from shoal.protocol.messages import SESSION_ID_BYTES, SESSION_WINDOW, OperationResult

from shoal_server.storage.decoding import NotARow, decoded
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import FORMAT, SYSTEM_KEYSPACE, prefix_end, sessions_prefix

_KEY = Layout(f">III{SESSION_ID_BYTES}sH")
_OPENING = Layout(">BBQ")
_SLOT = Layout(">BBQQQ")
_SUFFIX = Layout(f">{SESSION_ID_BYTES}sH")
_results_decoder: msgspec.msgpack.Decoder[list[OperationResult]] = msgspec.msgpack.Decoder(list[OperationResult])


class SessionOwner(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whose a session is: who else may write in it, and whose sessions are given up first for another one of his.

    Args:
        token: names the owner, and nothing else.
        proven: TLS has proven who that is, so nobody else may write in it; otherwise it stands for an address.
    """

    token: Token
    proven: bool


class StoredSlot(msgspec.Struct, frozen=True, gc=False):
    """One write of a session, as remembered. `results` are encoded; None: it had some, which were forgotten."""

    number: int
    seq: int
    used_at: int
    results: bytes | None


class StoredSession(msgspec.Struct, frozen=True, gc=False):
    """A session, as remembered; `opened_at` is the count of uses then."""

    session: bytes
    owner: SessionOwner
    opened_at: int
    slots: list[StoredSlot]


def session_key(group: int, generation: int, session: bytes) -> bytes:
    """Return the key of the row that says whose a session is."""
    return _KEY.pack(SYSTEM_KEYSPACE, group, generation, session, 0)


def session_slot_key(group: int, generation: int, session: bytes, number: int) -> bytes:
    """Return the key of the slot that remembers write `number` of a session."""
    return _KEY.pack(SYSTEM_KEYSPACE, group, generation, session, 1 + number % SESSION_WINDOW)


def encode_session(owner: SessionOwner, opened_at: int) -> bytes:
    return _OPENING.pack(FORMAT, owner.proven, opened_at) + owner.token


def encode_session_slot(number: int, seq: int, used_at: int, results: bytes | None = b"") -> bytes:
    """Encode a slot; `results` is None where they were forgotten."""
    if results is None:
        return _SLOT.pack(FORMAT, False, number, seq, used_at)
    return _SLOT.pack(FORMAT, True, number, seq, used_at) + results


class SessionRows:
    """Takes the rows of a replica's sessions in the order of their keys, and says of each what it is.

    What is checked besides each row: that a session's opening comes before its slots, and that no two were used at once.
    """

    __slots__ = ("_session", "_uses")

    def __init__(self) -> None:
        self._session = b""
        self._uses: set[int] = set()

    def take(self, suffix: bytes, row: bytes) -> StoredSession | StoredSlot:
        """Return the opening, or the slot of the session opened last, that is stored under prefix + `suffix`.

        Raises:
            NotARow: it is neither.
        """
        if len(suffix) != _SUFFIX.size:
            raise NotARow(f"a session row's key has {len(suffix)} bytes behind its prefix")
        name, place = _SUFFIX.unpack(suffix)
        if place > SESSION_WINDOW:
            raise NotARow(f"a session has no slot {place}")
        layout = _SLOT if place else _OPENING
        if len(row) < layout.size or row[0] != FORMAT or row[1] > 1:
            raise NotARow(f"it is of no format that this Shoal has: {row[: layout.size].hex()}")
        if not place:
            _, proven, opened_at = _OPENING.unpack_from(row)
            token = row[_OPENING.size :]
            if len(token) > MAX_DIGEST:
                raise NotARow(f"its owner's token has {len(token)} bytes")
            self._use(opened_at)
            self._session = name
            return StoredSession(name, SessionOwner(token, bool(proven)), opened_at, [])
        if name != self._session:
            raise NotARow("it is of a session whose opening is not stored")
        _, kept, number, seq, used_at = _SLOT.unpack_from(row)
        results = row[_SLOT.size :]
        if not 0 < number <= MAX_SEQ or 1 + number % SESSION_WINDOW != place or seq > MAX_SEQ:
            raise NotARow(f"in slot {place} is write {number}, at seq {seq}")
        if results:
            if not kept:
                raise NotARow("results that were forgotten are there")
            _results_decoder.decode(results)
        self._use(used_at)
        return StoredSlot(number, seq, used_at, results if kept else None)

    def _use(self, used_at: int) -> None:
        if not 0 < used_at <= MAX_SEQ or used_at in self._uses:
            raise NotARow(f"it was used at {used_at}, as another one was or none can be")
        self._uses.add(used_at)


def stored_sessions(engine: Engine, group: int, generation: int) -> Iterator[StoredSession]:
    """Yield the stored sessions of a replica.

    Raises:
        Damaged: rows are missing, or are none.
    """
    prefix = sessions_prefix(group, generation)
    length = len(prefix)
    rows = SessionRows()
    session: StoredSession | None = None

    def take(key: bytes, row: bytes) -> StoredSession | StoredSlot:
        return rows.take(key[length:], row)

    for key, row in engine.scan(engine.data, prefix, prefix_end(prefix)):
        found = decoded("data", key, row, take)
        if isinstance(found, StoredSession):
            if session is not None:
                yield session
            session = found
        else:
            assert session is not None, "a slot is taken behind an opening only"
            session.slots.append(found)
    if session is not None:
        yield session

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
from shoal.protocol.bounds import (
    Token,
)
from shoal.protocol.messages import SESSION_ID_BYTES, SESSION_WINDOW

from shoal_server.storage.engine import Engine, StorageFailed
from shoal_server.storage.layout import FORMAT, SYSTEM_KEYSPACE, prefix_end, sessions_prefix

_KEY = Layout(f">III{SESSION_ID_BYTES}sH")
_OPENING = Layout(">BBQ")
_SLOT = Layout(">BBQQQ")


class SessionOwner(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whose a session is: who else may write in it, and whose sessions are given up first for another one of his.

    Args:
        token: names the owner, and nothing else.
        proven: TLS has proven who that is, so nobody else may write in it; otherwise it stands for a connection.
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


def stored_sessions(engine: Engine, group: int, generation: int) -> Iterator[StoredSession]:
    """Yield the stored sessions of a replica.

    Raises:
        StorageFailed: rows are missing.
    """
    prefix = sessions_prefix(group, generation)
    session: StoredSession | None = None
    for key, row in engine.scan(engine.data, prefix, prefix_end(prefix)):
        _, _, _, name, place = _KEY.unpack(key)
        if place == 0:
            if session is not None:
                yield session
            _, proven, opened_at = _OPENING.unpack_from(row)
            session = StoredSession(name, SessionOwner(row[_OPENING.size :], bool(proven)), opened_at, [])
            continue
        if session is None or session.session != name:
            raise StorageFailed(f"row {key.hex()} is of a session whose opening is not stored: the table is damaged")
        _, kept, number, seq, used_at = _SLOT.unpack_from(row)
        session.slots.append(StoredSlot(number, seq, used_at, row[_SLOT.size :] if kept else None))
    if session is not None:
        yield session

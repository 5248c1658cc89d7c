"""Deduplication: which writes of which client session a shard has applied, so that a retry is applied once.

The table is part of the replicated state: every change to it is decided by applying a log entry, the same on every
replica, and is stored in the same batch as the data. So a retry that reaches another leader, or the same node after a
restart, finds its first attempt (Ongaro's dissertation, section 6.3).

A session numbers its writes 1, 2, 3, ...; the client never has a write in flight that is `SESSION_WINDOW` or more
behind its newest, so the slot `number % SESSION_WINDOW` may be reused without asking. A number below the one in its
slot is a late duplicate that nobody waits for.

Bounds: `SESSION_WINDOW` slots a session; as many sessions as an opening allows, of which the one least recently written
goes first.
A session that is not in the table is refused, never begun anew, so a forgotten one cannot apply a write twice.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum

from shoal.protocol.messages import SESSION_WINDOW

from shoal_server.invariants import invariant


class Verdict(Enum):
    """What a session says of a numbered write."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN_SESSION = "unknown session"
    NOT_HERE = "not here"
    """Not by a session, but since a microshard it is for has gone to another shard: nothing was done."""
    REFUSED = "refused"
    """Not by a session, but since the shard cannot do it as it is now: nothing was done."""


class Session:
    """What is remembered of one session: for each slot the newest number, the seq its write got, and its results.

    `results` are encoded, by slot, where there are any.
    """

    __slots__ = ("numbers", "results", "seqs", "used_at")

    def __init__(self, used_at: int) -> None:
        self.numbers = array("Q", bytes(8 * SESSION_WINDOW))
        self.seqs = array("Q", bytes(8 * SESSION_WINDOW))
        self.results: dict[int, bytes] = {}
        self.used_at = used_at


class SessionTable:
    """The sessions of one shard, least recently used first.

    `used_at` counts the uses of the whole table: it puts the sessions in one order, the same on every replica and after
    every restart, because the newest use of a session is always in one of its stored slots.
    """

    __slots__ = ("_sessions", "_uses")

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._uses = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: int) -> bool:
        return session in self._sessions

    def load(self, rows: Iterable[tuple[int, int, int, int, bytes]]) -> None:
        """Fill an empty table from stored slots: (session, number, seq, used at, results), in any order."""
        invariant(not self._sessions, "sessions are loaded into an empty table")
        found: dict[int, Session] = {}
        for session_id, number, seq, used_at, results in rows:
            session = found.get(session_id)
            if session is None:
                session = found[session_id] = Session(used_at)
            slot = number % SESSION_WINDOW
            session.numbers[slot] = number
            session.seqs[slot] = seq
            if results:
                session.results[slot] = results
            session.used_at = max(session.used_at, used_at)
        for session_id, session in sorted(found.items(), key=lambda item: item[1].used_at):
            invariant(session.used_at > self._uses, "no two sessions were used at once")
            self._uses = session.used_at
            self._sessions[session_id] = session

    def open(self, session: int, capacity: int) -> tuple[int, list[int]]:
        """Begin `session`, one of at most `capacity`; return when (`used_at`), and the ids of those forgotten for it."""
        invariant(session not in self._sessions, "session ids are never reused")
        forgotten = []
        while self._sessions and len(self._sessions) >= capacity:
            oldest, _ = self._sessions.popitem(last=False)
            forgotten.append(oldest)
        self._uses += 1
        self._sessions[session] = Session(self._uses)
        return self._uses, forgotten

    def judge(self, session: int, number: int) -> tuple[Verdict, int, bytes]:
        """Say whether a write is new; for a DUPLICATE also the seq and the results that it got."""
        known = self._sessions.get(session)
        if known is None:
            return Verdict.UNKNOWN_SESSION, 0, b""
        slot = number % SESSION_WINDOW
        newest = known.numbers[slot]
        if number > newest:
            return Verdict.NEW, 0, b""
        if number == newest:
            return Verdict.DUPLICATE, known.seqs[slot], known.results.get(slot, b"")
        return Verdict.LATE, 0, b""

    def record(self, session: int, number: int, seq: int, results: bytes = b"") -> int:
        """Remember that a NEW write got `seq` and `results`; return when (`used_at`)."""
        known = self._sessions[session]
        slot = number % SESSION_WINDOW
        invariant(number > known.numbers[slot], "a session's slot only moves forward")
        known.numbers[slot] = number
        known.seqs[slot] = seq
        if results:
            known.results[slot] = results
        elif known.results:
            known.results.pop(slot, None)
        self._uses += 1
        known.used_at = self._uses
        self._sessions.move_to_end(session)
        return self._uses

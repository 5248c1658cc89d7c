"""Deduplication: which writes of which client session a shard has applied, so that a retry is applied once.

The table is part of the replicated state: every change to it is decided by applying a log entry, the same on every
replica, and is stored in the same batch as the data. So a retry that reaches another leader, or the same node after a
restart, finds its first attempt (Ongaro's dissertation, section 6.3).

A session numbers its writes 1, 2, 3, ...; the client never has a write in flight that is `SESSION_WINDOW` or more
behind its newest, so the slot `number % SESSION_WINDOW` may be reused without asking. A number below the one in its
slot is a late duplicate that nobody waits for.

A session's id is 128 bits that its leader has drawn, so that nobody can guess one or meet another's by chance; where TLS
has proven who opened it, it is unknown to everybody else. One that is not in the table is refused, never begun anew, so a
forgotten one cannot apply a write twice.

Bounds: `SESSION_WINDOW` slots a session; as many sessions as an opening allows, and where it allows fewer than there are, each
opening comes nearer to that by one. Where that is too many, those of whoever has most go first, the least recently written of
them, or the owner's own, where it has half as many as that or more. The results that are kept for repetitions have bounds of
their own, in bytes, for each session and for all together: the oldest are forgotten first, and what is left then is that the
write was done.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from shoal.protocol.messages import SESSION_WINDOW

from shoal_server.invariants import invariant
from shoal_server.storage.session_rows import SessionOwner, StoredSession

KEPT_OVERHEAD_BYTES = 256
"""Counted for the results of each write beside their own bytes: what it costs to remember them at all, about."""
SESSION_RESULTS_BYTES = 256 * 1024
"""The most that the results kept for one session count."""
SESSION_BYTES = 2176
"""What a session takes besides its results, in memory, about."""
FORGOTTEN_AT_ONCE = 2
"""So many sessions make room for an opening at the most: thousands, where fewer are allowed than before, would take seconds."""
TABLE_RESULTS_BYTES = 16 * 1024 * 1024
"""The most that the results kept for all sessions of a shard count."""


SHOWN_BYTES = 6
"""So much of an id is shown in logs and spans: enough to find a session by, too little to write in it."""


def session_name(session: bytes) -> str:
    """Return what logs and spans call a session."""
    return session[:SHOWN_BYTES].hex()


class CommandVerdict(Enum):
    """What a session says of a numbered write."""

    NEW = "new"
    DUPLICATE = "duplicate"
    FORGOTTEN = "forgotten"
    """A duplicate: it was done, and had results, which are not remembered any more."""
    LATE = "late"
    UNKNOWN_SESSION = "unknown session"
    """Or one of somebody else, who alone may write in it."""
    NOT_HERE = "not here"
    """Not by a session, but since a microshard it is for has gone to another shard: nothing was done."""
    REFUSED = "refused"
    """Not by a session, but since the shard cannot do it as it is now: nothing was done."""


class Judgement(NamedTuple):
    """What a session says of a numbered write: for a duplicate also the seq and the encoded results that it got."""

    verdict: CommandVerdict
    seq: int = 0
    results: bytes = b""


class ForgottenResults(NamedTuple):
    """A write whose results are not remembered any more: what its slot says now."""

    session: bytes
    number: int
    seq: int
    used_at: int


class ForgottenSession(NamedTuple):
    """A session that made room for another one, and the numbers of the writes that its slots remembered."""

    session: bytes
    numbers: list[int]


class Opened(NamedTuple):
    """A session was opened, as use number `used_at` of the table; `forgotten` are those that made room."""

    used_at: int
    forgotten: list[ForgottenSession]


_NEW = Judgement(CommandVerdict.NEW)
_LATE = Judgement(CommandVerdict.LATE)
_UNKNOWN = Judgement(CommandVerdict.UNKNOWN_SESSION)


class _Kept:
    """The results of one write."""

    __slots__ = ("encoded", "number", "seq", "session", "used_at")

    def __init__(self, session: bytes, number: int, seq: int, used_at: int, encoded: bytes) -> None:
        self.session = session
        self.number = number
        self.seq = seq
        self.used_at = used_at
        self.encoded = encoded

    @property
    def size(self) -> int:
        return KEPT_OVERHEAD_BYTES + len(self.encoded)


class Session:
    """What is remembered of one session: for each slot the newest number, the seq its write got, and its results.

    `results`, by slot, the oldest first, count `results_bytes`; `forgotten` has a bit for each slot whose results are
    forgotten. `siblings` are all sessions of its owner, the least recently used first.
    """

    __slots__ = ("forgotten", "identity", "numbers", "owner", "results", "results_bytes", "seqs", "siblings", "used_at")

    def __init__(self, owner: SessionOwner, used_at: int, siblings: OrderedDict[bytes, None]) -> None:
        self.owner = owner
        self.identity = owner.token if owner.proven else None
        self.siblings = siblings
        self.numbers = array("Q", bytes(8 * SESSION_WINDOW))
        self.seqs = array("Q", bytes(8 * SESSION_WINDOW))
        self.results: dict[int, _Kept] = {}
        self.results_bytes = 0
        self.forgotten = 0
        self.used_at = used_at


class SessionTable:
    """The sessions of one shard, least recently used first.

    `used_at` counts the uses of the whole table: it puts the sessions in one order, the same on every replica and after
    every restart, because the newest use of a session is always in one of its stored rows. `_owners` has the sessions of
    each owner, `_owners_having` how many owners have so many, of which `_most` is the largest number.
    """

    __slots__ = ("_kept", "_most", "_owners", "_owners_having", "_sessions", "_uses", "results_bytes")

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._uses = 0
        self._owners: dict[SessionOwner, OrderedDict[bytes, None]] = {}
        self._owners_having: dict[int, int] = {}
        self._most = 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.results_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: bytes) -> bool:
        return session in self._sessions

    @property
    def held_bytes(self) -> int:
        """What all sessions take, with the results that are kept."""
        return len(self._sessions) * SESSION_BYTES + self.results_bytes

    def load(self, stored: Iterable[StoredSession]) -> None:
        """Fill an empty table from what is stored, in any order."""
        invariant(not self._sessions, "sessions are loaded into an empty table")
        kept: list[_Kept] = []
        last_uses: list[tuple[int, StoredSession]] = []
        for each in stored:
            last_uses.append((max((slot.used_at for slot in each.slots), default=each.opened_at), each))
        for used_at, each in sorted(last_uses, key=lambda item: item[0]):
            invariant(used_at > self._uses, "no two sessions were used at once")
            self._uses = used_at
            session = self._add(each.session, each.owner, used_at)
            for slot in each.slots:
                place = slot.number % SESSION_WINDOW
                session.numbers[place] = slot.number
                session.seqs[place] = slot.seq
                if slot.results is None:
                    session.forgotten |= 1 << place
                elif slot.results:
                    kept.append(_Kept(each.session, slot.number, slot.seq, slot.used_at, slot.results))
        for results in sorted(kept, key=lambda item: item.used_at):
            self._remember(results)

    # -- openings

    def open(self, session: bytes, owner: SessionOwner, capacity: int) -> Opened | None:
        """Begin `session`, of which there are to be at most `capacity`; None: there is one of that id, and nothing was done."""
        if session in self._sessions:
            return None
        forgotten: list[ForgottenSession] = []
        while self._sessions and len(self._sessions) >= capacity and len(forgotten) < FORGOTTEN_AT_ONCE:
            forgotten.append(self._evict(owner))
        self._uses += 1
        self._add(session, owner, self._uses)
        return Opened(self._uses, forgotten)

    def _add(self, session: bytes, owner: SessionOwner, used_at: int) -> Session:
        siblings = self._owners.setdefault(owner, OrderedDict())
        self._count(len(siblings), -1)
        siblings[session] = None
        self._count(len(siblings), 1)
        self._most = max(self._most, len(siblings))
        added = self._sessions[session] = Session(owner, used_at, siblings)
        return added

    def _evict(self, owner: SessionOwner) -> ForgottenSession:
        """Forget the session that an opening of `owner` costs.

        Whoever has few sessions loses none of them to whoever opens many; and nobody comes to have more than half of what
        another one has at that one's expense. Looking for whoever has most may pass all that have fewer; once all have equally
        many it ends at the first.
        """
        own = self._owners.get(owner)
        if own and 2 * len(own) >= self._most:
            victim = next(iter(own))
        else:
            victim = next(name for name, known in self._sessions.items() if len(known.siblings) == self._most)
        known = self._sessions.pop(victim)
        for slot in list(known.results):
            self._drop(known, slot)
        siblings = known.siblings
        self._count(len(siblings), -1)
        del siblings[victim]
        self._count(len(siblings), 1)
        if not siblings:
            del self._owners[known.owner]
        while self._most and not self._owners_having.get(self._most):
            self._most -= 1
        return ForgottenSession(victim, [number for number in known.numbers if number])

    def _count(self, having: int, change: int) -> None:
        if having:
            counted = self._owners_having.get(having, 0) + change
            if counted:
                self._owners_having[having] = counted
            else:
                del self._owners_having[having]

    # -- writes

    def judge(self, session: bytes, number: int, identity: bytes) -> Judgement:
        """Say whether a write is new.

        Args:
            identity: of whom it is, where that is proven, else empty.
        """
        known = self._sessions.get(session)
        if known is None or (known.identity is not None and known.identity != identity):
            return _UNKNOWN
        slot = number % SESSION_WINDOW
        newest = known.numbers[slot]
        if number > newest:
            return _NEW
        if number < newest:
            return _LATE
        if known.forgotten >> slot & 1:
            return Judgement(CommandVerdict.FORGOTTEN, known.seqs[slot])
        kept = known.results.get(slot)
        return Judgement(CommandVerdict.DUPLICATE, known.seqs[slot], b"" if kept is None else kept.encoded)

    def record(self, session: bytes, number: int, seq: int) -> int:
        """Remember that a NEW write got `seq`; return when (`used_at`)."""
        known = self._sessions[session]
        slot = number % SESSION_WINDOW
        invariant(number > known.numbers[slot], "a session's slot only moves forward")
        known.numbers[slot] = number
        known.seqs[slot] = seq
        if slot in known.results:
            self._drop(known, slot)
        if known.forgotten:
            known.forgotten &= ~(1 << slot)
        self._uses += 1
        known.used_at = self._uses
        self._sessions.move_to_end(session)
        known.siblings.move_to_end(session)
        return self._uses

    def keep(self, session: bytes, number: int, results: bytes) -> list[ForgottenResults]:
        """Keep the encoded results of the write recorded last; return those that are forgotten for it, perhaps these."""
        known = self._sessions[session]
        invariant(known.used_at == self._uses, "results are those of the write recorded last")
        self._remember(_Kept(session, number, known.seqs[number % SESSION_WINDOW], known.used_at, results))
        forgotten: list[ForgottenResults] = []
        while known.results_bytes > SESSION_RESULTS_BYTES:
            forgotten.append(self._forget(next(iter(known.results.values()))))
        while self.results_bytes > TABLE_RESULTS_BYTES:
            forgotten.append(self._forget(next(iter(self._kept.values()))))
        return forgotten

    def _remember(self, kept: _Kept) -> None:
        known = self._sessions[kept.session]
        known.results[kept.number % SESSION_WINDOW] = kept
        known.results_bytes += kept.size
        self._kept[kept.used_at] = kept
        self.results_bytes += kept.size

    def _forget(self, kept: _Kept) -> ForgottenResults:
        known = self._sessions[kept.session]
        slot = kept.number % SESSION_WINDOW
        self._drop(known, slot)
        known.forgotten |= 1 << slot
        return ForgottenResults(kept.session, kept.number, kept.seq, kept.used_at)

    def _drop(self, known: Session, slot: int) -> None:
        kept = known.results.pop(slot)
        del self._kept[kept.used_at]
        known.results_bytes -= kept.size
        self.results_bytes -= kept.size

"""Sessions: what one has seen, and its token, a string from which another process can go on.

A session vector has, for each range of microshards, the sequence number that reads of the session must not fall behind.
Sequence numbers are those of shards, but shards split, merge and move; so what was seen belongs to ranges of
microshards, and applies to whichever shard has a microshard of the range. To ask for too much is safe: no replica serves
it, and the leader, who knows everything, is asked in the end. To ask for too little is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec

from shoal import tokens
from shoal.bounds import Count, MicroshardEnd, MicroshardNumber, Name, Place
from shoal.errors import InvalidArgument
from shoal.shardmap import MicroshardRange, Ranges

ASK_LEADER = 2**63 - 1
"""In place of a sequence number: not known, only the leader has it for sure."""

MAX_SPANS = 256
"""The most ranges that a token carries."""

_COMPACT_AT = 64
_BEYOND = 2**31  # more microshards than any keyspace has


class Span(NamedTuple):
    """The microshards from `first` up to, not with, `end`: whoever reads them must have applied `seq`."""

    first: MicroshardNumber
    end: MicroshardEnd
    seq: Count


class SessionVector:
    """See the module's first lines."""

    __slots__ = ("_compact_at", "_disjoint", "_seqs")

    def __init__(self) -> None:
        self._seqs: dict[Ranges, int] = {}
        self._disjoint = True
        self._compact_at = _COMPACT_AT

    def note(self, ranges: Ranges, seq: int) -> None:
        """Remember that a shard with these microshards was read, or written, at `seq`."""
        known = self._seqs.get(ranges)
        if known is None:
            if self._disjoint and any(_overlap(ranges, other) for other in self._seqs):
                self._disjoint = False
            self._seqs[ranges] = seq
            if len(self._seqs) > self._compact_at:
                self._compact()
        elif seq > known:
            self._seqs[ranges] = seq

    def floor(self, ranges: Ranges) -> int:
        """Return the sequence number that a read of a shard with these microshards must not fall behind.

        That is 0 where nothing was seen, and `ASK_LEADER` where spans had to be left out.
        """
        if self._disjoint:
            known = self._seqs.get(ranges)
            if known is not None:
                return known
        return max((seq for other, seq in self._seqs.items() if _overlap(ranges, other)), default=0)

    def spans(self) -> list[Span]:
        """Return what was seen as disjoint ranges in order; adjacent ones differ."""
        noted = [Span(span.first, span.end, seq) for ranges, seq in self._seqs.items() for span in ranges]
        edges = sorted({edge for span in noted for edge in (span.first, span.end)})
        at = {edge: index for index, edge in enumerate(edges)}
        seqs = [0] * len(edges)
        for span in noted:
            for index in range(at[span.first], at[span.end]):
                seqs[index] = max(seqs[index], span.seq)
        spans: list[Span] = []
        for (first, end), seq in zip(pairwise(edges), seqs, strict=False):
            if not seq:
                continue
            if spans and spans[-1].end == first and spans[-1].seq == seq:
                spans[-1] = Span(spans[-1].first, end, seq)
            else:
                spans.append(Span(first, end, seq))
        return spans

    def bounded(self, spans_max: int = MAX_SPANS) -> tuple[list[Span], bool]:
        """Return at most so many spans, and whether others are missing there (the narrowest, then)."""
        spans = self.spans()
        known = [span for span in spans if span.seq != ASK_LEADER]
        missing = len(known) < len(spans) or len(known) > spans_max
        if len(known) > spans_max:
            known = sorted(sorted(known, key=lambda span: span.first - span.end)[:spans_max])
        return known, missing

    def merge(self, spans: Iterable[Span], missing: bool) -> None:
        """Take in the spans of another session, as `bounded` returned them, in order."""
        at = 0
        for span in spans:
            if missing and at < span.first:
                self.note((MicroshardRange(at, span.first),), ASK_LEADER)
            at = span.end
            self.note((MicroshardRange(span.first, span.end),), span.seq)
        if missing:
            self.note((MicroshardRange(at, _BEYOND),), ASK_LEADER)

    def _compact(self) -> None:
        """Keep one entry for each stretch of equal seqs, instead of one for each shard there ever was."""
        self._seqs = {(MicroshardRange(span.first, span.end),): span.seq for span in self.spans()}
        self._disjoint = True
        self._compact_at = max(_COMPACT_AT, 2 * len(self._seqs))


class SessionToken(msgspec.Struct, frozen=True, array_like=True, tag="session-1"):
    """The spans of a session vector (see `SessionVector`); `missing`: some were left out."""

    cluster: Place
    keyspace: Name
    missing: bool
    spans: Annotated[tuple[Span, ...], msgspec.Meta(max_length=MAX_SPANS)]


def to_token(session_vector: SessionVector | None, cluster: str, keyspace: str) -> str:
    """Return the token of a session.

    Raises:
        InvalidArgument: there is no session vector: it is no session.
    """
    if session_vector is None:
        raise InvalidArgument("this client is no session and has no token; call session() for one that has")
    spans, missing = session_vector.bounded()
    return tokens.encode(SessionToken(cluster, keyspace, missing, tuple(spans)))


def merge_token(session_vector: SessionVector | None, token: str, cluster: str, keyspace: str) -> str:
    """Take what a token says into a session vector; return the cluster that it is of, "" where it does not say.

    Args:
        cluster: the session's, "" where it is not known yet.

    Raises:
        InvalidArgument: the token is none, or of another cluster or keyspace, or there is no session.
    """
    if session_vector is None:
        raise InvalidArgument("this client is no session and takes no token; call session(token)")
    found = tokens.decode("session token", token, SessionToken)
    if found.keyspace != keyspace:
        raise InvalidArgument(f"the session token is of keyspace {found.keyspace!r}; this client is on {keyspace!r}")
    check_cluster(found.cluster, cluster)
    session_vector.merge(found.spans, found.missing)
    return found.cluster


def check_cluster(claimed: str, cluster: str) -> None:
    """
    Args:
        claimed: the cluster that tokens are of, by its name and its id, "" where there were none.
        cluster: the one the client is connected to, as well, "" where it is not known yet.

    Raises:
        InvalidArgument: they differ.
    """
    if claimed and cluster and claimed != cluster:
        raise InvalidArgument(
            f"the session token is of the cluster {claimed}; this client is connected to {cluster}: begin a new session"
        )


def _overlap(some: Ranges, others: Ranges) -> bool:
    return any(a.first < b.end and b.first < a.end for a in some for b in others)

"""What a node counts while it works: plain numbers, which a scrape turns into samples.

Pure: times are passed in. Nothing here costs a step for every operation: a request (which carries all operations that a
client had for a shard in one turn) adds to a number, a log entry leaves one tuple. What a turn has answered is timed at the
turn's end, for all of it at once: a request's latency is counted from when the first thing arrived that its turn took in,
to the end of the turn that answered it, so it errs to the long side by at most a turn.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from shoal.errors import ErrorCode
from shoal.metrics import Histogram
from shoal.protocol.messages import Freshness

if TYPE_CHECKING:
    from shoal_server.shard.traffic import Traffic

NEVER = -1
NS_PER_MS = 1_000_000


class Served(IntEnum):
    """What was served, and how consistently: the histograms that latencies are counted in."""

    WRITE_QUORUM = 0
    WRITE_FAST = 1
    READ_STRONG = 2
    READ_SESSION = 3
    READ_EVENTUAL = 4
    SCAN_STRONG = 5
    SCAN_SESSION = 6
    SCAN_EVENTUAL = 7


_NOTHING = [0] * len(Served)

LABELS: dict[Served, tuple[str, str]] = {
    Served.WRITE_QUORUM: ("write", "quorum"),
    Served.WRITE_FAST: ("write", "fast"),
    Served.READ_STRONG: ("read", "strong"),
    Served.READ_SESSION: ("read", "read_your_writes"),
    Served.READ_EVENTUAL: ("read", "eventual"),
    Served.SCAN_STRONG: ("scan", "strong"),
    Served.SCAN_SESSION: ("scan", "read_your_writes"),
    Served.SCAN_EVENTUAL: ("scan", "eventual"),
}
"""The labels `operation` and `consistency`; of a write the latter is its durability."""


def served_as(freshness: Freshness, *, scan: bool) -> Served:
    """Return what a read that asked for `freshness` is counted as."""
    if freshness.strong:
        return Served.SCAN_STRONG if scan else Served.READ_STRONG
    if freshness.min_seq:
        return Served.SCAN_SESSION if scan else Served.READ_SESSION
    return Served.SCAN_EVENTUAL if scan else Served.READ_EVENTUAL


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """Where the time of a request went, or of several that travelled together: of slow ones, and of those watched.

    Args:
        requests: how many were answered with it; `client`, `request`, `session` (as it is
            shown) and `number` are those of the first.
        index, term: of the log entry that it came into; 0 for reads.
        arrived, proposed, synced, settled: instants of the node's clock (ns): when it arrived, when it was proposed, when
            this node's own disk had it, when it was committed (of a read: when it might be served); 0: that never was.
        outcome: "" or the code of the error that it ended with.
    """

    served: Served
    shard: int
    requests: int
    client: int
    request: int
    session: str
    number: int
    index: int
    term: int
    arrived: int
    proposed: int
    synced: int
    settled: int
    outcome: str = ""


def parts_of(timed: TimedRequest, arrived: int, ended: int) -> dict[str, int]:
    """Return where the time of a request went that was there from `arrived` to `ended`, in nanoseconds.

    The parts are those of docs/observability.md; the parts that a request has not come to are missing.
    """
    began = timed.proposed or arrived
    parts = {"queue_ms": began - arrived} if timed.proposed else {}
    if timed.synced:
        parts["own_disk_ms"] = timed.synced - began
    if timed.settled:
        parts["commit_ms" if timed.proposed else "wait_ms"] = timed.settled - began
        parts["apply_ms"] = ended - timed.settled
    return parts


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits at a replica: commands for a log entry, entries for their commit, reads for a lease or for freshness."""

    commands: int
    proposals: int
    reads: int
    weak_reads: int


class NodeCounters:
    """The counters of one node.

    `at_once`: requests answered by the turn that took them in, by `Served`. `waited`: (served, arrived at, requests) that an
    earlier turn took in. Both are of the turn under way.
    `lasted_ns`: how long the last turn took, 0 where nobody says when turns end.
    `watched`: requests of clients, as (client, request), whose times are wanted however short they are, at every moment:
    whoever traces says which, and finds in `timed` those that the turn has answered.
    """

    __slots__ = (
        "_untimed",
        "arrived",
        "at_once",
        "began",
        "compared_bytes",
        "compared_slices",
        "comparison_rounds",
        "divergences",
        "elections_won",
        "failures",
        "frames_damaged",
        "lasted_ns",
        "latencies",
        "leader_changes",
        "messages_refused",
        "proposals",
        "proposals_refused",
        "proposed_commands",
        "replica_failures",
        "replicas_differed",
        "requests",
        "retired_reads",
        "retired_writes",
        "retired_written_bytes",
        "slow",
        "slow_before",
        "slow_ns",
        "snapshot_bytes_sent",
        "snapshot_bytes_taken",
        "snapshots_adopted",
        "snapshots_failed",
        "snapshots_refused",
        "snapshots_sent",
        "snapshots_started",
        "syncs",
        "timed",
        "turn_ns",
        "turns",
        "undone_bytes",
        "waited",
        "watched",
    )

    def __init__(self) -> None:
        self._untimed = False
        self.arrived = 0
        self.began = 0
        self.undone_bytes = 0
        """Of writes that were let through and then refused, since `take_undone`."""
        self.at_once = [0] * len(Served)
        self.waited: list[tuple[Served, int, int]] = []
        self.latencies = [Histogram() for _ in Served]
        self.syncs = Histogram()
        self.slow: list[TimedRequest] = []
        self.slow_ns = 0
        self.slow_before = NEVER
        self.watched: Collection[tuple[int, int]] = ()
        self.timed: list[TimedRequest] = []
        self.requests: dict[type, int] = {}
        self.failures: dict[ErrorCode, int] = {}
        self.frames_damaged = 0
        self.messages_refused = 0
        self.proposals = 0
        self.proposals_refused = 0
        self.proposed_commands = 0
        self.leader_changes = 0
        self.elections_won = 0
        self.snapshots_started = 0
        self.snapshots_sent = 0
        self.snapshots_failed = 0
        self.snapshots_adopted = 0
        self.snapshots_refused = 0
        self.snapshot_bytes_sent = 0
        self.snapshot_bytes_taken = 0
        self.compared_slices = 0
        self.compared_bytes = 0
        self.comparison_rounds = 0
        self.replica_failures: dict[str, int] = {}
        self.replicas_differed = 0
        self.divergences = 0
        self.retired_reads = 0
        self.retired_writes = 0
        self.retired_written_bytes = 0
        self.lasted_ns = 0
        self.turns = 0
        self.turn_ns = 0

    def take_undone(self) -> int:
        """Return how many bytes of writes were let through and then refused since the last time."""
        undone, self.undone_bytes = self.undone_bytes, 0
        return undone

    def begin_turn(self, arrived: int, now: int) -> None:
        """A turn begins at `now`, with what has arrived since `arrived`; whatever the last one left is dropped."""
        self.arrived, self.began = arrived, now
        self.slow_before = now - self.slow_ns if self.slow_ns else NEVER
        if self._untimed:
            self.waited, self.slow, self.timed, self.at_once = [], [], [], _NOTHING.copy()
        self._untimed = True

    def end_turn(self, ended: int) -> None:
        """The answers of the turn are on their way: time them."""
        self._untimed = False
        self.turns += 1
        self.lasted_ns = ended - self.began
        self.turn_ns += self.lasted_ns
        latencies = self.latencies
        if self.at_once != _NOTHING:
            seconds = (ended - self.arrived) / 1e9
            for served, requests in enumerate(self.at_once):
                if requests:
                    latencies[served].record(seconds, requests)
            self.at_once = _NOTHING.copy()
        if self.waited:
            for served, arrived, requests in self.waited:
                latencies[served].record((ended - arrived) / 1e9, requests)
            self.waited = []

    def read(self, served: Served, arrived: int, shard: int, client: int, request: int) -> None:
        """Count a read that arrived at `arrived` and has just been answered."""
        if self.watched and (client, request) in self.watched:
            self.timed.append(self._timed_read(served, arrived, shard, client, request))
        if arrived == self.arrived:
            self.at_once[served] += 1
            return
        self.waited.append((served, arrived, 1))
        if arrived < self.slow_before:
            self.slow.append(self._timed_read(served, arrived, shard, client, request))

    def _timed_read(self, served: Served, arrived: int, shard: int, client: int, request: int) -> TimedRequest:
        return TimedRequest(served, shard, 1, client, request, "", 0, 0, 0, arrived, 0, 0, settled=self.began)

    def retire(self, traffic: Traffic) -> None:
        """Keep what a replica has counted that is being removed: a counter never falls."""
        self.retired_reads += traffic.reads
        self.retired_writes += traffic.writes
        self.retired_written_bytes += traffic.written_bytes

    def failed_replica(self, kind: str) -> None:
        """Count that a replica has failed, or had when it was opened."""
        self.replica_failures[kind] = self.replica_failures.get(kind, 0) + 1

    def take_slow(self) -> list[TimedRequest]:
        """Return the slow requests of the turn."""
        slow, self.slow = self.slow, []
        return slow

    def take_timed(self) -> list[TimedRequest]:
        """Return the watched requests that the turn has answered."""
        timed, self.timed = self.timed, []
        return timed

    def failed(self, codes: list[ErrorCode]) -> None:
        """Count requests that were refused, or failed."""
        failures = self.failures
        for code in codes:
            failures[code] = failures.get(code, 0) + 1

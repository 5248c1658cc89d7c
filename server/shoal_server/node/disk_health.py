"""Whether a node's disk lets it lead: not where it is full, where a sync hangs, or where it is far slower than others'.

Pure: what was measured comes in, with the time; what peers measure of their own disks comes with their heartbeats.
docs/decisions/0012-slow-disks.md says why it is the node that judges, and why by these measures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import median_low

from shoal_server.node.write_budget import EngineState, WriteBudget

HALF_WINDOW_NS = 5_000_000_000
MIN_SYNCS = 5
"""Fewer syncs in the window say nothing of a disk: one of them may have met a flush."""
SLOWER_THAN_OTHERS = 8
SLOW_LEAST_NS = 10_000_000_000
"""A disk that was found slow counts as slow for so long at the least, or leaderships would come and go with it."""


@dataclass(frozen=True, slots=True)
class DiskState:
    """How the disk under a node is.

    Args:
        not_writable: "" or the reason to turn writes away.
        syncing_ns: for how long the sync under way has been going on, 0 where there is none.
        latency_us: how long a sync took lately, in the mean, 0 where that is not known.
        engine: how far the engine's own work on it is behind.
    """

    free_bytes: int = 0
    used_bytes: int = 0
    not_writable: str = ""
    syncing_ns: int = 0
    latency_us: int = 0
    engine: EngineState = field(default_factory=EngineState)


class SyncLatency:
    """The mean duration of the syncs of the last five to ten seconds."""

    __slots__ = ("_began_at", "_count", "_count_before", "_total_before", "_total_ns")

    def __init__(self, now: int) -> None:
        self._began_at = now
        self._count = self._total_ns = 0
        self._count_before = self._total_before = 0

    def take(self, durations_ns: Iterable[int], now: int) -> int:
        """Take in syncs that have ended; return the mean in microseconds, 0 where there were too few."""
        windows = (now - self._began_at) // HALF_WINDOW_NS
        if windows:
            self._began_at = now
            self._count_before, self._total_before = (self._count, self._total_ns) if windows == 1 else (0, 0)
            self._count = self._total_ns = 0
        for duration in durations_ns:
            self._count += 1
            self._total_ns += duration
        count = self._count + self._count_before
        return 0 if count < MIN_SYNCS else (self._total_ns + self._total_before) // count // 1000


class DiskHealth:
    """The state of the disk, and what follows from it.

    `not_leading` is "" or the reason to take no leadership and to hand over those there are; `stalled`: nothing can be
    promised at all until the disk is back. `budget`: what clients may write.
    """

    __slots__ = ("_slow_ns", "_slow_since", "_stall_ns", "budget", "not_leading", "stalled", "state")

    def __init__(self, *, stall_ns: int, slow_ns: int) -> None:
        self.state = DiskState()
        self.budget = WriteBudget(0)
        self.not_leading = ""
        self.stalled = False
        self._stall_ns = stall_ns
        self._slow_ns = slow_ns
        self._slow_since: int | None = None

    def judge(self, peers_latency_us: Collection[int], now: int) -> None:
        """Judge the state anew, next to what peers say of their disks."""
        state = self.state
        self.budget.judge(state.engine, now)
        self.stalled = max(state.syncing_ns, state.engine.stopped_ns) >= self._stall_ns
        self._judge_latency(median_low(peers_latency_us) if peers_latency_us else 0, bool(peers_latency_us), now)
        if state.not_writable:
            self.not_leading = state.not_writable
        elif state.engine.stopped_ns >= self._stall_ns:
            seconds = state.engine.stopped_ns / 1e9
            self.not_leading = f"RocksDB has taken no writes for {seconds:.1f} seconds: the disk does not keep up"
        elif self.stalled:
            self.not_leading = f"a sync of the disk has not ended for {state.syncing_ns / 1e9:.1f} seconds"
        elif self._slow_since is not None:
            self.not_leading = (
                f"a sync of the disk takes {state.latency_us / 1000:.0f} ms, far longer than on other nodes"
            )
        else:
            self.not_leading = ""

    def _judge_latency(self, others_us: int, others_known: bool, now: int) -> None:
        latency_us, slow_us = self.state.latency_us, self._slow_ns // 1000
        if self._slow_since is None:
            if others_known and latency_us >= slow_us and latency_us >= SLOWER_THAN_OTHERS * others_us:
                self._slow_since = now
        elif now - self._slow_since >= SLOW_LEAST_NS and (
            2 * latency_us < slow_us or 2 * latency_us < SLOWER_THAN_OTHERS * others_us
        ):
            self._slow_since = None

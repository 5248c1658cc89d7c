"""Settings of the protocol: times in nanoseconds of whatever clock the caller passes in, sizes in bytes."""

from __future__ import annotations

import msgspec
from shoal.bounds import REPLAY_LAG_ENTRIES

from shoal_server.invariants import invariant


class Timing(msgspec.Struct, frozen=True):
    """How long nodes trust each other, and how elections spread out.

    Args:
        support_ns: how long a node promises another not to elect against it, from a heartbeat's receipt on.
        drift_permille: how much slower or faster than another a node's clock may run; a lease is shortened by it.
        election_spread_ns: first campaigns are spread over this, so that they seldom meet.
        election_retry_ns: a campaign that has not won by then (or by up to twice that) is begun anew.
    """

    heartbeat_interval_ns: int = 150_000_000
    support_ns: int = 1_000_000_000
    drift_permille: int = 50
    election_spread_ns: int = 150_000_000
    election_retry_ns: int = 250_000_000

    def __post_init__(self) -> None:
        invariant(0 < self.heartbeat_interval_ns * 3 <= self.support_ns, "support outlasts three heartbeats")
        invariant(0 <= self.drift_permille < 500, "clocks drift by less than half")

    @property
    def lease_ns(self) -> int:
        """How long a leader relies on a promise, from when the heartbeat that asked for it was sent."""
        return self.support_ns * (1000 - self.drift_permille) // 1000


class RaftConfig(msgspec.Struct, frozen=True):
    """Bounds and delays of a group.

    Args:
        max_append_bytes: of entries in one AppendEntries (one entry at least); `max_probe_bytes` while probing.
        max_inflight_messages, max_inflight_bytes: sent to a peer and not yet accepted.
        max_uncommitted_bytes: proposed and not yet committed; past it proposals are refused.
        max_apply_bytes: of entries applied in one turn.
        cache_bytes: of applied entries kept in memory for peers that lag a little.
        unapplied_bytes: of entries that are still to be applied kept in memory; past twice as much they are dropped, and read
            back from where they are stored. A replica that has failed, and applies nothing, keeps `cache_bytes` of them.
        commit_notice_delay_ns: a commit position that no append carries goes alone after this long.
        probe_retry_ns: what was sent to a peer and not answered is sent again after this long.
        promotable_lag_entries: a learner that lacks more of what is committed is not made a voter.
        replay_lag_entries: a replica that has more than this still to apply leaves it to others to campaign first: it would
            serve nothing until it has.
        stall_ns: a peer that accepts nothing of what was sent for this long is probed anew.
    """

    max_append_bytes: int = 1024 * 1024
    max_probe_bytes: int = 64 * 1024
    max_inflight_messages: int = 64
    max_inflight_bytes: int = 4 * 1024 * 1024
    max_uncommitted_bytes: int = 16 * 1024 * 1024
    max_apply_bytes: int = 2 * 1024 * 1024
    cache_bytes: int = 1024 * 1024
    unapplied_bytes: int = 16 * 1024 * 1024
    promotable_lag_entries: int = 1_000
    replay_lag_entries: int = REPLAY_LAG_ENTRIES
    commit_notice_delay_ns: int = 5_000_000
    probe_retry_ns: int = 100_000_000
    stall_ns: int = 500_000_000
    transfer_timeout_ns: int = 1_000_000_000

"""Who a node is and how it is set: plain values, given to the node core by the process that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from shoal.protocol.messages import MAX_BATCH_BYTES, MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES

from shoal_server.node.memory import SHARES, Account
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.shard.merging import PIECE_US

if TYPE_CHECKING:
    from shoal_server.config import ClusterConfig

LOG_CACHE_BYTES = 64 * 1024 * 1024
MIN_LOG_CACHE_BYTES = 64 * 1024
UNAPPLIED_BYTES = 16 * 1024 * 1024
MIN_UNAPPLIED_BYTES = 1024 * 1024
MACHINE_PART = 4
"""Of so many parts of the machine's memory a node takes one, where the configuration does not say how much."""
MEMORY_MOST = 8 * 1024 * 1024 * 1024
"""Likewise at the most."""
MACHINE_BYTES = 8 * 1024 * 1024 * 1024
"""What a machine is taken to have where nobody has looked."""


class NodeIdentity(msgspec.Struct, frozen=True):
    """A node's name in its cluster.

    Args:
        incarnation: of its data folder: another one under the same name has lost what the first had promised.
        epoch: of this process: larger in every later life of the same data folder.
        software: the version of its program, as others are told.
    """

    cluster: str
    node: str
    incarnation: str
    epoch: int
    software: str = ""


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what clients may send and a node may hold for them, in bytes unless the name says otherwise."""

    max_key_bytes: int = MAX_KEY_BYTES
    max_value_bytes: int = MAX_VALUE_BYTES
    max_batch_bytes: int = MAX_BATCH_BYTES
    max_frame_bytes: int = MAX_FRAME_BYTES
    client_output_bytes: int = 1024 * 1024
    client_stall_ns: int = 30_000_000_000
    client_requests: int = 8192
    clients: int = 4096
    page_rows: int = 4096
    page_bytes: int = 1024 * 1024


class ComparisonSettings(msgspec.Struct, frozen=True):
    """How replicas are compared in the background (see comparisons.py).

    Args:
        share_permille: of the time of each replica's node that a node's own shards may cost it; 0: nothing is compared.
        first_ns: after a leader took over.
        look_ns: between looks which shards are due: a round of a shard begins no sooner after the one before.
        patience_ns: for so long replicas are waited for.
        retry_ns: after a round in which a replica that is connected did not report, or one differed.
        daily_ns: a shard at rest is compared so often.
    """

    share_permille: int = 5
    first_ns: int = 10_000_000_000
    look_ns: int = 10_000_000_000
    patience_ns: int = 10_000_000_000
    retry_ns: int = 60_000_000_000
    daily_ns: int = 24 * 3600 * 1_000_000_000


class NodeSettings(msgspec.Struct, frozen=True):
    """Settings of the node core.

    Args:
        entry_bytes: a turn's writes of a shard become one log entry up to this size, then another.
        log_retain_bytes: applied entries kept per shard for replicas that lag; past it they get a snapshot.
        flush_entries: so many entries applied to all replicas together are flushed to disk at the latest: as many are applied
            again after a crash, at a thousand or two a second, and small ones make no bytes that would have them flushed.
        log_checkpoint_bytes: the log is cut off in steps of about this.
        sync_stall_ns: a disk sync that takes longer costs the node its leaderships; sync_slow_ns: syncs that do so in the
            mean, where those of other nodes do not.
        clock_tolerance_ns: by how much wall clocks may differ; a node whose own is further off leads nothing.
        follower_apply_ns: for so long a replica that does not lead gathers committed entries before it applies them.
        weak_read_wait_ns: a read waits so long for a replica that does not lead to be fresh enough, and is then declined.
        purge_rows: how many expired rows one log entry removes at the most.
        snapshots_at_once: how many snapshots a node sends at the same time.
        page_piece_us: of work on a page in one turn; then it goes on in another (see paused_reads.py).
        memory_bytes: what the node may hold for others, besides what its engine and the program itself take (see memory.py).
    """

    timing: Timing = Timing()
    raft: RaftConfig = RaftConfig()
    limits: Limits = Limits()
    entry_bytes: int = 1024 * 1024
    log_retain_bytes: int = 16 * 1024 * 1024
    flush_entries: int = 10_000
    log_checkpoint_bytes: int = 256 * 1024
    sessions_per_shard: int = 4096
    sync_stall_ns: int = 2_000_000_000
    sync_slow_ns: int = 100_000_000
    clock_tolerance_ns: int = 1_000_000_000
    tick_interval_ns: int = 10_000_000
    follower_apply_ns: int = 5_000_000
    weak_read_wait_ns: int = 20_000_000
    purge_rows: int = 500
    snapshots_at_once: int = 2
    snapshot_chunk_bytes: int = 256 * 1024
    snapshot_timeout_ns: int = 10_000_000_000
    comparison: ComparisonSettings = ComparisonSettings()
    page_piece_us: int = PIECE_US
    memory_bytes: int = 1024 * 1024 * 1024


def memory_of_process(config: ClusterConfig, machine_bytes: int) -> int:
    """Return how much memory a node's process may have: as configured, else a part of the machine's.

    Args:
        machine_bytes: of the machine, or of the container that the process is in.
    """
    if config.limits.memory_bytes is not None:
        return config.limits.memory_bytes
    return max(config.memory_least, min(machine_bytes // MACHINE_PART, MEMORY_MOST))


def settings_from_config(config: ClusterConfig, shards_here: int, machine_bytes: int = MACHINE_BYTES) -> NodeSettings:
    """Return the core's settings for a validated configuration.

    Args:
        shards_here: how many replicas the node has: they share the memory for log entries.
        machine_bytes: see `memory_of_process`.
    """
    timing, limits, storage = config.timing, config.limits, config.storage
    memory = memory_of_process(config, machine_bytes) - config.memory_fixed
    # A group holds up to twice what it is told to, of either.
    entries = memory * SHARES[Account.LOG_CACHE] // 1000 // 4 // max(1, shards_here)
    return NodeSettings(
        timing=Timing(
            heartbeat_interval_ns=timing.heartbeat_interval_ns,
            support_ns=timing.support_ns,
            drift_permille=timing.clock_drift_permille,
            election_spread_ns=timing.election_spread_ns,
        ),
        raft=RaftConfig(
            cache_bytes=max(MIN_LOG_CACHE_BYTES, min(entries, LOG_CACHE_BYTES // max(1, shards_here))),
            unapplied_bytes=max(MIN_UNAPPLIED_BYTES, min(entries, UNAPPLIED_BYTES)),
        ),
        limits=Limits(
            max_key_bytes=limits.max_key_bytes,
            max_value_bytes=limits.max_value_bytes,
            max_batch_bytes=limits.max_batch_bytes,
            max_frame_bytes=limits.max_frame_bytes,
            client_output_bytes=limits.client_output_buffer_bytes,
            client_stall_ns=limits.client_stall_ns,
            client_requests=limits.client_requests_in_flight,
            clients=limits.max_clients,
        ),
        log_retain_bytes=storage.log_retain_bytes,
        sessions_per_shard=storage.sessions_per_shard,
        sync_stall_ns=timing.sync_stall_ns,
        sync_slow_ns=timing.sync_slow_ns,
        comparison=ComparisonSettings() if storage.compare_replicas else ComparisonSettings(share_permille=0),
        clock_tolerance_ns=timing.clock_tolerance_ns,
        memory_bytes=memory,
    )

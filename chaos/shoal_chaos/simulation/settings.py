"""The settings of simulated nodes, which a seed chooses."""

from __future__ import annotations

from random import Random

import msgspec
from shoal_server.node.settings import ComparisonSettings, NodeSettings
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.shard.merging import PIECE_US

from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

COMPARISON = ComparisonSettings(
    share_permille=200,
    first_ns=200 * MILLISECOND,
    look_ns=200 * MILLISECOND,
    patience_ns=500 * MILLISECOND,
    retry_ns=SECOND,
)
"""Replicas are compared all the time."""
LONG_SUPPORT = Timing(support_ns=1900 * MILLISECOND)


def random_settings(random: Random) -> NodeSettings:
    """Return settings of a node, some of them so tight that rare paths are taken often."""
    raft = RaftConfig(
        max_append_bytes=random.choice([1, 200, 1 << 20]),
        max_probe_bytes=random.choice([1, 1 << 16]),
        max_inflight_messages=random.choice([1, 4, 64]),
        max_apply_bytes=random.choice([1, 1 << 20]),
        cache_bytes=random.choice([1, 1 << 20]),
    )
    return NodeSettings(
        timing=Timing(),
        raft=raft,
        log_retain_bytes=random.choice([300, 1 << 24]),
        log_checkpoint_bytes=random.choice([100, 1 << 18]),
        snapshot_chunk_bytes=random.choice([50, 1 << 18]),
        snapshot_timeout_ns=2 * SECOND,
        sessions_per_shard=random.choice([2, 64]),
        page_piece_us=random.choice([1, 20, PIECE_US]),
        comparison=COMPARISON,
    )


def short_logs(random: Random) -> NodeSettings:
    """Return settings with which a replica that was cut off needs a snapshot."""
    return msgspec.structs.replace(random_settings(random), log_retain_bytes=300, log_checkpoint_bytes=100)


def short_logs_and_other_support(random: Random) -> NodeSettings:
    """Return such settings, some with promises that last about as long as a link that delivers nothing is borne with."""
    settings = short_logs(random)
    timing = random.choice([settings.timing, LONG_SUPPORT])
    return msgspec.structs.replace(settings, timing=timing, snapshot_timeout_ns=4 * SECOND)

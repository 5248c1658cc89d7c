"""One simulated run from a seed: faults first, then rest, then the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shoal_server.node.settings import ComparisonSettings, NodeSettings
from shoal_server.raft.config import RaftConfig, Timing

from shoal_chaos.simulation.checks.invariants import Violation
from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, derived_random

STATE_CHECK_INTERVAL = 500 * MILLISECOND
REST = 12 * SECOND
COMPARISON = ComparisonSettings(
    share_permille=200,
    first_ns=200 * MILLISECOND,
    look_ns=200 * MILLISECOND,
    patience_ns=500 * MILLISECOND,
    retry_ns=SECOND,
)
"""Replicas are compared all the time."""
LAST_REST = 14 * SECOND
"""Longer than the last row takes to expire and be removed, which is an entry of the log: after a second by a clock that is up
to ten behind the one by which it was written."""


@dataclass(slots=True)
class Report:
    """What a run did. `trace` is a hash of every frame delivered, and when: equal seeds have equal traces."""

    seed: int
    trace: int
    operations: int
    committed_entries: int
    simulated_seconds: float


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
        comparison=COMPARISON,
    )


def simulate(
    seed: int,
    *,
    fault_seconds: int = 10,
    make_faults: Callable[[Cluster, Random], Faults] = Faults,
    make_settings: Callable[[Random], NodeSettings] = random_settings,
    range_clients: int | None = None,
) -> Report:
    """Run one seed.

    Args:
        range_clients: how many `RangeClient`s there are beside the others; None: as the seed has it.

    Raises:
        Violation: something happened that must never happen, or the cluster did not recover.
    """
    random = derived_random(seed, "shape")
    cluster = Cluster(
        seed,
        nodes=random.choice([3, 4, 5]),
        shards=random.choice([1, 3]),
        clients=random.choice([2, 4]),
        keys=random.choice([1, 3, 9]),
        range_clients=derived_random(seed, "ranges").choice([0, 2]) if range_clients is None else range_clients,
        settings=make_settings(random),
    )
    faults = make_faults(cluster, derived_random(seed, "faults"))
    _run(cluster, faults, fault_seconds * SECOND)
    faults.stop()
    _run(cluster, faults, cluster.events.now + REST)
    for client in cluster.everybody:
        client.stopping = True
    _run(cluster, faults, cluster.events.now + LAST_REST)
    _check_recovered(cluster)
    _check_histories(cluster)
    return Report(
        seed=seed,
        trace=cluster.trace,
        operations=sum(client.completed for client in cluster.everybody),
        committed_entries=cluster.invariants.committed_entries,
        simulated_seconds=cluster.events.now / SECOND,
    )


def _run(cluster: Cluster, faults: Faults, until: int) -> None:
    while cluster.events.now < until:
        cluster.run_until(min(until, cluster.events.now + STATE_CHECK_INTERVAL))
        if faults.rows_differ:
            continue
        cluster.compare_states()
        for node in cluster.nodes.values():
            if node.node is not None and (node.node.counters.replicas_differed or node.node.counters.divergences):
                raise Violation(f"{node.name} found replicas to differ that have the same rows")


def _check_recovered(cluster: Cluster) -> None:
    for shard in cluster.manager.map.shards:
        replicas = {
            name: node.node.replicas[shard.id]
            for name, node in cluster.nodes.items()
            if node.node is not None and shard.id in node.node.replicas
        }
        leaders = [name for name, replica in replicas.items() if replica.group.is_leader]
        if len(leaders) != 1:
            raise Violation(f"shard {shard.id} has leaders {leaders} long after the last fault")
        leader = replicas[leaders[0]]
        node = cluster.nodes[leaders[0]]
        assert node.node is not None, "it leads"
        ahead_ms = leader.machine.state.clock_ms - node.node.clock.now_ms(node.local_now())
        if ahead_ms > node.node.clock.beyond_ms:
            raise Violation(f"the clock of shard {shard.id} is {ahead_ms} ms ahead long after the last fault")
        if leader.machine.state.ranges != shard.ranges:
            raise Violation(
                f"shard {shard.id} has {leader.machine.state.ranges} long after the last fault, by the map {shard.ranges}"
            )
        for name, replica in replicas.items():
            # One that is no member (yet, or any more) nobody rebuilds.
            if replica.failure is not None and name in leader.group.members:
                raise Violation(
                    f"the replica of shard {shard.id} on {name} has not been rebuilt long after the last fault: "
                    f"{replica.failure}"
                )
        for name in leader.group.members:
            if name not in replicas:
                raise Violation(f"{name} has no replica of shard {shard.id}, whose leader counts it as one")
            if replicas[name].machine.state.index != leader.machine.state.index:
                raise Violation(
                    f"replica of shard {shard.id} on {name} is at {replicas[name].machine.state.index} long after the "
                    f"last fault, its leader {leaders[0]} at {leader.machine.state.index}"
                )
        for name, replica in replicas.items():
            if replica.failure is not None and name in leader.group.members:
                raise Violation(f"the replica of shard {shard.id} on {name} is still {replica.failure}")
        if leader.comparison is not None and leader.comparison.divergence is not None:
            raise Violation(
                f"shard {shard.id} is said to have {leader.comparison.divergence} long after the last fault"
            )
        left = leader.machine.scan(
            shard.ranges, b"expiring/", b"expiring0", reverse=False, keys_only=True, max_rows=1, max_bytes=1, now=0
        )
        if left.keys:
            raise Violation(f"{left.keys} of shard {shard.id} expired long ago and are still there")
    if cluster.manager.migrating:
        raise Violation("a migration is not over long after the last fault")
    for node in cluster.nodes.values():
        stray = node.stray_rows()
        if stray:
            raise Violation(f"{node.name} has rows that are no replica's, under {stray}")
    for client in cluster.everybody:
        if not client.idle:
            raise Violation(f"client {client.name} still waits for an answer long after the last fault")


def _check_histories(cluster: Cluster) -> None:
    for violation in cluster.histories.violations(cluster.counted()):
        raise Violation(violation)

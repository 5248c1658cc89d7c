"""One simulated run from a seed: faults first, then quiescence, then the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shoal_server.node.settings import NodeSettings

from shoal_chaos.simulation.checks.recovery import check_recovered, count_stored
from shoal_chaos.simulation.checks.rows import compare_rows
from shoal_chaos.simulation.faults.base import Faults
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.scene import NodesScene, nodes_scene
from shoal_chaos.simulation.settings import random_settings
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, derived_random

ROWS_COMPARED_EVERY = 500 * MILLISECOND
BUSY_QUIESCENCE = 3 * SECOND
"""So long clients go on as before after the last fault: every group has time for an election, every client for retries."""
SLOW_QUIESCENCE = 9 * SECOND
"""So long they go on slowly then, for what needs time and an entry now and then: their steps are most of what a run costs."""
LAST_QUIESCENCE = 14 * SECOND
"""Longer than the last row takes to expire and be removed, which is an entry of the log: after a second by a clock that is up
to ten behind the one by which it was written."""


@dataclass(slots=True)
class NodesReport:
    """What a run did. `trace` is a hash of every frame delivered, and when: equal seeds have equal traces."""

    seed: int
    trace: int
    operations: int
    committed_entries: int
    simulated_seconds: float


def simulate(
    seed: int,
    *,
    fault_seconds: int = 10,
    make_faults: Callable[[NodesScene, Random], Faults] = UsualFaults,
    make_settings: Callable[[Random], NodeSettings] = random_settings,
    range_clients: int | None = None,
) -> NodesReport:
    """Run one seed.

    Args:
        range_clients: how many `RangeClient`s there are beside the others; None: as the seed has it.

    Raises:
        Violation: something happened that must never happen, or the cluster did not recover.
    """
    random = derived_random(seed, "shape")
    scene = nodes_scene(
        seed,
        nodes=random.choice([3, 4, 5]),
        shards=random.choice([1, 3]),
        clients=random.choice([2, 4]),
        keys=random.choice([1, 3, 9]),
        range_clients=derived_random(seed, "ranges").choice([0, 2]) if range_clients is None else range_clients,
        settings=make_settings(random),
    )
    faults = make_faults(scene, derived_random(seed, "faults"))
    world, clients = scene.world, scene.clients
    _run(scene, fault_seconds * SECOND)
    faults.stop()
    _run(scene, world.events.now + BUSY_QUIESCENCE)
    clients.slow_down()
    _run(scene, world.events.now + SLOW_QUIESCENCE)
    clients.stop()
    _run(scene, world.events.now + LAST_QUIESCENCE)
    check_recovered(scene)
    for violation in clients.histories.violations(count_stored(scene.cluster)):
        raise Violation(violation)
    return NodesReport(
        seed=seed,
        trace=world.trace,
        operations=clients.completed,
        committed_entries=scene.cluster.invariants.committed_entries,
        simulated_seconds=world.events.now / SECOND,
    )


def _run(scene: NodesScene, until: int) -> None:
    world, cluster = scene.world, scene.cluster
    while world.events.now < until:
        world.run_until(min(until, world.events.now + ROWS_COMPARED_EVERY))
        if cluster.invariants.rows_may_differ:
            continue
        compare_rows(cluster.nodes.values(), cluster.invariants)
        for node in cluster.nodes.values():
            if node.node is not None and (node.node.counters.replicas_differed or node.node.counters.divergences):
                raise Violation(f"{node.name} found replicas to differ that have the same rows")

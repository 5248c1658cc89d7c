"""One run from a seed: requests under faults, then quiescence, then the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from shoal_shardmanager.control.rows import Drain, Heal, NodeState, OperationRow, RollingRestart, SettingsRow

from shoal_chaos.control_simulation.faults import ControlFaults
from shoal_chaos.control_simulation.operators import Operators
from shoal_chaos.simulation.checks.recovery import count_stored
from shoal_chaos.simulation.checks.rows import compare_rows
from shoal_chaos.simulation.clients.clients import Clients
from shoal_chaos.simulation.cluster.cluster import one_keyspace
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.managers.scene import ManagedScene, managed_scene
from shoal_chaos.simulation.settings import random_settings
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND
from shoal_chaos.simulation.world.garbage import collecting_when_told
from shoal_chaos.simulation.world.world import plain_world

ROWS_COMPARED_EVERY = 500 * MILLISECOND
REQUEST_SECONDS = 15
CLIENT_SECONDS = 5
"""So long clients go on after the last fault."""
SETTLING_SECONDS = 90
WELL_SECONDS = 3
GONE_AFTER_MS = 6_000
UNDER_OPERATION = "under an operation"
"""The reason that placement gives for a shard that another operation is on; it has to be true."""


@dataclass(slots=True)
class ControlReport:
    """What a run did. `trace` is a hash of every frame delivered between nodes and clients, and when."""

    seed: int
    trace: int
    operations: int
    simulated_seconds: float
    ended: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    unfinished: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Focus:
    """What a run is to be about: kinds of requests and of faults, by their names in `Operators` and `ControlFaults`."""

    requests: tuple[str, ...]
    faults: tuple[str, ...] = ()


def simulate(
    seed: int, *, request_seconds: int = REQUEST_SECONDS, settles: bool = True, focus: Focus | None = None
) -> ControlReport:
    """Run one seed.

    Args:
        request_seconds: for how long there are requests and faults.
        settles: go on after that until all is well, and look at what clients saw.
        focus: what else the seed would choose by chance.

    Raises:
        Violation: something happened that must never happen, or the cluster did not settle.
    """
    with collecting_when_told():
        scene, clients = _scene(seed)
        try:
            return _simulate(scene, clients, request_seconds, settles=settles, focus=focus)
        finally:
            scene.finish()


def _scene(seed: int) -> tuple[ManagedScene, Clients]:
    world = plain_world(seed)
    random = world.random("shape")
    shard_map = one_keyspace(random.choice([3, 4, 5, 6]), random.choice([1, 2, 4]))
    clients = Clients(world, shard_map, clients=random.choice([1, 2]), keys=random.choice([1, 3, 9]))
    scene = managed_scene(
        world,
        shard_map,
        random_settings(random),
        managers=random.choice([1, 2, 3]),
        managers_settings=SettingsRow(
            gone_after_ms=GONE_AFTER_MS,
            catch_up_entries=random.choice([0, 5, 1000]),
            moves_per_node=random.choice([1, 2]),
            moves_per_cluster=random.choice([1, 2, 16]),
            history=random.choice([20, 200]),
            split_writes_per_second=random.choice([0, 0, 20]),
            split_pause_ms=random.choice([1000, 10_000]),
            migration_bytes_per_second=random.choice([0, 0, 1000]),
            merge_linger_ms=random.choice([200, 3000]),
        ),
    )
    scene.start()
    clients.start()
    return scene, clients


def _simulate(
    scene: ManagedScene, clients: Clients, request_seconds: int, *, settles: bool, focus: Focus | None
) -> ControlReport:
    world = scene.world
    faults = ControlFaults(scene, world.random("faults"))
    operators = Operators(scene, world.random("requests"), unreplicated=not faults.loses_nodes)
    if focus is not None:
        faults.only(focus.faults)
        operators.only(focus.requests)
    _run(scene, request_seconds * SECOND)
    faults.stop()
    operators.stop()
    unfinished: list[str] = []
    if settles:
        _run(scene, world.events.now + CLIENT_SECONDS * SECOND)
        clients.stop()
        unfinished = _settle(scene, clients)
        for violation in clients.histories.violations(count_stored(scene.cluster)):
            raise Violation(violation)
    return ControlReport(
        seed=world.seed,
        trace=world.trace,
        operations=clients.completed,
        simulated_seconds=world.events.now / SECOND,
        ended=scene.checks.ended,
        answers=operators.answers,
        unfinished=unfinished,
    )


def _run(scene: ManagedScene, until: int) -> None:
    world, cluster = scene.world, scene.cluster
    while world.events.now < until:
        world.run_until(min(until, world.events.now + ROWS_COMPARED_EVERY))
        compare_rows(cluster.nodes.values(), cluster.invariants)
        failures = scene.failures()
        if failures:
            raise Violation("\n".join(failures))


def _settle(scene: ManagedScene, clients: Clients) -> list[str]:
    """Run on until all is well, and stays so; return what has not ended, and why."""
    deadline = scene.world.events.now + SETTLING_SECONDS * SECOND
    well = 0
    while True:
        _run(scene, scene.world.events.now + SECOND)
        problems = [*_unfinished_problems(scene), *scene.checks.unsettled(), *_lagging(scene, clients)]
        well = 0 if problems else well + 1
        if well == WELL_SECONDS:
            return [f"{row.id} {row.kind}: {_waiting(scene, row)}" for row in scene.checks.running()]
        if scene.world.events.now > deadline:
            raise Violation(f"{SETTLING_SECONDS} s after the last fault:\n" + "\n".join(problems[:6]))


def _waiting(scene: ManagedScene, row: OperationRow) -> str:
    manager = scene.managers.leading()
    note = manager.leadership.notes.get(row.id) if manager is not None and manager.leadership is not None else None
    return note.waiting if note is not None else ""


def _unfinished_problems(scene: ManagedScene) -> Iterator[str]:
    """Yield operations that have not ended, unless they wait for more nodes, and say so."""
    checks = scene.checks
    for row in checks.running():
        waiting = _waiting(scene, row)
        if not waiting:
            yield f"{row} has not ended, and does not say why"
        elif not _waits_for_nodes(scene, row) or (UNDER_OPERATION in waiting and checks.running() == [row]):
            yield f"{row} has not ended: {waiting}"


def _waits_for_nodes(scene: ManagedScene, row: OperationRow) -> bool:
    """Say whether it waits for a node that is lost, or some shard on the node that is to be emptied has nowhere to go."""
    checks, work = scene.checks, row.arguments
    if isinstance(work, RollingRestart):
        return any(checks.nodes[name].state is NodeState.GONE for name in work.nodes[work.done :])
    if not isinstance(work, Drain | Heal):
        return False
    able = {name for name, node in checks.nodes.items() if node.state is NodeState.ACTIVE}
    return any(row.node in shard.replicas and not able - set(shard.replicas) for shard in checks.map.shards)


def _lagging(scene: ManagedScene, clients: Clients) -> Iterator[str]:
    for shard in scene.checks.map.shards:
        indexes = {
            name: node.node.replicas[shard.id].machine.state.index
            for name, node in scene.cluster.nodes.items()
            if node.node is not None and shard.id in node.node.replicas
        }
        if len(set(indexes.values())) > 1:
            yield f"replicas of shard {shard.id} are at {indexes}"
    for client in clients.everybody:
        if not client.idle:
            yield f"client {client.name} still waits for an answer"

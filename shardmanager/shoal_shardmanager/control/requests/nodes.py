"""Requests about nodes: failover, drain, undrain, remove, and rebalancing over all of them."""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager import placement
from shoal_shardmanager.control.requests.cancelling import cancel
from shoal_shardmanager.control.requests.common import accept, check_alone, described_step, known_node, listed, plan_for
from shoal_shardmanager.control.requests.model import Accepted, Refused, Situation, Why
from shoal_shardmanager.control.rows import (
    Drain,
    Failover,
    MoveReplica,
    NodeRow,
    NodeState,
    OperationRow,
    Rebalance,
    RemoveNode,
    Step,
    Undrain,
)
from shoal_shardmanager.control.state import ClusterState, RowChange


def failover(request: Failover, situation: Situation) -> Accepted:
    state, observed = situation.state, situation.observed
    node = known_node(state, request.node)
    check_alone(state, node.id, Failover)
    led = {shard: leader for shard, leader in sorted(observed.leaders().items()) if leader.node == node.id}
    alone = [shard for shard, leader in led.items() if not leader.successors(frozenset())]
    if alone:
        raise Refused(
            Why.REFUSED,
            f"{node.id} leads shards {listed(alone)}, which no other voter could lead now: bring their other voters "
            "back, or move these shards first",
        )
    steps = tuple(
        f"shard {shard}: to {leader.successors(frozenset({node.id}))[0]} or another" for shard, leader in led.items()
    )
    return accept(situation, request, Step.EVACUATE, steps=steps or (f"{node.id} leads nothing",))


def drain(request: Drain, situation: Situation) -> Accepted:
    state = situation.state
    node = known_node(state, request.node)
    if node.state is NodeState.DRAINED:
        raise Refused(Why.CONFLICT, f"node {node.id} is drained already; `shoal undrain {node.id}` takes it back")
    if node.state is NodeState.GONE:
        raise Refused(Why.REFUSED, f"node {node.id} is gone: its replicas are being replaced as it is")
    check_alone(state, node.id, Drain)
    draining = replace(node, state=NodeState.DRAINING, since_ms=situation.observed.wall_ms)
    accepted = accept(situation, request, Step.WORK, draining)
    trial = ClusterState(
        state.map, state.nodes | {node.id: draining}, state.policies, state.operations, state.counters, state.settings
    )
    _check_drainable(node, trial)
    plan = plan_for(trial, situation, placement.Mode.PERIODIC)
    wanted = [step for step in plan.steps if getattr(step, "source", "") == node.id]
    held = {shard.id for shard in state.map.shards if node.id in shard.replicas}
    leaving = {step.shard for step in wanted if not isinstance(step, placement.TransferLeader)}
    busy = state.busy()
    stay = sorted(held - leaving - busy)
    if stay and not plan.stopped:
        reasons = placement.described([refusal for refusal in plan.refusals if refusal.subject != f"node {node.id}"])
        raise Refused(
            Why.REFUSED,
            f"node {node.id} cannot be emptied: shards {listed(stay)} have nowhere to go: {reasons or 'add nodes'}",
        )
    steps = tuple(described_step(step) for step in wanted)
    return Accepted(
        accepted.operation,
        accepted.changes,
        (f"place nothing new on {node.id} from now on", *steps, f"done when {node.id} itself reports that it is empty"),
        bytes=sum(step.bytes for step in wanted if isinstance(step, placement.MoveReplica | placement.AddReplica)),
    )


def _check_drainable(node: NodeRow, state: ClusterState) -> None:
    """Refuse to empty the last node of a region that keyspaces require."""
    others = [row for row in state.nodes.values() if row.state is NodeState.ACTIVE and row.region == node.region]
    needing = [
        keyspace.name
        for keyspace in state.map.keyspaces
        if (policy := state.policies.get(keyspace.id)) is not None and policy.required.get(node.region, 0) > len(others)
    ]
    if needing:
        raise Refused(
            Why.REFUSED,
            f"{node.id} is needed in region {node.region or '(none)'}: {listed(needing)} require more replicas there "
            f"than its {len(others)} other active nodes could hold: add a node to that region first",
        )


def undrain(request: Undrain, situation: Situation) -> Accepted:
    state = situation.state
    node = known_node(state, request.node)
    before = node.before if node.state is NodeState.GONE else node.state
    if before not in (NodeState.DRAINING, NodeState.DRAINED):
        raise Refused(Why.CONFLICT, f"node {node.id} is {node.state}, and was not drained")
    if node.state is NodeState.GONE:
        row = replace(node, before=NodeState.ACTIVE)
    else:
        row = replace(node, state=NodeState.ACTIVE, since_ms=situation.observed.wall_ms)
    stops: list[RowChange] = []
    for running in state.running():
        if isinstance(running.arguments, Drain) and running.node == node.id and not running.undo:
            stops += cancel(running.id, state, situation.observed.wall_ms)
    return accept(situation, request, Step.SPREAD, row, *stops, steps=(f"{node.id} may hold replicas again",))


def remove_node(request: RemoveNode, situation: Situation) -> Accepted:
    state, observed = situation.state, situation.observed
    node = known_node(state, request.node)
    check_alone(state, node.id, RemoveNode)
    held = [shard.id for shard in state.map.shards if node.id in shard.replicas]
    status = observed.fresh(node.id)
    held += [replica.shard for replica in (status.replicas if status is not None else ()) if replica.shard not in held]
    if held:
        raise Refused(
            Why.REFUSED,
            f"node {node.id} still holds shards {listed(held)}: `shoal drain {node.id}` empties it first",
        )
    if node.state is NodeState.ACTIVE:
        raise Refused(
            Why.REFUSED, f"node {node.id} is active, and could be given replicas: `shoal drain {node.id}` comes first"
        )
    busy = [
        row.id for row in state.running() if isinstance(row.arguments, MoveReplica) and row.arguments.target == node.id
    ]
    if busy:
        raise Refused(Why.REFUSED, f"operation {busy[0]} moves a replica to node {node.id}: wait for it, or cancel it")
    shard_map = state.map
    after = replace(
        shard_map,
        version=shard_map.version + 1,
        nodes=tuple(address for address in shard_map.nodes if address.id != node.id),
    )
    removed = replace(node, state=NodeState.REMOVED, since_ms=observed.wall_ms)
    stop = f"end its process: its id is never used again; {node.address} may be"
    return accept(
        situation,
        request,
        Step.SPREAD,
        removed,
        after,
        steps=(f"every node forgets {node.id}", stop),
        version=after.version,
    )


def rebalance(request: Rebalance, situation: Situation) -> Accepted:
    """One that nobody has requested gives way to a request."""
    state = situation.state
    automatic: list[OperationRow] = []
    for row in state.running():
        if isinstance(row.arguments, Rebalance):
            if not row.arguments.automatic:
                raise Refused(Why.CONFLICT, f"operation {row.id} is rebalancing already")
            automatic.append(row)
    plan = plan_for(state, situation, placement.Mode.PERIODIC)
    accepted = accept(situation, request, Step.WORK)
    steps = tuple(described_step(step) for step in plan.steps) or ("nothing: everything is as even as it gets",)
    notes = tuple(f"{r.subject}: {r.reason} ({r.remedy})" for r in plan.refusals)
    reason = f"operation {accepted.operation.id} rebalances, as requested"
    giving_way = [replace(row, undo=reason) for row in automatic if not row.undo]
    return Accepted(accepted.operation, (*accepted.changes, *giving_way), steps, notes, plan.bytes)

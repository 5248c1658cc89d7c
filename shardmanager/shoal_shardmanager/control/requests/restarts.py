"""The request to restart nodes, one after the other."""

from __future__ import annotations

from shoal_shardmanager.control.operations.restart import unwell
from shoal_shardmanager.control.requests.common import accept, known_node, listed
from shoal_shardmanager.control.requests.model import Accepted, Refused, RestartRequest, Situation, Unsettled, Why
from shoal_shardmanager.control.rows import Drain, Heal, NodeState, RemoveNode, RollingRestart, Step


def rolling_restart(request: RestartRequest, situation: Situation) -> Accepted:
    state, observed = situation.state, situation.observed
    for row in state.running():
        if isinstance(row.arguments, RollingRestart):
            raise Refused(
                Why.CONFLICT, f"operation {row.id} is a rolling restart already; see `shoal operations {row.id}`"
            )
        if isinstance(row.arguments, Drain | Heal | RemoveNode):
            raise Refused(
                Why.CONFLICT,
                f"operation {row.id} ({row.kind} of {row.node}) is under way: wait for it, or `shoal cancel {row.id}`",
            )
    nodes = request.nodes or tuple(
        row.id for _, row in sorted(state.nodes.items()) if row.state not in (NodeState.GONE, NodeState.REMOVED)
    )
    for position, node in enumerate(nodes):
        known_node(state, node)
        if node in nodes[:position]:
            raise Refused(Why.WRONG, f"node {node} is named twice")
    silent = [node for node in nodes if observed.fresh(node) is None]
    if silent:
        raise Refused(Why.REFUSED, f"node {silent[0]} does not answer: start it, or name the other nodes")
    problem = unwell(state, observed)
    if problem:
        raise Unsettled(Why.REFUSED, f"{problem}: nothing may be taken away now; `shoal status` shows when all is well")
    alone = [shard.id for shard in state.map.shards if len(shard.voters) == 1 and shard.voters[0] in nodes]
    notes = (f"shards {listed(alone)} have one voter, and are away while its node is restarted",) if alone else ()
    steps = [
        f"node {node}: its leaderships go to others; it is restarted; all its replicas are in step again"
        for node in nodes
    ]
    accepted = accept(situation, RollingRestart(nodes), Step.EVACUATE, steps=tuple(steps))
    return Accepted(accepted.operation, accepted.changes, accepted.steps, notes)

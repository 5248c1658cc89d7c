"""Requests about one shard: move a replica, transfer its leadership."""

from __future__ import annotations

from shoal.shardmap import Shard

from shoal_shardmanager.control.requests.common import accept, check_idle, known_leader, known_node, known_shard, listed
from shoal_shardmanager.control.requests.model import Accepted, Refused, Situation, Why
from shoal_shardmanager.control.rows import MoveLeader, MoveReplica, NodeRow, NodeState, Step
from shoal_shardmanager.control.state import ClusterState


def move(request: MoveReplica, situation: Situation) -> Accepted:
    state = situation.state
    shard = known_shard(state, request.shard)
    source, target = known_node(state, request.source), known_node(state, request.target)
    check_idle(state, shard.id)
    if source.id not in shard.replicas:
        raise Refused(
            Why.REFUSED, f"node {source.id} has no replica of shard {shard.id}: they are on {', '.join(shard.replicas)}"
        )
    if target.id in shard.replicas:
        raise Refused(
            Why.REFUSED,
            f"node {target.id} has a replica of shard {shard.id} already: {_free(situation, shard, target.id)}",
        )
    if target.state is not NodeState.ACTIVE:
        raise Refused(Why.REFUSED, f"node {target.id} is {target.state}: {_free(situation, shard, target.id)}")
    status = situation.observed.fresh(target.id)
    if status is None:
        raise Refused(
            Why.REFUSED, f"node {target.id} does not answer: start it; otherwise, {_free(situation, shard, target.id)}"
        )
    if status.not_writable:
        raise Refused(
            Why.REFUSED,
            f"node {target.id} takes no writes: {status.not_writable}; {_free(situation, shard, target.id)}",
        )
    known_leader(situation, shard.id)
    _check_domains(request, shard, situation)
    _check_regions(request, shard, situation)
    work = MoveReplica(shard.id, source.id, target.id, source.id in shard.voters)
    accepted = accept(situation, work, Step.QUEUED, steps=_move_steps(work, situation))
    bytes_to_copy = situation.loads.of(shard.id, shard.replicas).bytes
    return Accepted(accepted.operation, accepted.changes, accepted.steps, bytes=bytes_to_copy)


def _check_domains(request: MoveReplica, shard: Shard, situation: Situation) -> None:
    """Refuse a move that puts two replicas into one zone where they were in different ones."""
    state = situation.state

    def crowd(replicas: list[str]) -> int:
        places = [_domain(state, node) for node in replicas]
        return len(places) - len(set(places))

    before = list(shard.replicas)
    after = [node for node in before if node != request.source] + [request.target]
    if crowd(after) > crowd(before):
        others = [node for node in before if node != request.source]
        shared = next(node for node in others if _domain(state, node) == _domain(state, request.target))
        taken = {_domain(state, node) for node in others}
        fit = [row.id for row in _candidates(situation, shard) if _domain(state, row.id) not in taken]
        raise Refused(
            Why.REFUSED,
            f"nodes {request.target} and {shared} are in one failure domain ({_domain_name(state, shared)}), and shard "
            f"{shard.id} would lose both replicas with it: {_choice(fit)}",
        )


def _check_regions(request: MoveReplica, shard: Shard, situation: Situation) -> None:
    state = situation.state
    policy = state.policies.get(shard.keyspace)
    if policy is None:
        return
    after = [node for node in shard.replicas if node != request.source] + [request.target]
    for region, needed in policy.required.items():
        held = sum(state.nodes[node].region == region for node in after if node in state.nodes)
        if held < needed and state.nodes[request.source].region == region:
            fit = [row.id for row in _candidates(situation, shard) if row.region == region]
            raise Refused(
                Why.REFUSED,
                f"shard {shard.id} would have {held} replicas in region {region}, and its keyspace requires {needed}: "
                f"{_choice(fit)}",
            )


def _move_steps(work: MoveReplica, situation: Situation) -> tuple[str, ...]:
    leader = situation.observed.leader(work.shard)
    lines = []
    if work.target:
        lines += [
            f"route shard {work.shard} to {work.target} as well",
            f"add {work.target} as a follower, and let it catch up by snapshot and log",
        ]
        if work.voter:
            lines.append(f"promote {work.target} to a voter")
    if work.source:
        if leader is not None and leader.node == work.source:
            lines.append(f"hand the leadership from {work.source} to {work.target or 'another voter'}")
        if work.voter:
            lines.append(f"take the vote from {work.source}")
        lines += [f"remove {work.source} from the shard", f"delete the replica on {work.source}"]
    return tuple(lines)


def transfer(request: MoveLeader, situation: Situation) -> Accepted:
    state = situation.state
    shard = known_shard(state, request.shard)
    target = known_node(state, request.target)
    check_idle(state, shard.id)
    leader = situation.observed.leader(shard.id)
    voters = leader.voters if leader is not None else shard.voters
    if target.id not in voters:
        raise Refused(
            Why.REFUSED, f"node {target.id} is no voter of shard {shard.id}: its voters are {', '.join(voters)}"
        )
    if target.state is not NodeState.ACTIVE:
        raise Refused(Why.REFUSED, f"node {target.id} is {target.state}, and should lead nothing")
    leader = known_leader(situation, shard.id)
    status = situation.observed.fresh(target.id)
    if status is None:
        raise Refused(Why.REFUSED, f"node {target.id} does not answer: {_others(voters, target.id)}")
    if status.not_leading:
        raise Refused(
            Why.REFUSED, f"node {target.id} takes no leaderships: {status.not_leading}; {_others(voters, target.id)}"
        )
    line = f"{leader.node} hands the leadership of shard {shard.id} to {target.id}"
    steps = (line,) if leader.node != target.id else (f"{target.id} leads shard {shard.id} already",)
    return accept(situation, request, Step.QUEUED, steps=steps)


def _others(voters: tuple[str, ...], target: str) -> str:
    others = [voter for voter in voters if voter != target]
    return f"the other voters are {listed(others)}" if others else "it is the only voter"


def _candidates(situation: Situation, shard: Shard) -> list[NodeRow]:
    """Return the nodes that could take a replica now, as far as their places allow it."""
    return [
        row
        for row in situation.state.nodes.values()
        if row.state is NodeState.ACTIVE
        and row.id not in shard.replicas
        and (status := situation.observed.fresh(row.id)) is not None
        and not status.not_writable
    ]


def _free(situation: Situation, shard: Shard, target: str) -> str:
    fit = [row.id for row in _candidates(situation, shard) if row.id != target]
    return f"choose {_one_of(fit)}" if fit else "no active node is free to take it: add one"


def _choice(fit: list[str]) -> str:
    return f"choose {_one_of(fit)}" if fit else "add a node elsewhere first"


def _one_of(fit: list[str]) -> str:
    return fit[0] if len(fit) == 1 else f"one of {listed(sorted(fit))}"


def _domain(state: ClusterState, node: str) -> tuple[str, str, str]:
    row = state.nodes.get(node)
    if row is None or not row.zone:
        return ("", "", node)
    return (row.region, row.zone, "")


def _domain_name(state: ClusterState, node: str) -> str:
    row = state.nodes[node]
    return f"zone {row.zone} of region {row.region}" if row.region else f"zone {row.zone}"

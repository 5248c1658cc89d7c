"""`why`: why each replica and the leader of a shard are where they are, in lines an operator can read."""

from __future__ import annotations

from dataclasses import dataclass

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.constraints import WORDS, Obstacle, crowding, shortage, to_lead, to_place
from shoal_shardmanager.placement.context import Context
from shoal_shardmanager.placement.model import NodeState, Role, State
from shoal_shardmanager.placement.objective import (
    move_gain,
    move_price,
    noise,
    preference,
    preference_after_move,
    preference_after_transfer,
    transfer_gain,
)
from shoal_shardmanager.placement.settings import Budget, Settings
from shoal_shardmanager.placement.targets import Targets
from shoal_shardmanager.placement.wording import counted

ALTERNATIVES = 3  # the best allowed nodes that are named for each replica
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another node for a replica or the leadership. `gain` is None where a hard constraint forbids it.

    A gain is in squared average replicas; it must be above the price (see objective.py) to be worth a move.
    """

    node: str
    verdict: str
    gain: float | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """One replica, or the leadership: where it is, what is said of that, which other nodes were weighed."""

    subject: str
    node: str
    because: str
    alternatives: tuple[Alternative, ...]
    refused: str


@dataclass(frozen=True, slots=True)
class Explanation:
    shard: int
    summary: str
    placed: tuple[Placed, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The whole, as text."""
        lines = [f"shard {self.shard}: {self.summary}"]
        for item in self.placed:
            lines.append(f"{item.subject} on {item.node}: {item.because}")
            lines += [f"  {alternative.node}: {alternative.verdict}" for alternative in item.alternatives]
            if item.refused:
                lines.append(f"  {item.refused}")
        return tuple(lines)


def why(state: State, settings: Settings, shard_id: int) -> Explanation:
    """Explain a shard's placement; `KeyError` where there is no such shard."""
    board = Board(state, settings)
    shard = board.shard_index[shard_id]
    context = Context(board, settings, Budget(), 0)
    targets = Targets(context)
    replicas = [
        _replica(context, targets, shard, node, role)
        for role, members in ((Role.VOTER, board.voters[shard]), (Role.FOLLOWER, board.followers[shard]))
        for node in members
    ]
    leader = board.leader[shard]
    ends = (_leadership(context, shard, leader),) if leader != NOBODY else ()
    return Explanation(shard_id, _summary(context, shard), (*replicas, *ends))


def _summary(context: Context, shard: int) -> str:
    board = context.board
    rules = board.rules[board.keyspace[shard]]
    crowded, short = crowding(board, shard), shortage(board, shard)
    parts = [
        f"keyspace {rules.keyspace.name or rules.keyspace.id}",
        f"{len(board.voters[shard])} of {rules.voters} voters",
        f"{len(board.followers[shard])} of {rules.followers} followers",
    ]
    if board.locked[shard]:
        parts.append("an operation is on it, so placement leaves it alone")
    if board.leader[shard] == NOBODY:
        parts.append("no leader is known: its voters elect one by themselves")
    if crowded:
        parts.append(f"{crowded} pairs of replicas share a failure domain without need")
    if short:
        parts.append(f"{short} replicas are missing in required regions")
    return ", ".join(parts)


def _replica(context: Context, targets: Targets, shard: int, node: int, role: Role) -> Placed:
    board = context.board
    allowed: list[tuple[float, float, int]] = []
    for other in range(len(board.count)):
        if to_place(board, shard, other, role, node) is Obstacle.OK:
            worse = preference_after_move(board, shard, node, other) - preference(board, shard)
            allowed.append((round(worse, 9), -move_gain(board, shard, node, other), other))
    allowed.sort()
    price = move_price(board, shard)
    needed = price + noise(board, shard, leads=board.leader[shard] == node)
    alternatives = tuple(
        Alternative(context.name(other), _verdict(worse, -negative, price, needed), -negative)
        for worse, negative, other in allowed[:ALTERNATIVES]
    )
    obstacles = targets.obstacles(shard, node, role)
    obstacles.pop(Obstacle.OK, None)
    refused = f"not allowed: of the other nodes {counted(obstacles)}; allowed: {len(allowed)}" if obstacles else ""
    return Placed(str(role), context.name(node), _because(board, node, allowed, price), alternatives, refused)


def _because(board: Board, node: int, allowed: list[tuple[float, float, int]], price: float) -> str:
    place = f"{board.domains.names[board.domain[node]]}, {board.count[node]} replicas there"
    if board.nodes[node].closed:
        place += f"; the node is given nothing new: {board.nodes[node].closed}"
    if board.gone[node]:
        return f"{place}; the node is gone: to be replaced"
    if not board.active[node]:
        return f"{place}; the node is draining: to be moved"
    if not allowed:
        return f"{place}; no other node is allowed"
    worse, negative, _ = allowed[0]
    if worse < -EPSILON:
        return f"{place}; another region would be preferred"
    if worse > EPSILON:
        return f"{place}; every other node is in a region less preferred"
    if -negative < price:
        return f"{place}; no move would even the cluster out enough to be worth the copying"
    return f"{place}; elsewhere it would even the cluster out: `shoal rebalance` moves it, unless other moves do more"


def _verdict(worse: float, gain: float, price: float, needed: float) -> str:
    if worse > EPSILON:
        return "allowed, but its region is less preferred"
    if worse < -EPSILON:
        return "allowed, and its region is preferred"
    if gain <= 0:
        return "allowed, but nothing would be more even than now"
    if gain < price:
        return f"allowed, but evens out too little to be worth it (a gain of {gain:.3g}, and {price:.3g} is the least)"
    if gain < needed:
        return f"allowed, but the loads differ by so little that they are left alone (a gain of {gain:.3g} of {needed:.3g})"
    return f"allowed, and worth it (a gain of {gain:.3g}, and {price:.3g} is the least)"


def _leadership(context: Context, shard: int, leader: int) -> Placed:
    board = context.board
    now = preference(board, shard)
    alternatives: list[Alternative] = []
    best = 0.0
    for node in board.voters[shard]:
        if node == leader:
            continue
        obstacle = to_lead(board, shard, node)
        if obstacle is not Obstacle.OK:
            alternatives.append(Alternative(context.name(node), _why_not_to_lead(board, node, obstacle)))
            continue
        gain = transfer_gain(board, shard, node)
        worse = preference_after_transfer(board, shard, node) - now
        cost = context.settings.transfer_cost
        verdict = _verdict(worse, gain, cost, cost + noise(board, shard, leads=True))
        alternatives.append(Alternative(context.name(node), verdict, gain))
        best = max(best, gain) if worse <= EPSILON else best
    region = board.domains.region_names[board.region[leader]]
    because = f"leads {board.lead[leader]} shards" + (f", in region {region}" if region else "")
    if not board.leads[leader]:
        because += f"; the node should lead nothing, and hands over: {_why_not_to_lead(board, leader, Obstacle.OK)}"
    elif best > context.settings.transfer_cost:
        because += (
            "; another leader would be more even: `shoal rebalance` hands it over, unless other transfers do more"
        )
    return Placed("leader", context.name(leader), because, tuple(alternatives), "")


def _why_not_to_lead(board: Board, node: int, obstacle: Obstacle) -> str:
    """Return what the node itself says against it, or else the obstacle in words."""
    known = board.nodes[node]
    if known.state is not NodeState.ACTIVE:
        return f"is {known.state}"
    if reason := known.closed or known.not_leading:
        return f"{WORDS[Obstacle.NOT_LEADING]}: {reason}"
    return WORDS[obstacle]

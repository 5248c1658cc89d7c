"""`initial`: the first placement of new shards, by the same constraints and the same objective as everything after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.constraints import Obstacle, to_lead
from shoal_shardmanager.placement.context import Context, Tier
from shoal_shardmanager.placement.model import NO_LOAD, Load, Refusal, Role, Shard, State
from shoal_shardmanager.placement.objective import preference_after_transfer, transfer_gain
from shoal_shardmanager.placement.planner import even
from shoal_shardmanager.placement.preferences import follow_preferences
from shoal_shardmanager.placement.settings import Budget, Settings
from shoal_shardmanager.placement.targets import Targets
from shoal_shardmanager.placement.wording import against, remedy


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard to place. `load` is what it is expected to carry; nothing is known of most new ones."""

    id: int
    keyspace: int
    load: Load = NO_LOAD


@dataclass(frozen=True, slots=True)
class FirstPlacement:
    """The new shards in the order asked for, the leader first among the voters; refusals where replicas are missing."""

    shards: tuple[Shard, ...]
    refusals: tuple[Refusal, ...]


def initial(
    state: State, settings: Settings, wanted: Sequence[NewShard], budget: Budget | None = None, seed: int = 0
) -> FirstPlacement:
    """Place `wanted`, keyspaces of `state`, beside the shards there are, which stay where they are.

    A shard that cannot have all its replicas gets as many as the constraints allow, and a refusal.
    """
    empty = tuple(Shard(new.id, new.keyspace, (), load=new.load) for new in wanted)
    board = Board(State(state.nodes, state.keyspaces, state.shards + empty), settings)
    first = len(state.shards)
    board.locked[:first] = [True] * first
    context = Context(board, settings, budget or Budget(), seed)
    targets = Targets(context)
    for shard in range(first, len(board.keyspace)):
        _place(context, targets, shard)
    follow_preferences(context, targets)
    even(context, targets)
    placed = tuple(_placed(board, shard, new) for shard, new in enumerate(empty, start=first))
    return FirstPlacement(placed, tuple(context.refusals))


def _place(context: Context, targets: Targets, shard: int) -> None:
    board = context.board
    rules = board.rules[board.keyspace[shard]]
    for role, wanted in ((Role.VOTER, rules.voters), (Role.FOLLOWER, rules.followers)):
        for number in range(wanted):
            target = targets.best(shard, NOBODY, role)
            if target == NOBODY:
                obstacles = targets.obstacles(shard, NOBODY, role)
                context.refuse(
                    context.shard_name(shard),
                    f"{wanted - number} {role}s have no place: {against(obstacles)}",
                    remedy(obstacles),
                )
                break
            context.add(shard, target, role, Tier.LOST, "new")
    able = [node for node in board.voters[shard] if to_lead(board, shard, node) is Obstacle.OK]
    if able:
        context.transfer(
            shard,
            min(
                able,
                key=lambda node: (preference_after_transfer(board, shard, node), -transfer_gain(board, shard, node)),
            ),
            Tier.LOST,
            "new",
        )


def _placed(board: Board, shard: int, new: Shard) -> Shard:
    leader = board.leader[shard]
    voters = sorted(board.voters[shard], key=lambda node: node != leader)
    names = board.id_of_node
    return Shard(
        new.id,
        new.keyspace,
        tuple(names[node] for node in voters),
        tuple(names[node] for node in board.followers[shard]),
        names[leader] if leader != NOBODY else "",
        new.load,
    )

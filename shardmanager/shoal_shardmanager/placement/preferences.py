"""Brings leaders, voters and followers to the regions their keyspaces prefer, and voters to distinct regions."""

from __future__ import annotations

from shoal_shardmanager.placement.board import NOBODY
from shoal_shardmanager.placement.constraints import Obstacle, to_lead
from shoal_shardmanager.placement.context import Context, Tier
from shoal_shardmanager.placement.model import Role
from shoal_shardmanager.placement.objective import (
    preference,
    preference_after_move,
    preference_after_transfer,
    transfer_gain,
)
from shoal_shardmanager.placement.targets import Targets

EPSILON = 1e-9


def follow_preferences(context: Context, targets: Targets) -> None:
    """Better each shard's preference cost step by step: a transfer where one helps, since it is cheap, else a move."""
    board = context.board
    for shard, keyspace in enumerate(board.keyspace):
        floor = board.rules[keyspace].preference_min + EPSILON
        if board.locked[shard] or preference(board, shard) <= floor:
            continue
        while not context.stopped and (_transfer(context, shard) or _move(context, targets, shard)):
            pass
        if context.stopped:
            return


def _transfer(context: Context, shard: int) -> bool:
    board = context.board
    if board.leader[shard] == NOBODY:
        return False
    now = preference(board, shard)
    able = [
        (preference_after_transfer(board, shard, node), -transfer_gain(board, shard, node), node)
        for node in board.voters[shard]
        if node != board.leader[shard] and to_lead(board, shard, node) is Obstacle.OK
    ]
    if not able or min(able)[0] >= now - EPSILON:
        return False
    target = min(able)[2]
    region = board.domains.region_names[board.region[target]]
    context.transfer(shard, target, Tier.PREFERENCE, f"its keyspace prefers leaders in {region}")
    return True


def _move(context: Context, targets: Targets, shard: int) -> bool:
    board = context.board
    best = (preference(board, shard) - EPSILON, NOBODY, NOBODY)
    for role, members in ((Role.VOTER, board.voters[shard]), (Role.FOLLOWER, board.followers[shard])):
        for source in members:
            target = targets.best(shard, source, role) if board.active[source] else NOBODY
            if target != NOBODY and context.affordable(shard, source, target, role):
                best = min(best, (preference_after_move(board, shard, source, target), source, target))
    _, source, target = best
    if source == NOBODY:
        return False
    region = board.domains.region_names[board.region[target]]
    where = f"region {region}" if region else "a node of no region"
    context.move(shard, source, target, Tier.PREFERENCE, f"spread and preferences of its keyspace: to {where}")
    return True

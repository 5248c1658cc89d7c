"""What must be put right whatever it costs in evenness: lost and surplus replicas, broken constraints, drains.

Each repair takes the best target there is and never breaks another constraint for it; where none is allowed it says
what stands against it, and leaves things as they are.
"""

from __future__ import annotations

from shoal_shardmanager.placement.board import NOBODY
from shoal_shardmanager.placement.constraints import (
    Obstacle,
    crowding,
    faults_after,
    overfull,
    shortage,
    to_lead,
)
from shoal_shardmanager.placement.context import Context, Tier
from shoal_shardmanager.placement.model import Role
from shoal_shardmanager.placement.objective import preference_after_transfer, release, transfer_gain
from shoal_shardmanager.placement.targets import Targets
from shoal_shardmanager.placement.wording import against, remedy


def replace_lost(context: Context, targets: Targets) -> None:
    """Replace replicas on gone nodes and add missing ones, beginning with the shards that have the least left."""
    board = context.board
    damaged: list[tuple[int, int]] = []
    for shard, keyspace in enumerate(board.keyspace):
        rules, voters, followers = board.rules[keyspace], board.voters[shard], board.followers[shard]
        live = sum(not board.gone[node] for node in voters)
        if (
            live < max(len(voters), rules.voters)
            or len(followers) < rules.followers
            or any(board.gone[node] for node in followers)
        ):
            damaged.append((live, shard))
    for live, shard in sorted(damaged):
        if context.stopped:
            break
        if board.locked[shard]:
            context.refuse(
                context.shard_name(shard),
                "it lacks replicas, but an operation is on it",
                "let the operation end, or cancel it",
            )
        elif 2 * live <= len(board.voters[shard]):
            # A change of members is itself decided by a quorum; without one nothing can be replaced.
            context.refuse(
                context.shard_name(shard),
                f"it has no quorum: {live} of {len(board.voters[shard])} voters are left, so its members cannot change",
                "bring a lost node back with its data, or restore the shard from a backup",
            )
        else:
            _mend(context, targets, shard)


def _mend(context: Context, targets: Targets, shard: int) -> None:
    board = context.board
    rules = board.rules[board.keyspace[shard]]
    for role, members, wanted in (
        (Role.VOTER, board.voters[shard], rules.voters),
        (Role.FOLLOWER, board.followers[shard], rules.followers),
    ):
        for node in [node for node in members if board.gone[node]]:
            if len(members) > wanted:
                context.remove(shard, node, Tier.LOST, f"{context.name(node)} is gone, and one {role} is too many")
            else:
                _replace(context, targets, shard, node, role, Tier.LOST, f"{context.name(node)} is gone")
        while len(members) < wanted:
            target = targets.best(shard, NOBODY, role)
            if target == NOBODY or not context.affordable(shard, NOBODY, target, role):
                _refuse(context, targets, shard, NOBODY, role, f"a {role} is missing", target)
                break
            context.add(shard, target, role, Tier.LOST, f"it has {len(members)} of {wanted} {role}s")


def _replace(context: Context, targets: Targets, shard: int, source: int, role: Role, tier: Tier, reason: str) -> bool:
    target = targets.best(shard, source, role)
    if target == NOBODY or not context.affordable(shard, source, target, role):
        _refuse(context, targets, shard, source, role, reason, target)
        return False
    context.move(shard, source, target, tier, reason)
    return True


def _refuse(context: Context, targets: Targets, shard: int, source: int, role: Role, reason: str, target: int) -> None:
    if target != NOBODY:
        context.refuse(
            context.shard_name(shard),
            f"{reason}: {context.stopped or 'the budget of bytes is used up'}",
            "plan again when this plan is done, or raise the budget",
        )
    elif len(context.refusals) < context.settings.refusals_max:
        obstacles = targets.obstacles(shard, source, role)
        context.refuse(context.shard_name(shard), f"{reason}, but {against(obstacles)}", remedy(obstacles))
    else:
        context.refused += 1


def remove_surplus(context: Context) -> None:
    """Remove replicas beyond those asked for: on draining nodes first, then where they are least use."""
    board = context.board
    for shard, keyspace in enumerate(board.keyspace):
        rules = board.rules[keyspace]
        for role, members, wanted in (
            (Role.VOTER, board.voters[shard], rules.voters),
            (Role.FOLLOWER, board.followers[shard], rules.followers),
        ):
            while len(members) > wanted and not board.locked[shard]:
                faults = crowding(board, shard) + shortage(board, shard)
                free = [
                    node
                    for node in members
                    if node != board.leader[shard]
                    and not board.gone[node]
                    and faults_after(board, shard, node, NOBODY, role) <= faults
                ]
                live = sum(not board.gone[node] for node in members)
                if not free or (role is Role.VOTER and 2 * live <= len(members)):
                    context.refuse(
                        context.shard_name(shard), f"it has {len(members)} {role}s of {wanted}, none to spare", "wait"
                    )
                    break
                victim = min(
                    free,
                    key=lambda node: (
                        board.active[node],
                        faults_after(board, shard, node, NOBODY, role),
                        -release(board, shard, node, leads=False),
                    ),
                )
                context.remove(shard, victim, Tier.HARD, f"it has {len(members)} {role}s of {wanted}")


def mend_constraints(context: Context, targets: Targets) -> None:
    """Move replicas out of crowded domains and into regions that lack them; empty what is overfull."""
    board = context.board
    for shard in range(len(board.keyspace)):
        faults = crowding(board, shard) + shortage(board, shard)
        while faults and not context.stopped:
            if board.locked[shard]:
                context.refuse(
                    context.shard_name(shard), "badly spread, but an operation is on it", "let the operation end"
                )
                break
            better = _best_mending(context, targets, shard, faults)
            if better is None:
                break
            faults, source, target = better
            context.move(shard, source, target, Tier.HARD, "its replicas shared a failure domain or a region was short")
    for node in board.active_nodes():
        if overfull(board, node):
            _relieve(context, targets, node)


def _best_mending(context: Context, targets: Targets, shard: int, faults: int) -> tuple[int, int, int] | None:
    board = context.board
    best: tuple[int, int, int] | None = None
    for role, members in ((Role.VOTER, board.voters[shard]), (Role.FOLLOWER, board.followers[shard])):
        for source in members:
            target = NOBODY if board.gone[source] else targets.best(shard, source, role)
            if target == NOBODY:
                continue
            after = faults_after(board, shard, source, target, role)
            if after < faults and (best is None or after < best[0]) and context.affordable(shard, source, target, role):
                best = (after, source, target)
    if best is None:
        short = shortage(board, shard)
        context.refuse(
            context.shard_name(shard),
            f"{short} replicas are missing in required regions and no node there may take one"
            if short
            else "replicas share a failure domain and no node elsewhere may take one",
            "add nodes or room in the required region" if short else "add nodes or room in other zones",
        )
    return best


def _relieve(context: Context, targets: Targets, node: int) -> None:
    """Move replicas off a node above its disk space or seats, the largest first."""
    board = context.board
    for shard in sorted(board.on[node], key=lambda shard: (-board.size[shard], shard)):
        if context.stopped or not overfull(board, node):
            return
        if board.locked[shard] or node in board.extra[shard]:
            continue
        role = board.role_of(shard, node)
        target = targets.best(shard, node, role)
        if target != NOBODY and context.affordable(shard, node, target, role):
            context.move(shard, node, target, Tier.HARD, f"{context.name(node)} is above its space or its replicas_max")
    if overfull(board, node):
        context.refuse(
            f"node {context.name(node)}", "it is above its space or its replicas_max", "add nodes or disk space"
        )


def drain(context: Context, targets: Targets) -> None:
    """Empty the draining nodes; where a replica must stay, at least its leadership goes."""
    board = context.board
    for node in range(len(board.count)):
        if board.active[node] or board.gone[node]:
            continue
        left, busy = 0, 0
        for shard in sorted(board.on[node]):
            if board.locked[shard] or node in board.extra[shard]:
                busy += 1
                continue
            if context.stopped:
                left += 1
                continue
            reason = f"{context.name(node)} is draining"
            if board.leader[shard] == node and targets.best(shard, node, Role.VOTER) == NOBODY:
                _hand_over(context, shard, reason)  # what may hold the replica need not be able to lead it
            if not _replace(context, targets, shard, node, board.role_of(shard, node), Tier.DRAIN, reason):
                left += 1
                _hand_over(context, shard, reason)
        if left or busy:
            words = [f"{left} replicas have nowhere to go"] * bool(left)
            words += [f"{busy} are under an operation"] * bool(busy)
            if context.stopped and left:
                words.append(context.stopped)
            context.refuse(
                f"node {context.name(node)}",
                "it will not be empty: " + ", ".join(words),
                "see the refusals of its shards" if left and not context.stopped else "plan again afterwards",
            )


def _hand_over(context: Context, shard: int, reason: str) -> None:
    """Move the leadership off a draining node, to the voter where it does best."""
    board = context.board
    if board.leader[shard] == NOBODY or board.active[board.leader[shard]]:
        return
    able = [node for node in board.voters[shard] if to_lead(board, shard, node) is Obstacle.OK]
    if able:
        best = min(
            able,
            key=lambda node: (preference_after_transfer(board, shard, node), -transfer_gain(board, shard, node)),
        )
        context.transfer(shard, best, Tier.DRAIN, reason)

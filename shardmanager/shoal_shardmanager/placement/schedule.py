"""Turns where the search ended into steps: only what differs, in an order that is safe, in waves within the caps.

The search may move a replica twice; the plan moves it once, from where it is to where it ends. Each step is checked
again, against the placement at its turn, where copies on their way out of a node still take their room. A step that is
not allowed yet waits for a later wave; what never becomes allowed is dropped and said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shoal_shardmanager.placement.board import NOBODY
from shoal_shardmanager.placement.constraints import Obstacle, faults_after, to_lead, to_place
from shoal_shardmanager.placement.context import LEADS, Context
from shoal_shardmanager.placement.model import AddReplica, MoveReplica, PlannedStep, RemoveReplica, Role, TransferLeader

WINDOW = 512  # shards that wait and are looked at for one wave, beyond those that start in it


@dataclass(frozen=True, slots=True)
class PlacementChange:
    """A step by number; source NOBODY: an addition, target NOBODY: a removal, role None: a transfer."""

    role: Role | None
    source: int
    target: int


Members = tuple[tuple[int, ...], tuple[int, ...]]


def schedule(context: Context, leaders_before: list[int]) -> tuple[PlannedStep, ...]:
    """Return the steps from the board's origin to where it is; the board ends where the steps do."""
    board = context.board
    order = sorted(context.changed, key=context.changed.__getitem__)
    waiting: deque[tuple[int, list[PlacementChange]]] = deque()
    for shard in order:
        after: Members = (tuple(board.voters[shard]), tuple(board.followers[shard]))
        changes = _changes(context, shard, after, leaders_before[shard], board.leader[shard])
        _rewind(context, shard, leaders_before[shard])
        if changes:
            waiting.append((shard, changes))
    return _Waves(context).run(waiting)


def _rewind(context: Context, shard: int, leader: int) -> None:
    """Put the shard back where it was when planning began."""
    board = context.board
    voters, followers = board.origin[shard]
    board.restore(shard, voters, followers, leader)


def _changes(context: Context, shard: int, after: Members, leader: int, leader_after: int) -> list[PlacementChange]:
    """Return the fewest steps between two placements of a shard, a move for each replica that goes and one that comes.

    Those that stay in their failure domain are paired first, so that no step on the way crowds one.
    """
    changes: list[PlacementChange] = []
    removals: list[PlacementChange] = []
    for role, old, new in zip((Role.VOTER, Role.FOLLOWER), context.board.origin[shard], after, strict=True):
        leaving = [node for node in old if node not in new]
        coming = [node for node in new if node not in old]
        domain = context.board.domain
        if leader in leaving and leader_after in coming and domain[leader] == domain[leader_after]:
            changes.append(PlacementChange(role, leader, leader_after))
            leaving.remove(leader)
            coming.remove(leader_after)
        for source, target in _pairs(context, leaving, coming):
            changes.append(PlacementChange(role, source, target))
            leaving.remove(source)
            coming.remove(target)
        changes += [PlacementChange(role, NOBODY, target) for target in coming]
        removals += [PlacementChange(role, source, NOBODY) for source in leaving]
    changes += removals
    taken = next((change.target for change in changes if change.source == leader != NOBODY), leader)
    if leader_after not in (taken, NOBODY):
        # Before the moves where it can be, so that the old leader's replica goes without it.
        first = leader_after in context.board.origin[shard][0]
        changes.insert(0 if first else len(changes), PlacementChange(None, leader, leader_after))
    return changes


def _pairs(context: Context, leaving: list[int], coming: list[int]) -> list[tuple[int, int]]:
    board, found = context.board, []
    leaving, coming = list(leaving), list(coming)
    for group in (board.domain, board.region, [0] * len(board.domain)):
        for source in list(leaving):
            target = next((node for node in coming if group[node] == group[source]), NOBODY)
            if target != NOBODY:
                found.append((source, target))
                leaving.remove(source)
                coming.remove(target)
    return found


class _Waves:
    """Fills one wave after the other."""

    def __init__(self, context: Context) -> None:
        self._context, self._board = context, context.board
        self._caps = context.settings.caps
        self._steps: list[PlannedStep] = []
        self._wave = 0
        self._copies = 0
        self._transfers = 0
        self._at_node: dict[int, int] = {}
        self._leaving: dict[int, tuple[int, int]] = {}  # node -> replicas and bytes that go when the wave ends
        # What is under way already takes its part of the first wave. Later ones presume that it has ended.
        for shard, nodes in enumerate(self._board.extra):
            if self._board.locked[shard] and nodes:
                self._copies += len(nodes)
                for node in nodes:
                    self._at_node[node] = self._at_node.get(node, 0) + 1

    def run(self, waiting: deque[tuple[int, list[PlacementChange]]]) -> tuple[PlannedStep, ...]:
        window = WINDOW
        while waiting:
            kept: list[tuple[int, list[PlacementChange]]] = []
            started = looked = 0
            while waiting and looked < window and not self._full():
                shard, changes = waiting.popleft()
                before = len(changes)
                self._start(shard, changes)
                started += before - len(changes)
                looked += before == len(changes)
                if changes:
                    kept.append((shard, changes))
            waiting.extendleft(reversed(kept))
            empty_start = self._wave == 0 and not started and self._copies > 0
            if not started and not empty_start:
                if window >= len(waiting):
                    self._give_up(waiting)
                    break
                window = len(waiting)
                continue
            window = WINDOW
            self._wave += 1
            self._copies = self._transfers = 0
            self._at_node.clear()
            self._leaving.clear()
        return tuple(self._steps)

    def _full(self) -> bool:
        return self._copies >= self._caps.per_cluster and self._transfers >= self._caps.transfers

    def _start(self, shard: int, changes: list[PlacementChange]) -> None:
        """Start the first changes of the shard that are allowed now; transfers and removals go alone."""
        started = 0
        for change in list(changes):
            copies = change.role is not None and change.target != NOBODY
            if started and not copies:
                break
            if self._allowed(shard, change):
                self._apply(shard, change)
                changes.remove(change)
                started += 1
                if not copies or started >= self._caps.per_shard:
                    break
            elif not copies:
                continue

    def _allowed(self, shard: int, change: PlacementChange) -> bool:
        board, role = self._board, change.role
        if role is None:
            return self._transfers < self._caps.transfers and to_lead(board, shard, change.target) is Obstacle.OK
        if change.target == NOBODY:
            return board.leader[shard] != change.source and faults_after(
                board, shard, change.source, NOBODY, role
            ) <= faults_after(board, shard, NOBODY, NOBODY, role)
        if self._copies >= self._caps.per_cluster:
            return False
        at_node, cap = self._at_node, self._caps.per_node
        if at_node.get(change.source, 0) >= cap or at_node.get(change.target, 0) >= cap:
            return False
        leaving = self._leaving.get(change.target, (0, 0))
        return to_place(board, shard, change.target, role, change.source, leaving=leaving) is Obstacle.OK

    def _apply(self, shard: int, change: PlacementChange) -> None:
        board, context = self._board, self._context
        number, role, size = board.id_of_shard[shard], change.role, board.size[shard]
        about = LEADS if role is None else change.target if change.target != NOBODY else change.source
        reason = context.reasons.get((shard, about)) or context.latest[shard]
        source = context.name(change.source) if change.source != NOBODY else ""
        target = context.name(change.target) if change.target != NOBODY else ""
        if role is None:
            self._transfers += 1
            source = context.name(board.leader[shard])
            self._steps.append(TransferLeader(number, source, target, reason, self._wave))
            board.transfer(shard, change.target)
            return
        if change.target == NOBODY:
            self._steps.append(RemoveReplica(number, role, source, reason, self._wave))
            board.remove(shard, change.source)
            return
        self._copies += 1
        self._at_node[change.target] = self._at_node.get(change.target, 0) + 1
        if change.source == NOBODY:
            self._steps.append(AddReplica(number, role, target, size, reason, self._wave))
            board.add(shard, change.target, role)
            return
        self._at_node[change.source] = self._at_node.get(change.source, 0) + 1
        replicas, in_bytes = self._leaving.get(change.source, (0, 0))
        self._leaving[change.source] = (replicas + 1, in_bytes + size)
        leads = board.leader[shard] == change.source
        self._steps.append(MoveReplica(number, role, source, target, size, reason, leads, self._wave))
        board.move(shard, change.source, change.target)

    def _give_up(self, waiting: deque[tuple[int, list[PlacementChange]]]) -> None:
        for shard, changes in waiting:
            self._context.refuse(
                self._context.shard_name(shard),
                f"{len(changes)} steps of it would each have to wait for the other",
                "plan again when this plan is done, or add room",
            )

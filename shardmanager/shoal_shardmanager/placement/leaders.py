"""Evens leaderships by transfers, which copy nothing: single ones, then chains where no single one helps.

A chain (an augmenting path, as in bipartite matching) passes one leadership along from a node with too many to one with
too few: n1 gives n2 one, n2 gives n3 another. Found by breadth-first search; kept only if it gains as a whole.
"""

from __future__ import annotations

from collections import deque

from shoal_shardmanager.placement.board import NOBODY
from shoal_shardmanager.placement.constraints import Obstacle, to_lead
from shoal_shardmanager.placement.context import Context, Tier
from shoal_shardmanager.placement.objective import (
    noise,
    preference,
    preference_after_transfer,
    transfer_gain,
)

EPSILON = 1e-9
SWEEPS_MAX = 8
CHAIN_LOOKS_MAX = 20_000  # leaderships looked at for one chain
CHAIN_LOOKS_PER_SHARD = 10  # and for all chains of one keyspace
CHAIN_FAILURES_MAX = 10  # chains in a row that do not gain: loads speak against them

Link = tuple[int, int]  # (shard, the node that takes its leadership)


def even_leaders(context: Context) -> int:
    """Transfer leaderships until nothing is gained; return how many changed hands."""
    board, changed = context.board, 0
    order = sorted({shard for node in context.touched for shard in board.on[node]})
    context.touched.clear()
    context.rng.shuffle(order)
    for _ in range(SWEEPS_MAX):
        touched = _sweep(context, order)
        if not touched:
            touched = _chains(context)
        changed += len(touched)
        if not touched or context.stopped:
            break
        # Only where a node's leaders have changed can there be something new to gain.
        order = sorted({shard for node in touched for shard in board.on[node]})
        context.rng.shuffle(order)
    return changed


def _sweep(context: Context, order: list[int]) -> set[int]:
    """Look at each of the shards once; return the nodes whose leaderships changed."""
    board = context.board
    touched: set[int] = set()
    for shard in order:
        source = board.leader[shard]
        if source == NOBODY or board.locked[shard]:
            continue
        if context.stopped:
            break
        context.look(1)
        if _transfer(context, shard, source):
            touched |= {source, board.leader[shard]}
    return touched


def _transfer(context: Context, shard: int, source: int) -> bool:
    """Give the shard's leadership to its best voter, if that gains enough."""
    board = context.board
    keyspace, fair = board.keyspace[shard], board.inv[source][4]
    cost = context.settings.transfer_cost
    best, chosen = 0.0, NOBODY
    for target in board.voters[shard]:
        if target == source:
            continue
        gain = transfer_gain(board, shard, target)
        if gain <= max(best, cost):
            continue
        inv = board.inv[target][4]
        uneven = (
            board.lead[source] * fair - board.lead[target] * inv > inv
            or board.ruled[source].get(keyspace, 0) * fair - board.ruled[target].get(keyspace, 0) * inv > inv
        )
        if not uneven and gain < cost + noise(board, shard, leads=True):
            continue
        if to_lead(board, shard, target) is Obstacle.OK and _kept_preferred(context, shard, target):
            best, chosen = gain, target
    if chosen == NOBODY:
        return False
    reason = (
        f"{context.name(source)} leads {board.lead[source]} shards, {context.name(chosen)} {board.lead[chosen]} "
        f"(gain {best:.3g})"
    )
    context.transfer(shard, chosen, Tier.EVEN, reason)
    return True


def _kept_preferred(context: Context, shard: int, target: int) -> bool:
    board = context.board
    if not board.rules[board.keyspace[shard]].keyspace.leader_regions:
        return True
    return preference_after_transfer(board, shard, target) <= preference(board, shard) + EPSILON


def _chains(context: Context) -> set[int]:
    """Even each keyspace, then all together, by chains; return the nodes whose leaderships changed."""
    board = context.board
    touched: set[int] = set()
    for keyspace in range(len(board.rules)):
        led: dict[int, set[int]] = {}
        for shard in board.shards_of[keyspace]:
            if board.leader[shard] != NOBODY:
                led.setdefault(board.leader[shard], set()).add(shard)
        touched |= _Chains(context, keyspace, led).even()
    return touched | _Chains(context, NOBODY, {node: set(led) for node, led in enumerate(board.led) if led}).even()


class _Chains:
    """Evens the leaderships of one keyspace, or of all (keyspace NOBODY); `led` is node -> shards it leads of them."""

    __slots__ = ("_board", "_context", "_hopeless", "_keyspace", "_led", "_looks")

    def __init__(self, context: Context, keyspace: int, led: dict[int, set[int]]) -> None:
        self._context, self._board = context, context.board
        self._keyspace, self._led = keyspace, led
        self._hopeless: set[int] = set()  # nodes from which a search has seen everything and found nothing
        self._looks = CHAIN_LOOKS_PER_SHARD * sum(map(len, led.values()))

    def even(self) -> set[int]:
        board, context = self._board, self._context
        nodes = board.leading_nodes()
        touched: set[int] = set()
        if not nodes or not self._led:
            return touched
        least, failures = min(map(self._amount, nodes)), 0
        for start in sorted(self._led, key=lambda node: (-self._amount(node), node)):
            while board.leads[start] and self._amount(start) > least + 1 + EPSILON and start not in self._hopeless:
                if context.stopped or self._looks <= 0 or failures >= CHAIN_FAILURES_MAX:
                    return touched
                chain = self._find(start)
                if not chain:
                    break
                if not _pass_along(context, chain):
                    failures += 1
                    break
                failures = 0
                touched |= {start, *(node for _, node in chain)}
                before = start
                for shard, node in chain:
                    self._led[before].remove(shard)
                    self._led.setdefault(node, set()).add(shard)
                    before = node
        return touched

    def _amount(self, node: int) -> float:
        """Return the relative number of leaderships; a node that may not lead takes none."""
        return len(self._led.get(node, ())) * self._board.inv[node][4] if self._board.leads[node] else float("inf")

    def _find(self, start: int) -> list[Link]:
        """Return the transfers that bring one leadership from `start` to the nearest node with two fewer."""
        board, below = self._board, self._amount(start) - 1 - EPSILON
        came: dict[int, tuple[int, int]] = {start: (NOBODY, NOBODY)}  # node -> (node before, shard passed)
        queue, looks = deque([start]), 0
        while queue and looks < CHAIN_LOOKS_MAX:
            node = queue.popleft()
            for shard in sorted(self._led.get(node, ())):
                looks += 1
                if board.locked[shard]:
                    continue
                for voter in board.voters[shard]:
                    if voter in came or to_lead(board, shard, voter) is not Obstacle.OK:
                        continue
                    if not _kept_preferred(self._context, shard, voter):
                        continue
                    came[voter] = (node, shard)
                    if self._amount(voter) < below:
                        self._spend(looks)
                        return _walk(came, voter)
                    queue.append(voter)
        self._spend(looks)
        if not queue:
            self._hopeless.update(came)
        return []

    def _spend(self, looks: int) -> None:
        self._looks -= looks
        self._context.look(looks)


def _walk(came: dict[int, tuple[int, int]], end: int) -> list[Link]:
    links: list[Link] = []
    while came[end][0] != NOBODY:
        before, shard = came[end]
        links.append((shard, end))
        end = before
    return links[::-1]


def _pass_along(context: Context, chain: list[Link]) -> bool:
    """Make all the transfers if they gain together, else none."""
    board = context.board
    gain, undo = 0.0, []
    for shard, target in chain:
        if to_lead(board, shard, target) is not Obstacle.OK:
            break
        gain += transfer_gain(board, shard, target)
        undo.append((shard, board.leader[shard]))
        board.transfer(shard, target)
    kept = len(undo) == len(chain) and gain > context.settings.transfer_cost
    for shard, source in reversed(undo):
        board.transfer(shard, source)
    if kept:
        for shard, target in chain:
            context.transfer(shard, target, Tier.EVEN, f"evens leaders in {len(chain)} transfers (gain {gain:.3g})")
    return kept

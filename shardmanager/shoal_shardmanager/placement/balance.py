"""Evens replicas and loads: local search from where things are, by moves that gain more than they cost.

Three sources of candidates feed one exact rule (`_accept`): keyspaces uneven on their own, nodes above their share
(which shed), nodes below it (which pull). A count that is off by a whole replica justifies a move that gains its price;
a difference of load must also exceed the tolerance, so that noise moves nothing. Every accepted move lowers the cost
by its price at least, so the search ends, and ends in the same place when it is asked again.
"""

from __future__ import annotations

from heapq import nlargest
from math import ceil, floor

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.constraints import Obstacle, to_place
from shoal_shardmanager.placement.context import Context, Tier
from shoal_shardmanager.placement.model import METRICS
from shoal_shardmanager.placement.objective import (
    charge,
    move_price,
    noise,
    preference,
    preference_after_move,
    release,
)
from shoal_shardmanager.placement.targets import HEADS, Targets

EPSILON = 1e-9
FAILURES_MAX = 6  # replicas of one node tried in vain before it is left
RANKED_PER_MOVE = 16
PULL_SOURCES = 8
PULL_SAMPLE = 12  # replicas looked at on each source of a pull


class Shares:
    """What each node should hold: its part of `total`, rounded both ways; the parts are by weight."""

    __slots__ = ("_board", "_mean")

    def __init__(self, board: Board, total: int, nodes: int) -> None:
        self._board = board
        self._mean = total / max(1, nodes)

    def most(self, node: int) -> int:
        return ceil(self._mean / self._board.inv[node][4] - EPSILON)

    def least(self, node: int) -> int:
        return floor(self._mean / self._board.inv[node][4] + EPSILON)


class Balancer:
    __slots__ = (
        "_above",
        "_below",
        "_board",
        "_context",
        "_fullest",
        "_keyspace_means",
        "_leader_mean",
        "_shares",
        "_stop_above",
        "_stop_below",
        "_targets",
    )

    def __init__(self, context: Context, targets: Targets) -> None:
        self._context, self._targets = context, targets
        self._board = board = context.board
        self._shares = Shares(board, sum(board.count), sum(board.active))
        # Begun beyond the tolerance, but ended at half of it: a node at the edge is not touched every time.
        nodes = max(1, sum(board.active))
        self._fullest: list[int] = []
        leading = max(1, sum(board.leads))
        self._leader_mean = sum(board.lead) / leading
        self._keyspace_means = [
            (len(shards) * (rules.voters + rules.followers) / nodes, len(shards) / leading)
            for shards, rules in zip(board.shards_of, board.rules, strict=True)
        ]
        tolerance = context.settings.tolerance
        self._above, self._stop_above = board.mean * (1 + tolerance), board.mean * (1 + tolerance / 2)
        self._below, self._stop_below = board.mean * (1 - tolerance), board.mean * (1 - tolerance / 2)

    def round(self) -> int:
        """Go once over nodes and keyspaces; return the number of moves."""
        return self._keyspaces() + self._nodes()

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _nodes(self) -> int:
        board, moved = self._board, 0
        nodes = board.active_nodes()
        for node in sorted(nodes, key=lambda node: -sum(board.grad[node])):
            if not self._context.stopped and self._is_above(node, self._above):
                moved += self._shed(node)
        rising = sorted(nodes, key=lambda node: sum(board.grad[node]))
        self._fullest = rising[-PULL_SOURCES:]
        for node in rising:
            if not self._context.stopped and self._is_below(node, self._below):
                moved += self._pull(node)
        return moved

    def _is_above(self, node: int, level: float) -> bool:
        board = self._board
        if board.count[node] > self._shares.most(node):
            return True
        load, inv, weights = board.load[node], board.inv[node], board.weights
        return any(weights[metric] > 0 and load[metric] * inv[metric] > level for metric in range(4))

    def _is_below(self, node: int, level: float) -> bool:
        board = self._board
        if board.count[node] < self._shares.least(node):
            return True
        load, inv, weights = board.load[node], board.inv[node], board.weights
        # A metric nobody loads is at 0 everywhere; that is no reason to pull.
        return any(weights[metric] > 0 and 0 < load[metric] * inv[metric] < level for metric in range(4))

    def _shed(self, source: int) -> int:
        """Move replicas off a node above its share, those it is best rid of first.

        Each move changes what the others are worth: at once in its keyspace, of which the next is then worth less; in
        loads when they are ranked anew, after a part of them, so that ranking costs `RANKED_PER_MOVE` looks a move.
        """
        board, context = self._board, self._context
        moved = failures = 0
        tried: set[int] = set()
        while failures < FAILURES_MAX and not context.stopped and self._is_above(source, self._stop_above):
            ranked = self._ranked(source, tried)
            if not ranked:
                break
            for _ in range(max(4, board.count[source] // RANKED_PER_MOVE)):
                shard = self._next(ranked, source)
                if shard == NOBODY:
                    break
                tried.add(shard)
                if self._accept(shard, source, self._targets.near(source)):
                    moved, failures = moved + 1, 0
                else:
                    failures += 1
                if failures >= FAILURES_MAX or context.stopped or not self._is_above(source, self._stop_above):
                    break
        return moved

    def _ranked(self, source: int, tried: set[int]) -> dict[int, list[tuple[float, int, int]]]:
        """Return keyspace -> the source's replicas of it as (worth, replicas of it then on the source, shard), best last."""
        board = self._board
        ranked: dict[int, list[tuple[float, int, int]]] = {}
        kept = board.kept[source]
        for shard in board.on[source]:
            if shard not in tried and not board.locked[shard] and source not in board.extra[shard]:
                keyspace = board.keyspace[shard]
                ranked.setdefault(keyspace, []).append((self._worth(shard, source), kept[keyspace], shard))
        for replicas in ranked.values():
            replicas.sort()
        self._context.look(board.count[source])
        return ranked

    def _next(self, ranked: dict[int, list[tuple[float, int, int]]], source: int) -> int:
        """Take the replica to try next; each one given up makes the rest of its keyspace worth less."""
        board = self._board
        kept, less = board.kept[source], 2 * board.settings.weights.keyspace * board.quad[source][4]
        best, chosen = 0.0, NOBODY
        for keyspace, replicas in ranked.items():
            if replicas:
                worth, before, _ = replicas[-1]
                worth -= less * (before - kept[keyspace])
                if chosen == NOBODY or worth > best:
                    best, chosen = worth, keyspace
        return ranked[chosen].pop()[2] if chosen != NOBODY else NOBODY

    def _worth(self, shard: int, source: int) -> float:
        """Return about what moving the replica to an average node would gain."""
        board = self._board
        leads = board.leader[shard] == source
        lb, lr, lw, lc = board.v_lead[shard] if leads else board.v_other[shard]
        wb, wr, ww, wc, _, _ = board.weights
        average = lb * wb * (1 + lb) + lr * wr * (1 + lr) + lw * ww * (1 + lw) + lc * wc * (1 + lc)
        # The average node's slope is 2 * mean; its own square term is l^2. A large keyspace is no better to shed than a
        # small one: what counts is how much the source has beyond the keyspace's mean.
        level = 2 * board.mean * (lb * wb + lr * wr + lw * ww + lc * wc)
        replicas, leaders = self._keyspace_means[board.keyspace[shard]]
        factor = board.settings.weights.keyspace
        level += factor * 2 * board.weights[4] * replicas
        if leads:
            level += 2 * board.weights[5] * (self._leader_mean + factor * leaders)
        return release(board, shard, source, leads=leads) - level - average

    def _pull(self, target: int) -> int:
        """Move replicas to a node below its share, from the fullest of its pool and of all."""
        board, context, rng = self._board, self._context, self._context.rng
        # The fullest nodes of all too: where a region as a whole has more than its part, its neighbours cannot know.
        around = self._targets.neighbours(target) + self._fullest
        moved = failures = 0
        while failures < 2 and not context.stopped and self._is_below(target, self._stop_below):
            sources = nlargest(PULL_SOURCES, set(around), key=lambda node: (sum(board.grad[node]), node))
            found: list[tuple[float, int, int]] = []
            for source in sources:
                if source == target:
                    continue
                shards = sorted(board.on[source])
                for shard in rng.sample(shards, min(PULL_SAMPLE, len(shards))):
                    if not board.locked[shard] and target not in board.on_shard(shard):
                        leads = board.leader[shard] == source
                        gain = release(board, shard, source, leads=leads) - charge(board, shard, target, leads=leads)
                        found.append((-gain, shard, source))
            context.look(len(found))
            found.sort()
            accepted = 0
            for _, shard, source in found[:FAILURES_MAX]:
                if not self._is_below(target, self._stop_below):
                    break
                # A shard may be found twice: it has left one source by then, or the target holds it.
                accepted += source in board.on_shard(shard) and self._accept(shard, source, [target])
            moved += accepted
            failures += not accepted
        return moved

    # -- keyspaces -----------------------------------------------------------------------------------------------

    def _keyspaces(self) -> int:
        moved = 0
        for keyspace in sorted(self._context.uneven):
            if self._context.stopped:
                break
            self._context.uneven.remove(keyspace)
            moved += self._keyspace(keyspace)
        return moved

    def _keyspace(self, keyspace: int) -> int:
        """Even one keyspace's replicas over the nodes of the regions it lives in."""
        board = self._board
        where: dict[int, list[int]] = {}
        for shard in board.shards_of[keyspace]:
            if not board.locked[shard]:
                for node in (*board.voters[shard], *board.followers[shard]):
                    where.setdefault(node, []).append(shard)
        regions = {board.region[node] for node in where}
        nodes = [node for node in board.active_nodes() if board.region[node] in regions]
        shares = Shares(board, sum(len(shards) for shards in where.values()), len(nodes))
        kept = board.kept
        over = [node for node in where if board.active[node] and kept[node].get(keyspace, 0) > shares.most(node)]
        moved = 0
        for source in sorted(over, key=lambda node: (-kept[node].get(keyspace, 0), node)):
            moved += self._shed_keyspace(keyspace, source, where[source], shares)
        for target in nodes:
            if kept[target].get(keyspace, 0) < shares.least(target):
                moved += self._pull_keyspace(keyspace, target, shares.least(target))
        return moved

    def _shed_keyspace(self, keyspace: int, source: int, shards: list[int], shares: Shares) -> int:
        board, context = self._board, self._context
        moved = failures = 0
        self._context.rng.shuffle(shards)
        waiting = list(shards)
        while (
            waiting
            and failures < FAILURES_MAX
            and not context.stopped
            and board.kept[source].get(keyspace, 0) > shares.most(source)
        ):
            shard = waiting.pop()
            if source not in board.voters[shard] and source not in board.followers[shard]:
                continue
            if self._accept(shard, source, self._fewest(keyspace, source)):
                moved, failures = moved + 1, 0
            else:
                failures += 1
        return moved

    def _fewest(self, keyspace: int, source: int) -> list[int]:
        """Return the source's neighbours that hold least of the keyspace (of a sample, where there are many)."""
        board = self._board
        around = self._targets.neighbours(source)
        sample = around if len(around) <= 8 * HEADS else self._context.rng.sample(around, 8 * HEADS)
        kept, grad = board.kept, board.grad
        ordered = sorted((kept[node].get(keyspace, 0), grad[node][4], node) for node in sample)
        return [node for _, _, node in ordered[:HEADS]] + self._targets.anywhere()

    def _pull_keyspace(self, keyspace: int, target: int, wanted: int) -> int:
        board, context = self._board, self._context
        around = self._targets.neighbours(target)
        moved = 0
        while not context.stopped and board.kept[target].get(keyspace, 0) < wanted:
            sources = nlargest(
                PULL_SOURCES, around, key=lambda node: (board.kept[node].get(keyspace, 0), sum(board.grad[node]))
            )
            if not any(self._pull_from(keyspace, source, target) for source in sources if source != target):
                break
            moved += 1
        return moved

    def _pull_from(self, keyspace: int, source: int, target: int) -> bool:
        board = self._board
        if board.kept[source].get(keyspace, 0) < board.kept[target].get(keyspace, 0) + 2:
            return False
        shards = [
            shard
            for shard in sorted(board.on[source])
            if board.keyspace[shard] == keyspace and source not in board.extra[shard]
        ]
        self._context.look(len(shards))
        sample = self._context.rng.sample(shards, min(PULL_SAMPLE, len(shards)))
        sample.sort(key=lambda shard: -self._worth(shard, source))
        return any(self._accept(shard, source, [target]) for shard in sample)

    # -- the rule ------------------------------------------------------------------------------------------------

    def _accept(self, shard: int, source: int, candidates: list[int]) -> bool:
        """Make the move to the best allowed candidate, if it gains enough and costs no preference."""
        board, context = self._board, self._context
        if board.locked[shard]:
            return False
        leads = board.leader[shard] == source
        given = release(board, shard, source, leads=leads)
        price = move_price(board, shard)
        quiet = price + noise(board, shard, leads=leads)
        keyspace = board.keyspace[shard]
        held, fair = board.kept[source].get(keyspace, 0), board.inv[source][4]
        role = board.role_of(shard, source)
        best, chosen = 0.0, NOBODY
        context.look(len(candidates))
        for target in candidates:
            gain = given - charge(board, shard, target, leads=leads)
            if gain <= best:
                continue
            # A whole replica too many, of all or of the keyspace, is no noise; loads are.
            inv = board.inv[target][4]
            uneven = (
                board.count[source] * fair - board.count[target] * inv > inv
                or held * fair - board.kept[target].get(keyspace, 0) * inv > inv
            )
            if gain < (price if uneven else quiet):
                continue
            if to_place(board, shard, target, role, source) is not Obstacle.OK:
                continue
            if board.region[source] != board.region[target] and (
                preference_after_move(board, shard, source, target) > preference(board, shard) + EPSILON
            ):
                continue
            best, chosen = gain, target
        if chosen == NOBODY or not context.affordable(shard, source, chosen, role):
            return False
        context.move(shard, source, chosen, Tier.EVEN, self._reason(shard, source, chosen, best))
        return True

    def _reason(self, shard: int, source: int, target: int, gain: float) -> str:
        """Name the widest relative difference that the move makes smaller."""
        board, keyspace = self._board, self._board.keyspace[shard]
        name = self._context.name
        here, there = board.kept[source].get(keyspace, 0), board.kept[target].get(keyspace, 0)
        if here >= there + 2:
            return f"{name(source)} has {here} replicas of its keyspace, {name(target)} {there} (gain {gain:.3g})"
        if board.count[source] >= board.count[target] + 2:
            return (
                f"{name(source)} has {board.count[source]} replicas, {name(target)} {board.count[target]} "
                f"(gain {gain:.3g})"
            )
        of, to, mean = board.load[source], board.load[target], board.mean or 1.0
        gaps = [of[m] * board.inv[source][m] - to[m] * board.inv[target][m] for m in range(4)]
        metric = max(range(4), key=lambda m: gaps[m] * board.weights[m])
        return (
            f"{name(source)} has {100 * of[metric] * board.inv[source][metric] / mean:.0f} % of the mean "
            f"{METRICS[metric]}, {name(target)} {100 * to[metric] * board.inv[target][metric] / mean:.0f} % "
            f"(gain {gain:.3g})"
        )

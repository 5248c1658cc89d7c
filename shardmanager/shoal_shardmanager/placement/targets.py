"""Which nodes to look at as targets: the least loaded of each pool, kept in short lists, never all nodes a step.

A short list is computed anew after `USES` uses, so that its cost is shared by several choices; a choice compares exact
gains, so a list that is a little old costs quality, never correctness. Where a short list has no node that is allowed,
all nodes are looked at, within `SCAN_LOOKS_MAX` pairs a plan.
"""

from __future__ import annotations

from heapq import nsmallest

from shoal_shardmanager.placement.board import NOBODY
from shoal_shardmanager.placement.constraints import Obstacle, crowding, faults_after, shortage, to_place
from shoal_shardmanager.placement.context import Context
from shoal_shardmanager.placement.model import Role
from shoal_shardmanager.placement.objective import charge, preference_after_add, preference_after_move

HEADS = 12  # nodes in a short list
USES = 6  # how often a short list is used
SMALL_POOL = 24  # below so many nodes, a pool's neighbours are looked at too
POOLS_MAX = 24  # with more pools, a choice looks at some of them
SCAN_LOOKS_MAX = 4_000_000
EPSILON = 1e-9


class Targets:
    __slots__ = ("_context", "_everywhere", "_lists", "_near", "_near_uses", "_neighbours", "_scanned", "_uses")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lists: list[list[int]] = [[] for _ in context.board.domains.pools]
        self._uses = [0] * (len(self._lists) + 1)
        self._everywhere: list[int] = []
        self._near: list[list[int]] = [[] for _ in self._lists]
        self._near_uses = [0] * len(self._lists)
        self._neighbours: list[list[int]] = [[] for _ in self._lists]
        self._scanned = 0

    def near(self, node: int) -> list[int]:
        """Return the least loaded of the node's neighbours, and some of all pools (may repeat)."""
        pool = self._context.board.domains.pool[node]
        if self._near_uses[pool] <= 0:
            self._near_uses[pool] = USES
            around = self.neighbours(node)
            grad = self._context.board.grad
            # Also those with the fewest replicas: full of load, they are the place for what carries none.
            fewest = nsmallest(HEADS // 2, around, key=lambda other: grad[other][4])
            self._near[pool] = list(dict.fromkeys(self._least(around) + fewest))
        self._near_uses[pool] -= 1
        return self._near[pool] + self.anywhere()

    def neighbours(self, node: int) -> list[int]:
        """Return the active nodes of the node's pool; of a small pool, those of its region too (or a sample)."""
        pool = self._context.board.domains.pool[node]
        known = self._neighbours[pool]
        if not known:
            board = self._context.board
            known = board.domains.pools[pool]
            if len(known) < SMALL_POOL:
                region = board.region[node]
                others = [
                    n for n in board.active_nodes() if board.region[n] == region and board.domains.pool[n] != pool
                ]
                known = known + self._context.rng.sample(others, min(len(others), SMALL_POOL * 4))
            self._neighbours[pool] = known
        return known

    def of_pool(self, pool: int) -> list[int]:
        if self._uses[pool] <= 0:
            self._uses[pool] = USES
            self._lists[pool] = self._least(self._context.board.domains.pools[pool])
        self._uses[pool] -= 1
        return self._lists[pool]

    def anywhere(self) -> list[int]:
        """Return the least loaded of all active nodes (none where there is one pool: its own list has them)."""
        pools = self._context.board.domains.pools
        if len(pools) == 1:
            return []
        if self._uses[-1] <= 0:
            self._uses[-1] = USES * 4
            self._everywhere = self._least([node for pool in pools for node in pool])[: HEADS // 2]
        self._uses[-1] -= 1
        return self._everywhere

    def _least(self, nodes: list[int]) -> list[int]:
        grad = self._context.board.grad
        return nsmallest(HEADS, nodes, key=lambda node: sum(grad[node]))

    def best(self, shard: int, source: int, role: Role) -> int:
        """Return the node to take the replica: fewest faults, then preferences, then cost; NOBODY where none may."""
        context = self._context
        chosen, faults = self._best_of(self._short(shard), shard, source, role)
        board = context.board
        # Faults may remain where several replicas must move; it is none getting better that asks for a closer look.
        stuck = chosen == NOBODY or (faults > 0 and faults >= crowding(board, shard) + shortage(board, shard))
        if stuck and self._scanned < SCAN_LOOKS_MAX:
            everyone = board.active_nodes()
            if len(everyone) > HEADS:
                self._scanned += len(everyone)
                scanned, scanned_faults = self._best_of(everyone, shard, source, role)
                if chosen == NOBODY or scanned_faults < faults:
                    chosen = scanned
        return chosen

    def _short(self, shard: int) -> list[int]:
        """Return some good nodes of every pool, or of a sample that has the regions that matter to the shard."""
        board = self._context.board
        pools = range(len(self._lists))
        if len(pools) == 1:
            return self.of_pool(0)
        if len(pools) <= POOLS_MAX:
            return [node for pool in pools for node in self.of_pool(pool)[:4]]
        rules = board.rules[board.keyspace[shard]]
        names = {*rules.keyspace.leader_regions, *rules.keyspace.follower_regions}
        wanted = {number for number, name in enumerate(board.domains.region_names) if name in names} | set(
            rules.required
        )
        members = board.domains.pools
        mattering = [pool for pool in pools if members[pool] and board.region[members[pool][0]] in wanted]
        picked = self._context.rng.sample(pools, POOLS_MAX // 2)
        nodes = list(self.anywhere())
        for pool in dict.fromkeys(mattering[:POOLS_MAX] + picked):
            nodes += self.of_pool(pool)[:2]
        return nodes

    def _best_of(self, nodes: list[int], shard: int, source: int, role: Role) -> tuple[int, int]:
        board = self._context.board
        leads = source != NOBODY and board.leader[shard] == source
        best, best_key = NOBODY, (0, 0.0, 0.0)
        # Faults, preferences and refusals for either are the same for all nodes of a domain.
        standing: dict[int, tuple[int, float]] = {}
        closed: set[int] = set()
        self._context.look(len(nodes))
        for node in nodes:
            if board.domain[node] in closed:
                continue
            known = standing.get(board.domain[node])
            # Dearer than the best by what is known of its domain: not worth a closer look.
            if known is not None and best != NOBODY and known > best_key[:2]:
                continue
            obstacle = to_place(board, shard, node, role, source)
            if obstacle is not Obstacle.OK:
                if obstacle in (Obstacle.DOMAIN, Obstacle.REGION):
                    closed.add(board.domain[node])
                continue
            if known is None:
                if source == NOBODY:
                    preferred = preference_after_add(board, shard, node, role)
                else:
                    preferred = preference_after_move(board, shard, source, node)
                known = (faults_after(board, shard, source, node, role), round(preferred, 9))
                standing[board.domain[node]] = known
            key = (*known, charge(board, shard, node, leads=leads))
            if best == NOBODY or key < best_key:
                best, best_key = node, key
        return best, best_key[0]

    def obstacles(self, shard: int, source: int, role: Role) -> dict[Obstacle, int]:
        """Count what stands against each node that is not gone (all nodes: for words, not for the search)."""
        board = self._context.board
        found: dict[Obstacle, int] = {}
        for node in range(len(board.count)):
            if node == source or board.gone[node]:
                continue
            obstacle = to_place(board, shard, node, role, source)
            found[obstacle] = found.get(obstacle, 0) + 1
        return found

"""Who must come before whom, and the worst cycle in it, named as Adya does.

Adya, "Weak consistency: a generalized theory and optimistic implementations for distributed transactions" (1999); the
search for the worst kind first is that of Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental
observations" (VLDB 2020): G0 is a cycle of writes, G1c one of what was written and read, G-single one in which a single
read came before what overwrote it, G2 any other. The order of sessions and of real time may be part of each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

EdgeKind = Literal["ww", "wr", "predicate wr", "session", "real time", "rw", "predicate rw"]

STRENGTH: Sequence[EdgeKind] = ("ww", "wr", "predicate wr", "session", "real time", "rw", "predicate rw")
"""Of two edges between the same transactions the first makes the worse cycle."""

WRITTEN: AbstractSet[EdgeKind] = frozenset(("ww",))
AGAINST: AbstractSet[EdgeKind] = frozenset(("rw", "predicate rw"))
READ: AbstractSet[EdgeKind] = frozenset(("wr", "predicate wr"))
ORDER: AbstractSet[EdgeKind] = frozenset(("session", "real time"))

STARTS = 100
"""From how many places a shortest cycle is looked for, once one is found."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`before` comes before `after` in every serial order; `key` is None for the order of sessions and of real time."""

    before: str
    after: str
    kind: EdgeKind
    key: bytes | None

    def __str__(self) -> str:
        what = self.kind if self.key is None else f"{self.kind} {self.key!r}"
        return f"{self.before} -[{what}]-> {self.after}"


class Arc(NamedTuple):
    """An edge of the graph; `guess` is the number of the guess that it rests on, None where it is certain."""

    kind: EdgeKind
    key: bytes | None
    guess: int | None = None


class CycleStep(NamedTuple):
    """An arc, from one node to another."""

    before: int
    after: int
    arc: Arc


REAL_TIME = Arc("real time", None)


class DependencyGraph:
    """Nodes are numbers; `labels` has "" for instants, which only carry the order of real time."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.arcs: list[dict[int, Arc]] = [{} for _ in labels]

    def copy(self) -> DependencyGraph:
        """Return a graph of the same nodes, to which arcs can be added."""
        graph = DependencyGraph(self.labels)
        graph.arcs = [dict(arcs) for arcs in self.arcs]
        return graph

    def add_node(self, label: str) -> int:
        """Return the number of a new node."""
        self.labels.append(label)
        self.arcs.append({})
        return len(self.labels) - 1

    def add(self, before: int, after: int, arc: Arc) -> None:
        """Add an arc, unless it leads back to its node or a stronger one is there."""
        if before == after:
            return
        known = self.arcs[before].get(after)
        if known is None or _weakness(arc) < _weakness(known):
            self.arcs[before][after] = arc

    def add_real_time(self, times: Sequence[tuple[int, int | None]]) -> None:
        """Add the order of real time, through one chain of instants, so that the graph stays linear in size.

        Args:
            times: of the first nodes, when each was invoked and completed (None: never, as far as is known). A node is
                after another if it was invoked later than that was completed.
        """
        ended = sorted((completed, node) for node, (_, completed) in enumerate(times) if completed is not None)
        instants = [self.add_node("") for _ in ended]
        for (_, node), instant in zip(ended, instants, strict=True):
            self.add(node, instant, REAL_TIME)
        for one, other in pairwise(instants):
            self.add(one, other, REAL_TIME)
        for node, (invoked, _) in enumerate(times):
            count = bisect_left(ended, (invoked, -1))
            if count:
                self.add(instants[count - 1], node, REAL_TIME)

    def reversed(self) -> list[list[int]]:
        """Return, for each node, those with an arc to it."""
        incoming: list[list[int]] = [[] for _ in self.arcs]
        for before, arcs in enumerate(self.arcs):
            for after in arcs:
                incoming[after].append(before)
        return incoming

    def find_worst_cycle(self) -> list[CycleStep] | None:
        """Return a short cycle of the worst kind that there is, beginning at a transaction."""
        left = self._without_ends(range(len(self.arcs)))
        if not left:
            return None
        written = self._only(left, WRITTEN | ORDER)
        read = self._only(left, WRITTEN | READ | ORDER)
        return (
            written._find_cycle(left)
            or read._find_cycle(left)
            or read._find_closed(
                CycleStep(node, after, arc)
                for node in sorted(left)
                for after, arc in self.arcs[node].items()
                if after in left and arc.kind in AGAINST
            )
            or self._find_cycle(left)
        )

    def describe(self, cycle: Sequence[CycleStep]) -> tuple[Edge, ...]:
        """Return the cycle as edges between transactions, without the instants between them."""
        edges: list[Edge] = []
        source = ""
        for before, after, (kind, key, _) in cycle:
            source = self.labels[before] or source
            if self.labels[after]:
                edges.append(Edge(source, self.labels[after], kind, key))
        return tuple(edges)

    def _only(self, nodes: AbstractSet[int], kinds: AbstractSet[EdgeKind]) -> DependencyGraph:
        graph = DependencyGraph(self.labels)
        for node in nodes:
            graph.arcs[node] = {
                after: arc for after, arc in self.arcs[node].items() if arc.kind in kinds and after in nodes
            }
        return graph

    def _find_cycle(self, nodes: Collection[int]) -> list[CycleStep] | None:
        left = self._without_ends(nodes)
        shortest: list[CycleStep] | None = None
        for tried, start in enumerate(sorted(node for node in left if self.labels[node])):
            if tried >= STARTS and shortest is not None:
                break
            shortest = _shorter(shortest, self._path(start, start, left))
        return shortest

    def _find_closed(self, steps: Iterator[CycleStep]) -> list[CycleStep] | None:
        """Return a shortest cycle of one of the steps and, otherwise, arcs of this graph."""
        everywhere = range(len(self.arcs))
        shortest: list[CycleStep] | None = None
        for tried, step in enumerate(steps):
            if tried >= STARTS and shortest is not None:
                break
            back = self._path(step.after, step.before, everywhere)
            if back is not None:
                shortest = _shorter(shortest, [*back, step])
        return shortest

    def _without_ends(self, nodes: Collection[int]) -> set[int]:
        """Take away, again and again, what nothing comes before (Kahn 1962); then what comes before nothing."""
        left = set(nodes)
        outgoing: Sequence[Iterable[int]] = self.arcs
        incoming: Sequence[Iterable[int]] = self.reversed()
        for forward, backward in ((outgoing, incoming), (incoming, outgoing)):
            degrees = {node: sum(other in left for other in backward[node]) for node in left}
            ends = [node for node, degree in degrees.items() if degree == 0]
            while ends:
                node = ends.pop()
                left.discard(node)
                for other in forward[node]:
                    if other in left:
                        degrees[other] -= 1
                        if degrees[other] == 0:
                            ends.append(other)
        return left

    def _path(self, start: int, end: int, nodes: Collection[int]) -> list[CycleStep] | None:
        """Return a shortest path of at least one arc, breadth first; steps to instants are free."""
        came_from: dict[int, int] = {}
        distances = {start: 0}
        queue = deque([start])
        done: set[int] = set()
        while queue:
            node = queue.popleft()
            if node in done:
                continue
            done.add(node)
            for after in self.arcs[node]:
                if after == end:
                    path = [end, node]
                    while node != start:
                        node = came_from[node]
                        path.append(node)
                    return [CycleStep(one, other, self.arcs[one][other]) for one, other in pairwise(path[::-1])]
                step = 1 if self.labels[after] else 0
                if after in nodes and distances[node] + step < distances.get(after, len(self.arcs)):
                    distances[after] = distances[node] + step
                    came_from[after] = node
                    if step:
                        queue.append(after)
                    else:
                        queue.appendleft(after)
        return None


def name_of(kinds: Sequence[EdgeKind]) -> str:
    """Name a cycle of edges of these kinds."""
    against = [kind for kind in kinds if kind in AGAINST]
    if len(against) > 1:
        return "G2" if "predicate rw" in against else "G2-item"
    if against:
        return "G-single"
    return "G1c" if any(kind in READ for kind in kinds) else "G0"


def sentence_of(edges: Sequence[Edge]) -> str:
    """Say in words what a cycle excludes."""
    kinds = [edge.kind for edge in edges]
    order = "No serial order"
    for kind, what in (("real time", "real time"), ("session", "the order of sessions")):
        if kind in kinds:
            order = f"No serial order that keeps {what}"
            break
    return f"{order}: {name_of(kinds)}, a cycle of {len(kinds)} edges."


def _weakness(arc: Arc) -> tuple[bool, int]:
    return arc.guess is not None, STRENGTH.index(arc.kind)


def _shorter(one: list[CycleStep] | None, other: list[CycleStep] | None) -> list[CycleStep] | None:
    if one is None or other is None:
        return one or other
    return other if len(other) < len(one) else one

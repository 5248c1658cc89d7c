"""Are transactions serializable? A cycle in the direct serialization graph says no; none says yes.

Adya, "Weak consistency: a generalized theory and optimistic implementations for distributed transactions" (1999): nodes are
transactions, edges say who wrote the next version of a key (ww), who read what another wrote (wr), and who read what
another overwrote (rw). A range is read with every key of the history inside it, absent ones too, so phantoms are edges.
The order of a key's versions is that of the sequence numbers. Strictness adds the order of real time (Papadimitriou,
"The serializability of concurrent database updates", 1979) through one chain of instants, so the graph stays linear in size.

A deletion leaves no version to read, so a read of an absent key may have come after any deletion. Such a read is first
placed where the transaction's own sequence number suggests. Where a cycle blames that, the places which the rest of the
graph leaves possible are tried, as in Tan et al., "Cobra" (2020), up to a number of choices. What is reported is thus never
a false alarm, and only a history that hides much behind deletions can be wrong without being reported.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

EdgeKind = Literal["ww", "wr", "rw", "predicate wr", "predicate rw", "real time"]

INITIAL = -1
"""The place, among a key's versions, of the absence before all of them."""

STARTS = 100
"""From how many transactions a shortest cycle is looked for, once one is found."""

BRANCHES = 200
"""How many choices between places for absences are tried before the history is let pass."""


class RangeRead(NamedTuple):
    """All that was in [start, end): each key with the sequence number of its version. No end: up to the last key."""

    start: bytes
    end: bytes | None
    contents: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A committed transaction, from `invoked` to `completed` in nanoseconds of the history's clock (None: no answer came).

    Attributes:
        id: names it in what is reported.
        seq: the sequence number of its commit, which is that of its versions; of one that only read, where it read.
        reads: each key it read with the sequence number of the version (0: absent). What it read of its own writes is
            left out, or has its own number; what it read of its own deletions is left out.
        ranges: what it saw of whole ranges. What it read of its own writes has its own number; the absence of a key
            that it deleted says nothing.
        writes: keys it wrote.
        deletes: keys it deleted and did not write after that.
    """

    id: int
    seq: int
    invoked: int
    completed: int | None
    reads: Mapping[bytes, int] = field(default_factory=dict)
    ranges: Sequence[RangeRead] = ()
    writes: AbstractSet[bytes] = frozenset()
    deletes: AbstractSet[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Edge:
    """`before` comes before `after` in every serial order; `key` is None for real time."""

    before: str
    after: str
    kind: EdgeKind
    key: bytes | None

    def __str__(self) -> str:
        what = self.kind if self.key is None else f"{self.kind} {self.key!r}"
        return f"{self.before} -[{what}]-> {self.after}"


@dataclass(frozen=True, slots=True)
class SerializabilityViolation:
    """A cycle of edges, or no edges where the sentence alone says what cannot be."""

    sentence: str
    edges: tuple[Edge, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"  {edge}" for edge in self.edges)])


@dataclass(frozen=True, slots=True)
class BankRead:
    """The balance of every account, as one transaction saw them."""

    id: int
    balances: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class BankViolation:
    """A read in which money appeared or vanished."""

    read: BankRead
    sentence: str


def find_violation(
    history: Sequence[Transaction],
    *,
    strict: bool = False,
    every_write_known: bool = False,
    maybe_deleted: AbstractSet[bytes] = frozenset(),
) -> SerializabilityViolation | None:
    """Return None where a serial order explains the history, else what excludes one, with a short cycle.

    Args:
        history: committed transactions, in any order. All keys are absent at first.
        strict: a transaction invoked, in nanoseconds, later than another completed must also come after it.
        every_write_known: a version that no transaction of the history wrote is a violation. Else it is taken to be by a
            transaction of unknown outcome, or of before the history.
        maybe_deleted: keys that a transaction outside the history may have deleted: their absence proves nothing.
    """
    builder = _Builder(history, maybe_deleted)
    impossible = builder.collect_versions() or builder.collect_readings(every_write_known)
    if impossible is not None:
        return SerializabilityViolation(impossible)
    if strict:
        builder.add_real_time()
    return builder.search()


def find_bank_violations(reads: Iterable[BankRead], total: int) -> list[BankViolation]:
    """Return the reads whose balances do not add up to `total`, in the given order.

    This is the bank test of Kingsbury's Jepsen (2013 and later): transfers between accounts keep the sum.
    """
    found: list[BankViolation] = []
    for read in reads:
        seen = sum(read.balances.values())
        if seen != total:
            sentence = f"T{read.id} saw {seen} in {len(read.balances)} accounts, where {total} is at all times."
            found.append(BankViolation(read, sentence))
    return found


class _Version(NamedTuple):
    seq: int
    node: int
    deleted: bool


class _Arc(NamedTuple):
    """An edge of the graph; `absence` is the number of the absence it was placed for, None where it is certain."""

    kind: EdgeKind
    key: bytes | None
    absence: int | None = None


class _Step(NamedTuple):
    before: int
    after: int
    arc: _Arc


REAL_TIME = _Arc("real time", None)


class _Reading(NamedTuple):
    """A read of a key, and the places among the key's versions that it may have been of."""

    node: int
    key: bytes
    predicate: bool
    places: Sequence[int]


class _Graph:
    """Nodes are numbers; `labels` has "" for instants, which only carry the order of real time."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.arcs: list[dict[int, _Arc]] = [{} for _ in labels]

    def copy(self) -> _Graph:
        graph = _Graph(self.labels)
        graph.arcs = [dict(arcs) for arcs in self.arcs]
        return graph

    def add_node(self, label: str) -> int:
        self.labels.append(label)
        self.arcs.append({})
        return len(self.labels) - 1

    def add(self, before: int, after: int, arc: _Arc) -> None:
        if before != after:
            self.arcs[before].setdefault(after, arc)

    def reversed(self) -> list[list[int]]:
        incoming: list[list[int]] = [[] for _ in self.arcs]
        for before, arcs in enumerate(self.arcs):
            for after in arcs:
                incoming[after].append(before)
        return incoming

    def find_cycle(self) -> list[_Step] | None:
        """Return a short cycle, beginning at a transaction."""
        left = self._without_ends()
        shortest: list[_Step] | None = None
        for tried, start in enumerate(sorted(node for node in left if self.labels[node])):
            if tried >= STARTS and shortest is not None:
                break
            cycle = self._cycle_through(start, left)
            if cycle is not None and (shortest is None or len(cycle) < len(shortest)):
                shortest = cycle
        return shortest

    def _without_ends(self) -> set[int]:
        """Take away, again and again, what nothing comes before (Kahn 1962); then what comes before nothing."""
        left = set(range(len(self.arcs)))
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

    def _cycle_through(self, start: int, left: AbstractSet[int]) -> list[_Step] | None:
        """Search breadth first; steps to instants are free."""
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
                if after == start:
                    path = [start, node]
                    while node != start:
                        node = came_from[node]
                        path.append(node)
                    return [_Step(one, other, self.arcs[one][other]) for one, other in pairwise(path[::-1])]
                step = 1 if self.labels[after] else 0
                if after in left and distances[node] + step < distances.get(after, len(self.arcs)):
                    distances[after] = distances[node] + step
                    came_from[after] = node
                    if step:
                        queue.append(after)
                    else:
                        queue.appendleft(after)
        return None


class _Builder:
    def __init__(self, history: Sequence[Transaction], maybe_deleted: AbstractSet[bytes]) -> None:
        self._history = history
        self._maybe_deleted = maybe_deleted
        self._graph = _Graph([f"T{transaction.id}" for transaction in history])
        self._versions: dict[bytes, list[_Version]] = {}
        self._keys: list[bytes] = []
        self._places: dict[bytes, list[int]] = {}
        self._absences: list[_Reading] = []
        self._branches = 0

    def collect_versions(self) -> str | None:
        """Order the versions of each key, with the ww edges; return what is impossible about them, if anything is."""
        known: dict[bytes, dict[int, _Version]] = {}
        for node, transaction in enumerate(self._history):
            if transaction.seq <= 0 and (transaction.writes or transaction.deletes):
                return f"T{transaction.id} wrote, but has no sequence number."
            for key in transaction.writes | transaction.deletes:
                version = _Version(transaction.seq, node, key not in transaction.writes)
                other = known.setdefault(key, {}).setdefault(transaction.seq, version)
                if other is not version:
                    labels = f"T{self._history[other.node].id} and T{transaction.id}"
                    return f"{labels} both wrote {key!r} at {transaction.seq}."
        for transaction in self._history:
            for key, seq, _ in _present(transaction):
                if seq not in known.setdefault(key, {}):
                    node = self._graph.add_node(f"(unknown writer of {key!r} at {seq})")
                    known[key][seq] = _Version(seq, node, False)
        for key, by_seq in known.items():
            versions = [by_seq[seq] for seq in sorted(by_seq)]
            for one, other in pairwise(versions):
                self._graph.add(one.node, other.node, _Arc("ww", key))
            self._versions[key] = versions
            self._places[key] = [INITIAL, *(n for n, version in enumerate(versions) if version.deleted)]
        self._keys = sorted(self._versions)
        return None

    def collect_readings(self, every_write_known: bool) -> str | None:
        """Add wr and rw edges, and note the absences that leave a choice; return what is impossible, if anything is."""
        for node, transaction in enumerate(self._history):
            for key, seq, predicate in _present(transaction):
                versions = self._versions[key]
                place = bisect_left(versions, seq, key=lambda version: version.seq)
                if versions[place].deleted:
                    writer = self._graph.labels[versions[place].node]
                    return f"T{transaction.id} read a value of {key!r} at {seq}, where {writer} deleted it."
                if every_write_known and versions[place].node >= len(self._history):
                    return f"T{transaction.id} read {key!r} at {seq}, which no transaction wrote."
                self._place(self._graph, _Reading(node, key, predicate, [place]), place)
            for key, predicate in self._absent(transaction):
                places = self._places.get(key, [INITIAL])
                if key in transaction.deletes:
                    versions = self._versions[key]
                    places = [place for place in places if place == INITIAL or versions[place].node != node]
                reading = _Reading(node, key, predicate, places)
                if len(places) == 1:
                    self._place(self._graph, reading, INITIAL)
                else:
                    self._absences.append(reading)
        return None

    def add_real_time(self) -> None:
        """Chain the instants of completion: a transaction leads to its own, and the last before a call leads to it."""
        ended = [(t.completed, node) for node, t in enumerate(self._history) if t.completed is not None]
        ended.sort()
        times = [time for time, _ in ended]
        instants = [self._graph.add_node("") for _ in ended]
        for (_, node), instant in zip(ended, instants, strict=True):
            self._graph.add(node, instant, REAL_TIME)
        for one, other in pairwise(instants):
            self._graph.add(one, other, REAL_TIME)
        for node, transaction in enumerate(self._history):
            count = bisect_left(times, transaction.invoked)
            if count:
                self._graph.add(instants[count - 1], node, REAL_TIME)

    def search(self) -> SerializabilityViolation | None:
        cycle = self._solve(
            self._graph, {number: self._guess(absence) for number, absence in enumerate(self._absences)}
        )
        return None if cycle is None else self._describe(cycle)

    def _solve(self, certain: _Graph, guesses: dict[int, int]) -> list[_Step] | None:
        """Try the guesses; what a cycle blames is settled, one absence at a time, in each place that is left for it."""
        while True:
            graph = certain.copy()
            for number, place in guesses.items():
                self._place(graph, self._absences[number], place, number)
            cycle = graph.find_cycle()
            if cycle is None:
                return None
            blamed = {step.arc.absence for step in cycle if step.arc.absence in guesses} - {None}
            if not blamed:
                return cycle
            choices = {number: self._possible(certain, number) for number in sorted(blamed)}
            number = min(choices, key=lambda number: len(choices[number]))
            guess = guesses.pop(number)
            places = sorted(choices[number], key=lambda place: abs(place - guess)) or [guess]
            self._branches += len(places) - 1
            if self._branches > BRANCHES:
                return None
            for place in places[1:]:
                branch = certain.copy()
                self._place(branch, self._absences[number], place, number)
                if self._solve(branch, dict(guesses)) is None:
                    return None
            self._place(certain, self._absences[number], places[0], number)

    def _describe(self, cycle: Sequence[_Step]) -> SerializabilityViolation:
        edges: list[Edge] = []
        source = ""
        for before, after, (kind, key, _) in cycle:
            source = self._graph.labels[before] or source
            if self._graph.labels[after]:
                edges.append(Edge(source, self._graph.labels[after], kind, key))
        sentence = _sentence([edge.kind for edge in edges])
        if any(step.arc.absence is not None for step in cycle):
            sentence += " There is one whenever the absent keys were read; this is an example."
        return SerializabilityViolation(sentence, tuple(edges))

    def _absent(self, transaction: Transaction) -> Iterator[tuple[bytes, bool]]:
        """Yield each key the transaction found absent, and whether it did so by reading a range."""
        for key, seq in transaction.reads.items():
            if seq == 0 and key not in self._maybe_deleted:
                yield key, False
        for start, end, contents in transaction.ranges:
            last = len(self._keys) if end is None else bisect_left(self._keys, end)
            for key in self._keys[bisect_left(self._keys, start) : last]:
                if key not in contents and key not in self._maybe_deleted and key not in transaction.deletes:
                    yield key, True

    def _place(self, graph: _Graph, reading: _Reading, place: int, absence: int | None = None) -> None:
        """Put a reader after the version it read and before the next."""
        node, key, predicate, _ = reading
        versions = self._versions.get(key, [])
        if place != INITIAL:
            graph.add(versions[place].node, node, _Arc("predicate wr" if predicate else "wr", key, absence))
        if place + 1 < len(versions):
            graph.add(node, versions[place + 1].node, _Arc("predicate rw" if predicate else "rw", key, absence))

    def _guess(self, absence: _Reading) -> int:
        transaction = self._history[absence.node]
        bisect = bisect_left if transaction.writes or transaction.deletes else bisect_right
        current = bisect(self._versions[absence.key], transaction.seq, key=lambda version: version.seq) - 1
        return absence.places[max(0, bisect_right(absence.places, current) - 1)]

    def _possible(self, graph: _Graph, number: int) -> list[int]:
        """Return the places of an absence that make no cycle with what the graph has."""
        absence = self._absences[number]
        after = _reachable(graph.arcs, absence.node)
        before = _reachable(graph.reversed(), absence.node)
        versions = self._versions[absence.key]
        return [
            place
            for place in absence.places
            if (place == INITIAL or versions[place].node not in after)
            and (place + 1 == len(versions) or versions[place + 1].node not in before)
        ]


def _present(transaction: Transaction) -> Iterator[tuple[bytes, int, bool]]:
    """Yield each version the transaction read, and whether it did so by reading a range."""
    for key, seq in transaction.reads.items():
        if seq > 0:
            yield key, seq, False
    for _, _, contents in transaction.ranges:
        for key, seq in contents.items():
            yield key, seq, True


def _reachable(arcs: Sequence[Iterable[int]], start: int) -> set[int]:
    """Return what paths from `start` lead to, without itself."""
    found = {start}
    stack = [start]
    while stack:
        for node in arcs[stack.pop()]:
            if node not in found:
                found.add(node)
                stack.append(node)
    return found - {start}


def _sentence(kinds: Sequence[EdgeKind]) -> str:
    """Name the cycle as Adya does."""
    against = [kind for kind in kinds if kind in ("rw", "predicate rw")]
    if len(against) > 1:
        name = "G2" if "predicate rw" in against else "G2-item"
    elif against:
        name = "G-single"
    elif any(kind in ("wr", "predicate wr") for kind in kinds):
        name = "G1c"
    else:
        name = "G0"
    order = "No serial order that keeps real time" if "real time" in kinds else "No serial order"
    return f"{order}: {name}, a cycle of {len(kinds)} edges."

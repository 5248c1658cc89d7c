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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from shoal_chaos.checkers.dependency_graph import Arc, CycleStep, DependencyGraph, Edge, sentence_of

INITIAL = -1
"""The place, among a key's versions, of the absence before all of them."""

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


class _Reading(NamedTuple):
    """A read of a key, and the places among the key's versions that it may have been of."""

    node: int
    key: bytes
    predicate: bool
    places: Sequence[int]


class _Builder:
    def __init__(self, history: Sequence[Transaction], maybe_deleted: AbstractSet[bytes]) -> None:
        self._history = history
        self._maybe_deleted = maybe_deleted
        self._graph = DependencyGraph([f"T{transaction.id}" for transaction in history])
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
                self._graph.add(one.node, other.node, Arc("ww", key))
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
        """A transaction comes after what was completed before it was invoked."""
        self._graph.add_real_time([(transaction.invoked, transaction.completed) for transaction in self._history])

    def search(self) -> SerializabilityViolation | None:
        cycle = self._solve(
            self._graph, {number: self._guess(absence) for number, absence in enumerate(self._absences)}
        )
        return None if cycle is None else self._describe(cycle)

    def _solve(self, certain: DependencyGraph, guesses: dict[int, int]) -> list[CycleStep] | None:
        """Try the guesses; what a cycle blames is settled, one absence at a time, in each place that is left for it."""
        while True:
            graph = certain.copy()
            for number, place in guesses.items():
                self._place(graph, self._absences[number], place, number)
            cycle = graph.find_worst_cycle()
            if cycle is None:
                return None
            blamed = {step.arc.guess for step in cycle if step.arc.guess in guesses} - {None}
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

    def _describe(self, cycle: Sequence[CycleStep]) -> SerializabilityViolation:
        edges = self._graph.describe(cycle)
        sentence = sentence_of(edges)
        if any(step.arc.guess is not None for step in cycle):
            sentence += " There is one whenever the absent keys were read; this is an example."
        return SerializabilityViolation(sentence, edges)

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

    def _place(self, graph: DependencyGraph, reading: _Reading, place: int, absence: int | None = None) -> None:
        """Put a reader after the version it read and before the next."""
        node, key, predicate, _ = reading
        versions = self._versions.get(key, [])
        if place != INITIAL:
            graph.add(versions[place].node, node, Arc("predicate wr" if predicate else "wr", key, absence))
        if place + 1 < len(versions):
            graph.add(node, versions[place + 1].node, Arc("predicate rw" if predicate else "rw", key, absence))

    def _guess(self, absence: _Reading) -> int:
        transaction = self._history[absence.node]
        bisect = bisect_left if transaction.writes or transaction.deletes else bisect_right
        current = bisect(self._versions[absence.key], transaction.seq, key=lambda version: version.seq) - 1
        return absence.places[max(0, bisect_right(absence.places, current) - 1)]

    def _possible(self, graph: DependencyGraph, number: int) -> list[int]:
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

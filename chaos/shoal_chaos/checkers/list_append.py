"""Do transactions that append to lists and read them show an anomaly? The lists tell the order of all writes.

Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations" (VLDB 2020), section 4: every
element is appended at most once, so that a list read says which appends came before it, in which order, and, where
another shows more, which came after. Each inference is an edge between transactions; a cycle is an anomaly (Adya 1999).
Lists that contradict each other, or what is known of the transactions, are anomalies by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from shoal_chaos.checkers.dependency_graph import Arc, DependencyGraph, Edge, name_of, sentence_of

Order = Literal["none", "session", "real time"]
"""What, beside the data, a serial order has to keep. Real time covers sessions."""

TransactionOutcome = Literal["committed", "aborted", "unknown"]
"""Unknown: it may have been committed, or may yet be."""


class Append(NamedTuple):
    """`element` was put at the end of the list at `key`."""

    key: bytes
    element: int


class ReadList(NamedTuple):
    """The list at `key` was `elements`; it was empty where nothing was there."""

    key: bytes
    elements: tuple[int, ...]


Operation: TypeAlias = Append | ReadList


@dataclass(frozen=True, slots=True)
class ListTransaction:
    """A transaction, from `invoked` to `completed` in nanoseconds of the history's clock (None: no answer came).

    Attributes:
        id: names it in what is reported.
        session: its transactions follow one another.
        operations: in order. The reads of one that was not committed are not judged.
        outcome: of the commit.
    """

    id: int
    session: str
    operations: Sequence[Operation]
    outcome: TransactionOutcome
    invoked: int
    completed: int | None


@dataclass(frozen=True, slots=True)
class ListViolation:
    """An anomaly; `edges` are its cycle, none where the sentence alone says what cannot be."""

    anomaly: str
    sentence: str
    edges: tuple[Edge, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.anomaly}: {self.sentence}", *(f"  {edge}" for edge in self.edges)])


def find_violations(history: Sequence[ListTransaction], order: Order = "real time") -> list[ListViolation]:
    """Return the anomalies that lists show by themselves, or else the worst cycle, if there is one.

    Args:
        history: all transactions that may have appended anything. All lists are empty at first.
        order: kept beside that of the data. With "real time" an append that was acknowledged before a read of its list
            was invoked, and is in no list, is lost.

    Raises:
        ValueError: two transactions append the same element to the same list, which tells nothing.
    """
    lists = _Lists(history)
    found = [*lists.contradictions(), *(lists.lost() if order == "real time" else ())]
    if found:
        return found
    graph = lists.graph(order)
    cycle = graph.find_worst_cycle()
    if cycle is None:
        return []
    edges = graph.describe(cycle)
    return [ListViolation(name_of([edge.kind for edge in edges]), sentence_of(edges), edges)]


class _Read(NamedTuple):
    """A list that a committed transaction read, less what it had appended itself."""

    reader: ListTransaction
    elements: tuple[int, ...]


class _Lists:
    def __init__(self, history: Sequence[ListTransaction]) -> None:
        self._history = history
        self._writers: dict[tuple[bytes, int], ListTransaction] = {}
        self._appended: dict[bytes, list[int]] = {}
        self._reads: dict[bytes, list[_Read]] = {}
        self._internal: list[ListViolation] = []
        for transaction in history:
            self._take(transaction)
        self._longest = {
            key: max((read.elements for read in reads), key=len, default=()) for key, reads in self._reads.items()
        }

    def _take(self, transaction: ListTransaction) -> None:
        expected: dict[bytes, tuple[int, ...]] = {}
        own: dict[bytes, tuple[int, ...]] = {}
        for operation in transaction.operations:
            key = operation.key
            if isinstance(operation, Append):
                other = self._writers.setdefault((key, operation.element), transaction)
                if other is not transaction or operation.element in own.get(key, ()):
                    raise ValueError(f"element {operation.element} is appended to {key!r} twice")
                self._appended.setdefault(key, []).append(operation.element)
                own[key] = (*own.get(key, ()), operation.element)
                if key in expected:
                    expected[key] = (*expected[key], operation.element)
            elif transaction.outcome == "committed":
                self._read(transaction, operation, own.get(key, ()), expected)

    def _read(
        self,
        transaction: ListTransaction,
        operation: ReadList,
        own: tuple[int, ...],
        expected: dict[bytes, tuple[int, ...]],
    ) -> None:
        key, elements = operation
        tail = elements[len(elements) - len(own) :]
        if tail != own or elements != expected.get(key, elements):
            had = f"{list(expected[key])} was there" if key in expected else f"it had appended {list(own)}"
            sentence = f"T{transaction.id} read {list(elements)} in {key!r}, where {had}."
            self._internal.append(ListViolation("internal", sentence))
        elif key not in expected:
            self._reads.setdefault(key, []).append(_Read(transaction, elements[: len(elements) - len(own)]))
        expected[key] = elements

    def contradictions(self) -> Iterator[ListViolation]:
        """Yield what no order of any appends explains; of each list no more than one of a kind."""
        yield from self._internal
        for key, reads in self._reads.items():
            seen: set[str] = set()
            checked: set[tuple[int, ...]] = set()
            for read in reads:
                if read.elements in checked:
                    continue
                checked.add(read.elements)
                for found in self._contradictions_of(key, read):
                    if found.anomaly not in seen:
                        seen.add(found.anomaly)
                        yield found

    def _contradictions_of(self, key: bytes, read: _Read) -> Iterator[ListViolation]:
        reader, elements = read
        told = f"T{reader.id} read {list(elements)} in {key!r}"
        twice = sorted({element for element in elements if elements.count(element) > 1})
        if twice:
            yield ListViolation("duplicate", f"{told}, with {twice} more than once.")
        for element in elements:
            writer = self._writers.get((key, element))
            if writer is None:
                yield ListViolation("garbage", f"{told}, and nobody ever appended {element}.")
            elif writer.outcome == "aborted":
                yield ListViolation("G1a", f"{told}, but T{writer.id}, which appended {element}, was aborted.")
        longest = self._longest[key]
        if elements != longest[: len(elements)]:
            yield ListViolation("incompatible order", f"{told}, and another {list(longest)}.")
        writer = self._writers.get((key, elements[-1])) if elements else None
        if writer is not None and writer is not reader:
            last = _appended_to(key, writer)[-1]
            if last != elements[-1]:
                yield ListViolation("G1b", f"{told}, but T{writer.id} appended {last} after {elements[-1]}.")

    def lost(self) -> Iterator[ListViolation]:
        """Yield, for each list, the appends that were acknowledged before a read was invoked, and that no read shows."""
        for key, reads in self._reads.items():
            there = set(self._longest[key])
            latest = max(reads, key=lambda read: read.reader.invoked)
            lost = [
                (element, writer)
                for element in self._appended.get(key, ())
                if element not in there
                and (writer := self._writers[key, element]).outcome == "committed"
                and writer.completed is not None
                and writer.completed < latest.reader.invoked
            ]
            if lost:
                element, writer = lost[0]
                sentence = (
                    f"T{writer.id} appended {element} to {key!r} and was committed at {writer.completed} ns, but T"
                    f"{latest.reader.id}, invoked at {latest.reader.invoked} ns, read {list(latest.elements)}"
                )
                more = f"; {len(lost) - 1} more are lost from there" if len(lost) > 1 else ""
                yield ListViolation("lost append", f"{sentence}{more}.")

    def graph(self, order: Order) -> DependencyGraph:
        """Return who comes before whom; all lists of a key must be prefixes of the longest."""
        graph = DependencyGraph([f"T{transaction.id}" for transaction in self._history])
        nodes = {id(transaction): node for node, transaction in enumerate(self._history)}
        for key in self._appended.keys() | self._reads.keys():
            longest = self._longest.get(key, ())
            writers = [nodes[id(self._writers[key, element])] for element in longest]
            # What no list shows comes after all that any shows, if it was committed.
            there = set(longest)
            hidden = {
                nodes[id(self._writers[key, element])]
                for element in self._appended.get(key, ())
                if element not in there and self._writers[key, element].outcome == "committed"
            }
            for one, other in pairwise(writers):
                graph.add(one, other, Arc("ww", key))
            if writers:
                for other in hidden:
                    graph.add(writers[-1], other, Arc("ww", key))
            for reader, elements in self._reads.get(key, ()):
                node, place = nodes[id(reader)], len(elements)
                if place:
                    graph.add(writers[place - 1], node, Arc("wr", key))
                for other in writers[place : place + 1] or hidden:
                    graph.add(node, other, Arc("rw", key))
        if order == "session":
            self._add_sessions(graph)
        elif order == "real time":
            graph.add_real_time([(transaction.invoked, transaction.completed) for transaction in self._history])
        return graph

    def _add_sessions(self, graph: DependencyGraph) -> None:
        sessions: dict[str, list[int]] = {}
        for node in sorted(range(len(self._history)), key=lambda node: self._history[node].invoked):
            if self._history[node].outcome != "aborted":
                sessions.setdefault(self._history[node].session, []).append(node)
        for transactions in sessions.values():
            for one, other in pairwise(transactions):
                graph.add(one, other, Arc("session", None))


def _appended_to(key: bytes, transaction: ListTransaction) -> list[int]:
    operations = transaction.operations
    return [operation.element for operation in operations if isinstance(operation, Append) and operation.key == key]

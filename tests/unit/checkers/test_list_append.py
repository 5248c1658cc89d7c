"""The checker of append lists: each of Elle's anomalies by its name, serial executions, and these with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_chaos.checkers.list_append import (
    Append,
    ListTransaction,
    Operation,
    Order,
    ReadList,
    TransactionOutcome,
    find_violations,
)

X, Y = b"x", b"y"


def transaction(
    number: int,
    *operations: Operation,
    during: tuple[int, int | None] = (0, 1000),
    outcome: TransactionOutcome = "committed",
    session: str = "",
) -> ListTransaction:
    return ListTransaction(number, session or f"s{number}", operations, outcome, *during)


def a(key: bytes, element: int) -> Append:
    return Append(key, element)


def r(key: bytes, *elements: int) -> ReadList:
    return ReadList(key, elements)


def anomalies(history: Sequence[ListTransaction], order: Order = "none") -> list[str]:
    return [found.anomaly for found in find_violations(history, order)]


def test_an_empty_history_and_a_serial_one_are_fine() -> None:
    assert find_violations([]) == []
    history = [
        transaction(1, r(X), a(X, 1), r(X, 1), during=(0, 1)),
        transaction(2, a(X, 2), a(Y, 3), r(X, 1, 2), during=(2, 3)),
        transaction(3, r(X, 1, 2), r(Y, 3), during=(4, 5)),
    ]
    assert find_violations(history) == []


@pytest.mark.parametrize(
    ("history", "anomaly"),
    [
        ([transaction(1, a(X, 1)), transaction(2, r(X, 1), r(X))], "internal"),
        ([transaction(1, a(X, 1), r(X))], "internal"),
        ([transaction(1, r(X, 9))], "garbage"),
        ([transaction(1, a(X, 1)), transaction(2, r(X, 1, 1))], "duplicate"),
        (
            [transaction(1, a(X, 1)), transaction(2, a(X, 2)), transaction(3, r(X, 1, 2)), transaction(4, r(X, 2))],
            "incompatible order",
        ),
        ([transaction(1, a(X, 1), outcome="aborted"), transaction(2, r(X, 1))], "G1a"),
        ([transaction(1, a(X, 1), a(X, 2)), transaction(2, r(X, 1)), transaction(3, r(X, 1, 2))], "G1b"),
        (
            [
                transaction(1, a(X, 1), a(Y, 1)),
                transaction(2, a(X, 2), a(Y, 2)),
                transaction(3, r(X, 1, 2), r(Y, 2, 1)),
            ],
            "G0",
        ),
        ([transaction(1, a(X, 1), r(Y, 2)), transaction(2, a(Y, 2), r(X, 1))], "G1c"),
        (
            [transaction(1, a(X, 1), a(Y, 1)), transaction(2, r(X), r(Y, 1)), transaction(3, r(X, 1))],
            "G-single",
        ),
        (
            [transaction(1, r(X), a(Y, 1)), transaction(2, r(Y), a(X, 1)), transaction(3, r(X, 1), r(Y, 1))],
            "G2-item",
        ),
    ],
)
def test_each_anomaly_is_called_by_its_name(history: list[ListTransaction], anomaly: str) -> None:
    assert anomalies(history) == [anomaly]
    assert anomalies(history[::-1]) == [anomaly]


def test_write_skew_is_told_by_its_cycle() -> None:
    (found,) = find_violations([transaction(1, r(X), a(Y, 1)), transaction(2, r(Y), a(X, 1))], "none")
    assert str(found) == (
        "G2-item: No serial order: G2-item, a cycle of 2 edges.\n  T1 -[rw b'x']-> T2\n  T2 -[rw b'y']-> T1"
    )


def test_the_worst_cycle_is_shown_where_there_are_several() -> None:
    skew = [transaction(1, r(X), a(Y, 1)), transaction(2, r(Y), a(X, 1))]
    circular = [transaction(3, a(b"p", 1), r(b"q", 2)), transaction(4, a(b"q", 2), r(b"p", 1))]
    assert anomalies([*skew, *circular]) == ["G1c"]


def test_what_may_have_been_committed_counts_where_it_was_read() -> None:
    unknown = transaction(1, a(X, 1), a(Y, 1), outcome="unknown", during=(0, None))
    assert anomalies([unknown, transaction(2, r(X)), transaction(3, r(Y))], "real time") == []
    assert anomalies([unknown, transaction(2, r(X, 1), r(Y))]) == []
    assert anomalies([unknown, transaction(2, r(X, 1), r(Y)), transaction(3, r(Y, 1))]) == ["G-single"]


def test_an_acknowledged_append_that_no_later_read_shows_is_lost() -> None:
    history = [transaction(1, a(X, 1), during=(0, 1)), transaction(2, r(X), during=(2, 3))]
    assert anomalies(history, "none") == []
    assert anomalies(history, "real time") == ["lost append"]
    assert anomalies([history[0], replace(history[1], invoked=1)], "real time") == []


def test_a_stale_read_breaks_real_time_only() -> None:
    history = [
        transaction(1, a(X, 1), during=(0, 1)),
        transaction(2, r(X), during=(2, 3)),
        transaction(3, r(X, 1), during=(4, 5)),
    ]
    assert anomalies(history, "none") == anomalies(history, "session") == []
    (found,) = find_violations(history, "real time")
    assert found.anomaly == "G-single"
    assert [edge.kind for edge in found.edges] == ["real time", "rw"]


def test_a_session_that_goes_back_breaks_its_order() -> None:
    history = [
        transaction(1, a(X, 1)),
        transaction(2, r(X, 1), session="s", during=(2, 3)),
        transaction(3, r(X), session="s", during=(4, 5)),
    ]
    assert anomalies(history, "none") == []
    assert anomalies(history, "session") == ["G-single"]
    assert anomalies([history[0], *(replace(each, session=f"{each.id}") for each in history[1:])], "session") == []


def test_an_element_appended_twice_tells_nothing() -> None:
    with pytest.raises(ValueError, match="twice"):
        find_violations([transaction(1, a(X, 1)), transaction(2, a(X, 1))])


def serial(random: Random, length: int) -> list[ListTransaction]:
    """Return transactions that take effect one after another, each at one instant between its call and its answer."""
    lists: dict[bytes, tuple[int, ...]] = {}
    history: list[ListTransaction] = []
    for number in range(length):
        outcome: TransactionOutcome = random.choice(["committed", "committed", "committed", "aborted", "unknown"])
        takes_effect = outcome == "committed" or (outcome == "unknown" and random.random() < 0.5)
        after = dict(lists)
        operations: list[Operation] = []
        for step in range(random.randint(1, 4)):
            key = random.choice([X, Y, b"z"])
            if random.random() < 0.5:
                operations.append(ReadList(key, after.get(key, ())))
            else:
                operations.append(Append(key, 10 * number + step))
                after[key] = (*after.get(key, ()), 10 * number + step)
        lists = after if takes_effect else lists
        began, ended = 10 * number - random.randint(0, 30), 10 * number + random.randint(0, 30)
        completed = ended if outcome == "committed" else None
        history.append(ListTransaction(number, f"s{number}", operations, outcome, began, completed))
    last = [ReadList(key, lists.get(key, ())) for key in (X, Y, b"z")]
    history.append(ListTransaction(length, "last", last, "committed", 10 * length + 100, 10 * length + 101))
    random.shuffle(history)
    return history


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_serial_executions_pass(seed: int) -> None:
    history = serial(Random(seed), 40)
    for order in ("none", "session", "real time"):
        assert find_violations(history, order) == []


def last_read_changed(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Callable[[list[ListTransaction]], None]:
    def mutate(history: list[ListTransaction]) -> None:
        number = next(n for n, each in enumerate(history) if each.session == "last")
        reads = [
            ReadList(read.key, change(read.elements))
            for read in history[number].operations
            if isinstance(read, ReadList)
        ]
        history[number] = replace(history[number], operations=reads)

    return mutate


def abort_all(history: list[ListTransaction]) -> None:
    history[:] = [each if each.session == "last" else replace(each, outcome="aborted") for each in history]


@pytest.mark.parametrize(
    ("mutate", "expected"),
    [
        (last_read_changed(lambda elements: elements[:-1]), {"lost append", "G-single", "G1b", "internal"}),
        (last_read_changed(lambda elements: (*elements, *elements[:1])), {"duplicate"}),
        (last_read_changed(lambda elements: (*elements, 999_999)), {"garbage"}),
        (last_read_changed(lambda elements: elements[1:]), {"incompatible order"}),
        (abort_all, {"G1a"}),
    ],
)
@pytest.mark.parametrize("seed", range(10))
def test_one_change_to_a_serial_execution_is_found(
    mutate: Callable[[list[ListTransaction]], None], expected: set[str], seed: int
) -> None:
    history = serial(Random(seed), 40)
    mutate(history)
    assert expected & set(anomalies(history, "real time"))

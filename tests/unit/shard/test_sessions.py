"""Deduplication: what a shard remembers of its clients' writes, and what it does with what it has forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.messages import SESSION_WINDOW
from shoal_server.invariants import InvariantViolated
from shoal_server.shard.sessions import SessionTable, Verdict

CAPACITY = 10


def table_with(*sessions: int) -> SessionTable:
    table = SessionTable()
    for session in sessions:
        table.open(session, CAPACITY)
    return table


def test_a_write_is_new_once_and_a_duplicate_with_its_seq_ever_after() -> None:
    table = table_with(7)
    assert table.judge(7, 1) == (Verdict.NEW, 0, b"")
    table.record(7, 1, seq=31)
    assert table.judge(7, 1) == (Verdict.DUPLICATE, 31, b"")


def test_writes_may_arrive_out_of_order_within_the_window() -> None:
    table = table_with(7)
    table.record(7, 5, seq=50)
    assert table.judge(7, 2) == (Verdict.NEW, 0, b"")
    table.record(7, 2, seq=51)
    assert table.judge(7, 5) == (Verdict.DUPLICATE, 50, b"")
    assert table.judge(7, 2) == (Verdict.DUPLICATE, 51, b"")


def test_a_number_whose_slot_has_been_reused_is_late_and_not_applied() -> None:
    table = table_with(7)
    table.record(7, 3, seq=1)
    table.record(7, 3 + SESSION_WINDOW, seq=2)
    assert table.judge(7, 3) == (Verdict.LATE, 0, b"")


def test_a_session_that_was_never_opened_is_refused() -> None:
    assert table_with(7).judge(8, 1) == (Verdict.UNKNOWN_SESSION, 0, b"")


def test_the_least_recently_written_session_is_forgotten_first_and_stays_refused() -> None:
    table = table_with(1, 2)
    table.record(1, 1, seq=1)
    _, forgotten = table.open(3, 2)
    assert forgotten == [2]
    assert table.judge(2, 1) == (Verdict.UNKNOWN_SESSION, 0, b"")
    assert table.judge(1, 1) == (Verdict.DUPLICATE, 1, b"")


def test_results_are_kept_beside_their_write_until_its_slot_is_reused() -> None:
    table = table_with(7)
    table.record(7, 1, 31, b"results")
    table.record(7, 2, 32)
    assert table.judge(7, 1) == (Verdict.DUPLICATE, 31, b"results")
    assert table.judge(7, 2) == (Verdict.DUPLICATE, 32, b"")
    table.record(7, 1 + SESSION_WINDOW, 33)
    assert table.judge(7, 1 + SESSION_WINDOW) == (Verdict.DUPLICATE, 33, b"")


def test_an_opening_that_allows_fewer_sessions_forgets_as_many_as_are_too_many() -> None:
    table = table_with(1, 2, 3)
    assert table.open(4, 2)[1] == [1, 2]
    assert len(table) == 2


def test_session_ids_are_never_reused() -> None:
    table = table_with(1)
    with pytest.raises(InvariantViolated, match="never reused"):
        table.open(1, CAPACITY)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.just(0), st.just(0)),
            st.tuples(st.just("write"), st.integers(0, 30), st.integers(1, 3 * SESSION_WINDOW)),
        ),
        max_size=120,
    ),
    st.integers(1, 5),
)
def test_a_table_loaded_from_its_stored_slots_decides_like_the_one_that_stored_them(
    steps: list[tuple[str, int, int]], capacity: int
) -> None:
    live = SessionTable()
    slots: dict[tuple[int, int], tuple[int, int, int, int, bytes]] = {}
    opened = 0
    for seq, (kind, session, number) in enumerate(steps, start=1):
        if kind == "open":
            opened += 1
            used_at, forgotten = live.open(opened, capacity)
            for old in forgotten:
                slots = {key: row for key, row in slots.items() if key[0] != old}
            slots[opened, 0] = (opened, 0, 0, used_at, b"")
        elif live.judge(session, number)[0] is Verdict.NEW:
            results = b"results" if seq % 2 else b""
            used_at = live.record(session, number, seq, results)
            slots[session, number % SESSION_WINDOW] = (session, number, seq, used_at, results)
    loaded = SessionTable()
    loaded.load(slots.values())
    assert len(loaded) == len(live)
    for session in range(1, opened + 1):
        for number in (1, 2, SESSION_WINDOW, SESSION_WINDOW + 1, 3 * SESSION_WINDOW):
            assert loaded.judge(session, number) == live.judge(session, number)
    for _ in range(capacity):
        opened += 1
        assert loaded.open(opened, capacity) == live.open(opened, capacity)

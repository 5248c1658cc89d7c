"""Deduplication: what a shard remembers of its clients' writes, and what it does with what it has forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.messages import SESSION_WINDOW
from shoal_server.shard import sessions
from shoal_server.shard.sessions import (
    KEPT_OVERHEAD_BYTES,
    SESSION_RESULTS_BYTES,
    TABLE_RESULTS_BYTES,
    CommandVerdict,
    Judgement,
    Opened,
    SessionTable,
)
from shoal_server.storage.session_rows import SessionOwner, StoredSession, StoredSlot

CAPACITY = 10
NOBODY = b""
ANN, BOB, CAROL = (SessionOwner(name, proven=False) for name in (b"ann", b"bob", b"carol"))


def named(number: int) -> bytes:
    return number.to_bytes(16, "big")


def table_with(*opened: int, owner: SessionOwner = ANN) -> SessionTable:
    table = SessionTable()
    for session in opened:
        table.open(named(session), owner, CAPACITY)
    return table


def judge(table: SessionTable, session: int, number: int) -> Judgement:
    return table.judge(named(session), number, NOBODY)


def left(table: SessionTable, count: int) -> list[int]:
    return [session for session in range(1, count + 1) if named(session) in table]


def test_a_write_is_new_once_and_a_duplicate_with_its_seq_ever_after() -> None:
    table = table_with(7)
    assert judge(table, 7, 1) == (CommandVerdict.NEW, 0, b"")
    table.record(named(7), 1, seq=31)
    assert judge(table, 7, 1) == (CommandVerdict.DUPLICATE, 31, b"")


def test_writes_may_arrive_out_of_order_within_the_window() -> None:
    table = table_with(7)
    table.record(named(7), 5, seq=50)
    assert judge(table, 7, 2) == (CommandVerdict.NEW, 0, b"")
    table.record(named(7), 2, seq=51)
    assert judge(table, 7, 5) == (CommandVerdict.DUPLICATE, 50, b"")
    assert judge(table, 7, 2) == (CommandVerdict.DUPLICATE, 51, b"")


def test_a_number_whose_slot_has_been_reused_is_late_and_not_applied() -> None:
    table = table_with(7)
    table.record(named(7), 3, seq=1)
    table.record(named(7), 3 + SESSION_WINDOW, seq=2)
    assert judge(table, 7, 3) == (CommandVerdict.LATE, 0, b"")


def test_a_session_that_was_never_opened_is_refused() -> None:
    assert judge(table_with(7), 8, 1) == (CommandVerdict.UNKNOWN_SESSION, 0, b"")


# -- whose it is


def test_a_session_of_somebody_proven_is_unknown_to_everybody_else() -> None:
    table = table_with(7, owner=SessionOwner(b"ann", proven=True))
    for identity in (NOBODY, b"bob", b"an", b"ann "):
        assert table.judge(named(7), 1, identity).verdict is CommandVerdict.UNKNOWN_SESSION
    assert table.judge(named(7), 1, b"ann").verdict is CommandVerdict.NEW
    table.record(named(7), 1, seq=1)
    assert table.judge(named(7), 1, b"bob").verdict is CommandVerdict.UNKNOWN_SESSION, "nor is it told what was done"
    assert table.judge(named(7), 1, b"ann").verdict is CommandVerdict.DUPLICATE


def test_a_session_of_an_address_is_open_to_whoever_knows_its_id() -> None:
    """A client goes on with it from another connection, to another leader."""
    assert table_with(7).judge(named(7), 1, b"somebody with a certificate").verdict is CommandVerdict.NEW


# -- who makes room


def test_the_least_recently_written_session_is_forgotten_first_and_stays_refused() -> None:
    table = table_with(1, 2)
    table.record(named(1), 1, seq=1)
    opened = table.open(named(3), ANN, 2)
    assert opened is not None
    assert [each.session for each in opened.forgotten] == [named(2)]
    assert judge(table, 2, 1) == (CommandVerdict.UNKNOWN_SESSION, 0, b"")
    assert judge(table, 1, 1) == (CommandVerdict.DUPLICATE, 1, b"")


def test_an_owner_that_opens_without_end_makes_room_among_its_own() -> None:
    table = table_with(1, owner=BOB)
    for session in range(2, 100):
        table.open(named(session), ANN, 3)
    assert left(table, 99) == [1, 98, 99]


def test_an_owner_that_has_few_makes_room_among_those_of_whoever_has_most() -> None:
    table = table_with(1, owner=BOB)
    for session in range(2, 11):
        table.open(named(session), ANN, 10)
    for session in range(11, 20):
        table.open(named(session), BOB, 10)
    # As long as it has less than half as many as the other; from then on among its own.
    assert left(table, 19) == [5, 6, 7, 8, 9, 10, 16, 17, 18, 19]


def test_who_has_none_makes_room_among_those_of_whoever_has_most() -> None:
    table = SessionTable()
    for session, owner in ((1, BOB), (2, ANN), (3, ANN), (4, CAROL), (5, CAROL), (6, CAROL)):
        table.open(named(session), owner, 6)
    for session, owner, forgotten in (
        (7, SessionOwner(b"dora", proven=False), 4),
        (8, SessionOwner(b"emil", proven=False), 2),
        (9, SessionOwner(b"fred", proven=False), 5),
        (10, SessionOwner(b"gerd", proven=False), 1),
    ):
        opened = table.open(named(session), owner, 6)
        assert opened is not None
        assert [each.session for each in opened.forgotten] == [named(forgotten)]


def test_an_owner_by_connection_and_one_by_certificate_are_not_the_same() -> None:
    table = table_with(1, owner=SessionOwner(b"x", proven=True))
    table.open(named(2), SessionOwner(b"x", proven=False), 2)
    table.open(named(3), SessionOwner(b"x", proven=False), 2)
    assert left(table, 3) == [1, 3]


def test_an_opening_that_allows_fewer_sessions_forgets_as_many_as_are_too_many() -> None:
    table = table_with(1, 2, 3)
    opened = table.open(named(4), ANN, 2)
    assert opened is not None
    assert [each.session for each in opened.forgotten] == [named(1), named(2)]
    assert len(table) == 2


def test_an_id_that_is_taken_is_not_opened_again() -> None:
    table = table_with(1)
    table.record(named(1), 1, seq=1)
    assert table.open(named(1), BOB, CAPACITY) is None
    assert judge(table, 1, 1).verdict is CommandVerdict.DUPLICATE


# -- results


def write(table: SessionTable, session: int, number: int, results: bytes) -> list[tuple[bytes, int]]:
    table.record(named(session), number, seq=number)
    return [(each.session, each.number) for each in table.keep(named(session), number, results)]


def test_results_are_kept_beside_their_write_until_its_slot_is_reused() -> None:
    table = table_with(7)
    assert write(table, 7, 1, b"results") == []
    table.record(named(7), 2, 32)
    assert judge(table, 7, 1) == (CommandVerdict.DUPLICATE, 1, b"results")
    assert judge(table, 7, 2) == (CommandVerdict.DUPLICATE, 32, b"")
    assert table.results_bytes == KEPT_OVERHEAD_BYTES + len(b"results")
    table.record(named(7), 1 + SESSION_WINDOW, 33)
    assert judge(table, 7, 1 + SESSION_WINDOW) == (CommandVerdict.DUPLICATE, 33, b"")
    assert table.results_bytes == 0


def test_a_session_forgets_its_oldest_results_beyond_its_bound_and_says_that_the_write_was_done() -> None:
    table = table_with(7, 8)
    third = bytes(SESSION_RESULTS_BYTES // 3)
    write(table, 8, 1, third)
    assert [write(table, 7, number, third) for number in (1, 2, 3)] == [[], [], [(named(7), 1)]]
    assert judge(table, 7, 1) == (CommandVerdict.FORGOTTEN, 1, b"")
    assert judge(table, 7, 2) == (CommandVerdict.DUPLICATE, 2, third)
    assert judge(table, 8, 1) == (CommandVerdict.DUPLICATE, 1, third)
    write(table, 7, 1 + SESSION_WINDOW, b"short")
    assert judge(table, 7, 1 + SESSION_WINDOW) == (CommandVerdict.DUPLICATE, 1 + SESSION_WINDOW, b"short")


def test_results_that_are_too_long_alone_are_forgotten_at_once_and_nothing_else_is() -> None:
    table = table_with(7)
    write(table, 7, 1, b"short")
    assert write(table, 7, 2, bytes(SESSION_RESULTS_BYTES)) == [(named(7), 1), (named(7), 2)]
    assert judge(table, 7, 2) == (CommandVerdict.FORGOTTEN, 2, b"")
    assert table.results_bytes == 0


def test_all_sessions_together_forget_the_oldest_results_beyond_the_tables_bound() -> None:
    table = SessionTable()
    half = bytes(SESSION_RESULTS_BYTES // 2 - KEPT_OVERHEAD_BYTES)
    rounds = TABLE_RESULTS_BYTES // (SESSION_RESULTS_BYTES // 2)
    forgotten: list[tuple[bytes, int]] = []
    for session in range(rounds + 2):
        table.open(named(session), ANN, 10_000)
        forgotten += write(table, session, 1, half)
        assert table.results_bytes <= TABLE_RESULTS_BYTES
    assert forgotten == [(named(0), 1), (named(1), 1)]
    assert judge(table, 0, 1) == (CommandVerdict.FORGOTTEN, 1, b"")
    assert judge(table, 2, 1) == (CommandVerdict.DUPLICATE, 1, half)


def test_a_session_that_goes_takes_its_results_with_it() -> None:
    table = table_with(7)
    write(table, 7, 1, b"results")
    table.open(named(8), ANN, 1)
    assert table.results_bytes == 0


def test_where_fewer_are_allowed_than_there_are_each_opening_comes_nearer_to_it() -> None:
    table = SessionTable()
    for number in range(1, 101):
        assert table.open(named(number), ANN, 100) is not None
    sizes = []
    for number in range(101, 201):
        opened = table.open(named(number), BOB, 10)
        assert opened is not None
        assert len(opened.forgotten) <= 2
        sizes.append(len(table))
    assert sizes[:3] == [99, 98, 97]
    assert sizes[-1] == 10


# -- what is stored

RESULTS = st.sampled_from([b"", b"results", bytes(200), bytes(450)])
OWNERS = st.sampled_from([ANN, BOB, CAROL, SessionOwner(b"ann", proven=True)])


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few results reach."""
    monkeypatch.setattr(sessions, "SESSION_RESULTS_BYTES", 500)
    monkeypatch.setattr(sessions, "TABLE_RESULTS_BYTES", 1000)


@pytest.mark.usefixtures("small_bounds")
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("open"), OWNERS, st.just(0), st.just(b"")),
            st.tuples(st.just("write"), st.integers(0, 30), st.integers(1, 3 * SESSION_WINDOW), RESULTS),
        ),
        max_size=120,
    ),
    st.integers(1, 5),
)
def test_a_table_loaded_from_its_stored_rows_decides_like_the_one_that_stored_them(
    steps: list[tuple[str, SessionOwner | int, int, bytes]], capacity: int
) -> None:
    live = SessionTable()
    stored: dict[bytes, tuple[SessionOwner, int, dict[int, StoredSlot]]] = {}
    opened = 0

    def open_one(table: SessionTable, session: int, owner: SessionOwner) -> Opened:
        result = table.open(named(session), owner, capacity)
        assert result is not None
        return result

    for seq, (kind, subject, number, results) in enumerate(steps, start=1):
        if isinstance(subject, SessionOwner):
            opened += 1
            used_at, forgotten = open_one(live, opened, subject)
            for old in forgotten:
                rows = stored.pop(old.session)[2].values()
                assert sorted(old.numbers) == sorted(slot.number for slot in rows)
            stored[named(opened)] = (subject, used_at, {})
            continue
        session = named(subject)
        identity = stored[session][0].token if session in stored else NOBODY
        if kind == "write" and live.judge(session, number, identity).verdict is CommandVerdict.NEW:
            used_at = live.record(session, number, seq)
            stored[session][2][number % SESSION_WINDOW] = StoredSlot(number, seq, used_at, results)
            for each in live.keep(session, number, results) if results else ():
                slot = StoredSlot(each.number, each.seq, each.used_at, None)
                stored[each.session][2][each.number % SESSION_WINDOW] = slot
        assert live.results_bytes <= 1000
    loaded = SessionTable()
    loaded.load(
        StoredSession(session, owner, opened_at, list(slots.values()))
        for session, (owner, opened_at, slots) in reversed(stored.items())
    )
    assert (len(loaded), loaded.results_bytes) == (len(live), live.results_bytes)
    for session in map(named, range(1, opened + 1)):
        for number in (1, 2, SESSION_WINDOW, SESSION_WINDOW + 1, 3 * SESSION_WINDOW):
            for identity in (NOBODY, b"ann"):
                assert loaded.judge(session, number, identity) == live.judge(session, number, identity)
    for table in (loaded, live):
        # Both forget the same results next.
        for session in stored:
            table.record(session, 10 * SESSION_WINDOW, 1000)
    assert [loaded.keep(session, 10 * SESSION_WINDOW, bytes(300)) for session in list(stored)[-1:]] == [
        live.keep(session, 10 * SESSION_WINDOW, bytes(300)) for session in list(stored)[-1:]
    ]
    for owner in (ANN, BOB, CAROL, SessionOwner(b"new", proven=False), ANN):
        opened += 1
        assert open_one(loaded, opened, owner) == open_one(live, opened, owner)

"""A write that is sent again is not applied again, and answered as it was the first time: seq, results and all."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.bounds import MAX_SEQ
from shoal.protocol.messages import (
    SESSION_WINDOW,
    Applied,
    Atomic,
    ConditionNotMet,
    Increment,
    KeyAbsent,
    Put,
    ValueEquals,
)
from shoal_server.shard.machine import GIVEN_RESULTS_BYTES, KEPT_RESULTS_BYTES
from shoal_server.shard.overlay import Overlay
from shoal_server.shard.sessions import CommandVerdict

MIXED = (
    Put(b"k", b"v"),
    Increment(b"n", 3),
    Atomic([KeyAbsent(b"k")], [Put(b"k", b"w")]),
    Increment(b"k"),
    Atomic([ValueEquals(b"k", b"v")], [Increment(b"n"), Put(b"k", b"x")]),
)


def test_a_repeated_write_has_the_first_ones_seq_and_results(replica: Any) -> None:
    replica.open_session()
    write = replica.write_command(*MIXED)
    [[first]] = replica.apply(replica.commands(write))
    replica.write(Put(b"k", b"later"), Increment(b"n"))
    [[again]] = replica.apply(replica.commands(write))
    assert (first.verdict, again.verdict) == (CommandVerdict.NEW, CommandVerdict.DUPLICATE)
    assert (again.seq, again.results) == (first.seq, first.results)
    assert (replica.get(b"k"), replica.get(b"n")) == (b"later", b"5")


def test_so_it_is_within_one_entry_and_after_a_restart(replica: Any) -> None:
    replica.open_session()
    write = replica.write_command(*MIXED)
    [[first, again]] = replica.apply(replica.commands(write, write))
    [[later]] = replica.restarted().apply(replica.commands(write))
    assert first.results == again.results == later.results
    assert first.seq == again.seq == later.seq


@pytest.mark.parametrize("longer_than", [KEPT_RESULTS_BYTES, GIVEN_RESULTS_BYTES])
def test_long_results_are_kept_and_longer_ones_given_without_what_conditions_found(
    replica: Any, longer_than: int
) -> None:
    replica.open_session()
    value = bytes(1000)
    conditions = [Atomic([KeyAbsent(b"k")], []) for _ in range(longer_than // 1000 + 1)]
    write = replica.write_command(Put(b"k", value), *conditions, Increment(b"n"))
    [[first]] = replica.apply(replica.commands(write))
    short = [ConditionNotMet(0, first.seq, None)] * len(conditions) + [Applied([1])]
    whole = [ConditionNotMet(0, first.seq, value)] * len(conditions) + [Applied([1])]
    assert first.results == (whole if longer_than == KEPT_RESULTS_BYTES else short)
    for each in (replica, replica.restarted()):
        [[again]] = each.apply(each.commands(write))
        assert (again.verdict, again.results) == (CommandVerdict.DUPLICATE, short)


def test_a_slot_that_is_used_again_has_none_of_the_earlier_results(replica: Any) -> None:
    replica.open_session()
    replica.apply(replica.commands(replica.write_command(Increment(b"n"), number=1)))
    plain = replica.write_command(Put(b"k", b"v"), number=1 + SESSION_WINDOW)
    replica.apply(replica.commands(plain))
    for each in (replica, replica.restarted()):
        [[again]] = each.apply(each.commands(plain))
        assert (again.verdict, again.results) == (CommandVerdict.DUPLICATE, [])


def test_a_late_write_and_one_of_an_unknown_session_are_not_applied(replica: Any) -> None:
    replica.open_session()
    replica.apply(replica.commands(replica.write_command(Put(b"k", b"new"), number=1 + SESSION_WINDOW)))
    [[late]] = replica.apply(replica.commands(replica.write_command(Put(b"k", b"late"), number=1)))
    replica.session = replica.opening().session
    [[unknown]] = replica.apply(replica.commands(replica.write_command(Put(b"k", b"unknown"))))
    assert (late.verdict, unknown.verdict) == (CommandVerdict.LATE, CommandVerdict.UNKNOWN_SESSION)
    assert replica.get(b"k") == b"new"


@pytest.mark.parametrize("number", [MAX_SEQ, 1 << 40])
def test_the_largest_numbers_are_remembered_like_others(replica: Any, number: int) -> None:
    replica.open_session()
    write = replica.write_command(Increment(b"n"), number=number)
    replica.apply(replica.commands(write))
    [[again]] = replica.restarted().apply(replica.commands(write))
    assert (again.verdict, again.results) == (CommandVerdict.DUPLICATE, [Applied([1])])


def test_how_many_sessions_are_remembered_is_in_the_entry_and_not_each_replicas_own(replica: Any) -> None:
    """Replicas with different settings would forget different sessions, and then apply different writes."""
    sessions = [replica.open_session(capacity=3) for _ in range(3)]
    replica.apply(replica.commands(replica.opening(capacity=2)))
    kept = [session in replica.machine.sessions for session in sessions]
    assert kept == [session in replica.restarted().machine.sessions for session in sessions] == [False, False, True]


def test_openings_in_a_full_table_clear_no_ranges(replica: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clearing one goes through all that was changed before it in the turn, and there may be thousands of openings."""
    replica.open_session(capacity=100)
    replica.write(Put(b"k", b"v"), Increment(b"n"))
    before = len(replica.stored())
    monkeypatch.setattr(Overlay, "clear", lambda *_: pytest.fail("a range was cleared"))
    replica.apply(replica.commands(*[replica.opening(capacity=100) for _ in range(1000)]))
    assert len(replica.stored()) == before - 2 + 100, "nothing is left of the session that was written in"
    assert len(replica.restarted().machine.sessions) == 100

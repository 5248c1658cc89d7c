"""What a leader believes of a replica: windows, back-off, and that no state is left from which nothing is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.progress import Progress, ProgressState


def replicating(config: RaftConfig | None = None, match: int = 5) -> Progress:
    progress = Progress(config or RaftConfig(), match + 1, 0)
    progress.accepted(match, 0, 0)
    return progress


def test_one_message_at_a_time_is_sent_while_probing() -> None:
    progress = Progress(RaftConfig(), 6, 0)
    assert progress.may_send
    progress.sent(6, 10, 0)
    assert not progress.may_send
    assert progress.next == 6, "what was not accepted is not taken for granted while probing"


@pytest.mark.parametrize("config", [RaftConfig(max_inflight_messages=2), RaftConfig(max_inflight_bytes=20)])
def test_the_window_closes_at_its_bound_and_opens_with_acceptance(config: RaftConfig) -> None:
    progress = replicating(config)
    progress.sent(6, 10, 0)
    progress.sent(7, 10, 0)
    assert not progress.may_send
    progress.accepted(6, 0, 0)
    assert progress.may_send


def test_a_late_rejection_is_ignored() -> None:
    progress = replicating(match=5)
    assert not progress.rejected(4, 2)
    assert progress.state is ProgressState.REPLICATE


def test_a_lost_message_is_found_by_the_rejection_of_the_next() -> None:
    progress = replicating(match=5)
    progress.sent(6, 1, 0)
    progress.sent(7, 1, 0)
    assert progress.rejected(6, 6)
    assert (progress.state, progress.next) == (ProgressState.PROBE, 6)
    assert progress.may_send


def test_a_probe_that_is_sent_again_keeps_the_position_that_probing_had_come_to() -> None:
    progress = Progress(RaftConfig(), 100, 0)
    progress.sent(100, 1, 0)
    progress.rejected(99, 90)
    progress.sent(90, 1, 0)
    progress.probe()
    assert progress.next == 90, "from match + 1 it would ask for entries that may be cut off, so for a snapshot"
    assert progress.may_send


def test_acceptance_below_the_probed_position_goes_on_right_behind_what_is_there() -> None:
    progress = Progress(RaftConfig(), 100, 0)
    progress.sent(100, 1, 0)
    progress.accepted(40, 0, 0)
    assert (progress.state, progress.next) == (ProgressState.REPLICATE, 41)


def test_a_replica_in_need_of_what_is_cut_off_stays_with_its_snapshot() -> None:
    progress = Progress(RaftConfig(), 6, 0)
    progress.await_snapshot()
    progress.accepted(3, 10, 0)
    assert progress.state is ProgressState.SNAPSHOT
    assert not progress.may_send
    progress.accepted(10, 10, 0)
    assert (progress.state, progress.next) == (ProgressState.REPLICATE, 11)


def test_a_new_life_has_to_show_again_what_the_one_before_had_and_probing_begins_there() -> None:
    progress = replicating(match=5)
    progress.answered_by(1)
    progress.accepted(9, 0, 0)
    assert progress.answered_by(2)
    assert (progress.match, progress.state, progress.next) == (0, ProgressState.PROBE, 10)
    progress.accepted(9, 0, 0)
    assert (progress.match, progress.acknowledged, progress.state) == (9, 0, ProgressState.REPLICATE)


def test_an_answer_of_a_life_that_is_over_counts_for_nothing_and_one_that_does_not_say_is_taken() -> None:
    progress = replicating(match=5)
    progress.answered_by(2)
    assert not progress.answered_by(1)
    assert progress.answered_by(0)


def test_what_a_new_life_lacks_of_what_was_acknowledged_is_asked_for_further_back_and_said_once() -> None:
    progress = Progress(RaftConfig(), 10, 0)
    progress.answered_by(1)
    progress.accepted(9, 0, 0)
    progress.answered_by(2)
    progress.sent(9, 0, 0)
    assert progress.rejected(9, 4)
    assert progress.next == 4
    assert [progress.take_lost(9), progress.take_lost(9)] == [9, 0]


def test_a_rejection_beyond_what_was_acknowledged_is_no_loss() -> None:
    progress = Progress(RaftConfig(), 10, 0)
    progress.answered_by(1)
    progress.accepted(9, 0, 0)
    progress.answered_by(2)
    assert progress.take_lost(10) == 0


def test_a_new_life_of_a_replica_that_waits_for_its_snapshot_goes_on_waiting() -> None:
    progress = replicating(match=5)
    progress.answered_by(1)
    progress.await_snapshot()
    progress.answered_by(2)
    assert (progress.match, progress.state) == (0, ProgressState.SNAPSHOT)


step = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("accept"), st.integers(0, 60)),
    st.tuples(st.just("reject"), st.integers(0, 60)),
    st.tuples(st.just("probe"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


@given(st.lists(step, max_size=40))
def test_match_never_falls_in_a_life_next_stays_beyond_it_and_a_closed_window_has_something_in_it(
    steps: list[tuple[str, int]],
) -> None:
    progress = Progress(RaftConfig(max_inflight_messages=3, max_inflight_bytes=100), 20, 0)
    sent = 0
    for kind, value in steps:
        before = progress.match
        if kind == "send" and progress.may_send:
            last = progress.next + value - 1
            progress.sent(last, 10, 0)
            sent = max(sent, last)
        elif kind == "accept":
            progress.accepted(min(value, max(sent, 19)), 0, 0)
        elif kind == "reject":
            progress.rejected(value, value // 2)
        elif kind == "probe":
            progress.probe()
        elif kind == "restart":
            progress.answered_by(progress.life + 1)
            before = 0
        assert progress.match >= before
        assert progress.next > progress.match
        assert progress.may_send or progress.outstanding

"""When a link is taken for dead: nothing but missing answers shows it, and nothing that was merely slow or stopped is."""

from __future__ import annotations

import pytest
from shoal_server.process.silence import LOOK_NS, PATIENCE_MOST, SECOND, SilenceWatch

SUPPORT = SECOND


class Link:
    """A link on a clock of its own. Heartbeats are small and frequent; `answers`: whether the peer gets and answers them."""

    def __init__(self) -> None:
        self.watch = SilenceWatch(SUPPORT)
        self.now = 1000 * SECOND
        self.heard = 0
        self.watch.opened(self.now)

    def runs(self, seconds: float, *, answers: bool) -> float | None:
        """Let time pass; return after how many seconds the link was found dead, None if it was not."""
        began = self.now
        while self.now - began < seconds * SECOND:
            self.now += LOOK_NS
            self.watch.sent(100)
            if answers:
                self.heard = self.now
            if self.watch.look(self.heard, self.now):
                return (self.now - began) / SECOND
        return None


def test_a_link_whose_peer_answers_lives() -> None:
    assert Link().runs(600, answers=True) is None


def test_a_link_without_answers_is_dead_after_two_support_periods() -> None:
    link = Link()
    link.runs(60, answers=True)
    assert link.runs(60, answers=False) == pytest.approx(2, abs=0.3)


def test_a_link_that_never_was_answered_is_dead_as_well() -> None:
    assert Link().runs(60, answers=False) == pytest.approx(2, abs=0.3)


def test_links_made_anew_in_vain_are_given_more_and_more_time_within_a_bound() -> None:
    link = Link()
    lives = []
    for _ in range(6):
        lives.append(link.runs(60, answers=False))
        link.watch.opened(link.now)
    assert lives == [pytest.approx(seconds, abs=0.5) for seconds in (2, 4, 8, 16, 16, 16)]


def test_one_answer_ends_that() -> None:
    link = Link()
    for _ in range(4):
        link.runs(60, answers=False)
        link.watch.opened(link.now)
    link.runs(1, answers=True)
    assert link.runs(60, answers=False) == pytest.approx(2, abs=0.3)


def test_what_was_sent_is_given_time_to_arrive_within_a_bound() -> None:
    link = Link()
    link.watch.sent(1_000_000)
    assert link.runs(60, answers=False) == pytest.approx(12, abs=0.3), "1 MB at 100 kB/s, and two support periods"
    link.watch.opened(link.now)
    link.watch.sent(1 << 40)
    assert link.runs(60, answers=False) == pytest.approx(PATIENCE_MOST, abs=0.3)


def test_the_time_for_which_this_node_was_stopped_itself_does_not_count() -> None:
    link = Link()
    link.runs(10, answers=True)
    link.now += 3600 * SECOND
    assert not link.watch.look(link.heard, link.now), "answers may be there, and have not been read"
    assert link.runs(60, answers=True) is None

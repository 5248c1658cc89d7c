"""When a link is taken for dead: nothing but missing answers shows it, and nothing that was merely slow or stopped is."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Put
from shoal_server.node.outbox import peer_decoder
from shoal_server.process.silence import LOOK_NS, PATIENCE_MOST, SECOND, Signs, SilenceWatch
from shoal_server.raft.messages import HeartbeatAnswer

SUPPORT = SECOND


class Link:
    """A link on a clock of its own. Heartbeats are small and frequent; `answers`: whether the peer gets and answers them.

    `beats`: whether the peer's own arrive; `bytes_a_look`: what else comes of it.
    """

    def __init__(self) -> None:
        self.watch = SilenceWatch(SUPPORT)
        self.now = 1000 * SECOND
        self.answers = self.beats = self.received = 0
        self.watch.opened(self.now)

    @property
    def signs(self) -> Signs:
        return Signs(self.answers, self.beats, self.received)

    def runs(self, seconds: float, *, answers: bool, beats: bool = True, bytes_a_look: int = 0) -> float | None:
        """Let time pass; return after how many seconds the link was found dead, None if it was not."""
        began = self.now
        while self.now - began < seconds * SECOND:
            self.now += LOOK_NS
            self.watch.sent(100)
            self.answers += answers
            self.beats += beats
            self.received += bytes_a_look + 100 * (answers + beats)
            if self.watch.look(self.signs, self.now):
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
    assert not link.watch.look(link.signs, link.now), "answers may be there, and have not been read"
    assert link.runs(60, answers=True) is None


def test_answers_that_wait_behind_what_the_peer_sends_are_no_silence() -> None:
    """Its own heartbeats wait there, too: a link that is too narrow for what it carries."""
    link = Link()
    link.runs(10, answers=True)
    assert link.runs(600, answers=False, beats=False, bytes_a_look=200_000) is None
    silent = link.runs(60, answers=False, beats=False)
    assert silent == pytest.approx(4.5, abs=0.3), "it sends nothing more, and 240 kB of heartbeats had time to arrive"


def test_a_peer_that_is_heard_and_answers_nothing_has_a_dead_link_however_much_it_sends() -> None:
    link = Link()
    link.runs(10, answers=True)
    assert link.runs(60, answers=False, bytes_a_look=200_000) == pytest.approx(2, abs=0.3)


def test_whatever_a_peer_answers_is_an_answer(nodes: Any) -> None:
    """On a link that is full of appends those are acknowledged one by one, long before the heartbeats behind them."""
    leader = nodes.leader
    [other, _] = nodes.others
    liveness = nodes.nodes[leader].liveness
    nodes.write(Put(b"warm", b""))
    nodes.pass_time(10)
    heartbeats = 0

    def counted(sender: str, body: bytes) -> int:
        messages = peer_decoder.decode(body)
        return sum(isinstance(message, HeartbeatAnswer) for message in messages) if sender == other else 0

    before = liveness.answers_of(other)
    nodes.write(Put(b"key", b"value"))
    for _ in range(10):
        heartbeats += sum(counted(sender, body) for sender, receiver, body in nodes.frames if receiver == leader)
        nodes.step()
    assert liveness.answers_of(other) > before + heartbeats

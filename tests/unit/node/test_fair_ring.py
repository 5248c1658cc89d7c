"""Whoever waits is reached after a bounded amount of others' work, whatever these do."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from shoal_server.node.fair_ring import Ring, Share

QUANTUM = 400_000
MS = 1_000_000


class Waiting:
    """A ring, and shares that come, are served, and leave."""

    def __init__(self) -> None:
        self.ring: Ring[Share] = Ring(QUANTUM)
        self.now = 0
        self.listed: list[Share] = []
        self.idle: list[Share] = []
        self.most = 0

    def join(self, share: Share) -> None:
        self.ring.join(share, self.now, idle_at=share.idle_at, new_from=share.new_from)
        self.listed.append(share)
        self.most = max(self.most, len(self.listed))

    def leave(self, share: Share) -> None:
        self.ring.leave(share, self.now)
        self.listed.remove(share)
        self.idle.append(share)

    def serve(self, share: Share, cost: int) -> None:
        self.now += cost
        self.ring.charge(share, cost)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(10_000, 20 * MS), min_size=1, max_size=8),
    st.integers(0, 40),
    st.lists(
        st.tuples(
            st.sampled_from(["stays", "goes", "goes for good", "comes", "comes again", "toggles"]), st.integers(0, 99)
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 12),
    st.booleans(),
)
def test_whoever_waits_is_reached_after_a_bounded_amount_of_others_work(
    costs: list[int], before: int, deeds: list[tuple[str, int]], wait_at_once: int, known: bool
) -> None:
    """The others do the same over and over; at most so many of them wait at once, some of whom came before, others after."""
    waiting = Waiting()
    patient = Share(QUANTUM)
    if known:
        waiting.join(patient)
        waiting.ring.whose_turn()
        waiting.leave(patient)
        waiting.serve(patient, 10_000)
        waiting.idle.remove(patient)
    waiting.join(Share(QUANTUM))
    meanwhile = None
    for step in range(3_000):
        if step == before:
            waiting.join(patient)
            meanwhile = 0
        what, which = deeds[step % len(deeds)]
        others = [share for share in waiting.listed if share is not patient]
        if what == "toggles" and others:
            share = others[which % len(others)]
            waiting.leave(share)
            waiting.idle.remove(share)
            waiting.join(share)
        elif what == "comes" and len(others) < wait_at_once:
            waiting.join(Share(QUANTUM))
        elif what == "comes again" and waiting.idle and len(others) < wait_at_once:
            waiting.join(waiting.idle.pop(which % len(waiting.idle)))
        if not waiting.ring:
            waiting.join(Share(QUANTUM))
        share = waiting.ring.whose_turn()
        if share is patient:
            return
        if what.startswith("goes"):
            waiting.leave(share)
            if what == "goes for good":
                waiting.idle.remove(share)
        cost = costs[step % len(costs)]
        waiting.serve(share, cost)
        if meanwhile is not None:
            meanwhile += cost
            assert meanwhile <= 4 * waiting.most * (QUANTUM + max(costs))


def test_rounds_in_which_nobody_has_anything_left_are_passed_at_once() -> None:
    waiting = Waiting()
    shares = [Share(QUANTUM) for _ in range(3)]
    for share in shares:
        share.deficit = -(10**12) - QUANTUM
        waiting.join(share)
    gone = waiting.ring.gone
    assert waiting.ring.whose_turn() in shares
    assert waiting.ring.gone - gone >= 10**12 // QUANTUM


def test_one_that_leaves_before_its_turn_and_comes_again_overtakes_nobody() -> None:
    waiting = Waiting()
    restless, patient = Share(QUANTUM), Share(QUANTUM)
    waiting.join(restless)
    waiting.join(patient)
    had = {restless: 0, patient: 0}
    for _ in range(1_000):
        share = waiting.ring.whose_turn()
        waiting.serve(share, 100_000)
        had[share] += 100_000
        waiting.leave(restless)
        waiting.join(restless)
    assert abs(had[restless] - had[patient]) <= 2 * QUANTUM

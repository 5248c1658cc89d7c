"""What a node takes for the time, by its own wall clock and those of its peers."""

from __future__ import annotations

import pytest
from shoal_server.node.wall_clock import BEYOND_TOLERANCES, OFF_LEAST_NS, READING_NS, WallClock
from shoal_server.shard.commands import CLOCK_MS_MAX

MS = 1_000_000
SECOND = 1_000_000_000
HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
START = 1_700_000_000_000
BEGAN = 5 * SECOND
ROUND_TRIP = 10 * MS
EVERY = 150 * MS


class Run:
    """A clock beside peers that are off by so many ms; `own` is by how much the node's own is."""

    def __init__(self, peers: dict[str, int], *, own: int = 0, nodes: int = 0) -> None:
        self.clock = WallClock(SECOND, 50)
        self.peers = peers
        self.own = own
        self.nodes = nodes or 1 + len(peers)
        self.now = BEGAN
        self.round_trip = ROUND_TRIP

    def true_ms(self) -> int:
        return START + (self.now - BEGAN) // MS

    def judge(self) -> None:
        self.clock.judge(self.now, self.true_ms() + self.own, nodes=self.nodes)

    def pass_time(self, seconds: float) -> None:
        until = self.now + round(seconds * SECOND)
        while self.now < until:
            self.now += EVERY
            middle = self.true_ms() - self.round_trip // MS // 2
            for peer, off in self.peers.items():
                self.clock.heard(peer, self.now - self.round_trip, self.now, middle + off)
            self.judge()

    @property
    def error_ms(self) -> int:
        return self.clock.now_ms(self.now) - self.true_ms()


@pytest.mark.parametrize("off", [YEAR, -YEAR, 8 * HOUR, -8 * HOUR, 1500, -1500])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_clock_that_is_off_against_two_that_agree_does_not_count(off: int, from_the_start: bool) -> None:
    run = Run({"n2": 0, "n3": 0}, own=off if from_the_start else 0)
    run.pass_time(3)
    if not from_the_start:
        assert (run.clock.not_leading, run.error_ms) == ("", 0)
    run.own = off
    run.pass_time(1)
    assert abs(run.error_ms) <= ROUND_TRIP // MS
    assert abs(run.clock.offset_ms - off) <= ROUND_TRIP // MS
    assert ("ahead of" if off > 0 else "behind") in run.clock.not_leading
    run.own = 0
    run.pass_time(OFF_LEAST_NS / SECOND + 1)
    assert (run.clock.not_leading, run.clock.offset_ms, run.error_ms) == ("", 0, 0)


def test_a_clock_that_is_better_and_not_good_says_by_how_much_and_what_is_enough() -> None:
    run = Run({"n2": 0, "n3": 0}, own=3000)
    run.pass_time(3)
    run.own = 700
    run.pass_time(3 * OFF_LEAST_NS / SECOND)
    assert "is still 0.7 s ahead of what the clocks of 2 other nodes say" in run.clock.not_leading
    assert "leads again once that is 0.5 s" in run.clock.not_leading
    run.own = 0
    run.pass_time(1)
    assert run.clock.not_leading == ""


def test_a_clock_that_was_set_right_says_when_it_leads_again() -> None:
    run = Run({"n2": 0, "n3": 0}, own=3000)
    run.pass_time(3)
    run.own = 0
    run.pass_time(3)
    assert "it leads again in" in run.clock.not_leading


def test_a_peers_wrong_clock_does_no_harm(  # it is one of three
) -> None:
    run = Run({"n2": YEAR, "n3": 0})
    run.pass_time(3)
    assert (run.clock.not_leading, run.error_ms) == ("", 0)
    run.peers["n2"] = -YEAR
    run.pass_time(1)
    assert (run.clock.not_leading, run.error_ms) == ("", 0)


@pytest.mark.parametrize("wrong", [{"n2": YEAR, "n3": -YEAR}, {"n2": YEAR, "n3": HOUR, "n4": 0, "n5": 0}])
def test_fewer_than_half_may_be_wrong_in_any_way(wrong: dict[str, int]) -> None:
    run = Run(wrong)
    run.pass_time(3)
    assert (run.clock.not_leading, run.error_ms) == ("", 0)


def test_what_is_within_the_tolerance_is_ones_own_time() -> None:
    run = Run({"n2": 0, "n3": 0}, own=800)
    run.pass_time(3)
    assert (run.clock.not_leading, run.error_ms) == ("", 800)


def test_a_clock_that_jumps_is_noticed_without_anybody_else() -> None:
    run = Run({})
    run.pass_time(3)
    run.own = YEAR
    run.pass_time(100)
    assert 0 < run.error_ms <= 101
    assert "its monotonic clock" in run.clock.not_leading
    run.own = -YEAR
    run.pass_time(100)
    assert abs(run.error_ms) <= 1


def test_two_that_differ_go_on_as_before_and_the_one_that_jumped_knows_itself() -> None:
    jumped, other = Run({"n2": 0}), Run({"n1": 0})
    jumped.pass_time(1)
    other.pass_time(1)
    jumped.own = other.peers["n1"] = YEAR
    jumped.pass_time(5)
    other.pass_time(5)
    assert abs(jumped.error_ms) <= 6
    assert jumped.clock.not_leading
    assert (other.error_ms, other.clock.not_leading) == (0, "")


@pytest.mark.parametrize(("own", "peer"), [(YEAR, 0), (-YEAR, 0), (0, YEAR), (0, -YEAR)])
def test_at_the_start_two_that_differ_are_judged_by_what_is_stored(own: int, peer: int) -> None:
    run = Run({"n2": peer}, own=own)
    run.clock.stored(START - 60_000, run.now)
    run.pass_time(1)
    assert run.error_ms in range(-60_000 - ROUND_TRIP // MS, ROUND_TRIP // MS)
    run.pass_time(3 * READING_NS / SECOND)
    assert not run.clock.settled, "no waiting makes one of two right"
    assert run.error_ms in range(-60_000 - ROUND_TRIP // MS, ROUND_TRIP // MS)
    run.nodes, run.peers = 3, run.peers | {"n3": 0}
    run.pass_time(1)
    assert run.clock.settled == (own == 0 or peer == 0)
    assert abs(run.error_ms) <= ROUND_TRIP // MS
    assert bool(run.clock.not_leading) == (own != 0)


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_a_node_that_has_heard_nobody_knows_no_time_however_long_it_waits(off: int) -> None:
    run = Run({}, own=off, nodes=3)
    run.clock.stored(START - 60_000, run.now)
    run.pass_time(3 * READING_NS / SECOND)
    assert not run.clock.settled
    run.peers = {"n2": 0}
    run.pass_time(1)
    assert not run.clock.settled
    assert run.error_ms in range(-60_000 - ROUND_TRIP // MS, ROUND_TRIP // MS), (
        "the one that contradicts counts as much"
    )
    run.peers = {}
    run.pass_time(2 * READING_NS / SECOND)
    assert run.error_ms in range(-60_000 - ROUND_TRIP // MS, ROUND_TRIP // MS), "it is not forgotten either"
    run.peers = {"n2": 0, "n3": 0}
    run.pass_time(1)
    assert (run.clock.settled, abs(run.error_ms) <= ROUND_TRIP // MS) == (True, True)


@pytest.mark.parametrize(
    ("nodes", "agreeing", "settled"), [(2, 1, True), (3, 1, True), (4, 1, False), (5, 1, False), (5, 2, True)]
)
def test_a_majority_of_the_clusters_clocks_confirms_the_time(nodes: int, agreeing: int, settled: bool) -> None:
    run = Run({f"n{number + 2}": 0 for number in range(agreeing)}, nodes=nodes)
    run.pass_time(READING_NS / SECOND + 2)
    assert (run.clock.settled, run.error_ms) == (settled, 0)


def test_two_of_five_that_are_wrong_in_the_same_way_confirm_nothing_and_are_found_out() -> None:
    run = Run({"n2": YEAR}, own=YEAR, nodes=5)
    run.pass_time(2 * READING_NS / SECOND)
    assert not run.clock.settled
    run.peers |= {"n3": 0, "n4": 0, "n5": 0}
    run.pass_time(2)
    assert (run.clock.settled, abs(run.error_ms) <= ROUND_TRIP // MS) == (True, True)
    assert run.clock.not_leading


def test_what_cannot_be_undone_waits_again_when_clocks_contradict_each_other() -> None:
    run = Run({"n2": 0}, nodes=3)
    run.pass_time(1)
    assert run.clock.settled
    run.peers["n2"] = YEAR
    run.pass_time(READING_NS / SECOND + 1)
    assert (run.clock.settled, run.error_ms) == (False, 0)
    run.peers["n3"] = 0
    run.pass_time(1)
    assert run.clock.settled


def test_two_wrong_clocks_one_after_the_other_are_not_two_at_once() -> None:
    run = Run({"n2": 0, "n3": YEAR})
    run.pass_time(3)
    run.own = YEAR // 2
    run.now += EVERY
    run.judge()
    assert abs(run.error_ms) <= ROUND_TRIP // MS, "n3's clock may be right by now, and n3 not have said so yet"
    run.peers["n3"] = 0
    run.pass_time(3)
    assert abs(run.error_ms) <= ROUND_TRIP // MS


def test_a_clock_that_was_set_right_on_all_nodes_is_followed_soon() -> None:
    run = Run({"n2": 0, "n3": 0})
    run.pass_time(3)
    run.own = HOUR
    run.peers = dict.fromkeys(run.peers, HOUR)
    run.pass_time(1.3)
    assert (run.error_ms, run.clock.offset_ms) == (HOUR, 0)


def test_peers_that_are_not_heard_any_more_say_nothing() -> None:
    run = Run({"n2": 0, "n3": 0})
    run.pass_time(3)
    run.peers = {}
    run.pass_time(READING_NS / SECOND + 1)
    run.own = YEAR
    run.pass_time(1)
    assert abs(run.error_ms) <= 2
    assert "its monotonic clock" in run.clock.not_leading


def test_answers_that_come_late_say_little() -> None:
    run = Run({"n2": YEAR, "n3": YEAR})
    run.round_trip = 4 * SECOND
    run.pass_time(8)
    assert (run.error_ms, run.clock.not_leading) == (0, ""), "an error beyond the tolerance proves nothing"


@pytest.mark.parametrize("wall_ms", [0, -1, CLOCK_MS_MAX + 1, 1 << 63])
def test_a_reading_that_cannot_be_is_passed_over(wall_ms: int) -> None:
    run = Run({"n3": 0})
    run.pass_time(1)
    run.clock.heard("n2", run.now, run.now, wall_ms)
    run.clock.heard("n2", run.now + 1, run.now, START)
    run.own = YEAR
    run.pass_time(1)
    assert abs(run.error_ms) <= 1, "two readings that differ, not three"


@pytest.mark.parametrize("wall_ms", [-(1 << 70), 1 << 70])
def test_no_reading_of_ones_own_is_beyond_what_an_entry_may_say(wall_ms: int) -> None:
    clock = WallClock(SECOND, 50)
    clock.judge(BEGAN, wall_ms, nodes=1)
    assert 0 <= clock.now_ms(BEGAN) <= CLOCK_MS_MAX


def test_right_leaders_never_differ_by_what_sets_a_clock_back() -> None:
    assert WallClock(SECOND, 50).beyond_ms == BEYOND_TOLERANCES * 1000 > 4 * 1000

"""What neighbours may do to a light load: judged beside each of them, and only what was due then."""

from __future__ import annotations

from shoal_chaos.probes.open_loop import Sample
from shoal_chaos.report.records import FaultSpan
from shoal_chaos.scenarios.comparison import isolation
from shoal_chaos.scenarios.model import Isolation
from shoal_chaos.scenarios.neighbours import ISOLATION

BEGAN = 1_000.0
HARMED = BEGAN + 10
LIMITS = Isolation(failed_share=0.01, p99_ms=100.0, p99_times=5.0, memory_mib=500.0)
FIRST, SECOND = FaultSpan("greedy-client", "scans", 10.0, 20.0), FaultSpan("slow-reader", "never reads", 30.0, 40.0)


def load(first: float, last: float, seconds: float, failed: int = 0) -> list[Sample]:
    """A call each 10 ms, on the clock of the run."""
    count = round((last - first) * 100)
    return [
        Sample(1, True, BEGAN + first + number / 100, seconds, "DeadlineExceeded" if number < failed else "")
        for number in range(count)
    ]


def found(samples: list[Sample], peak_mib: float = 100.0) -> dict[str, tuple[str, ...]]:
    return {one.checker: one.found for one in isolation(LIMITS, [FIRST, SECOND], samples, BEGAN, HARMED, peak_mib)}


def test_nothing_is_found_where_the_load_goes_on_as_before() -> None:
    assert found([*load(10, 20, 0.01), *load(30, 40, 0.02)]) == {"light load": (), "memory": ()}


def test_the_neighbour_is_named_beside_whom_calls_failed_or_were_slow() -> None:
    said = found([*load(10, 20, 0.01, failed=11), *load(30, 40, 0.3)])["light load"]
    assert said == (
        "11 of 1000 calls were not answered beside scans",
        "p99 was 300 ms beside never reads",
    )


def test_as_many_may_fail_as_is_allowed() -> None:
    assert not found([*load(10, 20, 0.01, failed=10), *load(30, 40, 0.01)])["light load"]


def test_what_is_slow_beside_nobody_does_not_count() -> None:
    assert not found([*load(0, 10, 0.01), *load(10, 20, 0.01), *load(20, 30, 5.0), *load(30, 40, 0.01)])["light load"]


def test_what_is_slow_is_judged_by_what_was_slow_before() -> None:
    assert not found([*load(0, 10, 0.08), *load(10, 20, 0.39), *load(30, 40, 0.2)])["light load"]
    said = found([*load(0, 10, 0.08), *load(10, 20, 0.39), *load(30, 40, 0.41)])["light load"]
    assert said == ("p99 was 410 ms beside never reads",)


def test_a_machine_that_is_busy_with_others_is_no_neighbours_fault() -> None:
    busy = load(0, 10, 0.3)
    late = load(10, 20, 1.2, failed=500)
    assert not found([*busy, *late, *load(30, 40, 0.9)])["light load"]
    (light,) = [one for one in isolation(LIMITS, [FIRST], busy, BEGAN, HARMED, 0.0) if one.checker == "light load"]
    assert "latencies are not judged" in light.judged


def test_calls_that_fail_before_their_time_is_over_count_on_a_busy_machine_too() -> None:
    said = found([*load(0, 10, 0.3), *load(10, 20, 0.01, failed=11), *load(30, 40, 0.01)])["light load"]
    assert said == ("11 of 1000 calls were not answered beside scans",)


def test_a_node_that_holds_too_much_is_found() -> None:
    assert found([], peak_mib=501.0)["memory"] == ("a node held 501 MiB",)


def test_verdicts_about_neighbours_are_no_broken_promises_of_consistency() -> None:
    assert not any(one.safety for one in isolation(ISOLATION, [], [], BEGAN, HARMED, 0.0))

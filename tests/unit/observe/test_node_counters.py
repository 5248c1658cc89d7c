"""What latencies are counted as, and that counters never fall."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from shoal.metrics import LATENCY_BOUNDS, Family, Histogram
from shoal.protocol.messages import Freshness
from shoal_server.node.counters import LABELS, NodeCounters, Served, served_as
from shoal_server.shard.traffic import Traffic

MS = 1_000_000


def count(histogram: Histogram) -> int:
    return sum(histogram.counts)


def test_a_read_answered_by_its_own_turn_took_from_the_first_arrival_to_the_end_of_the_turn():
    counters = NodeCounters()
    counters.begin_turn(arrived=1000 * MS, now=1001 * MS)
    for _ in range(3):
        counters.read(Served.READ_STRONG, 1000 * MS, shard=1, client=1, request=1)
    counters.end_turn(1004 * MS)
    histogram = counters.latencies[Served.READ_STRONG]
    assert count(histogram) == 3
    assert histogram.seconds == pytest.approx(3 * 0.004)


def test_a_request_that_waited_over_turns_took_from_its_own_arrival():
    counters = NodeCounters()
    counters.begin_turn(arrived=1000 * MS, now=1000 * MS)
    counters.end_turn(1001 * MS)
    counters.begin_turn(arrived=1050 * MS, now=1050 * MS)
    counters.waited.append((Served.WRITE_QUORUM, 1000 * MS, 5))
    counters.end_turn(1060 * MS)
    histogram = counters.latencies[Served.WRITE_QUORUM]
    assert count(histogram) == 5
    assert histogram.seconds == pytest.approx(5 * 0.060)


def test_what_nobody_times_is_dropped_with_the_next_turn():
    counters = NodeCounters()
    counters.slow_ns = MS
    counters.begin_turn(arrived=1000 * MS, now=1000 * MS)
    counters.read(Served.READ_STRONG, 10 * MS, shard=1, client=1, request=1)
    assert counters.slow
    counters.begin_turn(arrived=1001 * MS, now=1001 * MS)
    assert (counters.slow, counters.waited) == ([], [])


@pytest.mark.parametrize(("arrived", "slow"), [(499, True), (501, False)])
def test_only_what_waited_beyond_the_bound_is_slow(arrived: int, slow: bool):
    counters = NodeCounters()
    counters.slow_ns = 500 * MS
    counters.begin_turn(arrived=1000 * MS, now=1000 * MS)
    counters.read(Served.READ_EVENTUAL, arrived * MS, shard=3, client=1, request=9)
    assert bool(counters.take_slow()) is slow


def test_a_read_is_counted_by_what_it_asked_for():
    assert served_as(Freshness(), scan=False) is Served.READ_STRONG
    assert served_as(Freshness(strong=False, min_seq=4), scan=False) is Served.READ_SESSION
    assert served_as(Freshness(strong=False), scan=True) is Served.SCAN_EVENTUAL
    assert set(LABELS) == set(Served)


def test_what_a_removed_replica_has_counted_stays_counted():
    counters, traffic = NodeCounters(), Traffic()
    traffic.read([1, 1, 2])
    traffic.wrote([1], {1})
    counters.retire(traffic)
    assert (counters.retired_reads, counters.retired_writes) == (3, 1)


def test_a_histogram_is_what_prometheus_takes_for_one():
    histogram = Histogram()
    for seconds in (0.0001, 0.0002, 0.3, 100.0):
        histogram.record(seconds)
    family = Family("shoal_test_duration_seconds", "histogram", "For a test").add_histogram(histogram, kind="a")

    class Collector:
        def collect(self) -> list[Family]:
            return [family]

    registry = CollectorRegistry()
    registry.register(Collector())  # type: ignore[arg-type]
    (parsed,) = text_string_to_metric_families(generate_latest(registry).decode())
    buckets = [sample.value for sample in parsed.samples if sample.name.endswith("_bucket")]
    assert len(buckets) == len(LATENCY_BOUNDS) + 1
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-2], buckets[-1]) == (1, 3, 4)

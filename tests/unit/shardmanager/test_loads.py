"""Loads out of reports: rates from counters, bytes as counted, and what is not known again after a restart."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from shoal.protocol.messages import ReplicaStatus, StatusReply
from shoal_shardmanager.control.observed import NodeReport
from shoal_shardmanager.control.placement_input import Loads

SHARD = 7
REPLICA = ReplicaStatus(SHARD, "leader", "n1", 1, 1, 1, 1, 1, 1, 1, ("n1", "n2"), (), counted=True)


def report(at_ms: int, replica: ReplicaStatus) -> NodeReport:
    return NodeReport(StatusReply(1, "n1", "c", "i", "s", 1, 1, (), "", 1, (replica,)), at_ms)


def test_rates_are_the_growth_of_counters_a_second_however_often_a_node_reports() -> None:
    seldom, often = Loads(), Loads()
    for tick in range(601):
        counted = replace(REPLICA, reads=100 * tick, writes=20 * tick)
        often.take("n1", report(100 * tick, counted))
        if tick % 10 == 0:
            seldom.take("n1", report(100 * tick, counted))
    for loads in (seldom, often):
        load = loads.of(SHARD, ("n1",))
        assert load.reads == pytest.approx(1000)
        assert load.writes == pytest.approx(200)


def test_the_same_report_again_changes_nothing() -> None:
    loads = Loads()
    loads.take("n1", report(0, REPLICA))
    loads.take("n1", report(1000, replace(REPLICA, reads=500)))
    known = loads.of(SHARD, ("n1",))
    loads.take("n1", report(1000, replace(REPLICA, reads=500)))
    assert loads.of(SHARD, ("n1",)) == known
    assert known.reads > 0


def test_a_process_that_began_anew_has_no_negative_rate_and_keeps_its_bytes_until_they_are_counted_again() -> None:
    loads = Loads()
    loads.take("n1", report(0, replace(REPLICA, reads=1000, writes=1000, bytes=5000)))
    loads.take("n1", report(1000, replace(REPLICA, bytes=10, counted=False)))
    load = loads.of(SHARD, ("n1",))
    assert (load.bytes, load.reads, load.writes) == (5000, 0, 0)
    loads.take("n1", report(2000, replace(REPLICA, bytes=4000)))
    assert loads.of(SHARD, ("n1",)).bytes == 4000


def test_a_shard_has_the_reads_and_cpu_of_all_its_replicas_and_the_bytes_of_the_fullest() -> None:
    loads = Loads()
    for node, size in (("n1", 10), ("n2", 30)):
        loads.take(node, report(0, replace(REPLICA, bytes=size, cpu=0.25)))
        loads.take(node, report(1000, replace(REPLICA, bytes=size, cpu=0.25, reads=100)))
    alone, both = loads.of(SHARD, ("n1",)), loads.of(SHARD, ("n1", "n2"))
    assert (both.bytes, both.cpu, both.reads) == (30, 0.5, pytest.approx(2 * alone.reads))
    assert loads.of(SHARD, ("n3",)) == loads.of(SHARD + 1, ("n1",))


def test_a_replica_that_left_is_forgotten() -> None:
    loads = Loads()
    loads.take("n1", report(0, replace(REPLICA, bytes=10)))
    loads.take("n1", report(1000, replace(REPLICA, shard=SHARD + 1)))
    assert loads.of(SHARD, ("n1",)).bytes == 0

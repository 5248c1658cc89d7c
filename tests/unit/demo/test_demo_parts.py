"""The parts of the demonstration that need no cluster."""

from __future__ import annotations

from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Routes, Shard, ShardMap
from shoal_chaos.demo.unicode_rows import unicode_rows
from shoal_chaos.probes.closed_loop import Call, ClosedLoopProbes

KEYSPACE = Keyspace(1, "default", 64, b"/")
ROUTES = Routes(
    ShardMap(
        1,
        "c",
        (NodeAddress("n1", "h:1"),),
        (KEYSPACE,),
        tuple(Shard(number + 1, 1, (MicroshardRange(number * 8, number * 8 + 8),), ("n1",)) for number in range(8)),
    )
)


def test_the_unicode_database_is_more_than_100_000_rows_each_with_its_own_key():
    rows = dict(unicode_rows())
    assert len(rows) > 100_000
    assert len(rows) == sum(1 for _ in unicode_rows())
    assert rows[b"char:0041/name"] == b"LATIN CAPITAL LETTER A"
    assert rows[b"char:0035/numeric"] == b"5.0"
    assert rows[b"char:00e4/decomposition"] == b"0061 0308"
    assert b"char:0041/bidirectional" not in rows


def test_the_code_points_spread_over_all_shards():
    keys = [key for key, _ in unicode_rows()]
    counts = [0] * 8
    for key in keys:
        counts[ROUTES.shard_of(KEYSPACE, key) - 1] += 1
    assert min(counts) > len(keys) / 16


def test_there_is_a_probe_for_every_shard_with_its_keys_there():
    probes = ClosedLoopProbes(ROUTES, KEYSPACE).all
    assert [probe.shard for probe in probes] == list(range(1, 9))
    for probe in probes:
        assert ROUTES.shard_of(KEYSPACE, f"{probe.partition}00000001".encode()) == probe.shard


def test_shards_are_back_once_both_a_write_and_a_read_that_began_after_the_moment_have_ended():
    probes = ClosedLoopProbes(ROUTES, KEYSPACE)
    moment = 10.0
    for probe in probes.all:
        probe.writes.done += [Call(9.9, 10.5), Call(10.5, 11.0)]
    assert not probes.back_after(moment)
    for probe in probes.all:
        probe.reads.done += [Call(10.0, 10.5)]
    assert probes.back_after(moment)
    assert {probe.writes.back_after(moment) for probe in probes.all} == {1.0}
    assert {probe.reads.back_after(moment) for probe in probes.all} == {0.5}

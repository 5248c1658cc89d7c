"""The parts of the demonstration that need no cluster."""

from __future__ import annotations

from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Routes, Shard, ShardMap
from shoal_chaos.demo.probes import Outage, Probes
from shoal_chaos.demo.unicode_rows import unicode_rows

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
    probes = Probes(ROUTES, KEYSPACE).all
    assert [probe.shard for probe in probes] == list(range(1, 9))
    for probe in probes:
        assert ROUTES.shard_of(KEYSPACE, f"{probe.partition}00000001".encode()) == probe.shard


def test_an_outage_is_over_once_both_a_write_and_a_read_succeeded():
    assert not Outage(0.0).over
    assert not Outage(0.0, first_write_seconds=1.0).over
    assert Outage(0.0, first_write_seconds=1.0, first_read_seconds=0.5).over

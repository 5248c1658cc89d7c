"""A node's families: what they count, and that a thousand replicas give no more series than a few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from shoal.bounds import WHOLE
from shoal.metrics import Family
from shoal.priorities import OverloadReason, Priority
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskState
from shoal_server.node.fair_shares import CONTROL
from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.node.write_budget import RATE_LEAST, EngineState
from shoal_server.observe.node_metrics import SHARDS_MAX, NodeMetrics
from shoal_server.observe.overload_metrics import KEYSPACES_MAX, overload_families
from shoal_server.observe.readiness import Readiness
from shoal_server.observe.slow_log import SlowLog
from shoal_server.places import reserved_places
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.watched import WatchedEngine

NOW = 1_000_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[RocksEngine]:
    engine = RocksEngine(tmp_path, block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20, counters=True)
    yield engine
    engine.close()


def families(shards: int, database: RocksEngine) -> dict[str, Family]:
    """The families of a node with so many replicas, of which it leads none."""
    names = ("n1", "n2", "n3")
    shard_map = ShardMap(
        1,
        "test",
        tuple(NodeAddress(name, f"{name}:1") for name in names),
        (Keyspace(1, "default", shards, b"/"),),
        tuple(Shard(number + 1, 1, (MicroshardRange(number, number + 1),), names) for number in range(shards)),
    )
    node = Node(NodeIdentity("test", "n1", "i", 1), shard_map, WatchedEngine(), NodeSettings(), Random(1), NOW)
    for number, replica in node.replicas.items():
        replica.machine.traffic.read([number])
        replica.load.work = float(number)
    node.counters.retired_reads = 5
    metrics = NodeMetrics(
        node,
        database,
        SlowLog("n1", lambda _client: ""),
        clients=lambda: 3,
        unsent_bytes=lambda: {"n2": 700},
        readiness=lambda: Readiness("starting"),
    )
    found = {family.name: family for family in metrics.families(NOW)}
    assert len(found) == len(list(metrics.families(NOW))), "a name stands for one family"
    return found


def test_a_node_with_many_replicas_gives_the_series_of_the_busiest_alone(database: RocksEngine):
    few, many = families(SHARDS_MAX, database), families(4 * SHARDS_MAX, database)
    series = [sum(len(family.samples) for family in found.values()) for found in (few, many)]
    assert series[0] == series[1]
    assert few["shoal_shard_series_left_out"].samples[0].value == 0
    assert many["shoal_shard_series_left_out"].samples[0].value == 3 * SHARDS_MAX
    shown = {int(sample.labels["shard"]) for sample in many["shoal_shard_term"].samples}
    assert shown == set(range(3 * SHARDS_MAX + 1, 4 * SHARDS_MAX + 1))


def test_sums_are_of_all_replicas_and_of_those_that_were_removed(database: RocksEngine):
    found = families(2 * SHARDS_MAX, database)
    reads = {sample.labels["operation"]: sample.value for sample in found["shoal_node_operations"].samples}
    assert reads == {"read": 2 * SHARDS_MAX + 5, "write": 0}
    roles = {sample.labels["role"]: sample.value for sample in found["shoal_raft_replicas"].samples}
    assert roles == {"leader": 0, "candidate": 0, "voter": 2 * SHARDS_MAX, "follower": 0}
    assert found["shoal_raft_replicas_without_leader"].samples[0].value == 2 * SHARDS_MAX
    assert found["shoal_node_ready"].samples[0].value == 0


def test_queues_have_their_bounds(database: RocksEngine):
    found = families(1, database)
    lengths = {sample.labels["queue"]: sample.value for sample in found["shoal_node_queue_length"].samples}
    limits = {sample.labels["queue"]: sample.value for sample in found["shoal_node_queue_limit"].samples}
    assert lengths["clients"] == 3
    clients = NodeSettings().limits.clients
    assert limits["clients"] == clients + reserved_places(clients)
    assert set(limits) <= set(lengths)


def test_what_waits_for_a_peer_to_read_is_told_beside_its_bound(database: RocksEngine):
    found = families(1, database)
    unsent = {sample.labels["peer"]: sample.value for sample in found["shoal_node_peer_unsent_bytes"].samples}
    assert unsent == {"n2": 700, "n3": 0}
    assert found["shoal_node_peer_unsent_limit_bytes"].samples[0].value == MemoryBudget(
        NodeSettings().memory_bytes
    ).bound(Account.PEERS)


def test_lookups_in_the_block_cache_are_counted_by_what_came_of_them(database: RocksEngine):
    def lookups() -> dict[str, float]:
        samples = families(1, database)["shoal_storage_cache_lookups"].samples
        return {sample.labels["result"]: sample.value for sample in samples if sample.labels["block"] == "data"}

    batch = database.batch()
    batch.put(b"key", bytes(100), database.data)
    database.write(batch)
    database.flush()
    before = lookups()
    assert database.get(database.data, b"key") == bytes(100)
    read = lookups()
    assert database.get(database.data, b"key") == bytes(100)
    again = lookups()
    assert (read["miss"] - before["miss"], read["hit"] - before["hit"]) == (1, 0)
    assert (again["miss"] - read["miss"], again["hit"] - read["hit"]) == (0, 1)
    written = {s.labels["purpose"]: s.value for s in families(1, database)["shoal_storage_written_bytes"].samples}
    assert written["log"] > 100
    assert written["flush"] > 100


def test_a_database_that_does_not_count_has_no_counters_to_show(tmp_path: Path):
    engine = RocksEngine(tmp_path / "plain", block_cache_bytes=1 << 20, write_buffer_bytes=1 << 20)
    found = families(1, engine)
    engine.close()
    assert "shoal_storage_stalls" in found
    assert not {"shoal_storage_cache_lookups", "shoal_storage_written_bytes"} & found.keys()


def test_the_database_says_what_it_holds(database: RocksEngine):
    before = families(1, database)["shoal_storage_memtables_bytes"]
    batch = database.batch()
    for number in range(1000):
        batch.put(b"k%d" % number, bytes(100), database.data)
    database.write(batch)
    found = families(1, database)
    after = found["shoal_storage_memtables_bytes"]
    sizes = [{s.labels["family"]: s.value for s in family.samples} for family in (before, after)]
    assert set(sizes[0]) == {"log", "data", "meta"}
    assert sizes[1]["data"] >= sizes[0]["data"] + 100_000
    assert {sample.labels["kind"] for sample in found["shoal_storage_stalls"].samples} == {"delays", "stops"}
    assert found["shoal_storage_cache_limit_bytes"].samples[0].value == 1 << 20


def test_what_is_turned_away_is_counted_by_reason_priority_and_keyspace(database: RocksEngine):
    node = one_node(Keyspace(1, "carts", 1, b"/", reads_per_second=10, max_bytes=5))
    (fresh,) = (family for family in overload_families(node, NOW) if family.name == "shoal_requests_shed")
    assert {sample.labels["reason"]: sample.value for sample in fresh.samples} == dict.fromkeys(OverloadReason, 0)
    shed = node.overload.refused
    shed(OverloadReason.QUOTA, Priority.BATCH, 1, 3)
    shed(OverloadReason.MEMORY, Priority.INTERACTIVE, CONTROL)
    shed(OverloadReason.MEMORY, Priority.INTERACTIVE, 99, 4)  # it has been dropped since
    for number in range(1000, 1000 + KEYSPACES_MAX):
        shed(OverloadReason.DISK, Priority.BACKGROUND, number)
    found = {family.name: family for family in overload_families(node, NOW)}
    counted = {tuple(sample.labels.values()): sample.value for sample in found["shoal_requests_shed"].samples}
    assert counted[("quota", "batch", "carts")] == 3
    assert counted[("memory", "interactive", "")] == 5
    assert counted[("node_busy", "interactive", "")] == 0
    assert len(counted) == len(found["shoal_requests_shed"].samples), "each series stands there once"


def test_quotas_and_a_disk_that_is_behind_are_told(database: RocksEngine):
    node = one_node(Keyspace(1, "carts", 1, b"/", reads_per_second=10, max_bytes=5))
    quota = node.quotas.by_keyspace[1]
    quota.admit(7, 0, NOW)
    quota.admit(400, 0, NOW)
    quota.admit(1, 0, NOW)
    quota.set_shares(WHOLE // 4, WHOLE, full=True, now=NOW)
    node.set_disk(DiskState(engine=EngineState(memtables=2.0)), NOW)
    found = {family.name: family.samples for family in overload_families(node, NOW)}
    assert [(sample.labels["operation"], sample.value) for sample in found["shoal_quota_share_ratio"]] == [
        ("read", 0.25),
        ("write", 1.0),
    ]
    assert found["shoal_quota_asked"][0].value == 408
    assert found["shoal_quota_refused"][0].value == 2
    assert found["shoal_quota_full"][0].value == 1
    assert found["shoal_node_write_pressure"][0].value == 0.5
    assert found["shoal_node_write_limit_bytes_per_second"][0].value == RATE_LEAST / 2


def one_node(keyspace: Keyspace) -> Node:
    names = ("n1", "n2", "n3")
    nodes = tuple(NodeAddress(name, f"{name}:1") for name in names)
    shard_map = ShardMap(1, "test", nodes, (keyspace,), (Shard(1, 1, (MicroshardRange(0, 1),), names),))
    return Node(NodeIdentity("test", "n1", "i", 1), shard_map, WatchedEngine(), NodeSettings(), Random(1), NOW)

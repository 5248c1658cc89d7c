"""Dealing out a quota: never more than the whole, nobody starves, who needs more gets it, and no lost message breaks that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.bounds import WHOLE
from shoal.protocol.messages import ReplicaStatus, StatusReply
from shoal.protocol.quotas import QuotaShare, QuotaUse
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_shardmanager.control.controller import adopted
from shoal_shardmanager.control.observed import NodeReport, ObservedState
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.quota_dealing import NodeShares, QuotaDealing
from shoal_shardmanager.control.quota_shares import FOR_IDLE, next_shares, shares_for
from shoal_shardmanager.control.state import ClusterState, changed

demands = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1e7), min_size=1, max_size=12)


# -- one deal


@given(st.integers(1, 1_000_000), demands)
def test_never_more_than_the_whole_and_nearly_all_of_it(quota: int, demand: dict[str, float]) -> None:
    shares = shares_for(quota, demand)
    assert shares.keys() == demand.keys()
    assert WHOLE - 2 * len(demand) <= sum(shares.values()) <= WHOLE


@given(st.integers(1, 1_000_000), demands)
def test_nobody_starves(quota: int, demand: dict[str, float]) -> None:
    assert min(shares_for(quota, demand).values()) >= FOR_IDLE // len(demand)


@given(st.integers(1, 1_000_000), demands)
def test_who_asks_for_what_there_is_gets_it(quota: int, demand: dict[str, float]) -> None:
    shares = shares_for(quota, demand)
    needed = {node: asked * WHOLE / quota for node, asked in demand.items()}
    if sum(needed.values()) <= WHOLE - FOR_IDLE:
        assert all(shares[node] >= min(need, WHOLE) - 2 for node, need in needed.items())


@given(st.integers(1, 1_000_000), demands)
def test_who_gets_less_than_he_needs_has_no_less_than_any_other(quota: int, demand: dict[str, float]) -> None:
    shares = shares_for(quota, demand)
    for node, asked in demand.items():
        if shares[node] + len(demand) + 2 < asked * WHOLE / quota:
            assert shares[node] >= max(shares.values()) - len(demand) - 2


@given(st.integers(1, 1000), demands, st.randoms())
def test_the_order_of_nodes_makes_no_difference(quota: int, demand: dict[str, float], random: Random) -> None:
    shuffled = list(demand.items())
    random.shuffle(shuffled)
    assert shares_for(quota, dict(shuffled)) == shares_for(quota, demand)


def test_the_idle_share_what_nobody_needs() -> None:
    assert shares_for(1000, {}) == {}
    assert shares_for(1000, {"a": 0.0, "b": 0.0}) == {"a": 500_000, "b": 500_000}
    shares = shares_for(1000, {"a": 500.0, "b": 0.0, "c": 0.0})
    assert shares["a"] > 600_000
    assert shares["b"] == shares["c"] > 150_000
    crowded = shares_for(1000, {"a": 1e9, "b": 100.0, "c": 0.0})
    assert crowded == {"a": WHOLE - 100_001 - 33_333, "b": 100_001, "c": 33_333}


# -- on the way there


held_shares = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, WHOLE), min_size=1)


@given(held_shares, held_shares, st.sets(st.sampled_from("abcdef")), st.booleans())
def test_nobody_is_given_what_another_may_still_have(
    targets: dict[str, int], held: dict[str, int], silent: set[str], may_raise: bool
) -> None:
    asked = next_shares(targets, held, silent, may_raise=may_raise)
    at_most = sum(max(asked[node], held[node]) for node in held)
    assert at_most <= max(WHOLE, sum(held.values()))
    assert all(asked[node] == held[node] for node in silent & held.keys())
    if not may_raise:
        assert all(asked[node] <= held[node] for node in held)


# -- with nodes


@dataclass
class Node:
    """What a node does about shares, without one: it takes what is newest, and says what it has."""

    reads: int
    asked: float = 0.0
    rate: float = 0.0
    epoch: int = 0
    number: int = 0
    full: bool = False
    replica_bytes: int = 0
    up: bool = True
    connected: bool = True
    leads: bool = False

    def take(self, told: NodeShares) -> None:
        if (told.epoch, told.number) >= (self.epoch, self.number):
            self.epoch, self.number = told.epoch, told.number
            [share] = told.shares
            self.reads, self.full = share.reads, share.full


KEYSPACE = Keyspace(1, "default", 4, b"/", reads_per_second=1000, max_bytes=1000)
KEYSPACE_SHARE = QuotaShare(1, 0, 0)


@dataclass
class World:
    """Nodes, one manager after another, and messages that may be lost or late; a step is a second."""

    nodes: dict[str, Node]
    random: Random
    lost: float = 0.0
    late: float = 0.0
    now_ms: int = 1_000_000
    dealing: QuotaDealing = field(default_factory=lambda: QuotaDealing(1))
    loads: Loads = field(default_factory=Loads)
    reports: dict[str, NodeReport] = field(default_factory=dict)
    on_the_way: list[tuple[int, str, NodeShares]] = field(default_factory=list)
    keyspace: Keyspace = KEYSPACE
    told: int = 0

    def __post_init__(self) -> None:
        self.make_map()

    def make_map(self) -> None:
        addresses = tuple(NodeAddress(name, f"{name}:1") for name in self.nodes)
        shard = Shard(1, 1, (MicroshardRange(0, 4),), tuple(self.nodes))
        first = ShardMap(1, "c", addresses, (self.keyspace,), (shard,), "id")
        self.state = changed(ClusterState(ShardMap(0, "c", (), (), ())), adopted(first, {}, 0, {}))

    def status(self, name: str) -> StatusReply:
        node = self.nodes[name]
        replica = ReplicaStatus(
            1,
            "leader" if node.leads else "voter",
            "",
            1,
            1,
            1,
            1,
            1,
            1,
            1,
            (),
            (),
            bytes=node.replica_bytes,
            counted=True,
        )
        use = QuotaUse(1, node.reads, WHOLE // len(self.nodes), node.full, int(node.asked), 0, 0)
        others = tuple(other for other, known in self.nodes.items() if other != name and known.connected)
        return StatusReply(
            0, name, "c", f"{name}-1", "", 0, 1, others, "", 0, (replica,), quotas=(use,), quota_epoch=node.epoch
        )

    def step(self) -> None:
        self.now_ms += 1000
        for name, node in self.nodes.items():
            node.asked += node.rate
            if node.up and self.random.random() >= self.lost:
                self.reports[name] = NodeReport(self.status(name), self.now_ms)
                self.loads.take(name, self.reports[name])
        observed = ObservedState(self.now_ms, self.now_ms, dict(self.reports))
        for name, told in self.dealing.wanted(self.state, observed, self.loads).items():
            self.told += 1
            if self.random.random() >= self.lost:
                delay = self.random.choice([1000, 2000, 4000]) if self.random.random() < self.late else 0
                self.on_the_way.append((self.now_ms + delay, name, told))
        arrived = [each for each in self.on_the_way if each[0] <= self.now_ms]
        self.on_the_way = [each for each in self.on_the_way if each[0] > self.now_ms]
        for _, name, told in arrived:
            if self.nodes[name].up:
                self.nodes[name].take(told)

    def run(self, seconds: int, check: Callable[[], None] = lambda: None) -> None:
        for _ in range(seconds):
            self.step()
            check()

    @property
    def in_force(self) -> int:
        return sum(node.reads for node in self.nodes.values())


def world(*rates: float, seed: int = 1, lost: float = 0.0, late: float = 0.0) -> World:
    names = [f"n{number}" for number in range(1, len(rates) + 1)]
    nodes = {name: Node(WHOLE // len(rates), rate=rate) for name, rate in zip(names, rates, strict=True)}
    return World(nodes, Random(seed), lost, late)


def test_shares_follow_demand_within_seconds_and_then_nobody_is_told_anything() -> None:
    made = world(800, 50, 0)
    made.run(8)
    assert made.nodes["n1"].reads >= 800_000
    assert made.nodes["n2"].reads >= 50_000
    assert made.nodes["n3"].reads >= FOR_IDLE // 3
    told = made.told
    made.run(20)
    assert made.told == told, "nothing has changed"
    made.nodes["n1"].rate, made.nodes["n3"].rate = 0, 800
    made.run(20)
    assert made.nodes["n3"].reads >= 800_000


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_or_late_no_more_is_in_force_than_the_whole(seed: int) -> None:
    random = Random(seed)
    made = world(900, 100, 300, 0, seed=seed, lost=0.3, late=0.3)

    def check() -> None:
        assert made.in_force <= WHOLE

    for epoch in range(1, 6):
        # Another manager each time, which knows nothing but what nodes report.
        made.dealing = QuotaDealing(epoch)
        for node in made.nodes.values():
            node.rate = random.choice([0, 50, 500, 5000])
            node.up = random.random() > 0.2
        made.run(15, check)
    for node in made.nodes.values():
        node.up, node.rate = True, 0
    made.lost = made.late = 0.0
    made.nodes["n2"].rate = 700
    made.run(30, check)
    assert made.nodes["n2"].reads >= 700_000


def test_a_node_that_cannot_be_told_keeps_its_share_and_one_that_nobody_hears_does_not() -> None:
    made = world(600, 300, 0)
    made.run(10)
    kept = made.nodes["n1"].reads
    assert kept >= 600_000
    made.nodes["n1"].up = False
    made.nodes["n2"].rate = 5000
    made.run(30)
    assert made.nodes["n1"].reads == kept
    assert WHOLE - 20_000 <= made.in_force <= WHOLE
    made.nodes["n1"].connected = False
    made.run(10)
    assert made.nodes["n2"].reads > 900_000
    # It comes back, with what it had: the others give it up again.
    made.nodes["n1"].up = made.nodes["n1"].connected = True
    made.run(30)
    assert made.in_force <= WHOLE
    assert made.nodes["n1"].reads > 400_000


def test_a_node_that_forgets_its_share_is_told_again() -> None:
    made = world(900, 0, 0)
    made.run(10)
    made.nodes["n1"].reads, made.nodes["n1"].epoch, made.nodes["n1"].number = WHOLE // 3, 0, 0
    made.nodes["n1"].asked = 0.0
    made.run(5)
    assert made.nodes["n1"].reads >= 900_000
    assert made.in_force <= WHOLE


def test_a_new_manager_gives_nobody_more_before_all_have_heard_of_it() -> None:
    made = world(900, 0, 0)
    made.run(10)
    late = NodeShares(1, 99, (msgspec.structs.replace(KEYSPACE_SHARE, reads=WHOLE),))
    before = made.nodes["n2"].reads
    made.nodes["n2"].rate = 900
    made.nodes["n1"].rate = 0
    made.dealing = QuotaDealing(2)
    made.step()
    assert made.nodes["n2"].reads == before
    made.nodes["n2"].take(late)
    assert made.nodes["n2"].reads == before, "it has heard of the new one by now"
    made.run(20)
    assert made.nodes["n2"].reads >= 900_000


def test_no_shares_without_quotas() -> None:
    made = world(900, 0, 0)
    made.keyspace = Keyspace(1, "default", 4, b"/")
    made.make_map()
    made.run(5)
    assert made.told == 0


# -- bytes


def test_a_keyspace_is_full_by_what_its_leaders_have_counted_once() -> None:
    made = world(0, 0, 0)
    for node in made.nodes.values():
        node.replica_bytes = 900
    made.nodes["n1"].leads = True
    made.run(3)
    assert not any(node.full for node in made.nodes.values()), "three replicas of 900 bytes are 900 bytes"
    assert made.dealing.used_bytes == {1: 900}
    made.nodes["n1"].replica_bytes = 1000
    made.run(3)
    assert all(node.full for node in made.nodes.values())
    made.nodes["n1"].replica_bytes = 400
    made.run(3)
    assert not any(node.full for node in made.nodes.values()), "it heals by itself, whatever the followers have counted"


def test_a_larger_quota_and_none_heal_it_too() -> None:
    for keyspace in (msgspec.structs.replace(KEYSPACE, max_bytes=2000), msgspec.structs.replace(KEYSPACE, max_bytes=0)):
        made = world(0, 0, 0)
        made.nodes["n1"].leads = True
        made.nodes["n1"].replica_bytes = 1500
        made.run(3)
        assert made.nodes["n3"].full
        made.keyspace = keyspace
        made.make_map()
        made.run(3)
        assert not made.nodes["n3"].full


def test_what_a_leader_has_not_counted_yet_is_what_was_known_before() -> None:
    made = world(0, 0, 0)
    made.nodes["n1"].leads = True
    made.nodes["n1"].replica_bytes = 1500
    made.run(3)
    report = made.reports["n1"]
    [replica] = report.status.replicas
    fresh = msgspec.structs.replace(replica, bytes=10, counted=False)
    restarted = replace(report, status=msgspec.structs.replace(report.status, replicas=(fresh,)), at_ms=made.now_ms + 1)
    made.loads.take("n1", restarted)
    assert made.loads.bytes_of(1, "n1", ("n1",)) == 1500

"""Orders with numbers from all over, to real node cores: none may raise, each is answered, and the nodes still serve.

What an order leaves in the log is applied by every replica, now and at each start; so after each run all replicas apply to
the end, agree in their rows, and a node that starts again on what is stored comes to the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from shoal.bounds import (
    MAX_INDEX,
    MAX_KEYSPACE,
    MAX_MICROSHARDS,
    MAX_SHARD,
    MAX_TERM,
    MAX_UNIX_MS,
    MAX_VERSION,
)
from shoal.map_rules import MAX_LEAP
from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.messages import (
    ChangeMembership,
    DropReplica,
    Failure,
    InstallShardMap,
    Put,
    ReadPage,
    Request,
    SetLogLevel,
    SkipEntry,
    SplitShard,
    TransferLeader,
    Written,
)
from shoal.protocol.migration import (
    UNREAD,
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    CancelMigration,
    ForgetMoved,
    MigrationCursor,
    ReadMoving,
    SealMicroshards,
    StoreMoved,
)
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node import administration, migrations
from shoal_server.storage.layout import value_header

NODES = ("n1", "n2", "n3")
SHARDS = (
    Shard(1, 1, (MicroshardRange(0, 2),), NODES),
    Shard(2, 1, (MicroshardRange(2, 4),), NODES),
)

EDGES = [
    *range(-2, 6),
    *(edge + off for edge in (16, MAX_MICROSHARDS, MAX_SHARD, MAX_KEYSPACE, MAX_TERM, MAX_INDEX) for off in (-1, 0, 1)),
    *(1 << bits for bits in (24, 31, 32, 40, 52, 53, 60, 61, 62, 63)),
    *((1 << bits) - 1 for bits in (32, 60, 62, 63, 64)),
    -(1 << 31),
    -(1 << 63),
]
number = st.one_of(st.integers(0, 5), st.sampled_from(EDGES), st.integers(-(1 << 63), (1 << 64) - 1))
small = st.one_of(st.integers(0, 4), st.integers(0, 4), number)
shard_id = st.one_of(st.sampled_from([1, 2]), st.sampled_from([1, 2]), number)
name = st.sampled_from([*NODES, *NODES, "", "n4", "x" * 63, "x" * 64])
names = st.lists(name, max_size=4).map(tuple)
span = st.one_of(
    st.sampled_from([MicroshardRange(first, end) for first in range(4) for end in range(first + 1, 5)]),
    st.builds(MicroshardRange, small, small),
)
ranges = st.lists(span, max_size=3).map(tuple)
text = st.one_of(st.binary(max_size=6), st.just(bytes(70_000)))
cursor = st.one_of(st.just(UNREAD), st.builds(MigrationCursor, small, st.booleans(), text, number, st.booleans()))
row = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.builds(
        lambda seq, expiry: value_header(seq, expiry) + b"v",
        st.sampled_from([0, 7, 1 << 62, (1 << 64) - 1]),
        st.sampled_from([0, 1, MAX_UNIX_MS, MAX_UNIX_MS + 1, (1 << 64) - 1]),
    ),
)
child = st.builds(
    Shard,
    st.one_of(st.integers(3, 9), number),
    st.one_of(st.just(1), number),
    ranges,
    st.one_of(st.just(NODES), names),
    st.one_of(st.just(()), names),
    st.one_of(st.just(""), name),
    parent=small,
)
shard_map = st.builds(
    ShardMap,
    small,
    st.just("test"),
    st.one_of(
        st.just(tuple(NodeAddress(each, f"{each}:1") for each in NODES)),
        st.lists(
            st.builds(NodeAddress, name, st.sampled_from(["n1:1", "n1", ":", "n1:x", "n1:99999", ""])), max_size=4
        ).map(tuple),
    ),
    st.one_of(
        st.just((Keyspace(1, "default", 4, b"/"),)),
        st.lists(st.builds(Keyspace, small, name, small, st.just(b"/"), number, number), max_size=2).map(tuple),
    ),
    st.one_of(st.just(SHARDS), st.lists(child, max_size=3).map(tuple)),
)


def orders(request: int) -> st.SearchStrategy[Request]:
    asked = st.just(request)
    return st.one_of(
        st.builds(InstallShardMap, asked, shard_map, st.lists(shard_id, max_size=3)),
        st.builds(ChangeMembership, asked, shard_id, small, name, small),
        st.builds(DropReplica, asked, shard_id, st.integers(-1, 60)),
        st.builds(SplitShard, asked, shard_id, child, small),
        st.builds(TransferLeader, asked, shard_id, name, number),
        st.builds(BeginIncoming, asked, shard_id, small, shard_id, ranges),
        st.builds(BeginOutgoing, asked, shard_id, small, shard_id, ranges, cursor),
        st.builds(ReadMoving, asked, shard_id, small, cursor, number),
        st.builds(
            StoreMoved,
            asked,
            shard_id,
            small,
            small,
            st.lists(st.tuples(small, text, text), max_size=3),
            st.lists(st.tuples(small, text, row), max_size=3),
            cursor,
            st.one_of(st.none(), cursor),
        ),
        st.builds(SealMicroshards, asked, shard_id, small, number),
        st.builds(AdoptMicroshards, asked, shard_id, small, number),
        st.builds(ForgetMoved, asked, shard_id, small),
        st.builds(CancelMigration, asked, shard_id, small),
        st.builds(ReadChecksum, asked, shard_id, ranges, st.builds(ChecksumCursor, small, text), number),
        st.builds(ReadPage, asked, shard_id, small, number, ranges, text, number),
        st.builds(SetLogLevel, asked, st.text(max_size=70)),
        st.builds(SkipEntry, asked, shard_id, small, small, small),
    )


def settled(nodes: Any) -> bool:
    """Whether all replicas of each shard have applied the same entries."""
    positions: dict[int, set[int]] = {}
    for node in nodes.nodes.values():
        for shard, replica in node.replicas.items():
            log = replica.group.log
            positions.setdefault(shard, set()).update((log.last_index, log.commit_index, replica.machine.state.index))
    return all(len(found) == 1 for found in positions.values())


def states(nodes: Any) -> dict[int, set[str]]:
    """What the replicas of each shard have applied, but for where their rows lie."""
    found: dict[int, set[str]] = {}
    for node in nodes.nodes.values():
        for shard, replica in node.replicas.items():
            state = replica.machine.state
            said = (
                state.index,
                state.seq_base,
                state.ranges,
                state.outgoing,
                state.incoming,
                state.ended,
                state.children,
            )
            found.setdefault(shard, set()).add(repr(said))
    return found


def give_orders(nodes: Any, data: st.DataObject) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(Put(b"k", b"v")))
    # Whose leader is dropped with a shard that no map has any more, hears no more of its first entry.
    nodes.until(lambda: settled(nodes))
    for _ in range(data.draw(st.integers(1, 12), "orders")):
        where = data.draw(st.sampled_from([leader, leader, *NODES]), "node")
        number = nodes.ask(where, lambda request: data.draw(orders(request), "order"))
        nodes.pass_time(3)
        assert len(nodes.answers.get(number, ())) <= 1
    nodes.pass_time(300)
    nodes.until(lambda: settled(nodes))
    assert not [
        replica.failure for node in nodes.nodes.values() for replica in node.replicas.values() if replica.failure
    ]
    assert all(len(found) == 1 for found in states(nodes).values())
    replica = nodes.nodes[leader].replicas.get(1)
    if replica is not None and replica.group.is_leader and replica.machine.state.ranges == SHARDS[0].ranges:
        again = nodes.answer(nodes.write(Put(b"k", b"w")))
        assert isinstance(again, Written | Failure)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_order_stops_a_node_or_makes_replicas_differ(make_nodes: Any, data: st.DataObject) -> None:
    give_orders(make_nodes(shards=SHARDS), data)


def no_ranges_in_types(patch: pytest.MonkeyPatch, nodes_type: Any) -> None:
    """Requests reach the node as they were made, whatever stands in them."""

    def ask(self: Any, node: str, make: Any) -> int:
        self._request += 1
        self.nodes[node].receive_client(1, [make(self._request)])
        return int(self._request)

    patch.setattr(nodes_type, "ask", ask)


def no_rules_of_orders(patch: pytest.MonkeyPatch, nodes_type: Any) -> None:
    """What makes sense only together is not looked at."""
    for module, name in (
        (administration, "refuse_map"),
        (administration, "refuse_split"),
        (migrations, "refuse_step"),
    ):
        patch.setattr(module, name, lambda *_: "")


@pytest.mark.parametrize("plant", [no_ranges_in_types, no_rules_of_orders], ids=lambda plant: plant.__name__)
def test_without_the_checks_orders_are_found_that_stop_a_node(make_nodes: Any, plant: Any) -> None:
    @settings(
        max_examples=400,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        give_orders(make_nodes(shards=SHARDS), data)

    with pytest.MonkeyPatch.context() as patch:
        plant(patch, make_nodes)
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever goes wrong without them
            fuzz()


@pytest.mark.parametrize(
    "make",
    [
        lambda request: SplitShard(request, 1, Shard(1 << 40, 1, (MicroshardRange(0, 1),), NODES), 2),
        lambda request: BeginIncoming(request, 1, 7, 2, (MicroshardRange(0, 1 << 60),)),
        lambda request: BeginIncoming(request, 1, 7, 2, (MicroshardRange(0, 1 << 16),) * 1000),
        lambda request: InstallShardMap(
            request,
            ShardMap(2, "test", (NodeAddress("n1", "n1:1"),), (Keyspace(1 << 40, "k", 4, b"/"),), ()),
        ),
        lambda request: StoreMoved(request, 1, 7, 1, [], [(2, b"k", b"")], UNREAD),
        lambda request: StoreMoved(request, 1, 7, 1, [(2, b"b", b"a")], [], UNREAD),
        lambda request: StoreMoved(request, 1, 7, 1, [], [], MigrationCursor(seq=(1 << 64) - 1)),
        lambda request: BeginOutgoing(request, 1, 7, 2, (MicroshardRange(0, 1),), MigrationCursor(-2, True)),
        lambda request: BeginOutgoing(request, 1, 7, 1, (MicroshardRange(0, 1),)),
    ],
)
def test_orders_that_ended_nodes_for_ever_are_refused_in_words(make_nodes: Any, make: Any) -> None:
    nodes = make_nodes(shards=SHARDS)
    leader = nodes.leader
    before = nodes.nodes[leader].replicas[1].group.log.last_index
    refused = nodes.ask_and_wait(leader, make)
    assert isinstance(refused, Failure)
    assert (refused.code, refused.maybe_applied) == ("invalid_argument", False)
    assert len(refused.message) > 20
    assert nodes.nodes[leader].replicas[1].group.log.last_index == before
    nodes.pass_time(100)
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"v"))), Written)


def test_a_map_that_nobody_could_follow_is_refused(make_nodes: Any) -> None:
    nodes = make_nodes(shards=SHARDS)
    known = nodes.shard_map
    addresses, keyspaces, shards = known.nodes, known.keyspaces, known.shards
    wrong = [
        ShardMap(2, "test", (*addresses, NodeAddress("n4", "no port")), keyspaces, shards),
        ShardMap(2, "test", (*addresses, NodeAddress("n1", "n1:2")), keyspaces, shards),
        ShardMap(2, "test", addresses[:2], keyspaces, shards),
        ShardMap(2, "test", addresses, (Keyspace(1, "default", 8, b"/"),), shards),
        ShardMap(2, "test", addresses, (Keyspace(1, "default", 4, b":"),), shards),
        ShardMap(2, "test", addresses, (*keyspaces, Keyspace(2, "default", 1, b"/")), shards),
        ShardMap(2, "test", addresses, keyspaces, (shards[0], Shard(1, 1, (MicroshardRange(2, 4),), NODES))),
        ShardMap(2, "test", addresses, keyspaces, (shards[0], Shard(2, 1, (MicroshardRange(2, 5),), NODES))),
        ShardMap(2, "test", addresses, keyspaces, (shards[0], Shard(2, 1, (MicroshardRange(2, 4),), ("n1", "n1")))),
        ShardMap(2, "test", addresses, keyspaces, (shards[0], Shard(2, 1, (MicroshardRange(2, 4),), ()))),
        ShardMap(2, "test", addresses, keyspaces, (shards[0],)),
        ShardMap(MAX_VERSION, "test", addresses, keyspaces, shards),
        ShardMap(2, "test", addresses, keyspaces, (shards[0], Shard(2, 9, (MicroshardRange(2, 4),), NODES))),
    ]
    for shard_map in wrong:
        refused = nodes.ask_and_wait(nodes.leader, lambda request, new=shard_map: InstallShardMap(request, new))
        assert isinstance(refused, Failure), shard_map
        assert "contradicts itself" in refused.message
    right = ShardMap(known.version + MAX_LEAP, "test", addresses, keyspaces, shards)
    assert not isinstance(nodes.ask_and_wait(nodes.leader, lambda request: InstallShardMap(request, right)), Failure)

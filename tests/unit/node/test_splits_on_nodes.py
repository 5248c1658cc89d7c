"""The replicas that a split makes: each node opens its own when what made it is on disk, and they elect at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.bounds import MAX_CHILDREN
from shoal.keys import microshard_of
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Done,
    Failure,
    GetStatus,
    OpenSession,
    Put,
    SessionOpened,
    SplitShard,
    Write,
    Written,
)
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.splits import Splits
from shoal_server.storage.layout import data_prefix, expiry_prefix
from shoal_server.storage.replica_failure import FailureKind

PARENT, CHILD = 1, 2


def split(nodes: Any) -> str:
    """Have the shard split; return the node that leads it, where the new one is to be led, too."""
    leader: str = nodes.leader
    nodes.pass_time(2000)  # a process that has just begun votes for nobody: it may have promised something before
    child = Shard(CHILD, 1, (MicroshardRange(2, 4),), (leader, *nodes.others))
    nodes.ask(leader, lambda request: SplitShard(request, PARENT, child, 2))
    return leader


def leads(nodes: Any, node: str) -> bool:
    replica = nodes.nodes[node].replicas.get(CHILD)
    return replica is not None and replica.group.is_leader


def test_a_new_shard_is_led_within_milliseconds(nodes: Any) -> None:
    leader = split(nodes)
    nodes.until(lambda: leads(nodes, leader), milliseconds=50)


def test_a_node_that_opens_its_replica_late_votes_as_soon_as_it_has(nodes: Any) -> None:
    """What the first one asked it meanwhile is not forgotten: the next attempt would come a quarter of a second later."""
    nodes.leader  # noqa: B018 - there is one
    late = nodes.others
    nodes.slow_flushes.update(late)
    leader = split(nodes)
    nodes.until(lambda: CHILD in nodes.nodes[leader].replicas)
    nodes.pass_time(20)
    assert not leads(nodes, leader)
    assert not any(CHILD in nodes.nodes[node].replicas for node in late)
    nodes.slow_flushes.clear()
    nodes.until(lambda: leads(nodes, leader), milliseconds=50)


def test_a_replica_that_opens_before_what_it_stands_on_is_on_disk_is_found(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiting(self: Splits) -> bool:
        for replica in self._replicas.by_shard.values():
            self.flushed(replica, replica.machine.state.index)
        return bool(self._durable)

    monkeypatch.setattr(Splits, "waiting", property(waiting))
    with pytest.raises(AssertionError):
        test_a_node_that_opens_its_replica_late_votes_as_soon_as_it_has(nodes)


def test_a_replica_that_has_failed_when_it_is_opened_is_rebuilt_without_a_restart(nodes: Any) -> None:
    nodes.answer(nodes.write(*(Put(key, b"v", 3_600_000) for key in KEYS)))
    late = nodes.others[0]
    nodes.slow_flushes.add(late)
    split(nodes)
    parent, engine = nodes.replica(late).machine, nodes.engines[late]
    nodes.until(lambda: CHILD in parent.state.children)
    index = expiry_prefix(1, 2, parent.state.generation)
    engine.damage.add("data", [next(key for key in engine.tables["data"].keys if key.startswith(index))])
    nodes.slow_flushes.clear()
    nodes.until(lambda: CHILD in nodes.nodes[late].replicas)
    assert nodes.nodes[late].replicas[CHILD].failure.kind is FailureKind.DAMAGED
    engine.damage.clear()
    nodes.until(lambda: nodes.nodes[late].replicas[CHILD].failure is None)


def test_a_replica_says_which_shards_were_split_off_it_and_of_very_many_the_last(nodes: Any) -> None:
    leader = split(nodes)
    nodes.until(lambda: leads(nodes, leader))
    for name in NODES:
        parent, child = nodes.ask_and_wait(name, GetStatus).replicas
        assert (parent.children, child.children) == ((CHILD,), ())
    machine = nodes.replica(leader).machine
    machine.state = replace(machine.state, children=tuple(range(1000)))
    parent, _ = nodes.ask_and_wait(leader, GetStatus).replicas
    assert parent.children == tuple(range(1000))[-MAX_CHILDREN:]


# -- one number for two new shards

KEYS = [b"key-%d" % number for number in range(40)]
NODES = ("n1", "n2", "n3")
TWO_SHARDS = tuple(Shard(number, 1, (MicroshardRange(2 * number - 2, 2 * number),), NODES) for number in (1, 2))


def leader_of(nodes: Any, shard: int) -> str:
    def leading() -> list[str]:
        replicas = {name: nodes.nodes[name].replicas[shard] for name in NODES}
        return [name for name, replica in replicas.items() if replica.group.read_index(nodes.now) is not None]

    nodes.until(lambda: bool(leading()))
    return leading()[0]


def write_all(nodes: Any, shard: int) -> None:
    """Write those of the keys that are in a shard."""
    leader, span = leader_of(nodes, shard), TWO_SHARDS[shard - 1].ranges[0]
    opened = nodes.ask_and_wait(leader, lambda request: OpenSession(request, shard))
    assert isinstance(opened, SessionOpened)
    puts = encode_operations([Put(key, b"v") for key in KEYS if span.first <= microshard_of(key, b"/", 4) < span.end])
    written = nodes.ask_and_wait(leader, lambda request: Write(request, shard, 1, opened.session, 1, 1000, puts))
    assert isinstance(written, Written)


def ask_split(nodes: Any, node: str, parent: int, microshard: int) -> int:
    child = Shard(9, 1, (MicroshardRange(microshard, microshard + 1),), NODES)
    asked: int = nodes.ask(node, lambda request: SplitShard(request, parent, child, 2))
    return asked


def rows_on(nodes: Any, node: str) -> int:
    engine = nodes.engines[node]
    return sum(1 for _ in engine.scan(engine.data, data_prefix(1, 0, 0), data_prefix(2, 0, 0)))


@pytest.mark.parametrize("turns_between", [0, 1])
def test_of_two_splits_that_name_one_new_shard_the_second_is_refused(nodes: Any, turns_between: int) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(*(Put(key, b"v") for key in KEYS)))
    nodes.pass_time(2000)
    first = ask_split(nodes, leader, 1, 1)
    nodes.pass_time(turns_between)
    second = ask_split(nodes, leader, 1, 2)
    assert isinstance(nodes.answer(first), Done)
    assert isinstance(refusal := nodes.answer(second), Failure)
    assert "another number" in refusal.message
    nodes.pass_time(1000)
    for name, node in nodes.nodes.items():
        served = {each for replica in node.replicas.values() for each in replica.machine.prefixes}
        assert served == {0, 1, 2, 3}
        assert rows_on(nodes, name) == len(KEYS)


def test_of_splits_of_two_shards_that_name_one_new_shard_their_leader_refuses_the_second(
    make_nodes: Callable[..., Any],
) -> None:
    nodes = make_nodes(shards=TWO_SHARDS)
    nodes.pass_time(3000)
    for shard in (1, 2):
        write_all(nodes, shard)
    leader = leader_of(nodes, 1)
    assert leader_of(nodes, 2) == leader
    first, second = ask_split(nodes, leader, 1, 1), ask_split(nodes, leader, 2, 3)
    assert isinstance(nodes.answer(first), Done)
    assert isinstance(nodes.answer(second), Failure)
    nodes.pass_time(1000)
    assert [rows_on(nodes, name) for name in NODES] == [len(KEYS)] * 3


def test_where_two_leaders_split_one_new_shard_off_no_row_is_dropped(make_nodes: Callable[..., Any]) -> None:
    """Neither knows of the other. A node that has the one stops before it makes the other, with all that it has."""
    second_first = (TWO_SHARDS[0], Shard(2, 1, TWO_SHARDS[1].ranges, ("n2", "n1", "n3")))
    nodes = make_nodes(shards=second_first)
    nodes.pass_time(3000)
    for shard in (1, 2):
        write_all(nodes, shard)
    nodes.pass_time(300)
    leaders = [leader_of(nodes, shard) for shard in (1, 2)]
    assert leaders[0] != leaders[1]
    for shard, leader in enumerate(leaders, 1):
        ask_split(nodes, leader, shard, 2 * shard - 1)
    nodes.pass_time(1000)
    for name, node in nodes.nodes.items():
        assert rows_on(nodes, name) == len(KEYS)
        stuck = [replica.failure for shard in (1, 2) if (replica := node.replicas[shard]).failure is not None]
        assert [failure.kind for failure in stuck] == [FailureKind.STUCK]
        assert "shard 9 is there already" in stuck[0].reason

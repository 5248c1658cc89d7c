"""What a split leaves on the node that applies it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shoal.bounds import MAX_MICROSHARDS
from shoal.keys import microshard_of
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import Applied, Atomic, ConditionNotMet, DeleteRange, Put, RangeUnchanged
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.shard.beginnings import Beginnings, ShardBegunTwice
from shoal_server.shard.commands import SplitCommand
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.shard.sessions import CommandVerdict
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import data_prefix, is_split_off, load_split_off
from shoal_server.storage.replica_rows import ReplicaOrigin, put_origin
from shoal_server.storage.watched import WatchedEngine

CHILD = Shard(2, 1, (MicroshardRange(4, 8),), ("n1",), parent=1)
KEYS = [b"key-%d" % number for number in range(100)]
KEY = next(key for number in range(100) if microshard_of(key := b"key-%d" % number, b"/", 8) >= 4)


def test_a_child_reads_the_rows_where_they_lie_and_goes_on_with_the_seqs(
    replica: Any, make_replica: Callable[..., Any]
) -> None:
    replica.write(Put(KEY, b"1"))
    before = replica.entry(KEY)
    [[outcome]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)))
    assert outcome.verdict is CommandVerdict.NEW
    child = make_replica(replica.engine, 2, 4, 8)
    assert child.entry(KEY) == before
    assert child.machine.state.seq == replica.machine.state.seq
    assert replica.machine.state.children == (2,)
    assert replica.machine.route([KEY]) is None


def test_a_child_that_came_to_the_node_before_its_parent_is_not_made_again(replica: Any) -> None:
    replica.write(Put(KEY, b"1"))
    engine, generation = replica.engine, replica.machine.state.generation
    batch = engine.batch()
    put_origin(batch, engine, CHILD.id, ReplicaOrigin(False, 1, parent=1))
    engine.write(batch)
    [[outcome]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)))
    assert outcome.verdict is CommandVerdict.NEW
    assert not is_split_off(engine, CHILD.id)
    assert replica.machine.microshards.split_offs == []
    prefix = data_prefix(1, microshard_of(KEY, b"/", 8), generation)
    assert engine.get(engine.data, prefix + KEY) is None, "its own leader feeds it; these rows are nobody's now"


@pytest.mark.parametrize("in_one_turn", [False, True])
def test_a_number_is_split_off_once(replica: Any, in_one_turn: bool) -> None:
    """Every replica says so: it goes by what the shard has applied, not by what its node has or has written by now."""
    replica.write(Put(KEY, b"1"))
    again = Shard(CHILD.id, 1, (MicroshardRange(2, 4),), ("n1",), parent=1)
    entries = [replica.commands(SplitCommand(child, 2)) for child in (CHILD, again)]
    if in_one_turn:
        [[first], [second]] = replica.apply(*entries)
    else:
        [[first]], [[second]] = (replica.apply(entry) for entry in entries)
    assert (first.verdict, second.verdict) == (CommandVerdict.NEW, CommandVerdict.REFUSED)
    assert replica.machine.state.ranges == (MicroshardRange(0, 4),)
    assert load_split_off(replica.engine, CHILD.id).child == CHILD


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_a_shard_that_another_one_has_begun_is_not_begun_again(
    make_replica: Callable[..., Any], in_one_batch: bool
) -> None:
    engine, beginnings = WatchedEngine(), Beginnings()
    first, second = make_replica(engine, 1, 4, 8), make_replica(engine, 3, 0, 4)
    for each in (first, second):
        each.machine = ShardStateMachine(each.shard, each.machine.keyspace, engine, each.machine.state, beginnings)
    second.write(Put(other := next(key for key in KEYS if microshard_of(key, b"/", 8) == 1), b"1"))
    batch = engine.batch() if in_one_batch else None
    first.apply(first.commands(SplitCommand(Shard(2, 1, (MicroshardRange(4, 5),), ("n1",)), 2)), batch=batch)
    clash = SplitCommand(Shard(2, 1, (MicroshardRange(1, 2),), ("n1",)), 2)
    with pytest.raises(ShardBegunTwice):
        second.apply(second.commands(clash), batch=batch)
    if batch is not None:
        engine.write_unlogged(batch)
    assert second.entry(other) is not None
    assert load_split_off(engine, 2).child.parent == 1


def test_what_is_not_written_has_begun_nothing(replica: Any) -> None:
    [[_]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)), batch=replica.engine.batch())
    replica.machine.microshards.forget(0)
    replica.machine.adopt(replica.restarted().machine.state)
    [[outcome]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)))
    assert outcome.verdict is CommandVerdict.NEW
    assert is_split_off(replica.engine, CHILD.id)


def digest_of(replica: Any, keys: list[bytes]) -> bytes:
    digest = RangeDigest()
    digest.add(keys, [replica.entry(key)[1] for key in keys])
    return digest.value()


@pytest.mark.parametrize("in_one_turn", [False, True])
def test_what_names_microshards_that_a_split_took_away_is_not_done_at_all(replica: Any, in_one_turn: bool) -> None:
    """Its leader proposed it before it had applied the split, or what it read was there before."""
    stays = next(key for number in range(100) if microshard_of(key := b"key-%d" % number, b"/", 8) < 4)
    replica.write(Put(stays, b"1"), Put(KEY, b"1"))
    whole, kept = (MicroshardRange(0, 8),), (MicroshardRange(0, 4),)
    both = sorted([stays, KEY])
    late = [
        replica.write_command(Atomic([RangeUnchanged(whole, b"", b"", digest_of(replica, both))], [Put(stays, b"2")])),
        replica.write_command(Put(stays, b"2"), DeleteRange(whole, b"", b"")),
        replica.write_command(DeleteRange((MicroshardRange(3, 5),), b"", b"")),
    ]
    fitting = [
        replica.write_command(Atomic([RangeUnchanged(kept, b"", b"", digest_of(replica, [stays]))], [])),
        replica.write_command(DeleteRange(kept, b"", b"")),
    ]
    split = SplitCommand(CHILD, 2)
    if in_one_turn:
        [_, *outcomes] = replica.apply(replica.commands(split), *(replica.commands(each) for each in late))
    else:
        replica.apply(replica.commands(split))
        outcomes = replica.apply(*(replica.commands(each) for each in late))
    assert [outcome.verdict for [outcome] in outcomes] == [CommandVerdict.NOT_HERE] * 3
    assert replica.get(stays) == b"1"
    [outcomes] = replica.apply(replica.commands(*fitting))
    assert [outcome.results for outcome in outcomes] == [[Applied([])], [Applied([4])]]


def test_a_range_over_microshards_that_were_joined_with_others_since_is_compared_in_them_alone(
    engine: Engine, make_replica: Callable[..., Any]
) -> None:
    replica = make_replica(engine)
    low = next(key for number in range(100) if microshard_of(key := b"key-%d" % number, b"/", 8) < 4)
    replica.write(Put(low, b"1"))
    condition = RangeUnchanged((MicroshardRange(0, 4),), b"", b"", digest_of(replica, [low]))
    assert replica.write(Put(KEY, b"of others"), Atomic([condition], [])) == [Applied([])]
    assert replica.write(Put(low, b"2"), Atomic([condition], [])) == [ConditionNotMet(0, 0, None)]


@pytest.mark.parametrize(
    "ranges",
    [(), (MicroshardRange(0, 9),), (MicroshardRange(0, MAX_MICROSHARDS),), (MicroshardRange(5, 2),)],
)
def test_microshards_that_there_are_not_are_nobodys_and_cost_nothing(
    replica: Any, ranges: tuple[MicroshardRange, ...]
) -> None:
    assert not replica.machine.has_ranges(ranges)
    replica.open_session()
    [[outcome]] = replica.apply(replica.commands(replica.write_command(DeleteRange(ranges, b"", b""))))
    assert outcome.verdict is CommandVerdict.NOT_HERE

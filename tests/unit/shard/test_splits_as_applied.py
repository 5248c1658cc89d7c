"""What a split leaves on the node that applies it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.keys import microshard_of
from shoal.protocol.messages import Put
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.shard.commands import SplitCommand
from shoal_server.shard.sessions import Verdict
from shoal_server.storage.layout import data_prefix, is_split_off
from shoal_server.storage.replica_rows import ReplicaOrigin, put_origin

CHILD = Shard(2, 1, (MicroshardRange(4, 8),), ("n1",), parent=1)
KEY = next(key for number in range(100) if microshard_of(key := b"key-%d" % number, b"/", 8) >= 4)


def test_a_child_reads_the_rows_where_they_lie_and_goes_on_with_the_seqs(
    replica: Any, make_replica: Callable[..., Any]
) -> None:
    replica.write(Put(KEY, b"1"))
    before = replica.entry(KEY)
    [[outcome]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)))
    assert outcome.verdict is Verdict.NEW
    child = make_replica(replica.engine, 2, 4, 8)
    assert child.entry(KEY) == before
    assert child.machine.state.seq == replica.machine.state.seq
    assert replica.machine.state.children == (2,)
    assert replica.machine.route([KEY]) is None


def test_a_child_that_came_to_the_node_before_its_parent_is_not_made_again(replica: Any) -> None:
    replica.write(Put(KEY, b"1"))
    engine, generation = replica.engine, replica.machine.state.generation
    batch = engine.batch()
    put_origin(batch, engine, CHILD.id, ReplicaOrigin(False, 1))
    engine.write(batch)
    [[outcome]] = replica.apply(replica.commands(SplitCommand(CHILD, 2)))
    assert outcome.verdict is Verdict.NEW
    assert not is_split_off(engine, CHILD.id)
    assert replica.machine.microshards.split_offs == []
    prefix = data_prefix(1, microshard_of(KEY, b"/", 8), generation)
    assert engine.get(engine.data, prefix + KEY) is None, "its own leader feeds it; these rows are nobody's now"

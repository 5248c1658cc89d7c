"""`timing.support` made shorter by a restart: what the life before had promised holds for as long as it said."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_server.node import core
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.config import Timing
from shoal_server.raft.messages import HardState, VoteRequest, VoteResponse
from shoal_server.storage.promises import put_hard_state
from shoal_server.storage.watched import WatchedEngine

MS = 1_000_000
LONG, SHORT = 4_000 * MS, 500 * MS
SHARD = 1
MAP = ShardMap(
    1,
    "test",
    tuple(NodeAddress(name, f"{name}:1") for name in ("n1", "n2", "n3")),
    (Keyspace(1, "default", 4, b"/"),),
    (Shard(SHARD, 1, (MicroshardRange(0, 4),), ("n1", "n2", "n3")),),
)


def start(engine: WatchedEngine, life: int, support_ns: int, now: int) -> Node:
    timing = Timing(heartbeat_interval_ns=100 * MS, support_ns=support_ns)
    settings = msgspec.structs.replace(NodeSettings(), timing=timing)
    return Node(NodeIdentity("test", "n1", "n1-1", life), MAP, engine, settings, Random(1), now)


def vote(node: Node, now: int) -> bool:
    """Return whether the node votes for n2 now, in a term that is newer than its own."""
    term = node.replicas[SHARD].group.term + 1
    node.receive_peer("n2", [VoteRequest(SHARD, term, 9, term, False, False)])
    turn = node.turn(now, 0)
    if turn.sync is not None:
        node.synced(turn.sync)
    said = turn.to_peers.get("n2", []) + node.turn(now, 0).to_peers.get("n2", [])
    [answer] = [message for message in said if isinstance(message, VoteResponse)]
    return answer.granted


def engine_of_a_voter() -> WatchedEngine:
    engine = WatchedEngine()
    batch = engine.batch()
    put_hard_state(batch, engine, SHARD, HardState(4, "n3"))
    engine.write(batch)
    return engine


def test_no_vote_is_cast_while_a_longer_promise_of_the_life_before_may_last() -> None:
    engine = engine_of_a_voter()
    start(engine, 1, LONG, 0)
    node = start(engine, 2, SHORT, 0)
    assert not vote(node, SHORT + MS)
    assert not vote(node, LONG - MS)
    assert vote(node, LONG)


def test_a_node_that_knows_todays_settings_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "begin_promising", lambda engine, support_ns: support_ns)
    with pytest.raises(AssertionError):
        test_no_vote_is_cast_while_a_longer_promise_of_the_life_before_may_last()


def test_lives_that_come_after_those_promises_are_over_wait_no_longer_than_they_have_to() -> None:
    engine = engine_of_a_voter()
    start(engine, 1, LONG, 0)
    start(engine, 2, SHORT, 0).turn(LONG - MS, 0)
    assert not vote(start(engine, 3, SHORT, LONG), LONG + SHORT), "life 2 ended before it knew that they were over"
    start(engine, 4, SHORT, LONG).turn(2 * LONG, 0)
    node = start(engine, 5, SHORT, 2 * LONG)
    assert not vote(node, 2 * LONG + SHORT - MS)
    assert vote(node, 2 * LONG + SHORT)

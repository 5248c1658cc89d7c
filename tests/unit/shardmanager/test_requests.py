"""What operators may not ask for: refused before anything happens, with the reason and what would work."""

from __future__ import annotations

from typing import Any

import pytest
from shoal_shardmanager.control.requests import (
    Alter,
    Create,
    DropRequest,
    KeyspaceRequest,
    OperatorRequest,
    Refused,
    Why,
)
from shoal_shardmanager.control.rows import Drain, MoveLeader, MoveReplica, RemoveNode, Undrain

REFUSALS: list[tuple[OperatorRequest, Why, str]] = [
    (MoveReplica(9, "n1", "n4"), Why.NOT_FOUND, "no shard 9; the shards are 1, 2; `shoal shards` shows them"),
    (MoveReplica(1, "n9", "n4"), Why.NOT_FOUND, "no node 'n9'"),
    (MoveReplica(1, "n4", "n5"), Why.REFUSED, "has no replica of shard 1"),
    (MoveReplica(1, "n1", "n2"), Why.REFUSED, "has a replica of shard 1 already: choose one of n4, n5"),
    (MoveLeader(1, "n4"), Why.REFUSED, "its voters are n1, n2, n3"),
    (RemoveNode("n1"), Why.REFUSED, "`shoal drain n1`"),
    (RemoveNode("n5"), Why.REFUSED, "`shoal drain n5` comes first"),
    (Undrain("n1"), Why.CONFLICT, "was not drained"),
    (Drain("nn1"), Why.NOT_FOUND, "did you mean 'n1'"),
    (Create(KeyspaceRequest("default")), Why.CONFLICT, "already"),
    (Create(KeyspaceRequest("a b")), Why.WRONG, "cannot be a keyspace's name"),
    (Create(KeyspaceRequest("x", voters=2)), Why.WRONG, "odd number"),
    (Create(KeyspaceRequest("x", voters=7)), Why.REFUSED, "5 are active"),
    (Create(KeyspaceRequest("x", microshards=4, shards=5)), Why.WRONG, "from 1 to 4, not 5"),
    (Create(KeyspaceRequest("x", required={"us": 1})), Why.NOT_FOUND, "regions are eu"),
    (Create(KeyspaceRequest("x", max_staleness_ms=0)), Why.WRONG, "more than 0"),
    (Alter(KeyspaceRequest("default")), Why.CONFLICT, "is so already"),
    (Alter(KeyspaceRequest("default", microshards=9)), Why.WRONG, "fixed"),
    (Alter(KeyspaceRequest("nope", voters=1)), Why.NOT_FOUND, "there are default"),
    (DropRequest("nope"), Why.NOT_FOUND, "there are default"),
]


@pytest.mark.parametrize(("asked", "why", "words"), REFUSALS)
def test_bad_requests_are_refused_with_a_reason(simulated: Any, asked: OperatorRequest, why: Why, words: str) -> None:
    cluster = simulated()
    before = cluster.state
    with pytest.raises(Refused) as refusal:
        cluster.request(asked)
    assert refusal.value.why is why
    assert words in str(refusal.value)
    assert cluster.state is before


def test_two_operations_on_one_shard_are_refused(simulated: Any) -> None:
    cluster = simulated()
    cluster.request(MoveReplica(1, "n1", "n4"))
    with pytest.raises(Refused, match=r"operation 1 .* is on shard 1") as refusal:
        cluster.request(MoveReplica(1, "n2", "n5"))
    assert refusal.value.why is Why.CONFLICT


def test_a_stale_version_is_refused(simulated: Any) -> None:
    cluster = simulated()
    with pytest.raises(Refused, match="version 1 by now, not 7"):
        cluster.request(MoveReplica(1, "n1", "n4"), if_version=7)
    assert cluster.request(MoveReplica(1, "n1", "n4"), if_version=1)


def test_a_silent_target_is_refused(simulated: Any) -> None:
    cluster = simulated()
    cluster.stop("n4")
    with pytest.raises(Refused, match="n4 does not answer: start it; otherwise, choose n5"):
        cluster.request(MoveReplica(1, "n1", "n4"))


def test_a_target_that_takes_no_writes_is_refused_and_not_proposed(simulated: Any) -> None:
    cluster = simulated()
    cluster.not_writable["n4"] = "the disk is full"
    with pytest.raises(Refused, match="n4 takes no writes: the disk is full; choose n5"):
        cluster.request(MoveReplica(1, "n1", "n4"))
    with pytest.raises(Refused, match="has a replica of shard 1 already: choose n5"):
        cluster.request(MoveReplica(1, "n1", "n2"))


def test_what_has_ended_cannot_be_cancelled(simulated: Any) -> None:
    cluster = simulated()
    operation = cluster.request(MoveReplica(1, "n1", "n4"))
    cluster.run_to_end(operation)
    with pytest.raises(Refused, match="operation 1 has ended already, done"):
        cluster.cancel(operation)
    with pytest.raises(Refused, match="there is no operation 77"):
        cluster.cancel(77)


def test_quotas_are_set_changed_one_by_one_and_lifted(simulated: Any) -> None:
    cluster = simulated()

    def quotas() -> tuple[int, int, int]:
        keyspace = next(one for one in cluster.state.map.keyspaces if one.name == "default")
        return keyspace.reads_per_second, keyspace.writes_per_second, keyspace.max_bytes

    assert quotas() == (0, 0, 0)
    for asked, after in [
        (KeyspaceRequest("default", reads_per_second=1000, max_bytes=1 << 30), (1000, 0, 1 << 30)),
        (KeyspaceRequest("default", writes_per_second=50), (1000, 50, 1 << 30)),
        (KeyspaceRequest("default", max_staleness_ms=7), (1000, 50, 1 << 30)),
        (KeyspaceRequest("default", reads_per_second=0, max_bytes=0), (0, 50, 0)),
    ]:
        version = cluster.state.map.version
        cluster.request(Alter(asked))
        assert quotas() == after
        assert cluster.state.map.version == version + 1
    with pytest.raises(Refused, match="is so already"):
        cluster.request(Alter(KeyspaceRequest("default", reads_per_second=0)))


def test_a_keyspace_is_created_with_quotas(simulated: Any) -> None:
    cluster = simulated()
    cluster.request(Create(KeyspaceRequest("x", shards=1, reads_per_second=9, writes_per_second=8, max_bytes=7)))
    created = cluster.state.map.keyspaces[-1]
    assert (created.reads_per_second, created.writes_per_second, created.max_bytes) == (9, 8, 7)

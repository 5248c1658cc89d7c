"""What a peer says in range, but without sense, is refused with its connection; the process and its groups go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from shoal.protocol.messages import Put, Written
from shoal.shardmap import MicroshardRange
from shoal_server.raft.group import Group
from shoal_server.raft.membership import encode_membership
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    Entry,
    EntryKind,
    Membership,
    ReadProbeConfirmed,
    SnapshotHeader,
    sealed,
)
from shoal_server.storage.snapshot import SnapshotChunk, chunk_checksum

from .conftest import NODES, SHARD


def chunk(header: SnapshotHeader, membership: Membership = Membership(1, NODES)) -> SnapshotChunk:  # noqa: B008
    made = SnapshotChunk(header, 1, 0, 0, [], True, 0, membership, 1, 0, (MicroshardRange(0, 4),))
    return replace(made, checksum=chunk_checksum(made))


def entries_of_an_old_term(group: Group) -> list[Entry]:
    return [sealed(SHARD, 0, index, EntryKind.COMMAND, b"") for index in range(1, group.log.commit_index + 2)]


TO_LEADER: dict[str, Callable[[Group], Any]] = {
    "accepted beyond the log": lambda g: AppendAccepted(SHARD, g.term, 1 << 40, 0, 0),
    "committed beyond the log": lambda g: AppendAccepted(SHARD, g.term, 1, 1 << 40, 0),
    "rejected beyond the log": lambda g: AppendRejected(SHARD, g.term, 1 << 40, 1, 1 << 40, 0),
    "confirmed no round": lambda g: ReadProbeConfirmed(SHARD, g.term, 1 << 40),
    "append of its own term": lambda g: AppendEntries(SHARD, g.term, 0, 0, 0, [], 1),
    "snapshot of its own term": lambda g: chunk(SnapshotHeader(SHARD, g.term, 50, 1, 1)),
}
TO_FOLLOWER: dict[str, Callable[[Group], Any]] = {
    "notice by another of the term": lambda g: CommitNotice(SHARD, g.term, 1, 1),
    "membership of a later version": lambda g: AppendEntries(
        SHARD,
        g.term + 1,
        g.log.last_index,
        g.log.last_term,
        0,
        [
            sealed(
                SHARD, g.term + 1, g.log.last_index + 1, EntryKind.MEMBERSHIP, encode_membership(Membership(9, NODES))
            )
        ],
        1,
    ),
    "entries older than what is committed": lambda g: AppendEntries(
        SHARD, g.term + 1, 0, 0, 0, entries_of_an_old_term(g), 1
    ),
    "snapshot of a later term than its sender's": lambda g: chunk(SnapshotHeader(SHARD, g.term + 1, 50, g.term + 9, 1)),
}


@pytest.mark.parametrize("what", [*TO_LEADER, *TO_FOLLOWER])
def test_it_is_refused_and_the_group_goes_on(nodes: Any, what: str) -> None:
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(300)
    leader, (one, other) = nodes.leader, nodes.others
    sender, receiver = (one, leader) if what in TO_LEADER else (other, one)
    message = (TO_LEADER | TO_FOLLOWER)[what](nodes.replica(receiver).group)
    nodes.frames.append((sender, receiver, nodes.encoded([message])))
    nodes.pass_time(3000)
    assert sender in nodes.nodes[receiver].cut_off
    assert nodes.nodes[receiver].counters.messages_refused
    nodes.until(lambda: isinstance(nodes.answer(nodes.write(Put(b"b", b"1"))), Written))


@pytest.mark.parametrize("membership", [Membership(9, ()), Membership(9, ("n1", "n1"))])
def test_a_snapshot_with_a_membership_that_is_none_is_not_adopted(nodes: Any, membership: Membership) -> None:
    nodes.answer(nodes.write(Put(b"a", b"1")))
    nodes.pass_time(300)
    assert nodes.leader
    one, other = nodes.others
    group = nodes.replica(one).group
    nodes.frames.append(
        (other, one, nodes.encoded([chunk(SnapshotHeader(SHARD, group.term + 1, 50, 1, 1), membership)]))
    )
    nodes.pass_time(3000)
    assert nodes.nodes[one].counters.snapshots_adopted == 0
    nodes.until(lambda: isinstance(nodes.answer(nodes.write(Put(b"b", b"1"))), Written))

"""A snapshot settles the term and whom its receiver follows, like any message of a leader: on real node cores."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.keys import microshard_of
from shoal.protocol.messages import Done, Put, SplitShard
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.outbox import peer_decoder
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.config import Timing
from shoal_server.raft.messages import Heartbeat, VoteRequest, VoteResponse
from shoal_server.storage.promises import load_hard_state
from shoal_server.storage.snapshot import SnapshotChunk

SHARD = 1
KEYS = [key for number in range(200) if microshard_of(key := b"key-%d" % number, b"/", 4) != 1]
SUPPORT_MS = Timing().support_ns // 1_000_000


@pytest.fixture
def short_logs(make_nodes: Any) -> Any:
    """Nodes whose logs are cut off as soon as what is in them was applied, and one of which leads."""
    nodes = make_nodes(NodeSettings(log_retain_bytes=300, log_checkpoint_bytes=100))
    assert nodes.leader
    return nodes


def write_until_cut_off(nodes: Any) -> None:
    """Write until the leader's log begins behind what an isolated replica has."""
    leader = nodes.leader
    for number in range(30):
        nodes.answer(nodes.write(Put(b"key-%d" % number, b"x" * 50)))
    nodes.until(lambda: nodes.replica(leader).group.log.first_index > 20)


def deliver(nodes: Any, sender: str, receiver: str, *kinds: type) -> list[Any]:
    """Take from the frames under way those of a link, and return their messages of these kinds."""
    found = [frame for frame in nodes.frames if frame[:2] == (sender, receiver)]
    nodes.frames = [frame for frame in nodes.frames if frame[:2] != (sender, receiver)]
    messages = [message for frame in found for message in peer_decoder.decode(frame[2])]
    return [message for message in messages if isinstance(message, kinds)]


def test_a_pre_candidate_that_takes_a_snapshot_of_its_leader_is_not_talked_out_of_following_it(short_logs: Any) -> None:
    """The link from the leader stalls with the snapshot's last chunk in it, for longer than a promise, and goes on."""
    nodes = short_logs
    leader, (behind, other) = nodes.leader, nodes.others
    nodes.isolate(behind)
    write_until_cut_off(nodes)
    nodes.heal()
    nodes.nodes[leader].peer_connected(behind)
    held: list[Any] = []
    for _ in range(50):
        held += deliver(nodes, leader, behind, SnapshotChunk)
        if held:
            break
        nodes.step()
    [chunk] = held
    assert chunk.last
    group = nodes.replica(behind).group
    nodes.cut.add((leader, behind))
    nodes.until(lambda: group.role.value == "pre-candidate", 3 * SUPPORT_MS)
    # What the stall held back arrives, in order: heartbeats, which are supported again, and the chunk.
    node = nodes.nodes[behind]
    node.receive_peer(leader, [Heartbeat(1, nodes.now - 1, nodes.now - 2, True)])
    node.receive_peer(leader, [chunk])
    nodes.step()
    assert node.counters.snapshots_adopted == 1
    node.receive_peer(other, [VoteResponse(SHARD, group.term + 5, False, True)])
    nodes.step()
    assert (group.leader, group.term) == (leader, nodes.replica(leader).group.term)
    node.receive_peer(other, [VoteRequest(SHARD, group.term + 6, 1 << 40, group.term + 5, False, False)])
    nodes.step()
    assert group.leader == leader, "it has acknowledged under a promise"


def test_a_replica_that_hears_of_a_term_by_a_snapshot_first_is_in_that_term_when_it_has_adopted_it(
    short_logs: Any,
) -> None:
    """Whoever was elected, and cut its log off, while a replica was away sends it a snapshot and nothing before that."""
    nodes = short_logs
    old, (behind, new) = nodes.leader, nodes.others
    nodes.isolate(behind)
    nodes.nodes[old].replicas[SHARD].group.transfer_leadership(new, nodes.now)
    nodes.nodes[old]._agenda.mark(nodes.replica(old))
    nodes.until(lambda: nodes.replica(new).group.is_leader)
    nodes.until(lambda: nodes.leader == new)
    group, node = nodes.replica(behind).group, nodes.nodes[behind]
    term = nodes.replica(new).group.term
    assert (group.term, group.leader) == (term - 1, old)
    writes = [nodes.write(Put(b"key-%d" % number, b"x" * 50)) for number in range(30)]
    # Of all that would tell it of the new term only chunks arrive, and its answers do.
    nodes.cut = {(name, behind) for name in nodes.nodes}
    for _ in range(1000):
        chunks = deliver(nodes, new, behind, SnapshotChunk)
        if chunks:
            node.receive_peer(new, chunks)
        nodes.step()
        if node.counters.snapshots_adopted:
            break
        if all(write in nodes.answers for write in writes):
            writes.append(nodes.write(Put(b"more", b"x" * 50)))
    assert node.counters.snapshots_adopted == 1
    assert (group.term, group.leader) == (term, new)
    assert load_hard_state(node.engine, SHARD).term == term


def test_a_snapshot_waits_until_what_was_split_off_is_on_disk(short_logs: Any) -> None:
    """It is stored at once, and the child's beginning is not: a crash between would leave the parent without that entry."""
    nodes = short_logs
    leader, (behind, _) = nodes.leader, nodes.others
    nodes.pass_time(2000)
    nodes.slow_flushes.add(behind)
    child = Shard(9, 1, (MicroshardRange(1, 2),), (leader, *nodes.others))
    assert isinstance(nodes.ask_and_wait(leader, lambda request: SplitShard(request, SHARD, child, 2)), Done)
    replica = nodes.replica(behind)
    nodes.until(lambda: bool(replica.machine.microshards.split_offs))
    index = replica.machine.state.index
    nodes.isolate(behind)
    for number in range(30):
        nodes.answer(nodes.write(Put(KEYS[number], b"x" * 50)))
    nodes.until(lambda: nodes.replica(leader).group.log.first_index > index + 1)
    nodes.heal()
    nodes.nodes[leader].peer_connected(behind)
    nodes.pass_time(1000)
    assert replica.machine.microshards.split_offs
    assert replica.machine.state.index < nodes.replica(leader).group.log.first_index - 1
    nodes.slow_flushes.clear()
    nodes.until(lambda: replica.machine.state.index == nodes.replica(leader).machine.state.index)
    assert 9 in nodes.nodes[behind].replicas
    assert replica.machine.state.copied_index > index

"""What replicas make of the log: the same everywhere, whatever else happens in the turn."""

from __future__ import annotations

from functools import partial
from typing import Any

from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Applied, Freshness, Increment, OpenSession, Put, Rows, Write, Written
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node import applying
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.config import RaftConfig

NODES = ("n1", "n2", "n3")
ANY = Freshness(strong=False)


def rows_of(nodes: Any) -> list[dict[bytes, bytes]]:
    return [dict(engine.scan(engine.data, b"", b"\xff")) for engine in nodes.engines.values()]


def test_expired_rows_are_removed_physically_on_every_replica_in_bounded_entries(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(purge_rows=10))
    nodes.answer(nodes.write(*(Put(b"k%d" % number, b"v", 200) for number in range(35)), Put(b"stays", b"v")))
    leader = nodes.replica(nodes.leader)
    before = leader.group.log.last_index
    assert len(nodes.stored_keys(nodes.leader)) == 71
    nodes.pass_time(1000)
    assert [nodes.stored_keys(name) for name in nodes.nodes] == [[b"stays"]] * 3
    assert leader.group.log.last_index - before == 4
    nodes.pass_time(1000)
    assert leader.group.log.last_index - before == 4, "what is removed is not looked for again"


def test_purging_goes_on_under_another_leader(nodes: Any) -> None:
    nodes.answer(nodes.write(*(Put(b"k%d" % number, b"v", 1500) for number in range(5))))
    old = nodes.leader
    nodes.isolate(old)
    nodes.pass_time(5000)
    nodes.heal()
    nodes.until(lambda: all(nodes.stored_keys(name) == [] for name in nodes.nodes))
    assert nodes.leader != old


def test_a_replica_that_applies_in_pieces_sees_each_piece_in_the_next(make_nodes: Any) -> None:
    """A follower's reader hurries it along in the very turn in which it applies what it has gathered."""
    nodes = make_nodes(NodeSettings(raft=RaftConfig(max_apply_bytes=1), follower_apply_ns=3_000_000))
    nodes.answer(nodes.write(Put(b"n", b"0")))
    requests = []
    for number in range(40):
        requests.append(nodes.write(Increment(b"n")))
        if number % 7 == 0:
            for follower in nodes.others:
                nodes.read(follower, b"n", freshness=ANY)
        nodes.step()
    assert [nodes.answer(request).results for request in requests] == [[Applied([n])] for n in range(1, 41)]
    nodes.pass_time(200)
    first, second, third = rows_of(nodes)
    assert first == second == third


def test_a_replica_that_adopts_a_snapshot_answers_the_weak_reads_that_wait_there(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(log_retain_bytes=4096, log_checkpoint_bytes=1024))
    follower = nodes.others[0]
    nodes.answer(nodes.read(follower, b"k0", freshness=ANY))
    nodes.isolate(follower)
    for number in range(30):
        written = nodes.answer(nodes.write(Put(b"k%d" % number, bytes(2000), 100_000), Increment(b"n")))
    assert isinstance(written, Written)
    generation = nodes.replica(follower).machine.state.generation
    nodes.heal()
    requests = []

    def adopted() -> bool:
        requests.append(nodes.read(follower, b"n", freshness=ANY))
        requests.append(nodes.read(follower, b"n", freshness=Freshness(False, written.seq)))
        return bool(nodes.replica(follower).machine.state.generation > generation)

    nodes.until(adopted)
    replica = nodes.replica(follower)
    assert all(index > replica.machine.state.index for index, _ in replica.reads._freshness._answers), (
        "they count by now"
    )
    nodes.pass_time(100)
    assert [len(nodes.answers.get(request, [])) for request in requests] == [1] * len(requests)
    rows = nodes.answer(nodes.read(follower, b"n", freshness=Freshness(False, written.seq)))
    assert isinstance(rows, Rows)
    assert rows.values == [b"30"]
    machine = nodes.replica(follower).machine
    assert machine.expiry.due_at == nodes.replica(nodes.leader).machine.expiry.due_at


def test_a_turn_applies_so_much_and_no_replica_waits_for_another_s_end(make_nodes: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(applying, "APPLY_US", 1)
    nodes = make_nodes(
        shards=tuple(Shard(each + 1, 1, (MicroshardRange(each, each + 1),), NODES) for each in range(4)),
    )
    node = nodes.nodes[nodes.leader]
    nodes.until(lambda: all(replica.group.is_leader for replica in node.replicas.values()))
    nodes.pass_time(100)
    opened = [nodes.ask(nodes.leader, lambda request, each=each: OpenSession(request, each + 1)) for each in range(4)]
    sessions = [nodes.answer(request).session for request in opened]
    keys = {node.routes.keyspaces[1].microshard_of(b"%d" % number): b"%d" % number for number in range(40)}
    asked: dict[int, list[int]] = {each: [] for each in range(4)}
    for number in range(1, 21):
        for each in range(4):
            body = encode_operations([Put(keys[each], b"v")])
            make = partial(
                Write, shard=each + 1, keyspace=1, session=sessions[each], number=number, timeout_ms=0, operations=body
            )
            asked[each].append(nodes.ask(nodes.leader, make))
    done = dict.fromkeys(range(4), 0)
    while min(done.values()) < 20:
        before = [replica.machine.state.index for replica in node.replicas.values()]
        nodes.step()
        after = [replica.machine.state.index for replica in node.replicas.values()]
        assert sum(old != new for old, new in zip(before, after, strict=True)) <= 1
        done = {each: sum(request in nodes.answers for request in asked[each]) for each in range(4)}
    assert all(isinstance(nodes.answer(request), Written) for requests in asked.values() for request in requests)

"""Replicas are compared in the background: one that differs is found, whatever differs, and a cluster at rest is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from shoal.protocol.comparison import Divergence
from shoal.protocol.messages import Delete, Put
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.comparison import Comparison, standing_divergence
from shoal_server.node.comparisons import MAX_BEHIND_ENTRIES
from shoal_server.node.digests import MAX_BYTES, MAX_ROWS, START, DigestVerdict, describe, slice_after
from shoal_server.node.settings import ComparisonSettings, NodeSettings
from shoal_server.shard.commands import DigestCursor
from shoal_server.storage.journal import CHANGED, journal_prefix, journal_suffix
from shoal_server.storage.layout import (
    applied_state_key,
    expiry_prefix_beside,
    prefix_end,
    sessions_prefix,
    value_header,
)
from shoal_server.storage.replica_failure import FailureKind
from shoal_server.storage.session_rows import session_slot_key

if TYPE_CHECKING:
    from conftest import Nodes

MS = 1_000_000
SHARD = 1
NODES = ("n1", "n2", "n3")
QUICK = ComparisonSettings(
    share_permille=1000,
    first_ns=100 * MS,
    look_ns=100 * MS,
    patience_ns=200 * MS,
    retry_ns=1000 * MS,
    daily_ns=3600_000 * MS,
)
KEYS = 40


def comparison(nodes: Nodes) -> Comparison:
    found = nodes.replica(nodes.leader).comparison
    assert found is not None
    return found


def divergence_of(nodes: Nodes) -> Divergence | None:
    """Return what operators are shown of the shard."""
    leader = nodes.replica(nodes.leader)
    return standing_divergence(leader.comparison, leader.machine.state)


def rounds(nodes: Nodes) -> int:
    found = nodes.replica(nodes.leader).comparison
    return 0 if found is None else found.rounds


def pass_rounds(nodes: Nodes, count: int) -> None:
    """Let rounds end that begin from now on."""
    end = rounds(nodes) + count + 1
    number = 0

    def ended() -> bool:
        # Something is to be compared for.
        nonlocal number
        number += 1
        if not number % 50:
            nodes.write(Put(b"later", b"%d" % number))
        return rounds(nodes) >= end

    nodes.until(ended, 20_000)


def last_index(nodes: Nodes) -> int:
    return nodes.replica(nodes.leader).group.log.last_index


@pytest.fixture
def filled(make_nodes: Any) -> Nodes:
    """Nodes that compare quickly, with plain rows, rows that expire, and a deletion."""
    nodes: Nodes = make_nodes(NodeSettings(comparison=QUICK))
    nodes.answer(nodes.write(*(Put(b"key-%d" % number, b"v%d" % number) for number in range(KEYS))))
    nodes.answer(nodes.write(Put(b"key-1", b"expires", 60_000), Delete(b"key-0")))
    nodes.pass_time(50)
    return nodes


def told(nodes: Nodes, name: str) -> tuple[int, bytes]:
    machine = nodes.replica(name).machine
    return machine.state.index, slice_after(START, machine, nodes.engines[name]).digest


def differed(nodes: Nodes) -> dict[str, int]:
    return {
        name: node.counters.replicas_differed for name, node in nodes.nodes.items() if node.counters.replicas_differed
    }


# -- what is found


def change(nodes: Nodes, name: str, key: bytes, row: bytes | None) -> None:
    """Change a row of a node behind its back."""
    engine = nodes.engines[name]
    batch = engine.batch()
    if row is None:
        assert engine.get(engine.data, key) is not None
        batch.delete(key, engine.data)
    else:
        batch.put(key, row, engine.data)
    engine.write_unlogged(batch)
    # A shard at rest that was compared is not compared again before something happens.
    nodes.write(Put(b"later", b""))


def some_row(nodes: Nodes, name: str) -> tuple[bytes, bytes]:
    engine, machine = nodes.engines[name], nodes.replica(name).machine
    return next(
        (key, row)
        for _, prefix in sorted(machine.prefixes.items())
        for key, row in engine.scan(engine.data, prefix, prefix_end(prefix))
    )


def lose_a_row(nodes: Nodes, name: str) -> None:
    change(nodes, name, some_row(nodes, name)[0], None)


def add_a_row(nodes: Nodes, name: str) -> None:
    key, row = some_row(nodes, name)
    change(nodes, name, key + b"!", row)


def change_a_value(nodes: Nodes, name: str) -> None:
    key, row = some_row(nodes, name)
    change(nodes, name, key, row[:-1] + bytes((row[-1] ^ 1,)))


def change_a_seq(nodes: Nodes, name: str) -> None:
    key, _ = some_row(nodes, name)
    change(nodes, name, key, value_header(1_000_000) + b"v")


def lose_a_row_of_the_expiry_index(nodes: Nodes, name: str) -> None:
    engine, machine = nodes.engines[name], nodes.replica(name).machine
    for prefix in map(expiry_prefix_beside, machine.prefixes.values()):
        for key, _ in list(engine.scan(engine.data, prefix, prefix_end(prefix))):
            change(nodes, name, key, None)
            return
    raise AssertionError("nothing expires")


def forget_a_session(nodes: Nodes, name: str) -> None:
    engine, machine = nodes.engines[name], nodes.replica(name).machine
    prefix = sessions_prefix(SHARD, machine.state.generation)
    key, _ = next(iter(engine.scan(engine.data, prefix, prefix_end(prefix))))
    change(nodes, name, key, None)


def add_to_the_journal(nodes: Nodes, name: str) -> None:
    key = journal_prefix(SHARD, nodes.replica(name).machine.state.generation) + journal_suffix(1, CHANGED, 0, b"k")
    change(nodes, name, key, b"")


def change_the_applied_state(nodes: Nodes, name: str) -> None:
    machine = nodes.replica(name).machine
    machine.state = msgspec.structs.replace(machine.state, children=(*machine.state.children, 99))
    nodes.write(Put(b"later", b""))


FAULTS = [
    lose_a_row,
    add_a_row,
    change_a_value,
    change_a_seq,
    lose_a_row_of_the_expiry_index,
    forget_a_session,
    add_to_the_journal,
    change_the_applied_state,
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("leads", [False, True])
def test_a_replica_that_differs_in_anything_is_found_and_no_other(
    filled: Nodes, fault: Callable[[Nodes, str], None], leads: bool
) -> None:
    name = filled.leader if leads else filled.others[0]
    fault(filled, name)
    filled.until(lambda: bool(differed(filled)))
    assert differed(filled) == {name: 1}
    failed = {node: replica.failure for node in NODES if (replica := filled.replica(node)).failure is not None}
    assert {node: failure.kind for node, failure in failed.items()} == {name: FailureKind.DIVERGED}
    assert "that of most replicas" in str(failed[name])
    assert filled.leader != name
    filled.until(lambda: filled.replica(name).failure is None)
    filled.until(lambda: comparison(filled).compared_at is not None and comparison(filled).rounds > 1)
    filled.pass_time(2000)
    assert differed(filled) == {name: 1}
    assert len({told(filled, node) for node in NODES}) == 1


def test_replicas_that_agree_are_left_alone_while_they_are_written_to(filled: Nodes) -> None:
    for number in range(60):
        filled.write(Put(b"key-%d" % (number % 7), b"w%d" % number), Put(b"brief-%d" % number, b"", 100))
        filled.pass_time(20)
    assert rounds(filled) > 3
    assert differed(filled) == {}
    assert comparison(filled).compared_at is not None


def test_where_rows_lie_is_the_nodes_own_affair(filled: Nodes) -> None:
    name = filled.others[0]
    replica, engine = filled.replica(name), filled.engines[name]
    before = slice_after(START, replica.machine, engine)
    for key, row in list(engine.scan(engine.data, b"", b"\xff")):
        if key != applied_state_key(SHARD):
            change(filled, name, key, None)
            change(filled, name, key[:8] + (7).to_bytes(4, "big") + key[12:], row)
    replica.machine.adopt(msgspec.structs.replace(replica.machine.state, generation=7))
    assert slice_after(START, replica.machine, engine) == before


def test_slices_are_bounded_and_cover_every_row_once(nodes: Nodes) -> None:
    nodes.answer(nodes.write(*(Put(b"large-%d" % number, b"v" * (MAX_BYTES // 4)) for number in range(24))))
    nodes.answer(nodes.write(*(Put(b"small-%d" % number, b"", 600_000) for number in range(MAX_ROWS + 1))))
    leader = nodes.leader
    cursor: DigestCursor | None = START
    found = []
    while cursor is not None:
        found.append(slice_after(cursor, nodes.replica(leader).machine, nodes.engines[leader]))
        cursor = found[-1].next
    rows = [key for key, _ in nodes.engines[leader].scan(nodes.engines[leader].data, b"", b"\xff")]
    assert sum(each.rows for each in found) == len(rows) - 1, "all but the row of the applied state"
    assert max(each.rows for each in found) <= MAX_ROWS
    assert max(each.bytes for each in found) <= MAX_BYTES + MAX_BYTES // 4 + 100
    assert len({each.digest for each in found}) == len(found)


# -- when nobody knows


def two_voters(make_nodes: Any) -> Nodes:
    shard = Shard(SHARD, 1, (MicroshardRange(0, 4),), ("n1", "n2"), followers=("n3",))
    nodes: Nodes = make_nodes(NodeSettings(comparison=QUICK), (shard,))
    nodes.answer(nodes.write(*(Put(b"key-%d" % number, b"v") for number in range(KEYS))))
    nodes.pass_time(50)
    return nodes


def test_where_no_copy_is_that_of_most_voters_nobody_is_taken_out_and_the_shard_is_shown(make_nodes: Any) -> None:
    nodes = two_voters(make_nodes)
    change_a_value(nodes, "n2")
    nodes.until(lambda: divergence_of(nodes) is not None)
    pass_rounds(nodes, 2)
    divergence = divergence_of(nodes)
    assert divergence is not None
    assert set(divergence.copies) == {("n1", "n3"), ("n2",)}
    assert divergence.first_microshard <= divergence.last_microshard <= 3
    assert "different copies at log index" in str(divergence)
    assert differed(nodes) == {}
    assert nodes.nodes[nodes.leader].counters.divergences == 1


def test_a_difference_that_is_mended_is_not_shown_any_more(make_nodes: Any) -> None:
    nodes = two_voters(make_nodes)
    key, row = some_row(nodes, "n2")
    change(nodes, "n2", key, None)
    nodes.until(lambda: divergence_of(nodes) is not None)
    change(nodes, "n2", key, row)
    nodes.until(lambda: divergence_of(nodes) is None)


def test_a_follower_that_differs_from_both_voters_is_found(make_nodes: Any) -> None:
    nodes = two_voters(make_nodes)
    change_a_value(nodes, "n3")
    nodes.until(lambda: bool(differed(nodes)))
    assert differed(nodes) == {"n3": 1}


def test_the_last_right_copy_is_not_replaced_by_one_that_was_made_of_a_wrong_leaders(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(comparison=QUICK))
    nodes.answer(nodes.write(*(Put(b"key-%d" % number, b"v") for number in range(KEYS))))
    nodes.until(
        lambda: nodes.replica(nodes.leader).comparison is not None and comparison(nodes).compared_at is not None
    )
    leader, copy = nodes.leader, nodes.others[0]
    wrong = some_row(nodes, leader)[0]
    for name in (leader, copy):
        change(nodes, name, wrong, None)
    for node in nodes.nodes.values():
        # As if the one had been made of the other just now.
        replica = node.replicas[SHARD]
        copied_index = replica.machine.state.index if node.identity.node == copy else 0
        replica.machine.state = msgspec.structs.replace(replica.machine.state, copied_index=copied_index)
    nodes.until(lambda: divergence_of(nodes) is not None)
    pass_rounds(nodes, 2)
    assert differed(nodes) == {}


def test_what_was_found_the_same_is_in_the_log_for_the_leaders_to_come(filled: Nodes) -> None:
    pass_rounds(filled, 3)
    states = [filled.replica(name).machine.state for name in NODES]
    assert all(0 < state.compared_index <= state.index for state in states)
    old = filled.leader
    filled.nodes[old].hand_over(filled.now)
    filled.until(lambda: filled.leader != old)
    assert filled.replica(filled.leader).machine.state.compared_index > 0


# -- when it is done


def test_what_was_compared_and_is_not_written_to_is_left_alone(filled: Nodes) -> None:
    filled.until(lambda: comparison(filled).compared_index == last_index(filled))
    before, ended = last_index(filled), rounds(filled)
    filled.pass_time(5000)
    assert (last_index(filled), rounds(filled)) == (before, ended)
    filled.answer(filled.write(Put(b"key-1", b"again")))
    filled.until(lambda: rounds(filled) > ended)


def test_a_shard_at_rest_is_compared_again_when_a_node_comes_back(filled: Nodes) -> None:
    filled.until(lambda: comparison(filled).compared_index == last_index(filled))
    ended, leader, other = rounds(filled), filled.leader, filled.others[0]
    filled.nodes[leader].peer_connected(other)
    filled.until(lambda: rounds(filled) > ended)


def test_a_shard_at_rest_is_compared_again_after_a_day(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(comparison=msgspec.structs.replace(QUICK, daily_ns=3000 * MS)))
    nodes.answer(nodes.write(Put(b"k", b"v")))
    nodes.until(lambda: rounds(nodes) > 0 and comparison(nodes).compared_index == last_index(nodes))
    ended = rounds(nodes)
    nodes.pass_time(2500)
    assert rounds(nodes) == ended
    nodes.pass_time(1000)
    assert rounds(nodes) == ended + 1


def test_another_leader_begins_anew(filled: Nodes) -> None:
    old = filled.leader
    filled.until(lambda: comparison(filled).compared_at is not None)
    filled.nodes[old].hand_over(filled.now)
    filled.until(lambda: filled.leader != old)
    assert rounds(filled) == 0
    filled.until(lambda: rounds(filled) > 0)
    assert comparison(filled).compared_at is not None


def test_nothing_is_compared_where_it_is_switched_off(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(comparison=msgspec.structs.replace(QUICK, share_permille=0)))
    nodes.answer(nodes.write(Put(b"k", b"v")))
    before = last_index(nodes)
    nodes.pass_time(3000)
    assert last_index(nodes) == before
    assert nodes.nodes[nodes.leader].counters.compared_slices == 0


def test_one_slice_at_a_time_is_open_and_pauses_are_as_long_as_slices_are_large(make_nodes: Any) -> None:
    settings = NodeSettings(comparison=msgspec.structs.replace(QUICK, share_permille=5))
    nodes = make_nodes(settings)
    for part in range(4):
        nodes.answer(nodes.write(*(Put(b"%d-%d" % (part, number), b"") for number in range(MAX_ROWS))))
    leader = nodes.leader
    nodes.until(lambda: nodes.nodes[leader].counters.compared_slices > 0)
    began = nodes.now
    nodes.pass_time(1000)
    made = nodes.nodes[leader].counters.compared_slices
    # A slice of 1,024 rows takes 1.3 ms and more by the figures, of which 5 thousandths are 0.26 s.
    assert 1 < made <= 1 + (nodes.now - began) // (265 * MS)


# -- replicas that do not answer


def test_a_replica_that_is_cut_off_holds_up_nobody_and_is_compared_when_it_is_back(filled: Nodes) -> None:
    filled.until(lambda: comparison(filled).compared_at is not None)
    other = filled.others[0]
    filled.isolate(other)
    pass_rounds(filled, 2)
    assert other in comparison(filled).missed
    compared_at = comparison(filled).compared_at
    lose_a_row(filled, other)
    filled.heal()
    filled.until(lambda: bool(differed(filled)), 10_000)
    assert differed(filled) == {other: 1}
    assert comparison(filled).compared_at == compared_at


def test_a_replica_far_behind_makes_no_digests_that_nobody_waits_for(filled: Nodes) -> None:
    other = filled.others[0]
    filled.isolate(other)
    leader = filled.leader
    for number in range(4 * MAX_BEHIND_ENTRIES):
        filled.write(Put(b"key-%d" % (number % 7), b"w%d" % number))
        filled.step()
    asked = filled.nodes[leader].counters.compared_slices
    before = filled.nodes[other].counters.compared_slices
    filled.heal()
    filled.until(lambda: filled.replica(other).machine.state.index >= last_index(filled) - 1)
    assert filled.nodes[other].counters.compared_slices - before < asked // 2
    filled.pass_time(2000)
    assert differed(filled) == {}


@pytest.mark.parametrize("wrong", ["sender", "term", "index", "digest", "right"])
def test_a_replica_believes_only_its_leader_and_only_about_its_newest_digest(filled: Nodes, wrong: str) -> None:
    name, stranger = filled.others
    filled.until(lambda: filled.replica(name).newest_digest is not None)
    replica = filled.replica(name)
    newest = replica.newest_digest
    assert newest is not None
    verdict = DigestVerdict(SHARD, replica.group.term, newest.index, newest.digest, b"other")
    changed = {
        "sender": verdict,
        "term": msgspec.structs.replace(verdict, term=verdict.term - 1),
        "index": msgspec.structs.replace(verdict, index=verdict.index - 1),
        "digest": msgspec.structs.replace(verdict, wrong=b"another"),
        "right": msgspec.structs.replace(verdict, right=verdict.wrong),
    }[wrong]
    sender = stranger if wrong == "sender" else filled.leader
    filled.nodes[name].receive_peer(sender, [changed])
    filled.step()
    assert differed(filled) == {}
    filled.nodes[name].receive_peer(filled.leader, [verdict])
    filled.step()
    assert differed(filled) == {name: 1}


def test_rows_are_told_without_users_keys() -> None:
    assert describe(START, None) == "from the shard's sessions to the last row"
    told = describe(DigestCursor(2, b"secret"), DigestCursor(9))
    assert told.startswith("from microshard 0 behind key #")
    assert told.endswith(" to the expiry index of microshard 3")
    assert "secret" not in told


def test_a_slot_of_a_session_has_a_place() -> None:
    assert session_slot_key(SHARD, 1, bytes(16), 0).startswith(sessions_prefix(SHARD, 1))

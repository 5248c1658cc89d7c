"""That nobody knows which replicas are right stays known: until it is shown to be over, whoever leads, whatever is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from shoal.protocol.comparison import Divergence
from shoal.protocol.messages import Put, SplitShard
from shoal.shardmap import MicroshardRange, Shard
from shoal_server.node.comparison import standing_divergence
from shoal_server.node.settings import ComparisonSettings, NodeSettings
from shoal_server.raft.membership import ChangeKind, MembershipChange
from shoal_server.raft.messages import Membership
from shoal_server.storage.applied_state import AppliedState, state_problem
from shoal_server.storage.layout import prefix_end

if TYPE_CHECKING:
    from conftest import Nodes

MS = 1_000_000
SHARD, CHILD = 1, 2
QUICK = ComparisonSettings(
    share_permille=1000,
    first_ns=100 * MS,
    look_ns=100 * MS,
    patience_ns=200 * MS,
    retry_ns=1000 * MS,
    daily_ns=3600_000 * MS,
)
SHORT_LOGS = NodeSettings(comparison=QUICK, log_retain_bytes=300, log_checkpoint_bytes=100)


def shown(nodes: Nodes) -> Divergence | None:
    """Return what operators are shown of the shard."""
    leader = nodes.replica(nodes.leader)
    return standing_divergence(leader.comparison, leader.machine.state)


def rounds(nodes: Nodes) -> int:
    comparison = nodes.replica(nodes.leader).comparison
    return 0 if comparison is None else comparison.rounds


def pass_rounds(nodes: Nodes, count: int) -> None:
    """Let rounds end that begin from now on."""
    end = rounds(nodes) + count + 1
    while rounds(nodes) < end:
        nodes.write(Put(b"later", b"%d" % rounds(nodes)))
        nodes.pass_time(300)


def change(nodes: Nodes, name: str, row: bytes) -> None:
    """Change a row of a node behind its back, the same on each."""
    engine = nodes.engines[name]
    prefixes = nodes.replica(name).machine.prefixes
    key, before = next(
        (key, before)
        for _, prefix in sorted(prefixes.items())
        for key, before in engine.scan(engine.data, prefix, prefix_end(prefix))
    )
    batch = engine.batch()
    batch.put(key, before + row, engine.data)
    engine.write_unlogged(batch)


def cut_off(nodes: Nodes, name: str) -> None:
    """Keep a node from its leader for so long that it needs a snapshot, and bring it back."""
    nodes.isolate(name)
    leader = nodes.leader
    behind = nodes.replica(name).group.log.last_index
    for number in range(30):
        nodes.answer(nodes.write(Put(b"later-%d" % number, b"x" * 50)))
    nodes.until(lambda: nodes.replica(leader).group.log.first_index > behind + 1)
    nodes.heal()
    nodes.nodes[leader].peer_connected(name)
    nodes.nodes[name].peer_connected(leader)
    nodes.until(lambda: nodes.replica(name).machine.state.copied_index > behind)


@pytest.fixture
def torn(make_nodes: Any) -> Nodes:
    """Nodes of which the leader has a wrong row, as has one that was made of it; nobody knows that the third is right."""
    nodes: Nodes = make_nodes(SHORT_LOGS)
    nodes.answer(nodes.write(*(Put(b"key-%d" % number, b"v") for number in range(20))))
    pass_rounds(nodes, 1)
    copy = nodes.others[0]
    nodes.isolate(copy)
    change(nodes, nodes.leader, b"?")
    cut_off(nodes, copy)
    nodes.until(lambda: (found := shown(nodes)) is not None and len(found.copies[0]) == 2)
    return nodes


def right(nodes: Nodes) -> str:
    """Return the node whose copy nobody else has."""
    divergence = shown(nodes)
    assert divergence is not None
    return next(names[0] for names in divergence.copies if nodes.leader not in names)


def test_it_is_in_the_log_for_the_leaders_to_come(torn: Nodes) -> None:
    pass_rounds(torn, 2)
    found = {name: torn.replica(name).machine.state.divergence for name in torn.nodes}
    assert all(divergence is not None for divergence in found.values())
    old = torn.leader
    torn.nodes[old].hand_over(torn.now)
    torn.until(lambda: torn.leader != old)
    assert rounds(torn) == 0
    assert shown(torn) is not None


def test_a_snapshot_in_the_place_of_the_other_copy_does_not_end_it(torn: Nodes) -> None:
    pass_rounds(torn, 1)
    name = right(torn)
    cut_off(torn, name)
    assert torn.replica(name).machine.state.divergence is not None, "it came with the rows"
    pass_rounds(torn, 3)
    comparison = torn.replica(torn.leader).comparison
    assert comparison is not None
    assert not comparison.differed
    assert not comparison.missed
    divergence = shown(torn)
    assert divergence is not None
    assert any(names == (name,) for names in divergence.copies)
    # The rows are the same now, and what they are made of is known to be wrong.
    old = torn.leader
    torn.nodes[old].hand_over(torn.now)
    torn.until(lambda: torn.leader != old)
    pass_rounds(torn, 2)
    assert shown(torn) == divergence


def test_it_is_over_when_those_with_another_copy_are_members_no_more(torn: Nodes) -> None:
    pass_rounds(torn, 1)
    name, leader = right(torn), torn.leader
    for kind in (ChangeKind.DEMOTE, ChangeKind.REMOVE):
        torn.nodes[leader].replica_set.propose_membership(SHARD, MembershipChange(kind, name), torn.now)
        torn.pass_time(200)
    torn.until(lambda: shown(torn) is None)
    pass_rounds(torn, 1)
    assert torn.replica(leader).machine.state.divergence is None


def test_it_is_over_for_good_when_one_copy_alone_is_left_whoever_comes_back(torn: Nodes) -> None:
    pass_rounds(torn, 1)
    leader = torn.leader
    copy = next(names for names in shown(torn).copies if leader in names)  # type: ignore[union-attr]
    others = [name for name in torn.nodes if name not in copy] or [name for name in torn.nodes if name != leader]
    for name in others:
        for kind in (ChangeKind.DEMOTE, ChangeKind.REMOVE, ChangeKind.ADD_LEARNER):
            torn.nodes[leader].replica_set.propose_membership(SHARD, MembershipChange(kind, name), torn.now)
            # No round ends meanwhile: it comes back at once.
            torn.pass_time(20)
    assert torn.replica(leader).machine.state.divergence is None
    assert shown(torn) is None


def test_it_is_over_when_a_majority_of_their_own_has_the_same_rows_again(make_nodes: Any) -> None:
    nodes: Nodes = make_nodes(NodeSettings(comparison=QUICK))
    nodes.answer(nodes.write(Put(b"key", b"v")))
    pass_rounds(nodes, 1)
    for name in nodes.nodes:
        change(nodes, name, name.encode())
    nodes.write(Put(b"later", b""))
    nodes.until(lambda: shown(nodes) is not None)
    pass_rounds(nodes, 1)
    assert nodes.replica(nodes.leader).machine.state.divergence is not None
    nodes.answer(nodes.write(Put(b"key", b"written anew"), Put(b"later", b"")))
    nodes.until(lambda: shown(nodes) is None)
    # What is over is told in the log, too, and then all is at rest.
    nodes.until(lambda: all(nodes.replica(name).machine.state.divergence is None for name in nodes.nodes))
    before = nodes.replica(nodes.leader).group.log.last_index
    nodes.pass_time(3000)
    assert nodes.replica(nodes.leader).group.log.last_index <= before + 1


def test_what_is_split_off_may_have_the_rows_in_question(torn: Nodes) -> None:
    pass_rounds(torn, 1)
    leader = torn.leader
    child = Shard(CHILD, 1, (MicroshardRange(0, 1),), tuple(sorted(torn.nodes)), parent=SHARD)
    torn.ask(leader, lambda request: SplitShard(request, SHARD, child, torn.shard_map.version + 1))
    torn.until(lambda: CHILD in torn.nodes[leader].replicas)
    state = torn.nodes[leader].replicas[CHILD].machine.state
    assert state.divergence == torn.replica(leader).machine.state.divergence is not None


STATE = AppliedState(10, 1, 0, 1, Membership(1, ("n1", "n2"), ()), 0, ranges=(MicroshardRange(0, 4),))
FOUND = Divergence(8, 0, 3, "rows", (("n1",), ("n2",)))


def test_a_round_that_began_behind_it_ends_it_and_no_earlier_one() -> None:
    state = STATE.compared(10, 0, FOUND)
    assert state.divergence == FOUND
    assert state.compared(11, 8, None).divergence == FOUND
    assert state.compared(11, 9, None).divergence is None
    newer = msgspec.structs.replace(FOUND, index=9)
    assert state.compared(11, 0, newer).divergence == newer
    assert STATE.compared(7, 0, FOUND).divergence is None, "nobody knows of it before it is found"


def test_no_replica_knows_of_one_that_is_found_later() -> None:
    assert not state_problem(STATE.compared(10, 0, FOUND))
    later = msgspec.structs.replace(FOUND, index=11)
    assert "later" in state_problem(msgspec.structs.replace(STATE, divergence=later))

"""A message of a term that no group comes to is dropped, alone; a group that has come to the last term stops quietly."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.bounds import MAX_TERM
from shoal.protocol.failures import FailureKind
from shoal.protocol.frames import HEADER_BYTES, encode_frame
from shoal.protocol.messages import GetStatus, Put, Written
from shoal_server.node.outbox import peer_decoder
from shoal_server.raft.messages import (
    MAX_TERM_STEP,
    AppendEntries,
    HardState,
    LeaderQuestion,
    Membership,
    Resigned,
    SnapshotHeader,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from shoal_server.raft.ready import ImplausibleTerm
from shoal_server.storage.snapshot import SnapshotChunk
from structlog.testing import capture_logs

from tests.unit.raft.harness import SECOND, Harness

from .conftest import NODES, SHARD

OF_TERM = {
    "TermPassed": lambda term: TermPassed(SHARD, term),
    "VoteRequest": lambda term: VoteRequest(SHARD, term, 9, 1, False, False),
    "pre-vote": lambda term: VoteRequest(SHARD, term, 9, 1, True, False),
    "VoteResponse": lambda term: VoteResponse(SHARD, term, False, True),
    "AppendEntries": lambda term: AppendEntries(SHARD, term, 0, 0, 0, [], 1),
    "TimeoutNow": lambda term: TimeoutNow(SHARD, term),
    "Resigned": lambda term: Resigned(SHARD, term),
    "LeaderQuestion": lambda term: LeaderQuestion(SHARD, term),
    "SnapshotChunk": lambda term: SnapshotChunk(
        SnapshotHeader(SHARD, term, 9, 1, 1), 1, 0, 0, [], True, 0, Membership(1, NODES), 0, 0, ()
    ),
}


@pytest.mark.parametrize("kind", OF_TERM)
@pytest.mark.parametrize("to_leader", [True, False])
def test_it_is_dropped_counted_and_logged_and_its_connection_goes_on(nodes: Any, kind: str, to_leader: bool) -> None:
    sender, follower = nodes.others
    receiver = nodes.leader if to_leader else follower
    before = [nodes.replica(name).group.term for name in NODES]
    frame = (sender, receiver, nodes.encoded([OF_TERM[kind](MAX_TERM)]))
    with capture_logs() as logs:
        nodes.frames += [frame] * 5
        nodes.pass_time(2000)
    assert [nodes.replica(name).group.term for name in NODES] == before
    assert not nodes.nodes[receiver].cut_off
    assert nodes.nodes[receiver].counters.messages_refused == 5
    said = [line for line in logs if line["event"] == "term_implausible"]
    assert [(line["peer"], line["shard"]) for line in said] == [(sender, SHARD)]
    assert isinstance(nodes.answer(nodes.write(Put(b"a", b"1"))), Written)


def test_a_replica_that_was_away_for_millions_of_elections_follows_who_leads_now() -> None:
    harness = Harness(hard_state=HardState(1, ""))
    harness.step("n2", AppendEntries(SHARD, 1 + MAX_TERM_STEP, 0, 0, 0, [], 1))
    assert (harness.group.term, harness.group.leader) == (1 + MAX_TERM_STEP, "n2")
    with pytest.raises(ImplausibleTerm):
        harness.group.step("n3", TermPassed(SHARD, 2 + 2 * MAX_TERM_STEP), harness.now)


@pytest.mark.parametrize("term", [MAX_TERM - 1, MAX_TERM])
def test_whatever_a_candidate_says_can_be_decoded_and_at_the_last_term_it_says_nothing(term: int) -> None:
    harness = Harness(hard_state=HardState(term, ""))
    said: list[Any] = []
    for _ in range(20):
        ready = harness.tick(SECOND)
        if term < MAX_TERM and ready.messages:
            harness.step("n2", VoteResponse(SHARD, harness.group.term + 1, True, True))
        said += ready.messages + ready.durable_messages
    peer_decoder.decode(encode_frame([message for _, message in said])[HEADER_BYTES:])
    assert bool(said) == (term < MAX_TERM)
    assert harness.group.term <= MAX_TERM


def test_a_group_without_terms_says_what_to_do(nodes: Any) -> None:
    for name in NODES:
        group = nodes.replica(name).group
        group._become_follower(MAX_TERM, nodes.now)
    with capture_logs() as logs:
        nodes.pass_time(3000)
    assert "group_out_of_terms" in [line["event"] for line in logs]
    for name in NODES:
        [replica] = nodes.ask_and_wait(name, GetStatus).replicas
        assert replica.failure.kind == FailureKind.OUT_OF_TERMS
        assert "last term" in replica.failure.reason

"""The simulation finds what it is for: each of these bugs, planted, is found within some seeds."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from shoal.protocol.messages import Read
from shoal_chaos.simulation.clients.client import SimulatedClient
from shoal_chaos.simulation.clients.steps import BankReadStep, ClientStep
from shoal_chaos.simulation.cluster.unmanaged import make_room
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import SECOND
from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.freshness import FreshnessAnswer, FreshnessQuestion, ReplicaFreshness
from shoal_server.node.log_length import LogLength
from shoal_server.node.reads import ReplicaReads
from shoal_server.node.splits import Splits
from shoal_server.node.waiting import QueuedRead
from shoal_server.raft.candidate import Candidate
from shoal_server.raft.group import Group
from shoal_server.raft.leader import Leader
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.messages import AppendAccepted, VoteResponse
from shoal_server.raft.ready import NotLeader, Ready
from shoal_server.shard import microshards
from shoal_server.shard.commands import MigrationCommand
from shoal_server.shard.microshards import Microshards
from shoal_server.shard.operations import WriteExecutor
from shoal_server.shard.overlay import Overlay
from shoal_server.shard.sessions import CommandVerdict, Judgement, Opened, SessionTable
from shoal_server.storage.engine import Batch
from shoal_server.storage.log_store import GroupLogStore

from .conftest import MustBeFound

SEEDS = 60


def forget_the_vote(patch: pytest.MonkeyPatch) -> None:
    """Term and vote never reach the disk."""
    patch.setattr(GroupLogStore, "save_hard_state", lambda *_: None)
    patch.setattr(Candidate, "_is_bound", lambda *_: False)


def accept_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """Promises leave with the messages that need no disk."""
    original = Group.ready

    def ready(self: Group, now: int) -> Ready:
        taken = original(self, now)
        early = [item for item in taken.durable_messages if isinstance(item[1], AppendAccepted | VoteResponse)]
        taken.messages += early
        taken.durable_messages = [item for item in taken.durable_messages if item not in early]
        return taken

    patch.setattr(Group, "ready", ready)


def apply_retries_again(patch: pytest.MonkeyPatch) -> None:
    """Deduplication takes every write for a new one."""
    patch.setattr(SessionTable, "load", lambda *_: None)
    patch.setattr(SessionTable, "open", lambda *_: Opened(1, []))
    patch.setattr(SessionTable, "judge", lambda *_: Judgement(CommandVerdict.NEW))
    patch.setattr(SessionTable, "record", lambda *_: 1)
    patch.setattr(SessionTable, "keep", lambda *_: [])


def lease_without_end(patch: pytest.MonkeyPatch) -> None:
    """A leader reads under a lease for as long as it thinks that it leads."""
    patch.setattr(Group, "read_index", lambda self, now: self.log.commit_index if self.is_leader else None)


def vote_against_the_promise(patch: pytest.MonkeyPatch) -> None:
    """Support binds nobody."""
    patch.setattr(Liveness, "supports", lambda self, node, epoch, now: node == self.node)


def commit_without_a_majority(patch: pytest.MonkeyPatch) -> None:
    """A leader's own disk is enough for it."""

    def advance_commit(self: Leader) -> None:
        self._log.commit_index = max(self._log.commit_index, self._log.persisted_index)

    patch.setattr(Leader, "advance_commit", advance_commit)


def report_a_sync_before_it_is_done(patch: pytest.MonkeyPatch) -> None:
    """What waits for the disk does not wait."""
    original = Node.turn

    def turn(self: Node, now: int, wall_ms: int) -> object:
        self._storing.synced_to = self._storing.ticket
        return original(self, now, wall_ms)

    patch.setattr(Node, "turn", turn)


def cut_the_log_off_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """What was applied counts as flushed."""
    original = LogLength.shorten

    def shorten(self: LogLength, batch: Batch) -> bool:
        self.flushed(self._group.log.applied_index)
        return original(self, batch)

    patch.setattr(LogLength, "shorten", shorten)


def believe_the_leader_before_having_applied(patch: pytest.MonkeyPatch) -> None:
    """A follower counts as current as soon as the leader has answered."""

    def answered(self: ReplicaFreshness, answer: FreshnessAnswer, applied_index: int) -> None:
        self.current_at = max(self.current_at, answer.asked_at)

    patch.setattr(ReplicaFreshness, "answered", answered)


APART = 2 * SECOND
"""Longer than a lease and an election, shorter than a leader that nobody supports goes on for."""


class LeadersApart(UsualFaults):
    """Leaders are cut off from the other voters, together with the followers that they feed and that ask them.

    For so long that the others elect another leader while this one, without a lease, has not yet given up.
    """

    intervals_ms = (400,)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.kinds = [self._part]
        self._apart = False

    def _part(self) -> None:
        cluster, random = self._cluster, self._random
        if self._apart:
            return
        shard = random.choice(self._manager.map.shards).id
        for node in cluster.nodes.values():
            group = node.node.replicas[shard].group if node.node and shard in node.node.replicas else None
            if group is None or not group.is_leader:
                continue
            followers = set(group.membership.learners)
            if not followers:
                self._feed(node.name, shard)
                return
            side = {node.name} | followers
            self._apart = True
            self._network.cut({(a, b) for a in cluster.nodes for b in cluster.nodes if (a in side) != (b in side)})
            self._events.after(APART, self._rejoin)
            return

    def _rejoin(self) -> None:
        self._apart = False
        self._heal()

    def _feed(self, leader: str, shard: int) -> None:
        cluster = self._cluster
        node = cluster.nodes[leader].node
        assert node is not None
        free = [name for name in cluster.nodes if name not in node.replicas[shard].group.membership.voters]
        if not free or not make_room(cluster.nodes[free[0]], shard):
            return
        try:
            node.replica_set.propose_membership(
                shard, MembershipChange(ChangeKind.ADD_LEARNER, free[0]), cluster.nodes[leader].local_now()
            )
        except (NotLeader, MembershipRefused):
            return
        cluster.nodes[leader].turn_soon()


class LostAnswers(UsualFaults):
    """Clients ask again, since the network loses what they are answered."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.kinds = [self._bad_network]


def vouch_for_freshness_without_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Who was a leader once says how far the log is committed."""

    def answer(self: ReplicaReads, question: FreshnessQuestion, now: int) -> FreshnessAnswer:
        return FreshnessAnswer(question.group, question.asked_at, self._group.log.commit_index)

    patch.setattr(ReplicaReads, "answer_freshness", answer)


def forget_what_the_session_has_seen(patch: pytest.MonkeyPatch) -> None:
    """Any replica serves a session."""
    original = ReplicaReads.queue

    def queue(self: ReplicaReads, queued: QueuedRead) -> None:
        if isinstance(queued.read, Read) and queued.weak:
            freshness = msgspec.structs.replace(queued.read.freshness, min_seq=0)
            queued.read = msgspec.structs.replace(queued.read, freshness=freshness)
        original(self, queued)

    patch.setattr(ReplicaReads, "queue", queue)


def let_every_condition_hold(patch: pytest.MonkeyPatch) -> None:
    """Transactions overwrite each other."""
    patch.setattr(WriteExecutor, "_check", lambda *_: None)


def apply_without_seeing_what_was_just_applied(patch: pytest.MonkeyPatch) -> None:
    """Increments read the engine, which has not got this turn's writes yet."""
    patch.setattr(Overlay, "get", lambda self, key: self._engine.get(self._engine.data, key))


def open_a_child_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """What a split made votes and accepts before what it stands on is on disk."""

    def waiting(self: Splits) -> bool:
        for replica in self._replicas.by_shard.values():
            self.flushed(replica, replica.machine.state.index)
        return bool(self._durable)

    patch.setattr(Splits, "waiting", property(waiting))


class SlowDisks(UsualFaults):
    """Disks are slow, or hang, and nothing else happens."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.kinds = [self._slow_disk]


class NothingWrong(UsualFaults):
    """Clients are busy, and no fault keeps them from it."""

    def _inject(self) -> None:
        """Nothing goes wrong."""


def lead_on_with_a_hung_disk(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at how the disk is."""
    patch.setattr(DiskHealth, "judge", lambda *_: None)


def keep_no_journal(patch: pytest.MonkeyPatch) -> None:
    """What changes in microshards while they are copied is not noted."""
    patch.setattr(Microshards, "journal", lambda *_: None)


def continue_with_lower_seqs(patch: pytest.MonkeyPatch) -> None:
    """The target of a migration numbers its writes as if nothing had come."""
    original = Microshards.migrate

    def migrate(self: Microshards, command: MigrationCommand, index: int, overlay: Overlay) -> str:
        base = self._shared.state.seq_base
        problem = original(self, command, index, overlay)
        self._shared.state = msgspec.structs.replace(self._shared.state, seq_base=base)
        return problem

    patch.setattr(Microshards, "migrate", migrate)


def serve_what_is_sealed(patch: pytest.MonkeyPatch) -> None:
    """The source goes on serving microshards that it has parted with."""
    patch.setattr(Microshards, "_part_with", lambda *_: None)


def give_generations_twice(patch: pytest.MonkeyPatch) -> None:
    """Rows that come to a node lie under the generation that others have there."""
    patch.setattr(microshards, "next_generation", lambda _: 1)


def go_on_with_a_page_in_a_new_state(patch: pytest.MonkeyPatch) -> None:
    """A page that has paused goes on with what is there by then.

    Clients do little else than read accounts and move money between them, so that some is moved in a pause.
    """
    go_on, some_step = ReplicaReads._go_on, SimulatedClient._some_step

    def mostly_bank(self: SimulatedClient) -> ClientStep:
        step = some_step(self)
        if self._random.random() < 0.7:
            return BankReadStep(self._histories, self._random, self._steps, self._events.now)
        return step

    def go_on_anew(self: ReplicaReads, *args: Any) -> None:
        engine = self._machine._engine
        for read in self._resumed:
            if read.scan is not None:
                read.scan._reader.close()
                read.scan._reader = engine.reader(engine.data)
        go_on(self, *args)

    patch.setattr(ReplicaReads, "_go_on", go_on_anew)
    patch.setattr(SimulatedClient, "_some_step", mostly_bank)


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    forget_the_vote,
    accept_before_the_sync,
    apply_retries_again,
    lease_without_end,
    vote_against_the_promise,
    commit_without_a_majority,
    report_a_sync_before_it_is_done,
    cut_the_log_off_before_the_flush,
    believe_the_leader_before_having_applied,
    vouch_for_freshness_without_a_lease,
    forget_what_the_session_has_seen,
    let_every_condition_hold,
    apply_without_seeing_what_was_just_applied,
    open_a_child_before_the_flush,
    lead_on_with_a_hung_disk,
    keep_no_journal,
    continue_with_lower_seqs,
    serve_what_is_sealed,
    give_generations_twice,
    go_on_with_a_page_in_a_new_state,
]


FAULT_SECONDS = {open_a_child_before_the_flush: 16}
"""A bug that shows rarely needs longer runs."""
FIRST_SEED = {
    vouch_for_freshness_without_a_lease: 1,
    commit_without_a_majority: 16,
    lease_without_end: 6,
    believe_the_leader_before_having_applied: 2,
    keep_no_journal: 2,
    continue_with_lower_seqs: 2,
    serve_what_is_sealed: 2,
    give_generations_twice: 2,
    open_a_child_before_the_flush: 4,
    go_on_with_a_page_in_a_new_state: 4,
}
"""Where the search begins for a bug that was found late the last time."""
FAULTS: dict[Callable[[pytest.MonkeyPatch], None], type[UsualFaults]] = {
    apply_retries_again: LostAnswers,
    vouch_for_freshness_without_a_lease: LeadersApart,
    lead_on_with_a_hung_disk: SlowDisks,
    go_on_with_a_page_in_a_new_state: NothingWrong,
}
"""The faults that a bug needs, where those of any run seldom bring it out."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: MustBeFound,
) -> None:
    bug(monkeypatch)
    first = FIRST_SEED.get(bug, 0)
    must_be_found(
        lambda seed: simulate(seed, fault_seconds=FAULT_SECONDS.get(bug, 8), make_faults=FAULTS.get(bug, UsualFaults)),
        (*range(first, SEEDS), *range(first)),
    )

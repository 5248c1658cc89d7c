"""Groups on a simulated clock, network and disk, with checkers that share no code with the protocol."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.messages import (
    AppendEntries,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    Membership,
    SnapshotHeader,
    VoteResponse,
)
from shoal_server.raft.ready import LostEntries, NotLeader, TooManyUncommitted, TransferInProgress, TransferRefused

MS = 1_000_000
TICK = 10 * MS


@dataclass
class StoredGroup:
    """One group on a disk. `digest` stands for the state machine: a hash of all that was applied, in order."""

    membership: Membership
    hard_state: HardState = field(default_factory=lambda: HardState(0, ""))
    rows: dict[int, Entry] = field(default_factory=dict)
    start: tuple[int, int] = (0, 0)
    membership_index: int = 0
    applied: int = 0
    applied_term: int = 0
    digest: int = 0

    @property
    def last(self) -> int:
        return max(self.rows, default=self.start[0])

    def copy(self) -> StoredGroup:
        stored = StoredGroup(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        stored.rows = dict(self.rows)
        return stored

    def store(self, kind: str, value: Any) -> None:
        if kind == "hard state":
            self.hard_state = value
        elif kind == "append":
            for index in [index for index in self.rows if index >= value[0].index]:
                del self.rows[index]
            self.rows.update((entry.index, entry) for entry in value)
        elif kind == "apply":
            for entry in value:
                self.digest = hash((self.digest, entry.index, entry.term, entry.payload))
                self.applied, self.applied_term = entry.index, entry.term
                if entry.kind == EntryKind.MEMBERSHIP:
                    self.membership = msgspec.msgpack.decode(entry.payload, type=Membership)
                    self.membership_index = entry.index
        elif kind == "compact":
            self.start = value
            self.rows = {index: entry for index, entry in self.rows.items() if index > value[0]}
        else:
            self.rows = {}
            self.start = (value.applied, value.applied_term)
            self.applied, self.applied_term, self.digest = value.applied, value.applied_term, value.digest
            self.membership, self.membership_index = value.membership, value.membership_index

    # -- LogReader

    def term(self, index: int) -> int:
        return self.rows[index].term

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for index in range(first, end):
            size += len(self.rows[index].payload)
            if size > max_bytes and found:
                break
            found.append(self.rows[index])
        return found


class History:
    """What every observer may hold the protocol to, over all nodes and lives."""

    def __init__(self) -> None:
        self.leaders: dict[tuple[int, int], str] = {}
        self.newest_led: dict[int, int] = {}
        self.votes: dict[tuple[int, int, str], str] = {}
        self.entries: dict[tuple[int, int, int], tuple[int, bytes]] = {}
        self.committed: dict[int, list[tuple[int, bytes]]] = {}
        self.digests: dict[tuple[int, int], int] = {}

    def elected(self, node: str, group: Group) -> None:
        known = self.leaders.get((group.group, group.term))
        if known == node:
            return
        # Only now, at its election: a leader that was deposed and does not know it yet lacks what came after it.
        assert known is None, f"{known} and {node} both lead group {group.group} in term {group.term}"
        self.leaders[group.group, group.term] = node
        if group.term < self.newest_led.get(group.group, 0):
            return  # its votes reached it late: a newer term has been led meanwhile, and owes it nothing
        self.newest_led[group.group] = group.term
        for index, (term, _) in enumerate(self.committed.get(group.group, []), 1):
            kept = index <= group.log.truncated_index or group.log.matches(index, term)
            assert kept, f"{node}, elected in term {group.term}, lacks committed entry {index} of term {term}"

    def seen(self, group: int, before: int, entries: list[Entry]) -> None:
        """Log matching, by induction: one (index, term) has one payload and one predecessor.

        Entries count from when they are on a disk or on their way to another node: what a crash swallowed before that
        was nobody's.
        """
        for entry in entries:
            known = self.entries.setdefault((group, entry.index, entry.term), (before, entry.payload))
            assert known == (before, entry.payload), f"two entries ({entry.index}, {entry.term}) in group {group}"
            before = entry.term

    def applied(self, group: int, entries: list[Entry], digest: int) -> None:
        committed = self.committed.setdefault(group, [])
        for entry in entries:
            if entry.index <= len(committed):
                assert committed[entry.index - 1] == (entry.term, entry.payload), f"committed {entry.index} changed"
            else:
                assert entry.index == len(committed) + 1
                committed.append((entry.term, entry.payload))
        known = self.digests.setdefault((group, entries[-1].index), digest)
        assert known == digest, "states differ at one index"


@dataclass
class Faults:
    """How likely each thing is, per chance; the cluster draws what to do about it."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay_max: int = 2 * MS
    slow: float = 0.0
    sync_max: int = 3 * MS


class Node:
    """A process and its disk: what a real node does around its groups, and nothing more."""

    def __init__(self, cluster: Cluster, name: str, rate: float, offset: int) -> None:
        self.cluster, self.name, self.rate, self.offset = cluster, name, rate, offset
        self.epoch = 0
        self.alive = False
        self.paused: list[Callable[[], None]] | None = None
        self.disk: dict[int, StoredGroup] = {
            number: StoredGroup(cluster.initial) for number in range(cluster.group_count)
        }
        self.unsynced: list[tuple[list[tuple[int, str, Any]], list[Any], list[Any]]] = []
        self.reported: list[LostEntries] = []
        self.start()

    @property
    def now(self) -> int:
        return self.offset + int(self.cluster.time * self.rate)

    def start(self) -> None:
        cluster = self.cluster
        self.epoch += 1
        self.alive = True
        self.tokens = 0
        self.live = {number: stored.copy() for number, stored in self.disk.items()}
        self.liveness = Liveness(self.name, self.epoch, cluster.timing, self.now)
        self.groups: dict[int, Group] = {}
        self.reads: dict[tuple[int, int], int] = {}
        for number, stored in self.live.items():
            log = Log(
                stored,
                truncated_index=stored.start[0],
                truncated_term=stored.start[1],
                last_index=stored.last,
                applied_index=stored.applied,
            )
            self.groups[number] = Group(
                number,
                self.name,
                config=cluster.config,
                timing=cluster.timing,
                liveness=self.liveness,
                log=log,
                hard_state=stored.hard_state,
                membership=stored.membership,
                membership_index=stored.membership_index,
                random=cluster.random,
                now=self.now,
                priority=cluster.names.index(self.name),
            )
        cluster.after(0, self._guarded(self.tick))

    def crash(self) -> None:
        """Stop at once; the disk keeps what was synced and the beginning, maybe, of what was not."""
        kept = self.cluster.random.randint(0, len(self.unsynced))
        for changes, _, _ in self.unsynced[:kept]:
            self._sync_to_disk(changes)
        self.unsynced = []
        self.alive = False
        self.paused = None

    def _guarded(self, action: Callable[[], None]) -> Callable[[], None]:
        """Run `action` only in this life of the process, and after it was resumed if it is paused."""
        epoch = self.epoch

        def run() -> None:
            if self.alive and self.epoch == epoch:
                if self.paused is None:
                    action()
                else:
                    self.paused.append(run)

        return run

    def resume(self) -> None:
        waiting, self.paused = self.paused or [], None
        for action in waiting:
            action()

    @staticmethod
    def _write(disk: dict[int, StoredGroup], changes: list[tuple[int, str, Any]]) -> None:
        for group, kind, value in changes:
            disk[group].store(kind, value)

    def _sync_to_disk(self, changes: list[tuple[int, str, Any]]) -> None:
        for group, kind, value in changes:
            if kind == "append":
                stored, index = self.disk[group], value[0].index - 1
                before = stored.start[1] if index == stored.start[0] else stored.rows[index].term
                self.cluster.history.seen(group, before, value)
            self.disk[group].store(kind, value)

    # -- time and messages

    def tick(self) -> None:
        now, liveness = self.now, self.liveness
        peers = [name for name in self.cluster.names if name != self.name]
        for peer, beat in liveness.peers_heartbeats(now, peers, True, True).items():
            self.cluster.send(self.name, peer, beat)
        for _ in liveness.expired(now) + liveness.unsupported_by(now):
            for group in self.groups.values():
                group.wake(now)
        for group in self.groups.values():
            if group.active:
                group.tick(now)
        self.collect()
        self.cluster.after(TICK, self._guarded(self.tick))

    def receive(self, sender: str, message: Any) -> None:
        now = self.now
        if isinstance(message, Heartbeat):
            if self.liveness.may_have_missed(sender, message):
                for group in self.groups.values():
                    group.may_have_missed(sender, now)
            self.cluster.send(self.name, sender, self.liveness.on_heartbeat(sender, message, now))
        elif isinstance(message, HeartbeatAnswer):
            if self.liveness.on_answer(sender, message, now):
                for group in self.groups.values():
                    group.wake(now)
        elif isinstance(message, tuple):
            self.take_snapshot(sender, *message)
            return
        else:
            self.groups[message.group].step(sender, message, now)
        self.collect()

    def connected(self, peer: str, connected: bool) -> None:
        if connected:
            self.liveness.connected(peer)
        for group in self.groups.values():
            if connected:
                group.peer_connected(peer, self.now)
            else:
                group.peer_unreachable(peer, self.now)
        self.collect()

    # -- snapshots

    def send_snapshot(self, group: Group, peer: str) -> None:
        state = self.live[group.group].copy()
        header = SnapshotHeader(group.group, group.term, state.applied, state.applied_term, self.epoch)
        self.cluster.send(self.name, peer, (header, state))
        self.cluster.after(200 * MS, self._guarded(lambda: group.snapshot_ended(peer, 0)))

    def take_snapshot(self, sender: str, header: SnapshotHeader, state: StoredGroup) -> None:
        number = header.group
        group = self.groups[number]
        group.step(sender, header, self.now)
        # The term that it brings is stored before it, or with it.
        self.collect()
        if group.follows(sender, header.term) and group.can_restore(header.index, header.index_term):
            changes = [(number, "restart", state)]
            self._write(self.live, changes)
            group.restore(sender, header, state.membership, state.membership_index, self.now)
            self.unsynced.append((changes, [], []))
            self._sync_later()
            self.collect()

    # -- what comes out

    def collect(self) -> None:
        changes: list[tuple[int, str, Any]] = []
        persisted: list[tuple[Group, int, int]] = []
        durable: list[tuple[str, Any]] = []
        for group in self.groups.values():
            while group.has_ready:
                self._take(group, changes, persisted, durable)
            if group.is_leader:
                self.cluster.history.elected(self.name, group)
        if changes:
            self.unsynced.append((changes, persisted, durable))
            self._sync_later()
        elif self.unsynced:
            self.unsynced[-1][2].extend(durable)
        else:
            self._release(durable)
        self._apply()
        self.cluster.check_leases()

    def _take(self, group: Group, changes: list[Any], persisted: list[Any], durable: list[Any]) -> None:
        number = group.group
        ready = group.ready(self.now)
        stored: list[tuple[int, str, Any]] = []
        if ready.hard_state is not None:
            assert ready.hard_state.term >= self.live[number].hard_state.term, "the term fell"
            stored.append((number, "hard state", ready.hard_state))
        if ready.entries:
            stored.append((number, "append", ready.entries))
            persisted.append((group, ready.entries[-1].index, ready.entries[-1].term))
        self._write(self.live, stored)
        changes.extend(stored)
        durable.extend(ready.durable_messages)
        for peer, message in ready.messages:
            self.cluster.send(self.name, peer, message)
        for peer in ready.snapshots_wanted:
            self.send_snapshot(group, peer)
        self.reported.extend(ready.lost_entries)
        for token, index in ready.reads:
            assert index >= self.reads.pop((number, token)), (
                "a confirmed read misses an entry that was committed before"
            )
            self.cluster.reads_confirmed += 1
        for token in ready.failed_reads:
            del self.reads[number, token]

    def _sync_later(self) -> None:
        self.cluster.after(self.cluster.random.randint(1, self.cluster.faults.sync_max), self._guarded(self._sync))

    def _sync(self) -> None:
        if not self.unsynced:
            return
        batches, self.unsynced = self.unsynced, []
        for changes, persisted, durable in batches:
            self._sync_to_disk(changes)
            for number, kind, value in changes:
                if kind == "hard state":
                    self.groups[number].term_persisted(value.term)
            for group, index, term in persisted:
                group.persisted(index, term)
            self._release(durable)
        self.collect()

    def _release(self, durable: list[tuple[str, Any]]) -> None:
        for peer, message in durable:
            if type(message) is VoteResponse and message.granted and not message.pre:
                key = (message.group, message.term, self.name)
                assert self.cluster.history.votes.setdefault(key, peer) == peer, f"{self.name} voted twice"
            self.cluster.send(self.name, peer, message)

    def _apply(self) -> None:
        changes: list[tuple[int, str, Any]] = []
        for number, group in self.groups.items():
            while entries := group.committed():
                change = (number, "apply", entries)
                self._write(self.live, [change])
                changes.append(change)
                self.cluster.history.applied(number, entries, self.live[number].digest)
                group.applied(entries[-1].index)
        if changes:
            self.unsynced.append((changes, [], []))
            self._sync_later()

    # -- what clients and operators do

    def propose(self, number: int) -> bool:
        payload = b"%d-%d" % (self.cluster.time, self.cluster.random.getrandbits(32))
        try:
            self.groups[number].propose([payload])
        except (NotLeader, TransferInProgress, TooManyUncommitted):
            return False
        self.collect()
        return True

    def read(self, number: int) -> None:
        group = self.groups[number]
        if group.is_leader:
            self.tokens += 1
            self.reads[number, self.tokens] = len(self.cluster.history.committed.get(number, []))
            group.start_read(self.tokens, self.now)
            self.collect()

    def change_membership(self, number: int, kind: ChangeKind, target: str) -> None:
        try:
            self.groups[number].propose_membership(MembershipChange(kind, target), self.now)
        except (NotLeader, MembershipRefused):
            return
        self.collect()

    def transfer(self, number: int, target: str) -> None:
        try:
            self.groups[number].transfer_leadership(target, self.now)
        except (NotLeader, TransferRefused):
            return
        self.collect()

    def compact(self, number: int) -> None:
        group = self.groups[number]
        index = min(group.log.applied_index, group.log.persisted_index)
        if index > group.log.truncated_index:
            change = (number, "compact", (index, group.log.term(index)))
            group.compact(index)
            self._write(self.live, [change])
            self.unsynced.append(([change], [], []))
            self._sync_later()


class Cluster:
    """Nodes, links and one heap of events, all drawn from one seed."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        voters: int | None = None,
        groups: int = 1,
        config: RaftConfig | None = None,
        drift: bool = False,
    ) -> None:
        self.random = Random(seed)
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.initial = Membership(1, tuple(self.names[:voters]), ())
        self.group_count = groups
        self.config = config or RaftConfig()
        self.timing = Timing()
        self.faults = Faults()
        self.history = History()
        self.time = 0
        self.cut: set[tuple[str, str]] = set()
        self.reads_confirmed = 0
        self.tap: Callable[[str, str, Any], None] | None = None
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self.nodes: dict[str, Node] = {}
        for name in self.names:
            rate = self.random.uniform(0.98, 1.02) if drift else 1.0
            self.nodes[name] = Node(self, name, rate, self.random.randrange(10**12))

    # -- events

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.time + delay, self._sequence, action))

    def run(self, duration: int) -> None:
        end = self.time + duration
        while self._events and self._events[0][0] <= end:
            self.time, _, action = heapq.heappop(self._events)
            action()
        self.time = end

    def run_until(self, condition: Callable[[], bool], within: int) -> None:
        """Run until `condition` holds; fail where it does not within that much simulated time."""
        end = self.time + within
        while not condition():
            assert self.time < end, "what was waited for did not come about"
            self.run(TICK)

    def send(self, sender: str, receiver: str, message: Any) -> None:
        if self.tap is not None:
            self.tap(sender, receiver, message)
        if type(message) is AppendEntries:
            self.history.seen(message.group, message.previous_term, message.entries)
        random, faults = self.random, self.faults
        if (sender, receiver) in self.cut or random.random() < faults.loss:
            return
        for _ in range(2 if random.random() < faults.duplicates else 1):
            delay = random.randint(MS // 10, faults.delay_max)
            if random.random() < faults.slow:
                delay += random.randint(0, 1500 * MS)
            self.after(delay, lambda: self._deliver(sender, receiver, message))

    def _deliver(self, sender: str, receiver: str, message: Any) -> None:
        node = self.nodes[receiver]
        if node.alive and (sender, receiver) not in self.cut:
            node._guarded(lambda: node.receive(sender, message))()

    def part(self, one: str, other: str, *, both: bool = True) -> None:
        self.cut.add((one, other))
        if both:
            self.cut.add((other, one))

    def isolate(self, name: str) -> None:
        for other in self.names:
            if other != name:
                self.part(name, other)

    def heal(self) -> None:
        """Mend every link, start every node, and let the nodes know of their connections."""
        self.cut.clear()
        for node in self.nodes.values():
            if not node.alive:
                node.start()
            node.resume()
        for node in self.nodes.values():
            for peer in self.names:
                if peer != node.name:
                    node.connected(peer, True)

    # -- questions

    def leader(self, number: int = 0) -> Node | None:
        """Return the node that leads in the newest term, if it is up."""
        leading = [node for node in self.nodes.values() if node.alive and node.groups[number].is_leader]
        return max(leading, key=lambda node: node.groups[number].term, default=None)

    def await_leader(self, number: int = 0, within: int = 5000 * MS) -> Node:
        def has_lease() -> bool:
            node = self.leader(number)
            return node is not None and node.groups[number].read_index(node.now) is not None

        self.run_until(has_lease, within)
        leader = self.leader(number)
        assert leader is not None
        return leader

    def check_leases(self) -> None:
        """Whoever may answer reads by its lease leads in the newest term, and knows all that was ever applied."""
        for number in range(self.group_count):
            for node in self.nodes.values():
                group = node.groups[number]
                if not (node.alive and node.paused is None and group.is_leader):
                    continue
                index = group.read_index(node.now)
                if index is not None:
                    newest = self.history.newest_led.get(number, 0)
                    assert group.term >= newest, f"{node.name} has a lease in {group.term}, {newest} was led"
                    assert index >= len(self.history.committed.get(number, [])), "a lease read would be stale"

    def converge(self, within: int = 12_000 * MS) -> None:
        """With nothing wrong any more, every group takes an entry, all its members apply all there is, and it rests."""
        for number in range(self.group_count):

            def proposed(number: int = number) -> bool:
                leader = self.leader(number)
                return leader is not None and leader.propose(number)

            self.run_until(proposed, within)
        self.run_until(self.is_settled, within)
        self.run_until(self.is_quiet, within)

    def is_settled(self) -> bool:
        """Whether all members of every group have applied their leader's whole log, which it has committed."""
        for number in range(self.group_count):
            leader = self.leader(number)
            if leader is None:
                return False
            log, members = leader.groups[number].log, leader.groups[number].members
            applied = {self.nodes[name].groups[number].log.applied_index for name in members}
            if applied != {log.last_index} or log.commit_index < log.last_index:
                return False
        return True

    def is_quiet(self) -> bool:
        """Whether no member of any group asks for ticks."""
        for number in range(self.group_count):
            leader = self.leader(number)
            if leader is None or any(self.nodes[name].groups[number].active for name in leader.groups[number].members):
                return False
        return True


@pytest.fixture
def make_cluster() -> type[Cluster]:
    """The class of simulated clusters: call it with a seed."""
    return Cluster


@pytest.fixture
def new_disk() -> type[StoredGroup]:
    """The class of a group's disks: call it with the membership that the group begins with."""
    return StoredGroup

"""Scenarios as transcripts: commands and, indented below each, exactly what the replicas do.

The files are in `transcripts/`. `SHOAL_TEST_REGENERATE=1 pytest tests/unit/raft/test_transcripts.py` writes what happens
into them; review the difference. Nothing happens by itself: messages wait until they are delivered, time stands still.

    cluster VOTER... [/ FOLLOWER...]   start the replicas
    promise                            let every node that is up promise every other its support, from now on
    campaign NODE                      campaign at once
    propose NODE TEXT                  append a command
    change NODE KIND TARGET            propose a change of membership
    transfer NODE TARGET               hand leadership over
    read NODE                          by the lease, else by a round of probes
    deliver                            deliver all messages, and those that follow from them, in order
    cut NODE NODE, mend                lose what is sent between the two, or nothing any more
    slow NODE, sync NODE               the disk of a node takes its time, or has caught up
    crash NODE, start NODE             un-synced writes are lost
    advance MS                         let time pass, then tick whoever needs it
    compact NODE                       cut off what is applied
    state                              say where everybody is
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

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
    Heartbeat,
    Membership,
    RaftMessage,
)
from shoal_server.raft.ready import NotLeader, TransferInProgress, TransferRefused

MS = 1_000_000
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
HIDDEN = {"group", "epoch", "entries", "promise"}


def describe_entries(entries: list[Entry]) -> str:
    return " ".join(
        f"{entry.index}/{entry.term}:"
        + (entry.payload.decode() if entry.kind == EntryKind.COMMAND else EntryKind(entry.kind).name)
        for entry in entries
    )


def describe(message: RaftMessage) -> str:
    words = [type(message).__name__]
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name not in HIDDEN:
            words.append((name if value else f"not {name}") if isinstance(value, bool) else f"{name}={value}")
    if isinstance(message, AppendEntries):
        words.append(f"[{describe_entries(message.entries)}]")
    return " ".join(words)


class Replica:
    """A node with its one group and its disk, in which every write waits for a sync."""

    def __init__(self, scenario: Scenario, name: str, new_disk: Callable[[Membership], Any]) -> None:
        self.scenario, self.name = scenario, name
        self.disk = new_disk(scenario.membership)
        self.epoch = 0
        self.tokens = 0
        self.start()

    def start(self) -> None:
        scenario = self.scenario
        self.epoch += 1
        self.up = True
        self.slow = False
        self.live = self.disk.copy()
        self.unsynced: list[tuple[list[tuple[str, Any]], tuple[int, int] | None, list[tuple[str, RaftMessage]]]] = []
        self.known = ("", 0, "")
        self.liveness = Liveness(self.name, self.epoch, Timing(), scenario.now)
        log = Log(
            self.live,
            truncated_index=self.live.start[0],
            truncated_term=self.live.start[1],
            last_index=self.live.last,
            applied_index=self.live.applied,
        )
        self.group = Group(
            1,
            self.name,
            config=RaftConfig(),
            timing=Timing(),
            liveness=self.liveness,
            log=log,
            hard_state=self.live.hard_state,
            membership=self.live.membership,
            membership_index=self.live.membership_index,
            random=Random(1),
            now=scenario.now,
            priority=0,
        )

    def collect(self) -> None:
        group, say = self.group, self.scenario.say
        while group.has_ready:
            ready = group.ready(self.scenario.now)
            changes: list[tuple[str, Any]] = []
            last: tuple[int, int] | None = None
            if ready.hard_state is not None:
                changes.append(("hard state", ready.hard_state))
            if ready.entries:
                changes.append(("append", ready.entries))
                last = (ready.entries[-1].index, ready.entries[-1].term)
            for kind, value in changes:
                self.live.store(kind, value)
            self.note_role()
            for peer, message in ready.messages:
                self.scenario.post(self.name, peer, message)
            for token, index in ready.reads:
                say(f"{self.name} read {token} is confirmed at {index}")
            for token in ready.failed_reads:
                say(f"{self.name} read {token} failed")
            for peer in ready.snapshots_wanted:
                say(f"{self.name} wants a snapshot for {peer}")
            if changes or ready.durable_messages:
                self.unsynced.append((changes, last, ready.durable_messages))
            if not self.slow:
                self.sync()
        self.note_role()
        while entries := group.committed():
            say(f"{self.name} applies {describe_entries(entries)}")
            self.live.store("apply", entries)
            self.unsynced.append(([("apply", entries)], None, []))
            group.applied(entries[-1].index)
        if not self.slow:
            self.sync()

    def sync(self) -> None:
        batches, self.unsynced = self.unsynced, []
        for changes, last, messages in batches:
            for kind, value in changes:
                self.disk.store(kind, value)
                if kind == "hard state":
                    self.group.term_persisted(value.term)
            if last is not None:
                self.group.persisted(*last)
            for peer, message in messages:
                self.scenario.post(self.name, peer, message)

    def note_role(self) -> None:
        group = self.group
        known = (group.role.value, group.term, group.leader)
        if known != self.known:
            self.known = known
            self.scenario.say(f"{self.name} is a {group.role.value} in term {group.term}, leader {group.leader or '-'}")


class Scenario:
    """Runs the commands of one transcript."""

    def __init__(self, new_disk: Callable[[Membership], Any]) -> None:
        self.new_disk = new_disk
        self.now = 1000 * MS
        self.lines: list[str] = []
        self.queue: list[tuple[str, str, RaftMessage]] = []
        self.cuts: set[frozenset[str]] = set()
        self.replicas: dict[str, Replica] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)

    def post(self, sender: str, receiver: str, message: RaftMessage) -> None:
        self.queue.append((sender, receiver, message))

    def run(self, command: str) -> list[str]:
        self.lines = []
        verb, *words = command.split()
        try:
            getattr(self, f"do_{verb}")(*words)
        except (NotLeader, MembershipRefused, TransferRefused, TransferInProgress) as refusal:
            self.say(f"refused: {refusal}")
        for replica in self.replicas.values():
            if replica.up:
                replica.collect()
        return self.lines

    def do_cluster(self, *words: str) -> None:
        parts = " ".join(words).split("/")
        self.membership = Membership(1, tuple(parts[0].split()), tuple(parts[1].split()) if len(parts) > 1 else ())
        for name in self.membership.voters + self.membership.learners:
            self.replicas[name] = Replica(self, name, self.new_disk)

    def do_promise(self) -> None:
        up = [replica for replica in self.replicas.values() if replica.up]
        for one in up:
            for other in up:
                if one is not other and frozenset((one.name, other.name)) not in self.cuts:
                    beat = Heartbeat(one.epoch, self.now, self.now - 1, True)
                    answer = other.liveness.on_heartbeat(one.name, beat, self.now)
                    one.liveness.on_answer(other.name, answer, self.now)
                    one.group.wake(self.now)

    def do_campaign(self, name: str) -> None:
        self.replicas[name].group.campaign(self.now)

    def do_propose(self, name: str, text: str) -> None:
        self.replicas[name].group.propose([text.encode()])

    def do_change(self, name: str, kind: str, target: str) -> None:
        if target not in self.replicas:
            self.replicas[target] = Replica(self, target, self.new_disk)
        self.replicas[name].group.propose_membership(MembershipChange(ChangeKind[kind], target), self.now)

    def do_transfer(self, name: str, target: str) -> None:
        self.replicas[name].group.transfer_leadership(target, self.now)

    def do_read(self, name: str) -> None:
        replica = self.replicas[name]
        index = replica.group.read_index(self.now)
        if index is not None:
            self.say(f"{name} may read at {index} by its lease")
            return
        replica.tokens += 1
        self.say(f"{name} has no lease: read {replica.tokens} begins")
        replica.group.start_read(replica.tokens, self.now)

    def do_deliver(self) -> None:
        for _ in range(1000):
            for replica in self.replicas.values():
                if replica.up:
                    replica.collect()
            if not self.queue:
                return
            sender, receiver, message = self.queue.pop(0)
            lost = frozenset((sender, receiver)) in self.cuts or not self.replicas[receiver].up
            self.say(f"{sender}>{receiver} {describe(message)}" + (" (lost)" if lost else ""))
            if not lost:
                self.replicas[receiver].group.step(sender, message, self.now)
        raise AssertionError("the replicas never come to rest")

    def do_cut(self, one: str, other: str) -> None:
        self.cuts.add(frozenset((one, other)))

    def do_mend(self) -> None:
        self.cuts.clear()

    def do_slow(self, name: str) -> None:
        self.replicas[name].slow = True

    def do_sync(self, name: str) -> None:
        self.replicas[name].slow = False
        self.replicas[name].sync()

    def do_crash(self, name: str) -> None:
        self.replicas[name].up = False

    def do_start(self, name: str) -> None:
        self.replicas[name].start()
        for other in self.replicas.values():
            if other.up and other.name != name:
                other.group.peer_connected(name, self.now)

    def do_advance(self, milliseconds: str) -> None:
        self.now += int(milliseconds) * MS
        for replica in self.replicas.values():
            if replica.up:
                for _ in replica.liveness.expired(self.now) + replica.liveness.unsupported_by(self.now):
                    replica.group.wake(self.now)
                if replica.group.active:
                    replica.group.tick(self.now)

    def do_compact(self, name: str) -> None:
        replica = self.replicas[name]
        log = replica.group.log
        start = (log.applied_index, log.term(log.applied_index))
        replica.group.compact(start[0])
        replica.live.store("compact", start)
        replica.unsynced.append(([("compact", start)], None, []))

    def do_state(self) -> None:
        for replica in self.replicas.values():
            if not replica.up:
                self.say(f"{replica.name} is down")
                continue
            group = replica.group
            members = ",".join(group.membership.voters) + "/" + ",".join(group.membership.learners)
            self.say(
                f"{replica.name} {group.role.value} term={group.term} leader={group.leader or '-'} "
                f"log={group.log.first_index}..{group.log.last_index} commit={group.log.commit_index} "
                f"members={members} {'active' if group.active else 'at rest'}"
            )


def replay(text: str, new_disk: Callable[[Membership], Any]) -> str:
    """Run the commands of a transcript; return it with what happens now."""
    scenario = Scenario(new_disk)
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            continue
        out.append(line)
        if line and not line.startswith("#"):
            out.extend(f"    {said}" for said in scenario.run(line))
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_replicas_do_exactly_what_the_transcript_says(path: Path, new_disk: Callable[[Membership], Any]) -> None:
    expected = path.read_text()
    happened = replay(expected, new_disk)
    if os.environ.get("SHOAL_TEST_REGENERATE") == "1":
        path.write_text(happened)
        return
    assert happened == expected


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 6

"""Support between nodes: who may lead, for all groups at once, without a message per group.

Every node sends its peers heartbeats. Who answers one *supports* the sender: it promises, on its own clock, neither to
campaign nor to vote against any group that the sender's process leads, until a time. The sender relies on the promise
for a little less, counted from when it sent the heartbeat; so whatever the delay, and as long as clocks drift by less
than agreed, a leader stops relying on a promise before it ends. No clock is ever compared with another node's.

- A promise belongs to one life (*epoch*) of the supported process: a newer life voids it at once, since the process it
  was made to is dead. A process that restarts forgets its own promises; therefore it casts no vote for as long as one
  may last (`vote_not_before`), by the longest support that it may have promised, whatever it promises now.
- Promises are numbered. One that has run out is never prolonged: the next has a new number. A replica names the number
  under which it knows its leader; what it knew under an earlier one, it may have given up since.
- Support is given only to a node that shows it hears the answers (`heard_at`): otherwise a node that can send but not
  receive would hold its groups leaderless for ever.
- Who supports a process that leads no more has to learn of it, whatever was lost. Messages are only lost with the
  connection that carries them. So a heartbeat says which of its process's connections it comes by (`link`): whoever sees a
  new one asks, for every group that it knows the process to lead, whether that is still so (`may_have_missed`).

The idea is CockroachDB's store liveness; leases by promise are from Gray and Cheriton, "Leases" (SOSP 1989).
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal_server.raft.config import Timing
from shoal_server.raft.messages import Heartbeat, HeartbeatAnswer

FOREVER = 1 << 62
PROMISE_BITS = 32
"""A promise's number is the life of the process that gives it, shifted by this, plus a counter: numbers only rise."""


def life_of(promise: int) -> int:
    """Return which life of its process an answer under `promise` is of, 0 where it does not say."""
    return promise >> PROMISE_BITS


@dataclass(slots=True)
class _Given:
    """Our promise to a peer: to which life of it, numbered how, and until when on our clock.

    `link` is the newest connection of that life to us.
    """

    epoch: int
    promise: int
    until: int
    link: int = 0


@dataclass(slots=True)
class _Received:
    """A peer's promise to us: numbered how, and until when on our clock."""

    promise: int
    until: int


class Liveness:
    """What this node has promised its peers, and they to it.

    `may_campaign`: for the node to set; False while nothing that it promises could be stored.
    """

    __slots__ = (
        "_answers",
        "_beats",
        "_due",
        "_given",
        "_heard",
        "_holding",
        "_keeping",
        "_links",
        "_promises",
        "_received",
        "_started",
        "_timing",
        "_voided",
        "epoch",
        "may_campaign",
        "node",
        "vote_not_before",
    )

    def __init__(self, node: str, epoch: int, timing: Timing, now: int, promised_ns: int = 0) -> None:
        """
        Args:
            promised_ns: the longest support that an earlier life of the process may have promised.
        """
        self.node = node
        self.epoch = epoch
        self.vote_not_before = now + max(timing.support_ns, promised_ns)
        self.may_campaign = True
        self._timing = timing
        self._started = now
        self._voided: set[str] = set()
        self._given: dict[str, _Given] = {}
        self._received: dict[str, _Received] = {}
        self._heard: dict[str, int] = {}
        self._answers: dict[str, int] = {}
        self._beats: dict[str, int] = {}
        self._due: dict[str, int] = {}
        self._keeping: set[str] = set()
        self._holding: set[str] = set()
        self._links: dict[str, int] = {}
        self._promises = epoch << PROMISE_BITS

    # -- sending

    def peers_heartbeats(
        self, now: int, peers: list[str], wants_support: bool, may_lead: bool, disk_latency_us: int = 0
    ) -> dict[str, Heartbeat]:
        """Return the heartbeats that are due, by peer."""
        beats: dict[str, Heartbeat] = {}
        for peer in peers:
            if self._due.get(peer, 0) <= now:
                self._due[peer] = now + self._timing.heartbeat_interval_ns
                heard = self._heard.get(peer, 0)
                link = self._links.get(peer, 0)
                beats[peer] = Heartbeat(self.epoch, now, heard, wants_support, may_lead, disk_latency_us, link)
        return beats

    def heartbeat_soon(self, peer: str) -> None:
        """Let the next heartbeat to `peer` be due at once."""
        self._due[peer] = 0

    def connected(self, peer: str) -> None:
        """There is a new connection to `peer`: let it know at once that it may have missed something."""
        self._links[peer] = self._links.get(peer, 0) + 1
        self.heartbeat_soon(peer)

    def next_due(self, now: int, peers: list[str]) -> int:
        """Return when to look again: the next heartbeat to one of `peers`, or the next support that runs out."""
        due = min((self._due.get(peer, 0) for peer in peers), default=now + self._timing.heartbeat_interval_ns)
        for peer in self._keeping:
            due = min(due, self._given[peer].until)
        for peer in self._holding:
            due = min(due, self._received[peer].until)
        return max(due, now)

    # -- what arrives

    def may_have_missed(self, sender: str, beat: Heartbeat) -> bool:
        """Say, once each, whether a connection of `sender` has taken the place of another, with what was under way in it.

        To be asked before `on_heartbeat`.
        """
        given = self._given.get(sender)
        if given is None or beat.epoch > given.epoch:
            return beat.link > 1
        if beat.epoch < given.epoch or beat.link <= given.link:
            return False
        given.link = beat.link
        return True

    def on_heartbeat(self, sender: str, beat: Heartbeat, now: int) -> HeartbeatAnswer:
        """Decide whether to support `sender`, and answer."""
        self._beats[sender] = self._beats.get(sender, 0) + 1
        given = self._given.get(sender)
        if given is None:
            given = self._given[sender] = _Given(beat.epoch, 0, 0, beat.link)
        elif beat.epoch < given.epoch:
            return HeartbeatAnswer(beat.sent_at, 0, 0)
        elif beat.epoch > given.epoch:
            given.epoch = beat.epoch
            given.promise = 0
            given.until = 0
            given.link = beat.link
            self._voided.add(sender)
        hears_us = beat.heard_at > 0 and beat.sent_at - beat.heard_at < self._timing.support_ns
        if not (beat.wants_support and hears_us):
            return HeartbeatAnswer(beat.sent_at, 0, 0)
        if given.until <= now:
            self._promises += 1
            given.promise = self._promises
        given.until = now + self._timing.support_ns
        self._keeping.add(sender)
        return HeartbeatAnswer(beat.sent_at, self._timing.support_ns, given.promise)

    def on_answer(self, sender: str, answer: HeartbeatAnswer, now: int) -> bool:
        """Take a peer's promise; return whether there is a new one, or one at all where there was none."""
        if not self._started <= answer.sent_at <= now:
            # It answers an earlier life of this process: what was promised to that one is void.
            return False
        if answer.sent_at > self._heard.get(sender, 0):
            self._heard[sender] = answer.sent_at
            self.answered(sender)
        if not answer.support_ns:
            return False
        received = self._received.get(sender)
        if received is None:
            received = self._received[sender] = _Received(answer.promise, 0)
        elif answer.promise < received.promise:
            return False
        elif answer.promise > received.promise:
            received.promise = answer.promise
            received.until = 0
            self._holding.discard(sender)
        lease = answer.support_ns * (1000 - self._timing.drift_permille) // 1000
        received.until = max(received.until, answer.sent_at + lease)
        if received.until <= now or sender in self._holding:
            return False
        self._holding.add(sender)
        return True

    # -- what holds now

    def supports(self, node: str, epoch: int, now: int) -> bool:
        """Say whether this node has promised `node`, in that life, not to act against it now."""
        if node == self.node:
            return True
        given = self._given.get(node)
        return given is not None and given.epoch == epoch and given.until > now

    def supported_until(self, node: str) -> int:
        """Return until when `node` supports this one (0: never has); this node supports itself for ever."""
        if node == self.node:
            return FOREVER
        received = self._received.get(node)
        return 0 if received is None else received.until

    @property
    def no_promise(self) -> int:
        """In place of a promise's number: one that is never given, and says no more than which life this is."""
        return self.epoch << PROMISE_BITS

    def promise_to(self, node: str, epoch: int) -> int:
        """Return the number of the newest promise to `node`, in force or not, or `no_promise`.

        Args:
            epoch: the life of its process that is meant; what was promised to another is none to this one.
        """
        given = self._given.get(node)
        if given is None or given.epoch != epoch:
            return self.no_promise
        return max(self.no_promise, given.promise)

    def answered(self, node: str) -> None:
        """`node` has answered something that this one sent."""
        self._answers[node] = self._answers.get(node, 0) + 1

    def answers_of(self, node: str) -> int:
        """Return how often `node` has answered anything."""
        return self._answers.get(node, 0)

    def heartbeats_of(self, node: str) -> int:
        """Return how many heartbeats of `node` have come."""
        return self._beats.get(node, 0)

    def promise_of(self, node: str) -> int:
        """Return the number of the newest promise that `node` is known to have given (-1: none)."""
        received = self._received.get(node)
        return -1 if received is None else received.promise

    def expired(self, now: int) -> list[str]:
        """Return, once each, the peers that this node has stopped supporting, in the life that it did."""
        ended = {peer for peer in self._keeping if self._given[peer].until <= now}
        self._keeping -= ended
        ended |= self._voided
        self._voided.clear()
        return sorted(ended)

    def unsupported_by(self, now: int) -> list[str]:
        """Return, once each, the peers that have stopped supporting this node."""
        ended = sorted(peer for peer in self._holding if self._received[peer].until <= now)
        self._holding.difference_update(ended)
        return ended

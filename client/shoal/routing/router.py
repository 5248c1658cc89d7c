"""The router: from calls to requests per node and back, without a socket, a clock or chance of its own.

Calls go in (`write`, `read`), as do the events of connections (`link_up`, `link_down`, `receive`, ...); `turn(now)`
returns what is to be done: frames to send, addresses to connect to, calls that are over. Everything submitted between
two turns travels together: one `Write` and one `Read` a shard, one frame a node. Reads that need not be the leader's
travel in one `Read` for each staleness that they accept, to a replica that is chosen for it; one that declines is
followed by another, and at last by the leader.

A write batch keeps its session and number in all its attempts, so that a node which has applied it already answers
with the first result. That makes retries safe, and this is what a write is told in the end:

| the batch of the call                            | at the deadline                     | at `close`       |
| ------------------------------------------------ | ----------------------------------- | ---------------- |
| was never sent, or dropped by a node as too late | DeadlineExceeded, surely not done   | Closed, not done |
| was sent, and surely refused each time           | Overloaded or Unavailable, not done | Closed, not done |
| has an attempt unanswered                        | DeadlineExceeded, maybe done        | Closed, maybe    |
| has had one that was lost, or its leader demoted | DeadlineExceeded, maybe done        | Closed, maybe    |

Where another cluster answers at the addresses of the client's own, all calls end at once: with `OutcomeUnknown` where
they may have been done in the client's own, else with `ProtocolMismatch`, surely not done. Calls that come later wait a
moment for the answer of those who are due to be asked again, and then are told the same, or go on.
A call in no batch yet whose shard is in trouble (nobody reached, or refusals) is told as in the second row.
`session_expired` means that this attempt was not applied: the calls get a number in a new session, unless an earlier
attempt may have been applied; then nobody can tell any more, and they end with `OutcomeUnknown`. So do calls whose
microshard went to another shard after such an attempt. An operation whose keys are in several shards by a newer map
ends with `CrossShard`, surely not done. Any other refusal ends the calls with the error that it names.
Reads are repeated until their deadline and change nothing; one that replicas declined as too stale, and whose leader
was not reached either, ends with `TooStale`.

Calls of one batch have deadlines of their own. One that expires leaves a batch that may have been applied as it is: it
goes on for the others. A batch that was surely refused is dissolved then, and the others travel in a new one, so that
"surely not done" stays true. A batch without anybody waiting is not sent again.

Where the leader itself says that its shard lacks what a batch is about, and has no newer map either, the batch is divided, so
that calls which cannot be served keep no others from it; they wait apart (apart.py), and ask at a pace of their own. Only a
batch that may have been applied stays as it is, with its number: it alone waits, and other writes go on in a new session.

Other retries of a shard queue wait together: full-jitter backoff, within a budget that successes refill. An exhausted budget
fails nobody (their deadlines do that) but makes each wait a long one. The first redirect to another leader does not wait.
"""

from __future__ import annotations

from random import Random
from typing import Generic, NamedTuple

from shoal.errors import ErrorCode, KeyspaceNotFound
from shoal.key_sets import share_a_partition
from shoal.keys import microshard_of
from shoal.protocol.messages import (
    ONE_PARTITION_FEATURE,
    Answer,
    Atomic,
    DeleteRange,
    Done,
    Failure,
    Refused,
    Rows,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    TracedRequest,
    Welcome,
    Working,
    Written,
)
from shoal.routing.answers import Answers, unreachable
from shoal.routing.backoff import Backoff, RetryBudget
from shoal.routing.call_errors import misplaced, scattered
from shoal.routing.calls import STRONG_READ, AnyCall, ReadCall, ScanCall, W, WriteCall
from shoal.routing.counters import ClientCounters
from shoal.routing.endings import CallOutcomes, Endings
from shoal.routing.limits import NodeLimits
from shoal.routing.links import Link, MapFetch, Probe
from shoal.routing.network import Disconnect, Network
from shoal.routing.overload import NO_OVERLOAD, Overload, overload_of
from shoal.routing.pages import Pages, fits
from shoal.routing.replica_selector import ReplicaSelector
from shoal.routing.schedule import Schedule
from shoal.routing.sending import Sender
from shoal.routing.shard_queue import (
    AnyBatch,
    AnyRequest,
    AttemptTracer,
    InFlightRequest,
    ReadBatch,
    ScanPageRead,
    SessionOpen,
    ShardQueue,
    Stage,
    WriteBatch,
)
from shoal.routing.throttling import Throttling
from shoal.sessions import ASK_LEADER
from shoal.shardmap import Keyspace, Ranges, Routes, ShardMap, ShardPart, microshards_in

FIRST_BACKOFF_SECONDS = 0.010
BACKOFF_CAP_SECONDS = 0.250
FIRST_CROWDED_SECONDS = 0.1
CROWDED_CAP_SECONDS = 2.0
"""Those of attempts to connect to a node that has no place for another client."""
RETRY_BUDGET_TOKENS = 100.0
RETRY_BUDGET_REFUND = 0.1


class RoutedKeyspace(Generic[W]):
    """A keyspace as routed now: `shard_queues[microshard]`. The list is changed in place when the map changes."""

    __slots__ = ("delimiter", "keyspace", "microshards", "shard_queues")

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.delimiter = keyspace.delimiter
        self.microshards = keyspace.microshards
        self.shard_queues: list[ShardQueue[W]] = []


class Turn(NamedTuple, Generic[W]):
    """What is to be done now. `wake_at`: when to call `turn` again at the latest (seconds, or infinity)."""

    frames: list[tuple[Link[W], list[TracedRequest]]]
    connects: list[str]
    disconnects: list[Disconnect]
    wake_at: float


class Router(Generic[W]):
    """See the module's first lines. Every `now` is of one monotonic clock, in seconds.

    `notes`: the newest attempts that failed, for the driver, which takes them out. `one_partition`: what is written together
    must share a partition (`ONE_PARTITION_FEATURE`).
    """

    def __init__(
        self, seeds: tuple[str, ...], random: Random, region: str = "", tracer: AttemptTracer | None = None
    ) -> None:
        """
        Args:
            region: the client's, for choosing replicas; "": all are equally near.
            tracer: told of every attempt.
        """
        backoff = Backoff(FIRST_BACKOFF_SECONDS, BACKOFF_CAP_SECONDS, random)
        self.counters = ClientCounters()
        self.limits = NodeLimits()
        self.network: Network[W] = Network(seeds, backoff, Backoff(FIRST_CROWDED_SECONDS, CROWDED_CAP_SECONDS, random))
        self._schedule: Schedule[W] = Schedule()
        self._endings: Endings[W] = Endings(self._schedule, self.limits)
        self._throttling: Throttling[W] = Throttling(random, self._endings, self.counters)
        self._pages: Pages[W] = Pages()
        self._answers = Answers(
            self.network,
            self._schedule,
            self._endings,
            self._throttling,
            self._pages,
            self.counters,
            tracer,
            backoff,
            RetryBudget(RETRY_BUDGET_TOKENS, RETRY_BUDGET_REFUND),
        )
        self.notes = self._answers.notes
        self._sender = Sender(
            self.network,
            ReplicaSelector(self.network, random, region),
            self._schedule,
            self._endings,
            self._throttling,
            self._pages,
            self.limits,
            tracer,
        )
        self.routes: Routes | None = None
        self.one_partition = False
        self._keyspaces: dict[int, RoutedKeyspace[W]] = {}
        self._shard_queues: dict[int, ShardQueue[W]] = {}
        self._retired: list[ShardQueue[W]] = []

    # -- calls in -----------------------------------------------------------------------------------------------------

    def routed(self, name: str) -> RoutedKeyspace[W] | None:
        """Return the keyspace of that name, or None before the first shard map.

        Raises:
            KeyspaceNotFound: the shard map has none of that name.
        """
        routes = self.routes
        if routes is None:
            return None
        keyspace = routes.keyspaces_by_name.get(name)
        if keyspace is None:
            names = ", ".join(sorted(routes.keyspaces_by_name)) or "none"
            raise KeyspaceNotFound(f"no keyspace {name!r} in the cluster {routes.map.cluster!r}; there are: {names}")
        return self._keyspaces[keyspace.id]

    def write(self, routed: RoutedKeyspace[W], call: WriteCall[W]) -> None:
        """Take an operation on one key that is to be safe at a quorum, to be sent in the next turn."""
        key: bytes = call.operation.key  # type: ignore[union-attr]  # the caller's to see to: this is the hot path
        shard_queue = routed.shard_queues[microshard_of(key, routed.delimiter, routed.microshards)]
        shard_queue.writes.add(call)
        if not shard_queue.dirty:
            self._schedule.touch(shard_queue)

    def read(self, routed: RoutedKeyspace[W], call: ReadCall[W]) -> None:
        """Take a read that is the leader's, to be sent in the next turn."""
        shard_queue = routed.shard_queues[microshard_of(call.key, routed.delimiter, routed.microshards)]
        shard_queue.reads.add(call)
        if not shard_queue.dirty:
            self._schedule.touch(shard_queue)

    def weak_read(self, routed: RoutedKeyspace[W], call: ReadCall[W]) -> None:
        """Take a read that any replica may serve, to be sent in the next turn; the leader's where its session lacks spans."""
        shard_queue = routed.shard_queues[microshard_of(call.key, routed.delimiter, routed.microshards)]
        if call.session_vector is not None and call.session_vector.floor(shard_queue.shard.ranges) == ASK_LEADER:
            call.max_staleness_ms = STRONG_READ
        shard_queue.read_queue(call.max_staleness_ms).add(call)
        if not shard_queue.dirty:
            self._schedule.touch(shard_queue)

    def submit(self, routed: RoutedKeyspace[W], call: AnyCall[W]) -> None:
        """Take a call of any kind, to be sent in the next turn; one that no shard can serve is over then."""
        shard_queue = self._shard_queue_of(routed, call)
        if shard_queue is None:
            self._endings.fail(call, misplaced(call))
            return
        if isinstance(call, WriteCall):
            operation = call.operation
            if (
                self.one_partition
                and isinstance(operation, Atomic)
                and not share_a_partition(operation, routed.keyspace)
            ):
                self._endings.fail(call, scattered(call, routed.delimiter))
                return
            (shard_queue.fast if call.fast else shard_queue.writes).add(call)
            self._schedule.touch(shard_queue)
            return
        session_vector = call.session_vector
        if (
            session_vector is not None
            and call.max_staleness_ms != STRONG_READ
            and session_vector.floor(shard_queue.shard.ranges) == ASK_LEADER
        ):
            call.max_staleness_ms = STRONG_READ
        if isinstance(call, ScanCall):
            shard_queue.scans.add(call)
        else:
            shard_queue.read_queue(call.max_staleness_ms).add(call)
        self._schedule.touch(shard_queue)

    def _shard_queue_of(self, routed: RoutedKeyspace[W], call: AnyCall[W]) -> ShardQueue[W] | None:
        """Return the shard queue of the one shard that has all that the call is about; None where there is none."""
        if isinstance(call, ReadCall):
            return routed.shard_queues[routed.keyspace.microshard_of(call.key)]
        if isinstance(call, ScanCall):
            return self._shard_queue_with(routed, call.ranges)
        if isinstance(call.operation, DeleteRange):
            return self._shard_queue_with(routed, call.operation.ranges)
        if call.microshards is None:
            return routed.shard_queues[routed.keyspace.microshard_of(call.key)]
        shard_queues = {routed.shard_queues[microshard] for microshard in call.microshards}
        return shard_queues.pop() if len(shard_queues) == 1 else None

    def _shard_queue_with(self, routed: RoutedKeyspace[W], ranges: Ranges) -> ShardQueue[W] | None:
        """Return the shard queue of the shard that has all of these microshards; None where several have them."""
        assert self.routes is not None, "shard queues come with a map"
        shard_queue = routed.shard_queues[ranges[0].first]
        if self.routes.shards[shard_queue.shard.id].ranges == ranges:
            return shard_queue
        shard_queues = routed.shard_queues
        return (
            shard_queue
            if all(shard_queues[microshard] is shard_queue for microshard in microshards_in(ranges))
            else None
        )

    def parts_of(self, routed: RoutedKeyspace[W], ranges: Ranges) -> list[ShardPart]:
        """Return which shards have these microshards, and which of them each has, by the present map."""
        assert self.routes is not None, "a keyspace comes with a map"
        return self.routes.parts(routed.keyspace.id, ranges)

    def close(self) -> None:
        """End every open call; nothing may be submitted afterwards."""
        for shard_queue in (*self._shard_queues.values(), *self._retired):
            self._endings.end(shard_queue)

    # -- events of connections ----------------------------------------------------------------------------------------

    def link_up(self, address: str, welcome: Welcome, now: float) -> None:
        """A node welcomed us at `address`."""
        link = self.network.up(address, welcome, now)
        if link is None:
            return
        self.one_partition = self.one_partition or ONE_PARTITION_FEATURE in welcome.features
        self.limits.adopt(welcome, first=self.routes is None)
        self._adopt(welcome.shard_map, link)
        self._wake_waiting(link)

    def link_down(
        self, address: str, reason: str, refusal: ErrorCode | None, now: float, overload: Overload = NO_OVERLOAD
    ) -> None:
        """The connection to `address` ended, or did not come about."""
        link = self.network.link(address)
        lost = self.network.down(address, reason, refusal, now, overload)
        trouble = unreachable(link)
        for request in lost:
            self._answers.lost(link, request, trouble, now)
            self._recheck(request)
        for page in link.pages.drain():
            page.shard_queue.wait(page)
            self._schedule.touch(page.shard_queue)
        for shard_queue, for_leader in link.waiting.items():
            if for_leader or shard_queue.trouble is None:
                shard_queue.trouble = trouble
        self._wake_waiting(link)

    def link_paused(self, address: str) -> None:
        """The connection's write buffer is full: nothing more for it until `link_resumed`."""
        self.network.link(address).paused = True

    def link_resumed(self, address: str) -> None:
        link = self.network.link(address)
        link.paused = False
        self._wake_waiting(link)

    def link_alive(self, address: str, now: float) -> None:
        """No answer arrived from `address`, but bytes of one did, or it is taking what we send."""
        self.network.heard(self.network.link(address), now)

    def receive(self, address: str, answers: list[Answer], now: float) -> None:
        """Take the answers of one frame."""
        link = self.network.link(address)
        self.network.heard(link, now)
        for answer in answers:
            if isinstance(answer, Working):
                continue
            if isinstance(answer, Refused):
                crowded = ErrorCode.OVERLOADED if answer.code == ErrorCode.OVERLOADED else None
                words = f"the node ended the connection: {answer.message}"
                self.network.give_up(link, words, crowded, overload_of(answer))
                return
            owed = link.pending.pop(answer.request, None)
            if not self._take(link, owed, answer, now):
                if owed is not None:
                    link.pending[answer.request] = owed
                self.network.give_up(link, f"{link} sent a {type(answer).__name__} that answers nothing it was asked")
                return
            if type(answer) is not Failure and isinstance(owed, InFlightRequest):
                self.counters.answered(owed, now)
                self._throttling.accepted(link, owed, now)

    def _take(self, link: Link[W], owed: AnyRequest[W] | MapFetch | Probe | None, answer: Answer, now: float) -> bool:
        """Act on an answer; False where it does not fit what it answers."""
        if isinstance(answer, Written) and isinstance(owed, WriteBatch):
            if len(answer.results) != owed.results:
                return False
            self._answers.written(owed, answer)
        elif isinstance(answer, Rows) and isinstance(owed, ReadBatch):
            if not 0 < len(answer.values) == len(answer.seqs) <= len(owed.calls):
                return False
            if answer.expiries and len(answer.expiries) != len(answer.values):
                return False
            self._answers.rows(link, owed, answer, now)
        elif isinstance(answer, ScanPage) and isinstance(owed, ScanPageRead):
            if not fits(owed.calls[0], answer):
                return False
            self._answers.scanned(link, owed, answer, now)
        elif isinstance(answer, Failure) and isinstance(owed, InFlightRequest):
            assert self.routes is not None, "shard queues come with a map"
            self._answers.refused(link, owed, answer, self.routes, now)
            self._recheck(owed)
            if answer.map_version > self.routes.map.version:
                self.network.fetch_map(link, now)
        elif isinstance(answer, SessionOpened) and isinstance(owed, SessionOpen):
            self._answers.opened(owed, answer)
        elif isinstance(answer, ShardMapReply | Failure) and isinstance(owed, MapFetch):
            self.network.map_fetched()
            if isinstance(answer, ShardMapReply):
                self._adopt(answer.shard_map, link)
        elif not (isinstance(answer, Done) and isinstance(owed, Probe)):
            return False
        return True

    def _wake_waiting(self, link: Link[W]) -> None:
        waiting, link.waiting = link.waiting, {}
        for shard_queue, for_leader in waiting.items():
            if for_leader:
                shard_queue.blocked_until = 0.0
            self._schedule.touch(shard_queue)

    # -- the shard map ------------------------------------------------------------------------------------------------

    def _adopt(self, shard_map: ShardMap, link: Link[W]) -> None:
        """Take a newer map whole: existing shard queues keep their sessions, queued calls go where they now belong."""
        if self.routes is not None and shard_map.version <= self.routes.map.version:
            return
        try:
            routes = Routes(shard_map)
        except (ValueError, KeyError, IndexError) as error:
            self.network.give_up(link, f"{link} sent a shard map that contradicts itself: {error}")
            return
        self.routes = routes
        shard_queues: dict[int, ShardQueue[W]] = {}
        for shard in shard_map.shards:
            shard_queue = self._shard_queues.pop(shard.id, None)
            if shard_queue is None:
                shard_queue = ShardQueue(shard)
            else:
                shard_queue.shard = shard
            shard_queues[shard.id] = shard_queue
        former = [*shard_queues.values(), *self._shard_queues.values(), *self._retired]
        self._retired = [
            shard_queue for shard_queue in (*self._retired, *self._shard_queues.values()) if not shard_queue.quiet
        ]
        self._shard_queues = shard_queues
        for keyspace in shard_map.keyspaces:
            routed = self._keyspaces.get(keyspace.id)
            if routed is None:
                routed = self._keyspaces[keyspace.id] = RoutedKeyspace(keyspace)
            routed.keyspace = keyspace
            routed.shard_queues[:] = [shard_queues[shard] for shard in routes.shard_table(keyspace.id)]
        for shard_queue in former:
            self._reroute(shard_queue)

    def _reroute(self, shard_queue: ShardQueue[W]) -> None:
        """Place the shard queue's queued calls, and those of batches that wait to be sent again, by the present map."""
        routed = self._keyspaces[shard_queue.shard.keyspace]
        queued = [page for page in shard_queue.open_pages if page.stage is Stage.QUEUED]
        for batch in (*shard_queue.waiting, *shard_queue.weak_waiting, *queued):
            if not self._belongs(batch):
                self._endings.dissolve(batch, "its microshard has gone to another shard since")
        for queue in shard_queue.call_queues:
            for call in queue.take_all():
                if call.waiter is not None:
                    self.submit(routed, call)

    def _belongs(self, batch: AnyBatch[W]) -> bool:
        """Say whether all that a batch is about is still its shard queue's."""
        shard_queue = batch.shard_queue
        routed = self._keyspaces[shard_queue.shard.keyspace]
        return all(self._shard_queue_of(routed, call) is shard_queue for call in batch.calls)

    def _recheck(self, request: AnyRequest[W]) -> None:
        """Before another attempt: is this still the shard queue that the batch belongs to?"""
        if isinstance(request, SessionOpen):
            return
        divided = request.shard_queue.apart is not None
        if (divided or request.stage is Stage.WAITING) and not self._belongs(request):
            self._reroute(request.shard_queue)

    # -- time ---------------------------------------------------------------------------------------------------------

    @property
    def next_check(self) -> float:
        """When a turn looks for what is late, and for nodes that hang: `link_alive` is to be told before that."""
        return self._schedule.next_check

    def take_outcomes(self) -> CallOutcomes[W] | None:
        """Take out the calls that are over since the last time; None where there are none."""
        outcomes = self._endings.outcomes
        if not (outcomes.written or outcomes.read or outcomes.failed or outcomes.scanned):
            return None
        self._endings.outcomes = CallOutcomes()
        return outcomes

    def turn(self, now: float) -> Turn[W]:
        """Send what can be sent, end what is late; return what the driver has to do."""
        schedule, network = self._schedule, self.network
        if now >= schedule.next_check:
            self._check(now)
        if network.estranged:
            self._disown(now)
        elif self.routes is not None:
            self._sender.send_all(self.routes, now)
        connects, disconnects = network.take_orders()
        return Turn(network.take_outgoing(), connects, disconnects, schedule.next_check)

    def _disown(self, now: float) -> None:
        """Another cluster is where this client's was: end all calls; those that came later once it is seen to be so still."""
        network = self.network
        shard_queues = [
            shard_queue for shard_queue in (*self._shard_queues.values(), *self._retired) if not shard_queue.quiet
        ]
        until = network.look_for_own(now, anybody_waits=bool(shard_queues))
        if now < until:
            self._schedule.next_check = min(self._schedule.next_check, until)
            return
        for shard_queue in shard_queues:
            self._endings.disown(shard_queue, network.estranged)

    def _check(self, now: float) -> None:
        schedule = self._schedule
        due = self.network.check(now)
        self._pages.look_again(self.network.links)
        for shard_queue in (*self._shard_queues.values(), *self._retired):
            if not shard_queue.quiet:
                due = min(due, self._endings.expire(shard_queue, now))
        schedule.next_check = min(due, schedule.unblock(now))

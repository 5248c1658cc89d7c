"""The router: from calls to requests per node and back, without a socket, a clock or chance of its own.

Calls go in (`write`, `read`), as do the events of connections (`link_up`, `link_down`, `receive`, ...); `turn(now)`
returns what is to be done: frames to send, addresses to connect to, calls that are over. Everything submitted between
two turns travels together: one `Write` and one `Read` a shard, one frame a node.

A write batch keeps its session and number in all its attempts, so that a node which has applied it already answers
with the first result. That makes retries safe, and this is what a write is told in the end:

| the batch of the call                            | at the deadline                     | at `close`       |
| ------------------------------------------------ | ----------------------------------- | ---------------- |
| was never sent                                   | DeadlineExceeded, surely not done   | Closed, not done |
| was sent, and surely refused each time           | Overloaded or Unavailable, not done | Closed, not done |
| has an attempt unanswered                        | DeadlineExceeded, maybe done        | Closed, maybe    |
| has had one that was lost, or its leader demoted | DeadlineExceeded, maybe done        | Closed, maybe    |

A call in no batch yet whose shard is in trouble (nobody reached, or refusals) is told as in the second row.
`session_expired` means that this attempt was not applied: the calls get a number in a new session, unless an earlier
attempt may have been applied; then nobody can tell any more, and they end with `OutcomeUnknown`. So do calls whose
microshard went to another shard after such an attempt. Any other refusal ends the calls with the error that it names.
Reads are repeated until their deadline and change nothing.

Calls of one batch have deadlines of their own. One that expires leaves a batch that may have been applied as it is: it
goes on for the others. A batch that was surely refused is dissolved then, and the others travel in a new one, so that
"surely not done" stays true. A batch without anybody waiting is not sent again.

Retries of a lane wait together: full-jitter backoff, within a budget that successes refill. An exhausted budget fails
nobody (their deadlines do that) but makes each wait a long one. The first redirect to another leader does not wait.
"""

from __future__ import annotations

from random import Random
from typing import Generic, NamedTuple

from shoal.backoff import Backoff, RetryBudget
from shoal.calls import AnyBatch, Exchange, Opening, ReadBatch, ReadCall, W, WriteBatch, WriteCall
from shoal.dispatch import Dispatcher, Outcomes
from shoal.errors import ErrorCode, KeyspaceNotFound
from shoal.keys import microshard_of
from shoal.lanes import Lane, Trouble
from shoal.links import Link, MapFetch, Probe
from shoal.network import Disconnect, Network
from shoal.protocol.messages import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Answer,
    Done,
    Failure,
    Refused,
    Request,
    Rows,
    SessionOpened,
    ShardMapReply,
    Welcome,
    Written,
)
from shoal.shardmap import Keyspace, Routes, ShardMap

FIRST_BACKOFF_SECONDS = 0.010
BACKOFF_CAP_SECONDS = 0.250
RETRY_BUDGET_TOKENS = 100.0
RETRY_BUDGET_REFUND = 0.1


class Space(Generic[W]):
    """A keyspace as routed now: `lanes[microshard]`. The list is changed in place when the map changes."""

    __slots__ = ("delimiter", "keyspace", "lanes", "microshards")

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.delimiter = keyspace.delimiter
        self.microshards = keyspace.microshards
        self.lanes: list[Lane[W]] = []


class Turn(NamedTuple, Generic[W]):
    """What is to be done now. `wake_at`: when to call `turn` again at the latest (seconds, or infinity)."""

    frames: list[tuple[Link[W], list[Request]]]
    connects: list[str]
    disconnects: list[Disconnect]
    wake_at: float


class Router(Generic[W]):
    """See the module's first lines. Every `now` is of one monotonic clock, in seconds."""

    def __init__(self, seeds: tuple[str, ...], random: Random) -> None:
        backoff = Backoff(FIRST_BACKOFF_SECONDS, BACKOFF_CAP_SECONDS, random)
        self.network: Network[W] = Network(seeds, backoff)
        self._dispatch: Dispatcher[W] = Dispatcher(
            self.network, backoff, RetryBudget(RETRY_BUDGET_TOKENS, RETRY_BUDGET_REFUND)
        )
        self.routes: Routes | None = None
        self.max_key_bytes = MAX_KEY_BYTES
        self.max_value_bytes = MAX_VALUE_BYTES
        self._spaces: dict[int, Space[W]] = {}
        self._lanes: dict[int, Lane[W]] = {}
        self._retired: list[Lane[W]] = []

    # -- calls in -----------------------------------------------------------------------------------------------------

    def space(self, name: str) -> Space[W] | None:
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
        return self._spaces[keyspace.id]

    def write(self, space: Space[W], call: WriteCall[W]) -> None:
        """Take a put or delete, to be sent in the next turn."""
        lane = space.lanes[microshard_of(call.operation.key, space.delimiter, space.microshards)]
        lane.writes.add(call)
        if not lane.dirty:
            self._dispatch.touch(lane)

    def read(self, space: Space[W], call: ReadCall[W]) -> None:
        """Take a read, to be sent in the next turn."""
        lane = space.lanes[microshard_of(call.key, space.delimiter, space.microshards)]
        lane.reads.add(call)
        if not lane.dirty:
            self._dispatch.touch(lane)

    def close(self) -> None:
        """End every open call; nothing may be submitted afterwards."""
        for lane in (*self._lanes.values(), *self._retired):
            self._dispatch.end(lane)

    # -- events of connections ----------------------------------------------------------------------------------------

    def link_up(self, address: str, welcome: Welcome, now: float) -> None:
        """A node welcomed us at `address`."""
        link = self.network.up(address, welcome, now)
        if link is None:
            return
        dispatch = self._dispatch
        if self.routes is None:
            self.max_key_bytes = welcome.max_key_bytes
            self.max_value_bytes = welcome.max_value_bytes
            dispatch.max_batch_bytes = welcome.max_batch_bytes
        else:
            self.max_key_bytes = min(self.max_key_bytes, welcome.max_key_bytes)
            self.max_value_bytes = min(self.max_value_bytes, welcome.max_value_bytes)
            dispatch.max_batch_bytes = min(dispatch.max_batch_bytes, welcome.max_batch_bytes)
        self._adopt(welcome.shard_map, link)
        self._wake_waiting(link)

    def link_down(self, address: str, reason: str, refusal: ErrorCode | None, now: float) -> None:
        """The connection to `address` ended, or did not come about."""
        link = self.network.link(address)
        dispatch = self._dispatch
        trouble = Trouble(ErrorCode.UNAVAILABLE, f"{link}: {reason}")
        for exchange in self.network.down(address, reason, refusal, now):
            lane = exchange.lane
            dispatch.lost(exchange)
            if exchange.epoch == lane.epoch:
                dispatch.retry_later(lane, trouble, 0.0, now)
            dispatch.send_again(exchange)
            self._recheck(exchange)
        for lane in link.waiting:
            lane.trouble = trouble
        self._wake_waiting(link)

    def link_paused(self, address: str) -> None:
        """The connection's write buffer is full: nothing more for it until `link_resumed`."""
        self.network.link(address).paused = True

    def link_resumed(self, address: str) -> None:
        link = self.network.link(address)
        link.paused = False
        self._wake_waiting(link)

    def link_alive(self, address: str, now: float) -> None:
        """Nothing arrived from `address`, but it is taking what we send."""
        self.network.heard(self.network.link(address), now)

    def receive(self, address: str, answers: list[Answer], now: float) -> None:
        """Take the answers of one frame."""
        link = self.network.link(address)
        self.network.heard(link, now)
        for answer in answers:
            if isinstance(answer, Refused):
                self._broken(link, f"the node ended the connection: {answer.message}")
                return
            owed = link.pending.pop(answer.request, None)
            if not self._take(link, owed, answer, now):
                if owed is not None:
                    link.pending[answer.request] = owed
                self._broken(link, f"{link} sent a {type(answer).__name__} that answers nothing it was asked")
                return

    def _take(self, link: Link[W], owed: Exchange[W] | MapFetch | Probe | None, answer: Answer, now: float) -> bool:
        """Act on an answer; False where it does not fit what it answers."""
        if isinstance(answer, Written) and isinstance(owed, WriteBatch):
            self._dispatch.written(owed, answer)
        elif isinstance(answer, Rows) and isinstance(owed, ReadBatch):
            if not 0 < len(answer.values) == len(answer.seqs) <= len(owed.calls):
                return False
            self._dispatch.rows(owed, answer)
        elif isinstance(answer, Failure) and isinstance(owed, Exchange):
            self._dispatch.refused(link, owed, answer, now)
            self._recheck(owed)
            if self.routes is not None and answer.map_version > self.routes.map.version:
                self.network.fetch_map(link, now)
        elif isinstance(answer, SessionOpened) and isinstance(owed, Opening):
            self._dispatch.opened(owed, answer)
        elif isinstance(answer, ShardMapReply | Failure) and isinstance(owed, MapFetch):
            self.network.map_fetched()
            if isinstance(answer, ShardMapReply):
                self._adopt(answer.shard_map, link)
        elif not (isinstance(answer, Done) and isinstance(owed, Probe)):
            return False
        return True

    def _broken(self, link: Link[W], reason: str) -> None:
        self.network.give_up(link, reason)

    def _wake_waiting(self, link: Link[W]) -> None:
        waiting, link.waiting = link.waiting, {}
        for lane in waiting:
            lane.blocked_until = 0.0
            self._dispatch.touch(lane)

    # -- the shard map ------------------------------------------------------------------------------------------------

    def _adopt(self, shard_map: ShardMap, link: Link[W]) -> None:
        """Take a newer map whole: existing lanes keep their sessions, queued calls go where they now belong."""
        if self.routes is not None and shard_map.version <= self.routes.map.version:
            return
        try:
            routes = Routes(shard_map)
        except (ValueError, KeyError, IndexError) as error:
            self._broken(link, f"{link} sent a shard map that contradicts itself: {error}")
            return
        self.routes = routes
        lanes: dict[int, Lane[W]] = {}
        for shard in shard_map.shards:
            lane = self._lanes.pop(shard.id, None)
            if lane is None:
                lane = Lane(shard)
            else:
                lane.shard = shard
            lanes[shard.id] = lane
        former = [*lanes.values(), *self._lanes.values(), *self._retired]
        self._retired = [lane for lane in (*self._retired, *self._lanes.values()) if not lane.quiet]
        self._lanes = lanes
        for keyspace in shard_map.keyspaces:
            space = self._spaces.get(keyspace.id)
            if space is None:
                space = self._spaces[keyspace.id] = Space(keyspace)
            space.lanes[:] = [lanes[shard] for shard in routes.shard_table(keyspace.id)]
        for lane in former:
            self._reroute(lane)

    def _reroute(self, lane: Lane[W]) -> None:
        """Place the lane's queued calls, and those of batches that wait to be sent again, by the present map."""
        space = self._spaces[lane.shard.keyspace]
        for batch in list(lane.resend):
            if not self._belongs(batch):
                lane.resend.remove(batch)
                self._dispatch.dissolve(batch, "its microshard has gone to another shard since")
        for write in lane.writes.take_all():
            self.write(space, write)
        for read in lane.reads.take_all():
            self.read(space, read)

    def _belongs(self, batch: AnyBatch[W]) -> bool:
        """Say whether all keys of a batch are still its lane's."""
        lane = batch.lane
        space = self._spaces[lane.shard.keyspace]
        lanes = space.lanes
        return all(lanes[space.keyspace.microshard_of(call.key)] is lane for call in batch.calls)

    def _recheck(self, exchange: Exchange[W]) -> None:
        """Before another attempt: is this still the lane that the batch belongs to?"""
        if not isinstance(exchange, WriteBatch | ReadBatch) or self._belongs(exchange):
            return
        if exchange in exchange.lane.resend:
            self._reroute(exchange.lane)

    # -- time ---------------------------------------------------------------------------------------------------------

    def take_outcomes(self) -> Outcomes[W] | None:
        """Take out the calls that are over since the last time; None where there are none."""
        dispatch = self._dispatch
        outcomes = dispatch.outcomes
        if not (outcomes.written or outcomes.read or outcomes.failed):
            return None
        dispatch.outcomes = Outcomes()
        return outcomes

    def turn(self, now: float) -> Turn[W]:
        """Send what can be sent, end what is late; return what the driver has to do."""
        dispatch, network = self._dispatch, self.network
        if now >= dispatch.next_check:
            self._check(now)
        if self.routes is not None:
            dispatch.pump_all(self.routes, now)
        connects, network.connects = network.connects, []
        disconnects, network.disconnects = network.disconnects, []
        return Turn(network.take_outgoing(), connects, disconnects, dispatch.next_check)

    def _check(self, now: float) -> None:
        dispatch = self._dispatch
        due = self.network.check(now)
        for lane in (*self._lanes.values(), *self._retired):
            if not lane.quiet:
                due = min(due, dispatch.expire(lane, now))
        dispatch.next_check = min(due, dispatch.unblock(now))

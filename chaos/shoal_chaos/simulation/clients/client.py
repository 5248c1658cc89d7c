"""A simulated client: one step at a time, over the real protocol, retrying like the real one.

It reads and writes registers, strongly and less so, counts, and moves money in transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    STRONG,
    Answer,
    Failure,
    Freshness,
    GetShardMap,
    OpenSession,
    Request,
    Rows,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    Write,
    Written,
)
from shoal.shardmap import Keyspace, Routes

from shoal_chaos.simulation.clients.histories import Histories
from shoal_chaos.simulation.clients.lives import Lives, LookStep
from shoal_chaos.simulation.clients.steps import (
    BankReadStep,
    ClientStep,
    ExpiringPutStep,
    FastPutStep,
    IncrementStep,
    PutStep,
    ReadStep,
)
from shoal_chaos.simulation.world.events import MILLISECOND, Events

TIMEOUT = 400 * MILLISECOND
PAUSE = 20 * MILLISECOND
MAP_REQUEST = -1
LIVES_SHARE = 0.8
DECLINES = 3
"""A read that so many replicas have declined goes to the leader."""


class SimulatedClient:
    """Makes steps, and has them recorded in `histories`. `lives`: most of them are about rows that expire.

    `pauses`: how many times longer than usual it waits between steps.
    `sessions`: by shard, the id of the one that it writes in, and the last number used there.
    """

    def __init__(
        self,
        name: str,
        number: int,
        events: Events,
        random: Random,
        routes: Routes,
        keyspace: Keyspace,
        keys: list[bytes],
        histories: Histories,
        send: Callable[[str, list[Request]], None],
    ) -> None:
        self.name = name
        self.completed = 0
        self.lives: Lives | None = None
        self.stopping = False
        self.idle = False
        self.pauses = 1
        self._events = events
        self._random = random
        self._routes = routes
        self._keyspace = keyspace
        self._keys = keys
        self._histories = histories
        self._send = send
        self._targets: dict[int, str] = {shard.id: shard.voters[0] for shard in routes.map.shards}
        self.sessions: dict[int, tuple[bytes, int]] = {}
        self._marks: dict[int, int] = {}
        self._request = 0
        self._steps = number << 32
        self._step: ClientStep | None = None
        self._sent = 0
        self._shard = 0
        self._number = 0
        self._attempts = 0
        self._declines = 0

    def start(self) -> None:
        self._events.after(self._random.randrange(PAUSE), self._next_step)

    def _next_step(self) -> None:
        if self.stopping:
            self.idle = True
            return
        self._begin(self._some_step())

    def _some_step(self) -> ClientStep:
        random, histories, now = self._random, self._histories, self._events.now
        self._steps += 1
        if self.lives is not None and random.random() < LIVES_SHARE:
            return self.lives.step(random, now)
        key = random.choice(self._keys)
        shard = self._routes.shard_of(self._keyspace, key)
        kind = random.random()
        if kind < 0.1:
            return ExpiringPutStep(b"expiring/%d" % random.randrange(20), random.choice([1, 50, 1000]))
        if kind < 0.4:
            return PutStep(histories, self.name, shard, key, f"{self.name}-{self._steps}".encode(), now)
        if kind < 0.6:
            return ReadStep(histories, self.name, shard, key, now, STRONG, in_session=True)
        if kind < 0.7:
            mark = self._marks.get(shard, 0)
            return ReadStep(histories, self.name, shard, key, now, Freshness(False, mark, 0), in_session=True)
        if kind < 0.8:
            bound = random.choice([50, 500, 5000])
            return ReadStep(histories, self.name, shard, key, now, Freshness(False, 0, bound), in_session=False)
        if kind < 0.9:
            return IncrementStep(histories, random.randint(1, 5), now)
        return BankReadStep(histories, random, self._steps, now)

    def _begin(self, step: ClientStep) -> None:
        self._step = step
        self._shard = self._routes.shard_of(self._keyspace, step.key)
        self._number = 0
        self._attempts = 0
        self._declines = 0
        self._attempt()

    def _attempt(self) -> None:
        """Ask the node believed to lead, or any for a weak read; a write keeps its number in all its attempts."""
        step = self._step
        assert step is not None
        shard = self._routes.shard_of(self._keyspace, step.key)
        if shard != self._shard:
            # A split took the key to another shard. What was tried before was refused for that, or nobody knows.
            if self._attempts > 1:
                step.given_up()
                self._finish()
                return
            self._shard, self._number, self._attempts = shard, 0, 0
            if isinstance(step, PutStep | ReadStep):
                step.shard = shard
        self._request += 1
        request, shard = self._request, self._shard
        target = self._targets[shard]
        message: Request
        if not step.operations:
            microshard = self._keyspace.microshard_of(step.key)
            message = step.request(request, shard, self._keyspace.id, microshard)
            if step.weak:
                target = self._random.choice(self._routes.map.nodes).id
        elif shard not in self.sessions:
            message = OpenSession(request, shard)
        else:
            session, used = self.sessions[shard]
            if not self._number:
                self._number = used + 1
                self.sessions[shard] = (session, self._number)
            self._attempts += 1
            operations = encode_operations(step.operations)
            fast = isinstance(step, FastPutStep)
            message = Write(request, shard, self._keyspace.id, session, self._number, 0, operations, fast)
        self._sent = self._events.now
        self._ask(target, message)
        self._events.after(TIMEOUT, lambda: self._timed_out(request))

    def _ask(self, target: str, request: Request) -> None:
        self._send(target, [request])

    def _timed_out(self, request: int) -> None:
        if request == self._request:
            self._retry("")

    def _retry(self, leader: str) -> None:
        """Ask again, of `leader` or of whoever is next."""
        step = self._step
        if isinstance(step, ReadStep | LookStep) and step.weak:
            self._declines += 1
            if self._declines >= DECLINES:
                step.strengthen()
        else:
            nodes = [node.id for node in self._routes.map.nodes]
            target = self._targets[self._shard]
            place = nodes.index(target) + 1 if target in nodes else 0
            self._targets[self._shard] = leader or nodes[place % len(nodes)]
        self._request += 1
        request = self._request
        self._events.after(self._random.randrange(PAUSE), lambda: self._attempt() if request == self._request else None)

    def receive(self, answers: list[Answer]) -> None:
        """Take the answers of one frame; those to given-up attempts are ignored."""
        for answer in answers:
            if isinstance(answer, ShardMapReply) and answer.shard_map.version > self._routes.map.version:
                self._adopt(Routes(answer.shard_map))
            if (
                not isinstance(answer, (SessionOpened, Written, Rows, ScanPage, Failure))
                or answer.request != self._request
            ):
                continue
            if isinstance(answer, SessionOpened):
                self.sessions[self._shard] = (answer.session, 0)
                self._attempt()
            elif isinstance(answer, Failure):
                self._refused(answer)
            else:
                self._answered(answer)

    def _adopt(self, routes: Routes) -> None:
        """Take over a newer map: a microshard takes the marks of the shard that it was in to the one that it is in now."""
        before, self._routes = self._routes.shard_table(self._keyspace.id), routes
        for shard in routes.map.shards:
            if shard.keyspace != self._keyspace.id:
                continue
            self._targets.setdefault(shard.id, shard.voters[0])
        for old, new in zip(before, routes.shard_table(self._keyspace.id), strict=True):
            if old != new:
                self._marks[new] = max(self._marks.get(new, 0), self._marks.get(old, 0))

    def _answered(self, answer: Written | Rows | ScanPage) -> None:
        step = self._step
        assert step is not None
        now = self._events.now
        self._marks[self._shard] = max(self._marks.get(self._shard, 0), answer.seq)
        following = step.answered(answer, self._sent, now)
        if following is not None:
            self._begin(following)
        else:
            self._finish()

    def _refused(self, failure: Failure) -> None:
        step = self._step
        assert step is not None
        if failure.code == ErrorCode.SESSION_EXPIRED:
            del self.sessions[self._shard]
            if self._attempts > 1:
                # An earlier attempt may have been applied: nobody can tell any more.
                step.given_up()
                self._finish()
                return
            self._number = 0
            self._attempts = 0
        if failure.map_version > self._routes.map.version:
            node = self._random.choice(self._routes.map.nodes).id
            self._send(node, [GetShardMap(MAP_REQUEST)])
        leader = failure.route.leader if failure.route is not None else ""
        self._retry(leader)

    def _finish(self) -> None:
        self._step = None
        self.completed += 1
        self._request += 1
        # A step begins after the one before it has ended, never at the same instant: the checkers take that for overlap.
        self._pause(PAUSE)

    def _pause(self, longest: int) -> None:
        """Wait until the next step, usually for `longest` at most."""
        self._events.after(self._random.randrange(1, self.pauses * longest), self._next_step)

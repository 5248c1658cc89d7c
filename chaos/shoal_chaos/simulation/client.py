"""A simulated client: one operation at a time on a few registers, over the real protocol, retrying like the real one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Answer,
    Failure,
    OpenSession,
    Put,
    Read,
    Request,
    Rows,
    SessionOpened,
    Write,
    Written,
)
from shoal.shardmap import Keyspace, Routes

from shoal_chaos.checkers.linearizability import NEVER, RegisterOperation
from shoal_chaos.simulation.events import MILLISECOND, Events

TIMEOUT = 400 * MILLISECOND
PAUSE = 20 * MILLISECOND


class SimulatedClient:
    """Reads and writes registers, and keeps the history. Every written value is unique."""

    def __init__(
        self,
        name: str,
        events: Events,
        random: Random,
        routes: Routes,
        keyspace: Keyspace,
        keys: list[bytes],
        send: Callable[[str, list[Request]], None],
    ) -> None:
        self.name = name
        self.history: dict[bytes, list[RegisterOperation]] = {key: [] for key in keys}
        self.completed = 0
        self.stopping = False
        self.idle = False
        self._events = events
        self._random = random
        self._routes = routes
        self._keyspace = keyspace
        self._keys = keys
        self._send = send
        self._targets: dict[int, str] = {shard.id: shard.voters[0] for shard in routes.map.shards}
        self._sessions: dict[int, tuple[int, int]] = {}
        self._request = 0
        self._values = 0
        self._began = 0
        self._key = b""
        self._value: bytes | None = None
        self._shard = 0
        self._number = 0
        self._attempts = 0

    def start(self) -> None:
        self._events.after(self._random.randrange(PAUSE), self._next_operation)

    def _next_operation(self) -> None:
        if self.stopping:
            self.idle = True
            return
        self._key = self._random.choice(self._keys)
        self._shard = self._routes.shard_of(self._keyspace, self._key)
        self._value = None
        if self._random.random() < 0.6:
            self._values += 1
            self._value = f"{self.name}-{self._values}".encode()
        self._began = self._events.now
        self._number = 0
        self._attempts = 0
        self._attempt()

    def _attempt(self) -> None:
        """Ask the node believed to lead; a write keeps its number in all its attempts."""
        self._request += 1
        request, shard = self._request, self._shard
        message: Request
        if self._value is None:
            message = Read(request, shard, self._keyspace.id, 0, [self._key])
        elif shard not in self._sessions:
            message = OpenSession(request, shard)
        else:
            session, used = self._sessions[shard]
            if not self._number:
                self._number = used + 1
                self._sessions[shard] = (session, self._number)
            self._attempts += 1
            operations = encode_operations([Put(self._key, self._value)])
            message = Write(request, shard, self._keyspace.id, session, self._number, 0, operations)
        self._send(self._targets[shard], [message])
        self._events.after(TIMEOUT, lambda: self._timed_out(request))

    def _timed_out(self, request: int) -> None:
        if request == self._request:
            self._retry("")

    def _retry(self, leader: str) -> None:
        """Ask again, of `leader` or of whoever is next."""
        nodes = [node.id for node in self._routes.map.nodes]
        target = self._targets[self._shard]
        self._targets[self._shard] = leader or nodes[(nodes.index(target) + 1) % len(nodes)]
        self._request += 1
        request = self._request
        self._events.after(self._random.randrange(PAUSE), lambda: self._attempt() if request == self._request else None)

    def receive(self, answers: list[Answer]) -> None:
        """Take the answers of one frame; those to given-up attempts are ignored."""
        for answer in answers:
            if not isinstance(answer, (SessionOpened, Written, Rows, Failure)) or answer.request != self._request:
                continue
            if isinstance(answer, SessionOpened):
                self._sessions[self._shard] = (answer.session, 0)
                self._attempt()
            elif isinstance(answer, Written):
                self._finish(self._value, self._events.now)
            elif isinstance(answer, Rows):
                self._finish(answer.values[0], self._events.now)
            else:
                self._refused(answer)

    def _refused(self, failure: Failure) -> None:
        if failure.code == ErrorCode.SESSION_EXPIRED:
            del self._sessions[self._shard]
            if self._attempts > 1:
                # An earlier attempt may have been applied: nobody can tell any more.
                self._finish(self._value, NEVER)
                return
            self._number = 0
            self._attempts = 0
        leader = failure.route.leader if failure.route is not None else ""
        self._retry(leader)

    def _finish(self, value: bytes | None, ended: float) -> None:
        self.history[self._key].append(RegisterOperation(self.name, self._value is not None, value, self._began, ended))
        self.completed += 1
        self._request += 1
        self._events.after(self._random.randrange(PAUSE), self._next_operation)

    def open_operation(self) -> tuple[bytes, RegisterOperation] | None:
        """Return the write that has not ended, if there is one."""
        if self.idle or self._value is None:
            return None
        return self._key, RegisterOperation(self.name, True, self._value, self._began, NEVER)

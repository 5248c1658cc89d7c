"""Clients that write fast, open sessions without end, and write under others' ids, beside the usual ones and faults.

Beyond what every run checks: a fast write that was acknowledged is done when it is applied, which the node's own invariant
says; a write under the id of somebody else's session is never acknowledged, and never done.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from msgspec.structs import replace
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Answer, OpenSession, Put, Request, Write, Written

from shoal_chaos.simulation.clients.client import SimulatedClient
from shoal_chaos.simulation.clients.steps import ClientStep, FastPutStep, PutStep
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import MILLISECOND

FORGED = b"forged"
MOMENT = 30 * MILLISECOND
"""The longest pause of those who do not wait for answers."""
REPEATED_AFTER = 2 * MILLISECOND
FIRST_REPETITION = 1 << 40
"""Where the numbers of requests begin whose answers nobody waits for."""


class HastyClient(SimulatedClient):
    """Writes fast, more often than not, and sends half of its writes once more within the next moment."""

    def _some_step(self) -> ClientStep:
        random = self._random
        self._steps += 1
        key = random.choice(self._keys)
        shard = self._routes.shard_of(self._keyspace, key)
        kind = FastPutStep if random.random() < 0.8 else PutStep
        value = f"{self.name}-{self._steps}".encode()
        return kind(self._histories, self.name, shard, key, value, self._events.now)

    def _ask(self, target: str, request: Request) -> None:
        super()._ask(target, request)
        if isinstance(request, Write) and self._random.random() < 0.5:
            again = replace(request, request=FIRST_REPETITION + request.request)
            delay = self._random.randrange(REPEATED_AFTER)
            self._events.after(delay, lambda: self._send(target, [again]))


class Opener(SimulatedClient):
    """Opens sessions for no reason, and writes in none of them."""

    def _next_step(self) -> None:
        if self.stopping:
            self.idle = True
            return
        shard, target = self._random.choice(list(self._targets)), self._random.choice(self._routes.map.nodes).id
        for _ in range(self._random.choice([1, 1, 3])):
            self._request += 1
            self._send(target, [OpenSession(self._request, shard)])
        self._pause(MOMENT)

    def receive(self, answers: list[Answer]) -> None:
        """It has no use for them."""


class Forger(SimulatedClient):
    """Writes under the ids of others' sessions, as if they had leaked."""

    victims: Sequence[SimulatedClient] = ()

    def _next_step(self) -> None:
        if self.stopping:
            self.idle = True
            return
        random = self._random
        sessions = random.choice(self.victims).sessions
        if sessions:
            shard, (session, number) = random.choice(list(sessions.items()))
            keys = [key for key in self._keys if self._routes.shard_of(self._keyspace, key) == shard]
            if keys:
                self._request += 1
                number = max(1, number + random.choice([0, 1, 1, 2, 64]))
                operations, fast = encode_operations([Put(random.choice(keys), FORGED)]), random.random() < 0.5
                write = Write(self._request, shard, self._keyspace.id, session, number, 0, operations, fast)
                self._send(random.choice(self._routes.map.nodes).id, [write])
        self._pause(MOMENT)

    def receive(self, answers: list[Answer]) -> None:
        """None of them may say that it was done. That it was not, the histories of the registers show."""
        for answer in answers:
            if isinstance(answer, Written):
                raise Violation(f"{self.name} wrote in somebody else's session: {answer}")


class Crowds(UsualFaults):
    """The usual faults, and the clients of this module beside the usual ones."""

    intervals_ms: ClassVar[tuple[int, ...]] = (300, 1000)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        clients = scene.clients
        crowd: list[SimulatedClient] = [clients.add(HastyClient, f"hasty-{number}") for number in range(2)]
        if random.random() < 0.7:
            crowd.append(clients.add(Opener, "opener"))
        if random.random() < 0.7:
            forger = clients.add(Forger, "forger")
            forger.victims = [client for client in clients.of_keys if not isinstance(client, Opener | Forger)]
            crowd.append(forger)
            for number, client in enumerate(clients.of_keys):
                self._cluster.introduce(number, client.name.encode())
        for client in crowd:
            client.start()

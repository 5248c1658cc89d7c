"""Clients that ask for more than nodes can do, beside the usual ones, on nodes whose turns take time.

In floods alone nothing else goes wrong, and so more can be asked: every usual client goes on, second by second, and no group
changes its leader. Beside other faults turns are bounded, pings answered, nothing is done for who has gone, and the cluster
recovers as always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import msgspec
from shoal.protocol.checksums import ChecksumCursor, ReadChecksum
from shoal.protocol.messages import (
    Answer,
    GetShardMap,
    GetStatus,
    Ping,
    Read,
    Request,
    Scan,
)
from shoal_server.node.settings import NodeSettings

from shoal_chaos.simulation.clients.client import SimulatedClient
from shoal_chaos.simulation.cluster.callers import ANY
from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.settings import random_settings
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

CALM = 2 * SECOND
"""Nothing is flooded before: every group has its leader by then."""
MOMENT = 500 * MILLISECOND
"""A frame may be 200 ms of work: now and then there are several."""
LIGHT_PAUSE = 20 * MILLISECOND
LOOK = SECOND
STEPS_LEAST = 3
"""That a usual client has to come to between two looks. With nothing else to do it comes to forty or so."""
LATE = 1
"""Milliseconds that a request may take which nobody waits for any more."""

PATIENT = 10_000
KEYS = [b"flood-%d" % number for number in range(300)]


class LightClient(SimulatedClient):
    """Asks nodes whether they are there, and for single rows: they have to say so soon (see `Callers.check`)."""

    def _next_step(self) -> None:
        if self.stopping:
            self.idle = True
            return
        random = self._random
        self._request += 1
        request: Request = Ping(self._request)
        if random.random() < 0.5:
            key = random.choice(self._keys)
            shard = self._routes.shard_of(self._keyspace, key)
            request = Read(self._request, shard, self._keyspace.id, PATIENT, [key], ANY)
        self._send(random.choice(self._routes.map.nodes).id, [request])
        self._pause(LIGHT_PAUSE)

    def receive(self, answers: list[Answer]) -> None:
        """It has no use for them."""


class Flooder(SimulatedClient):
    """Sends frames of hundreds of requests, waits for no answer, and hangs up now and then."""

    hang_up: Callable[[str], None]
    _keys_of: dict[int, list[bytes]]

    def start(self) -> None:
        self._keys_of = {}
        super().start()

    def _next_step(self) -> None:
        if self.stopping:
            self.idle = True
            return
        random = self._random
        target = random.choice(self._routes.map.nodes).id
        self._send(target, self._frame())
        if random.random() < 0.2:
            self._events.after(random.randrange(5 * MILLISECOND), lambda: self.hang_up(target))
        self._pause(MOMENT)

    def receive(self, answers: list[Answer]) -> None:
        """It has no use for them."""

    def _frame(self) -> list[Request]:
        random = self._random
        make, count = random.choice(
            [
                (self._scan, 300),
                (self._read, 150),
                (self._late_read, 300),
                (self._checksum, 300),
                (self._status, 300),
                (self._map, 300),
            ]
        )
        return [make() for _ in range(random.randrange(1, 2 * count))]

    def _numbers(self) -> tuple[int, int]:
        """Return the number of a request, and a shard."""
        self._request += 1
        return self._request, self._random.choice(list(self._targets))

    def _scan(self) -> Request:
        number, shard = self._numbers()
        ranges = self._routes.shards[shard].ranges
        return Scan(number, shard, self._keyspace.id, PATIENT, ranges, b"", b"", False, False, 1000, ANY)

    def _read(self, timeout_ms: int = PATIENT) -> Request:
        number, shard = self._numbers()
        keys = self._keys_of.get(shard)
        if keys is None:
            keys = [key for key in KEYS if self._routes.shard_of(self._keyspace, key) == shard]
            self._keys_of[shard] = keys
        return Read(number, shard, self._keyspace.id, timeout_ms, keys, ANY)

    def _late_read(self) -> Request:
        return self._read(LATE)

    def _checksum(self) -> Request:
        number, shard = self._numbers()
        return ReadChecksum(number, shard, self._routes.shards[shard].ranges, ChecksumCursor(), 1000)

    def _status(self) -> Request:
        return GetStatus(self._numbers()[0])

    def _map(self) -> Request:
        return GetShardMap(self._numbers()[0])


class Floods(UsualFaults):
    """The usual faults, and floods."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        clients = scene.clients
        self._usual: Sequence[SimulatedClient] = list(clients.of_keys)
        scene.cluster.turns_take_time = True
        crowd: list[SimulatedClient] = [clients.add(LightClient, "light")]
        for number in range(random.choice([1, 2])):
            flooder = clients.add(Flooder, f"flooder-{number}")
            client = len(clients.of_keys) - 1
            flooder.hang_up = lambda node, client=client: scene.cluster.nodes[node].hang_up(client)  # type: ignore[misc]
            crowd.append(flooder)
        for one in crowd:
            self._events.after(CALM, one.start)


class FloodsAlone(Floods):
    """Floods, and nothing else: whoever asks for little goes on as before, and nobody takes a node for dead."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self._steps: dict[str, int] = {}
        self._terms: dict[tuple[str, int], int] = {}
        for node in scene.cluster.nodes.values():
            node.callers.answers_at_once = partial(_answers_at_once, node)
        self._events.after(CALM, self._look)

    def _inject(self) -> None:
        """Nothing else goes wrong."""

    def _look(self) -> None:
        if not self._active:
            return
        for client in self._usual:
            done = client.completed - self._steps.get(client.name, -STEPS_LEAST)
            if done < STEPS_LEAST:
                raise Violation(f"{client.name} has come to {done} steps in {LOOK / SECOND:g} s beside a flood")
            self._steps[client.name] = client.completed
        for node in self._cluster.nodes.values():
            for group in node.groups():
                before = self._terms.setdefault((node.name, group.group), group.term)
                if group.term != before:
                    raise Violation(f"group {group.group} came from term {before} to {group.term} beside a flood")
        self._events.after(LOOK, self._look)


def _answers_at_once(node: SimulatedNode, read: Read) -> bool:
    """Say whether a node has nothing to wait for before it answers a read that any replica may answer.

    A replica that follows a leader, and was not read from lately, asks that first how far it is.
    """
    replica = node.replicas.get(read.shard)
    if replica is None or replica.group.leader in ("", node.name):
        return True
    return replica.reads.staleness_ms(node.local_now()) is not None


def few_requests(random: Random) -> NodeSettings:
    """Return settings with which a client is not read from any more long before it has asked for much."""
    settings = random_settings(random)
    limits = msgspec.structs.replace(settings.limits, client_requests=random.choice([200, 8192]))
    return msgspec.structs.replace(settings, limits=limits)

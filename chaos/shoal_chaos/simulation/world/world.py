"""What everything in a simulation shares: a seed, time and a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any
from zlib import crc32

from shoal_chaos.simulation.world.events import Events, derived_random
from shoal_chaos.simulation.world.network import Network


class World:
    """The world of one seed.

    `time`: whatever is to happen; it is true time. `events`: what is to happen to the cluster, by the cluster's time, which
    is the same unless it may stand still (standstill.py). `trace`: a hash of every frame that was delivered, and when.
    """

    def __init__(self, seed: int, time: Events, events: Events) -> None:
        self.seed = seed
        self.time = time
        self.events = events
        self.trace = 0
        self.network = Network(events, self.random("network"), self._deliver)
        self._receivers: dict[str, Callable[[str, bytes], None]] = {}

    def random(self, name: str) -> Random:
        """Return the source of chance of one component."""
        return derived_random(self.seed, name)

    def listen(self, name: str, receive: Callable[[str, bytes], None]) -> None:
        """Have frames for `name` given to `receive(sender, body)`; what is for nobody who listens is lost."""
        self._receivers[name] = receive

    def sender(self, name: str) -> Callable[[str, list[Any]], None]:
        """Return what sends messages to a receiver in the name of somebody."""
        return partial(self.network.send, name)

    def run_until(self, time: int) -> None:
        """Let things happen until `time` (true time, ns)."""
        events = self.time
        while events.pending and events.now < time:
            events.step()

    def _deliver(self, sender: str, receiver: str, body: bytes) -> None:
        receive = self._receivers.get(receiver)
        if receive is not None:
            self.trace = crc32(body, crc32(f"{self.events.now} {sender} {receiver}".encode(), self.trace))
            receive(sender, body)


def plain_world(seed: int) -> World:
    """Return a world whose cluster's time is true time."""
    events = Events()
    return World(seed, events, events)

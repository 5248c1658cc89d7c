"""A simulated network: frames of real bytes on directed links that delay, lose, repeat, reorder and break.

Real peers talk over streams, which deliver in order or break. The simulation also loses, repeats and reorders single
frames, which is harsher: the protocol must bear it. A link that stalls is as a stream is: it delivers nothing for a while,
then all that was sent meanwhile, in order; or it breaks, and all of that is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from shoal.protocol.frames import HEADER_BYTES, BadFrame, FrameReader, encode_frame

from shoal_chaos.simulation.world.events import MILLISECOND, Events


@dataclass(slots=True)
class Conditions:
    """How the network is at the moment. Chances are per frame."""

    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    delay_min: int = MILLISECOND // 10
    delay_max: int = 2 * MILLISECOND


class Network:
    """All links of a cluster. `deliver(sender, receiver, body)` is called when a frame arrives."""

    def __init__(self, events: Events, random: Random, deliver: Callable[[str, str, bytes], None]) -> None:
        self.conditions = Conditions()
        self.watch: Callable[[str, str, list[Any]], None] | None = None
        """Told of every frame, its sender and its receiver just before it is sent."""
        self.harm: Callable[[list[Any]], bytes] | None = None
        """Makes the frames that arrive, whole or not, out of what is sent."""
        self.refused: Callable[[str, str], None] | None = None
        """Told of the link by which came what is no frame, or none of messages: its receiver has ended it."""
        self._events = events
        self._random = random
        self._deliver = deliver
        self._cut: set[tuple[str, str]] = set()
        self._last_arrival: dict[tuple[str, str], int] = {}
        self._stalled: dict[tuple[str, str], int] = {}
        self._breaks: dict[tuple[str, str], int] = {}
        self._broken: set[tuple[str, str]] = set()

    def cut(self, links: set[tuple[str, str]]) -> None:
        """Let nothing through on these links, in these directions, and everything on the others."""
        self._cut = links

    def stall(self, sender: str, receiver: str, until: int) -> None:
        """Let nothing that is sent on this link from now on arrive before `until`."""
        link = sender, receiver
        self._stalled[link] = max(until, self._stalled.get(link, 0))

    def is_stalled(self, sender: str, receiver: str) -> bool:
        return self._stalled.get((sender, receiver), 0) > self._events.now

    def break_off(self, sender: str, receiver: str) -> None:
        """Lose all that is under way on this link, and what is sent before it is mended."""
        link = sender, receiver
        self._broken.add(link)
        self._breaks[link] = self._breaks.get(link, 0) + 1
        self._stalled.pop(link, None)
        self._last_arrival.pop(link, None)

    def mend(self, sender: str, receiver: str) -> None:
        self._broken.discard((sender, receiver))

    def flow(self) -> None:
        """Mend every link, and let none stall any more, but for what is in it."""
        self._stalled = {}
        self._broken = set()

    def connected(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) not in self._cut and (sender, receiver) not in self._broken

    def send(self, sender: str, receiver: str, messages: list[Any]) -> None:
        """Send a frame."""
        if self.watch is not None:
            self.watch(sender, receiver, messages)
        random, conditions = self._random, self.conditions
        if not self.connected(sender, receiver) or random.random() < conditions.loss:
            return
        frame = encode_frame(messages) if self.harm is None else self.harm(messages)
        link = sender, receiver
        breaks = self._breaks.get(link, 0)
        spread = conditions.delay_max - conditions.delay_min + 1
        for _ in range(2 if random.random() < conditions.repeat else 1):
            arrival = self._events.now + conditions.delay_min + random.randrange(spread)
            arrival = max(arrival, self._stalled.get(link, 0))
            if random.random() >= conditions.reorder:
                arrival = max(arrival, self._last_arrival.get(link, 0))
                self._last_arrival[link] = arrival
            self._events.at(arrival, lambda: self._arrive(sender, receiver, frame, breaks))

    def _arrive(self, sender: str, receiver: str, frame: bytes, breaks: int) -> None:
        if not self.connected(sender, receiver) or self._breaks.get((sender, receiver), 0) != breaks:
            return
        if self.refused is None:
            self._deliver(sender, receiver, frame[HEADER_BYTES:])
            return
        try:
            # One that is announced longer than it is would wait for what never comes, until the link's silence ends it.
            [body] = FrameReader().feed(frame)
            self._deliver(sender, receiver, body)
        except (BadFrame, msgspec.MsgspecError, ValueError):
            self.refused(sender, receiver)

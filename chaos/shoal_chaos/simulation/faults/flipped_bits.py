"""Bits that flip between two nodes: on the wire, behind the frame's checksum, and in memory, before there is one.

Whatever is hit, histories are right and replicas agree: a frame or an entry that is not what was sent ends its connection,
and is sent again. On the wire any bit of any frame may flip, of clients' as of nodes'; in memory those of log entries,
which are what lies there for long.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

from msgspec.structs import replace
from shoal.protocol.frames import encode_frame
from shoal_server.raft.messages import AppendEntries

from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.scene import NodesScene


class FlippedBits(UsualFaults):
    """See the module's first lines. `flipped`: how many bits were.

    Leaders change and nodes end meanwhile, so that there are replicas to be filled up.
    """

    intervals_ms: ClassVar[tuple[int, ...]] = (500, 1500)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        self.flipped = 0
        super().__init__(scene, random)
        self._on_the_wire, self._in_memory = random.choice([0.0, 0.002, 0.02]), random.choice([0.0, 0.005, 0.05])
        self._network.harm, self._network.refused = self._harm, self._refused

    def _all_kinds(self) -> list[Callable[[], None]]:
        return [self._transfer, self._transfer, self._crash]

    def stop(self) -> None:
        self._network.harm = None
        super().stop()

    def _harm(self, messages: list[Any]) -> bytes:
        random = self._random
        if random.random() < self._in_memory:
            messages = [self._with_flip(each) if isinstance(each, AppendEntries) else each for each in messages]
        frame = encode_frame(messages)
        return self._flip(frame) if random.random() < self._on_the_wire else frame

    def _with_flip(self, message: AppendEntries) -> AppendEntries:
        hit = [place for place, entry in enumerate(message.entries) if entry.payload]
        if not hit:
            return message
        place = self._random.choice(hit)
        entries = list(message.entries)
        entries[place] = replace(entries[place], payload=self._flip(entries[place].payload))
        return replace(message, entries=entries)

    def _flip(self, data: bytes) -> bytes:
        self.flipped += 1
        bit = self._random.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)

    def _refused(self, sender: str, receiver: str) -> None:
        """The receiver has ended the connection; a client's is made anew as well, which the clients here do not notice."""
        nodes = self._cluster.nodes
        if sender in nodes and receiver in nodes:
            self._cluster.break_link(sender, receiver)

"""Faults of real processes, from a seed: leaders are killed and started again, stopped for longer than a lease, left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

DOWN_SECONDS = (0.1, 0.8)
PAUSED_SECONDS = (1.0, 3.0)
ALONE_SECONDS = 0.5
"""Shorter than a lease: who is left alone goes on to lead."""


class Nodes(Protocol):
    """The processes of a cluster."""

    @property
    def names(self) -> Sequence[str]: ...

    async def leader(self, place: float) -> str:
        """Return the node that leads the shard at `place`, from 0 to 1, among all shards."""
        ...

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        ...

    def start(self, name: str) -> None: ...

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        ...

    def resume(self, name: str) -> None:
        """SIGCONT."""
        ...

    async def ready(self) -> None:
        """Wait until every shard answers a write."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessFault:
    """What happens to the leaders of shards (see `Nodes.leader`), and for how long.

    kill: the leader is killed, and started again.
    pause: it is stopped.
    both: it is stopped, and another node (`other`, from 0 to 1) killed meanwhile. Where these are two of three voters,
        nothing may be decided until one of them is back.
    alone: all others are stopped; then the leader is killed, and they go on without it. What it acknowledged alone is lost.
    """

    kind: Literal["kill", "pause", "both", "alone"]
    seconds: float
    place: float
    other: float = 0.0


def schedule(random: Random) -> Iterator[ProcessFault]:
    """Yield faults without end, of each kind in turn."""
    while True:
        yield ProcessFault("kill", random.uniform(*DOWN_SECONDS), random.random())
        yield ProcessFault("pause", random.uniform(*PAUSED_SECONDS), random.random())
        yield ProcessFault("both", random.uniform(*PAUSED_SECONDS), random.random(), random.random())
        yield ProcessFault("alone", random.uniform(*DOWN_SECONDS), random.random())


async def inflict(fault: ProcessFault, nodes: Nodes) -> str:
    """Do it, undo it, wait until the cluster serves; return in words what was done."""
    leader = await nodes.leader(fault.place)
    others = [name for name in nodes.names if name != leader]
    killed, paused = "", [leader]
    if fault.kind == "kill":
        killed, paused = leader, []
    elif fault.kind == "alone":
        killed, paused = leader, others
    elif fault.kind == "both":
        killed = others[int(fault.other * len(others))]
    done = [f"paused {name}" for name in paused] + [f"killed {killed}"] * bool(killed)
    with ExitStack() as stopped:
        for name in paused:
            nodes.pause(name)
            stopped.callback(nodes.resume, name)
        if fault.kind == "alone":
            await asyncio.sleep(ALONE_SECONDS)
        if killed:
            await nodes.kill(killed)
        if fault.kind == "alone":
            stopped.close()
        await asyncio.sleep(fault.seconds)
        if killed:
            nodes.start(killed)
    await nodes.ready()
    return f"{', '.join(done)} for {fault.seconds:.1f} s"

"""Neighbours that ask for more than is their due, as processes of their own: one kind of attackers each."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from typing import ClassVar

from shoal_chaos.attackers.base import Deeds, Family, Ground
from shoal_chaos.attackers.catalogue import BY_NAME
from shoal_chaos.attackers.process import AttackerFailed, AttackerProcess
from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Nemesis

MOST_SECONDS = 60.0
"""An attack ends by itself after this, should nobody heal it."""


class Neighbour(Nemesis):
    """One attack of a family; it ends at the heal.

    `outcome` has what came of it then. What was the attacker's due, and was not answered, is in the cluster's `unserved`.
    """

    family: ClassVar[Family]

    def __init__(self, attack: str) -> None:
        """
        Args:
            attack: its name.
        """
        self._attack = BY_NAME[attack]
        self._process: AttackerProcess | None = None
        self._exit = AsyncExitStack()

    async def prepare(self, cluster: FaultyCluster, random: Random) -> None:
        """Start the attacker, and have it write what it is to read."""
        ground = ground_of(cluster, random.getrandbits(32))
        try:
            self._process = await self._exit.enter_async_context(AttackerProcess(self._attack, ground))
        except AttackerFailed as failed:
            cluster.remarks.append(str(failed))

    async def start(self, cluster: FaultyCluster, random: Random) -> str:  # noqa: ARG002
        attack = self._attack
        try:
            if self._process is None:
                return f"{attack.name} did not begin"
            self._process.go()
        except AttackerFailed as failed:
            cluster.remarks.append(str(failed))
            return f"{attack.name} did not begin"
        return f"{attack.name}: {attack.words}"

    async def heal(self, cluster: FaultyCluster) -> None:
        try:
            if self._process is not None:
                self._process.end()
                self._judge(cluster, await self._process.deeds())
        except AttackerFailed as failed:
            cluster.remarks.append(str(failed))
        finally:
            self._process = None
            await self._exit.aclose()

    def _judge(self, cluster: FaultyCluster, deeds: Deeds) -> None:
        self.outcome = in_words(deeds)
        unserved = deeds.failed or deeds.overloaded or not deeds.answered
        if self._attack.valid and unserved:
            errors = "; ".join(f"{count} x {kind}: {deeds.words[kind]}" for kind, count in deeds.errors.items())
            cluster.unserved.append(f"{self._attack.name}: {self.outcome}{': ' * bool(errors)}{errors}")


def ground_of(cluster: FaultyCluster, seed: int) -> Ground:
    """Return what an attacker needs to know of a cluster."""
    processes = cluster.processes
    nodes = processes.config.nodes
    return Ground(
        processes.url,
        processes.addresses,
        pages=tuple(node.metrics for node in nodes if node.metrics),
        grpc=tuple(node.admin for node in nodes if node.admin),
        seed=seed,
        seconds=MOST_SECONDS,
    )


def in_words(deeds: Deeds) -> str:
    """Say what was done, and what came of it."""
    parts = {
        "requests": deeds.requests,
        "answered": deeds.answered,
        "refused as too much": deeds.overloaded,
        "failed": deeds.failed,
        "connections": deeds.connections,
        "connections refused or ended": deeds.refused_connections,
    }
    shown = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    return f"{shown or 'nothing'}, {deeds.cpu_seconds:.1f} s of processor time"


class GreedyClient(Neighbour):
    """Shoal's own client, used as if nobody else were there."""

    name: ClassVar[str] = "greedy-client"
    family = Family.GREEDY_CLIENT


class SlowReader(Neighbour):
    """Connections that ask for much, and read slowly or never."""

    name: ClassVar[str] = "slow-reader"
    family = Family.SLOW_READER


class SlowLink(Neighbour):
    """A valid client behind a link that is too narrow for what it asks for."""

    name: ClassVar[str] = "slow-link"
    family = Family.SLOW_LINK


class IdleConnections(Neighbour):
    """Connections that say nothing, or stop in the middle of a word."""

    name: ClassVar[str] = "idle-connections"
    family = Family.IDLE_CONNECTIONS


class GiantValues(Neighbour):
    """Values of the greatest size, written and read by many."""

    name: ClassVar[str] = "giant-values"
    family = Family.GIANT_VALUES


class TinyDeadlines(Neighbour):
    """Floods of calls that nobody waits for any more."""

    name: ClassVar[str] = "tiny-deadlines"
    family = Family.TINY_DEADLINES


class ExpensiveRequests(Neighbour):
    """Frames of some kB that are much work, and writes that are heavy to apply."""

    name: ClassVar[str] = "expensive-requests"
    family = Family.EXPENSIVE_REQUESTS

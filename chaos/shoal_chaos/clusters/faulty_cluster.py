"""A cluster of processes of our own, whose links, disks and clocks can be made to fail."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from shoal import AsyncClient, ShoalError
from shoal.admin.survey import Survey, survey

from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.links import Links, NoSuchRule
from shoal_chaos.clusters.networks import Medium, ProxyNetwork, network
from shoal_chaos.clusters.process_cluster import ProcessCluster, until
from shoal_chaos.clusters.proxy import NodeProxy
from shoal_chaos.clusters.system_faults import LibraryMissing, SystemFaults

SURVEY_SECONDS = 1.0
READY_SECONDS = 30.0
READY_ATTEMPT_SECONDS = 2.0
READY_KEYS = 200

STARTED = b'"event": "node_started"'
"""What a process says when it serves what its disk had; a manager is a node, too."""


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """How large a cluster is, and how it is set up.

    Attributes:
        joiners: nodes that are known to the configuration, and not started.
        clock_tolerance_ms: by how much nodes let wall clocks differ; the less, the sooner a wrong one shows.
        all_ports: nodes have pages and serve gRPC.
    """

    nodes: int = 3
    joiners: int = 0
    managers: int = 0
    shards: int = 4
    microshards: int = 64
    voters: int = 3
    clock_tolerance_ms: int = 1000
    all_ports: bool = False

    @property
    def words(self) -> str:
        managers = f", {self.managers} shard manager{'s' * (self.managers > 1)}" if self.managers else ""
        return f"{self.nodes} nodes{managers}, {self.shards} shards of {self.voters} voters"


class FaultyCluster:
    """Nodes with faulty links between them (see `networks`), and with the library for faults of disks and clocks loaded."""

    def __init__(
        self, root: Path, shape: ClusterShape, random: Random, *, system_faults: bool, medium: Medium = Medium.PROXIES
    ) -> None:
        """Write the configuration; start nothing.

        Args:
            system_faults: whether disks and clocks are to fail.
            medium: by what links fail.

        Raises:
            NotPossibleHere: they are to, and cannot on this machine.
        """
        names = [f"n{number}" for number in range(1, shape.nodes + shape.joiners + 1)]
        self._systems: dict[str, SystemFaults] = {}
        if system_faults:
            self._systems = {name: SystemFaults(name, root / "faults", root / name) for name in names}
        self.nodes = names[: shape.nodes]
        self.managers = [f"m{number}" for number in range(1, shape.managers + 1)]
        self.links = Links()
        self._network = network(medium, names, self.managers, self.links, random)
        configuration = loopback(
            founders=shape.nodes,
            joiners=shape.joiners,
            managers=shape.managers,
            keyspace=f"microshards: {shape.microshards}, shards: {shape.shards}, voters: {shape.voters}",
            timing=f"clock_tolerance: {shape.clock_tolerance_ms}ms",
            fronted=self._network.fronted,
            hosts=self._network.hosts,
            all_ports=shape.all_ports,
        )
        self._ports = configuration.ports
        self.processes = ProcessCluster(
            root,
            configuration,
            environments={name: system.environment for name, system in self._systems.items()},
            wrappers=self._network.wrappers,
        )
        self.root = root
        self.failures: list[str] = []
        """Processes that have ended by themselves, without an excuse, in words."""
        self.broken: list[str] = []
        """Promises that a nemesis has seen broken, in words."""
        self.unserved: list[str] = []
        """Calls that were a neighbour's due, and were not answered, in words."""
        self.remarks: list[str] = []
        self._excused: set[str] = set()
        self._lost: set[str] = set()
        self._log_lengths: dict[str, int] = {}
        """By process that was started again since the cluster was ready last: how many bytes its log had before."""

    # -- life

    async def start(self) -> None:
        """Start everything; wait until it serves."""
        await self._network.start(self._ports)
        self.processes.start_all()
        await self.processes.ready()
        if self.managers:
            await self.processes.linger_briefly()

    async def stop(self) -> None:
        """End everything."""
        self._note_exits()
        try:
            await self.processes.stop_all()
        finally:
            await self._network.stop()
        for system in self._systems.values():
            system.close()

    @property
    def url(self) -> str:
        return self.processes.url

    async def ready(self) -> None:
        """Start what faults have ended, and wait until every process has begun and every shard takes a write.

        Raises:
            TimeoutError: one has not, or does not.
        """

        problem = ""

        async def serves() -> bool:
            nonlocal problem
            self._note_exits()
            self.restart(self._excused)
            beginning = sorted(name for name in self._log_lengths.keys() & self.running if not self.has_begun(name))
            if beginning:
                problem = f"{', '.join(beginning)} have not begun yet"
                return False
            try:
                async with AsyncClient(self.url, timeout=READY_ATTEMPT_SECONDS) as db:
                    await db.put_many({f"ready-{number}": "yes" for number in range(READY_KEYS)})
            except ShoalError as error:
                problem = str(error)
                return False
            return True

        try:
            async with asyncio.timeout(READY_SECONDS):
                await until("every shard takes writes", serves)
        except TimeoutError as error:
            raise TimeoutError(f"the cluster is not ready {READY_SECONDS:g} s after the heal: {problem}") from error
        self._excused &= self._lost
        self._log_lengths.clear()

    # -- who is who

    async def survey(self) -> Survey:
        """Ask all nodes how they are; those that are paused or cut off say nothing."""
        return await survey(self.processes.addresses, SURVEY_SECONDS)

    async def leaders(self) -> Mapping[int, str]:
        found = await self.survey()
        leaders = {shard.id: found.leader(shard.id) for shard in found.shard_map.shards}
        return {shard: leader.node for shard, leader in leaders.items() if leader is not None}

    async def voters(self) -> Mapping[int, Sequence[str]]:
        return {shard.id: shard.voters for shard in (await self.survey()).shard_map.shards}

    async def run(self, *arguments: str) -> bytes:
        return await self.processes.run(*arguments)

    # -- processes

    @property
    def running(self) -> set[str]:
        """The nodes and managers whose processes run."""
        return set(self.processes.running)

    async def kill(self, names: Iterable[str]) -> None:
        """SIGKILL, all at once, and wait for their ends."""
        dying = [name for name in names if name in self.running]
        self._excused.update(dying)
        for name in dying:
            self.processes.send_signal(name, signal.SIGKILL)

        async def gone() -> bool:
            return not self.running & set(dying)

        await until(f"{', '.join(dying)} have ended", gone)
        self._note_exits()

    def restart(self, names: Iterable[str]) -> None:
        """Start those that do not run."""
        self._note_exits()
        for name in names:
            if name not in self.running and name not in self._lost:
                self._log_lengths[name] = self.processes.folder.log_file(name).stat().st_size
                self.processes.start(name)

    def has_begun(self, name: str) -> bool:
        """Return whether a process has begun to serve, that was started again since the cluster was ready last."""
        with self.processes.folder.log_file(name).open("rb") as log:
            log.seek(self._log_lengths[name])
            return STARTED in log.read()

    async def decided(self, name: str) -> bool:
        """Wait until a process that was started again has begun, or refused to; return whether it has begun."""

        async def is_decided() -> bool:
            return name not in self.running or self.has_begun(name)

        await until(f"{name} has started on what its disk has left, or refused to", is_decided)
        return self.has_begun(name)

    def pause(self, names: Iterable[str]) -> None:
        """SIGSTOP."""
        for name in names:
            self.processes.send_signal(name, signal.SIGSTOP)

    def resume(self, names: Iterable[str]) -> None:
        """SIGCONT."""
        for name in names:
            if name in self.running:
                self.processes.send_signal(name, signal.SIGCONT)

    def excuse(self, names: Iterable[str]) -> None:
        """Let processes end by themselves until the cluster is ready again: what is done to them is reason enough."""
        self._excused.update(names)

    def give_up(self, name: str) -> None:
        """Never start a node again: its data are damaged."""
        self._lost.add(name)

    @property
    def lost(self) -> set[str]:
        """Nodes whose data are damaged."""
        return set(self._lost)

    # -- machines

    def system(self, name: str) -> SystemFaults:
        """Return the disk and the clocks of a node.

        Raises:
            LibraryMissing: this cluster was made without them.
        """
        if name not in self._systems:
            raise LibraryMissing("this scenario says that it does without faults of disks and clocks")
        return self._systems[name]

    def proxy(self, name: str) -> NodeProxy:
        """Return what stands before a node.

        Raises:
            NoSuchRule: nothing does.
        """
        if not isinstance(self._network, ProxyNetwork):
            raise NoSuchRule("there are no proxies between these nodes")
        return self._network.proxy(name)

    def _note_exits(self) -> None:
        for gone in self.processes.take_exits():
            if gone.node not in self._excused:
                self.failures.append(f"{gone.node} has ended by itself, with {gone.exit_code}: {gone.last_lines}")

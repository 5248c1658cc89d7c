"""A cluster of real processes on this machine: what `shoal up` and the demo drive.

Nodes are started, watched and ended here. Nothing is restarted by itself: a node that dies is reported once, and the
others go on.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from ssl import SSLContext

from shoal.admin.survey import Examination, ProblemKind, examine
from shoal.errors import Unavailable
from shoal.tls import TlsFiles, client_context

from shoal_server.config import load_config
from shoal_server.local.layout import LOOPBACK, ClusterFolder, free_ports, generated_config, port_in_use
from shoal_server.local.processes import ChildNode, find_nodes, log_tail, start_node, stop_nodes

NODE_COMMAND = (sys.executable, "-m", "shoal.cli", "node")
MANAGER_COMMAND = (sys.executable, "-m", "shoal.cli", "manager")
ADMIN_OFFSET = 100
MANAGER_PORT_OFFSET = 50
MANAGER_ADMIN_OFFSET = 150
METRICS_OFFSET = 200
MANAGER_METRICS_OFFSET = 250
"""Where nodes serve gRPC, where managers listen, and where both serve metrics, counted from the first node's port: 7500, 7450
and 7550, 7600 and 7650 for 7400."""
DEFAULT_NODES = 3
DEFAULT_MANAGERS = 1
DEFAULT_PORT = 7400
EXAMINE_TIMEOUT_SECONDS = 1.0
TAIL_LINES = 3


class ClusterRefused(Exception):
    """The cluster cannot be started as asked; nothing was started."""


@dataclass(frozen=True, slots=True)
class NodeExit:
    """A node's process ended: with which code (negative: by that signal), and what it said last."""

    node: str
    exit_code: int
    last_lines: tuple[str, ...]


def prepare_folder(root: Path, *, nodes: int | None, port: int | None, managers: int | None = 0) -> ClusterFolder:
    """Return the folder of a cluster, with a configuration generated where there is none yet.

    Args:
        nodes: how many nodes; None: `DEFAULT_NODES`, or as many as the folder's configuration has.
        port: the first node's port, the others' follow; 0: free ones; None: `DEFAULT_PORT`, or as configured.
        managers: how many shard managers; None: `DEFAULT_MANAGERS`, or as configured.

    Raises:
        ClusterRefused: the folder's configuration says otherwise than asked.
        ConfigError: the folder's configuration is wrong.
    """
    folder = ClusterFolder(root.absolute())
    if folder.config_file.exists():
        config = load_config(folder.config_file, os.environ)
        if nodes is not None and nodes != len(config.nodes):
            raise ClusterRefused(f"{folder.config_file} has {len(config.nodes)} nodes, not {nodes}: leave out --nodes")
        if managers and managers != len(config.managers):
            raise ClusterRefused(
                f"{folder.config_file} has {len(config.managers)} managers, not {managers}: leave out --managers"
            )
        if port and not config.nodes[0].address.endswith(f":{port}"):
            raise ClusterRefused(
                f"{folder.config_file} begins at {config.nodes[0].address}, not at port {port}: leave out --port"
            )
        return folder
    count = DEFAULT_NODES if nodes is None else nodes
    first = DEFAULT_PORT if port is None else port
    controlling = DEFAULT_MANAGERS if managers is None else managers
    if first == 0:
        found = free_ports(3 * (count + controlling))
        metrics_ports, found = found[: count + controlling], found[count + controlling :]
        ports, admin_ports = found[:count], found[count : 2 * count]
        manager_ports = list(zip(found[2 * count :: 2], found[2 * count + 1 :: 2], strict=True))
    else:
        ports, admin_ports = _ports(first, count), _ports(first + ADMIN_OFFSET, count)
        metrics_ports = _ports(first + METRICS_OFFSET, count) + _ports(first + MANAGER_METRICS_OFFSET, controlling)
        manager_ports = list(
            zip(
                _ports(first + MANAGER_PORT_OFFSET, controlling),
                _ports(first + MANAGER_ADMIN_OFFSET, controlling),
                strict=True,
            )
        )
    for taken in (*ports, *admin_ports, *chain(*manager_ports), *metrics_ports):
        # Before it is written down: the folder would be bound to ports that it never had.
        _check_free(f"{LOOPBACK}:{taken}")
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.config_file.write_text(generated_config(count, ports, manager_ports, admin_ports, metrics_ports), "utf-8")
    return folder


def _ports(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


class LocalCluster:
    """The nodes and managers of one configuration, as processes of this one."""

    def __init__(
        self,
        folder: ClusterFolder,
        config_file: Path,
        node_command: Sequence[str] = NODE_COMMAND,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        wrappers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Read the configuration; start nothing.

        Args:
            node_command: what runs a node; `--config FILE --id NODE` is added.
            environments: by node or manager, variables that its process gets beside those of this one.
            wrappers: by node or manager, what its command is begun with; it must become that command, not start it.

        Raises:
            ConfigError: the configuration is wrong.
        """
        self.folder = folder
        self.config_file = config_file.absolute()
        self.config = load_config(self.config_file, os.environ)
        self._node_command = tuple(node_command)
        self._environments = environments or {}
        self._wrappers = {} if wrappers is None else wrappers
        self._children: dict[str, ChildNode] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the nodes listen."""
        return tuple(node.address for node in self.config.nodes)

    def url(self, keyspace: str = "default") -> str:
        """Return the URL for clients."""
        return f"{self.scheme}://{','.join(self.addresses)}/{keyspace}"

    @property
    def scheme(self) -> str:
        """How its URLs begin."""
        return "shoals" if self.config.tls.on else "shoal"

    @property
    def _names(self) -> list[str]:
        return [node.id for node in self.config.nodes] + [manager.id for manager in self.config.managers]

    @property
    def running(self) -> dict[str, ChildNode]:
        """The nodes whose processes run, by id."""
        return {node: child for node, child in self._children.items() if not child.ended()}

    def startable(self, *, beside_others: bool = False) -> list[str]:
        """Return the nodes and managers that do not run yet, if nothing is in the way of starting them.

        Args:
            beside_others: where some of them run already, started from elsewhere, the rest may be started.

        Raises:
            ClusterRefused: all of this folder run already, or any and not `beside_others`; or an address is taken.
        """
        already = find_nodes(self.folder)
        missing = [name for name in self._names if name not in {node.node for node in already}]
        if already and not (beside_others and missing):
            nodes = ", ".join(f"{node.node} (process {node.pid})" for node in already)
            rest = f", or start {', '.join(missing)} with --detach" if missing else ""
            raise ClusterRefused(
                f"this cluster runs already: {nodes}; end it with `shoal down --data {self.folder.root}`{rest}"
            )
        addresses = [(node.id, (node.listens_at, node.admin, node.metrics)) for node in self.config.nodes]
        addresses += [(entry.id, (entry.address, entry.admin, entry.metrics)) for entry in self.config.managers]
        for name, taken in addresses:
            if name in missing:
                for address in filter(None, taken):
                    _check_free(address)
        return missing

    def start(self, node: str, options: Sequence[str] = ()) -> ChildNode:
        """Start one node, or manager, which must not run.

        Args:
            options: of its command, beside those that name its configuration and itself.
        """
        if node in self.running:
            raise ValueError(f"node {node} runs already")
        manages = any(manager.id == node for manager in self.config.managers)
        run = MANAGER_COMMAND if manages else self._node_command
        command = [*self._wrappers.get(node, ()), *run, "--config", str(self.config_file), "--id", node, *options]
        # Relative paths of the configuration mean its own folder, whoever starts the node and from wherever.
        child = start_node(self.folder, node, command, self.config_file.parent, self._environments.get(node))
        self._children[node] = child
        return child

    def start_all(self, names: Iterable[str] | None = None) -> None:
        """Start every node, and the managers; or those that are named."""
        for name in names or self._names:
            self.start(name)

    def take_exits(self) -> list[NodeExit]:
        """Return the nodes that have ended since the last call, and forget them."""
        exits: list[NodeExit] = []
        for node, child in list(self._children.items()):
            code = child.exit_code()
            if code is not None:
                del self._children[node]
                self.folder.process_file(node).unlink(missing_ok=True)
                exits.append(NodeExit(node, code, tuple(log_tail(self.folder.log_file(node), TAIL_LINES))))
        return exits

    async def examine(self) -> Examination:
        """Ask all nodes how they are.

        Raises:
            Unavailable: none answers.
        """
        return await examine(self.addresses, EXAMINE_TIMEOUT_SECONDS, tls=self.tls())

    def tls(self) -> SSLContext | None:
        """Return what one of its nodes connects to others with; None: without TLS."""
        tls = self.config.tls
        if not tls.on:
            return None
        return client_context(TlsFiles(str(tls.authorities), str(tls.certificate), str(tls.key)))

    async def is_ready(self) -> bool:
        """Whether every shard has a leader, and every replica on a node that runs is in step."""
        return not await self.not_ready()

    async def not_ready(self) -> list[str]:
        """Return what is in the way of `is_ready`, in words, the nodes' own troubles first."""
        try:
            found = await self.examine()
        except Unavailable as error:
            return [str(error)]
        running = self.running
        in_the_way = [
            problem
            for problem in found.problems
            if problem.kind is ProblemKind.SHARD_WITHOUT_LEADER
            or (problem.node in running and problem.kind is not ProblemKind.NODE_NOT_LEADING)
        ]
        in_the_way.sort(key=lambda problem: problem.node is None)
        return [problem.message for problem in in_the_way]

    async def stop(self, hurry: asyncio.Event | None = None) -> list[str]:
        """End every node in order; return those that had to be killed."""
        killed = await stop_nodes(list(self._children.values()), hurry=hurry)
        self.take_exits()
        return killed


def _check_free(address: str) -> None:
    try:
        taken = port_in_use(address)
    except OSError as error:
        raise ClusterRefused(f"a node cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
    if taken:
        raise ClusterRefused(
            f"{address}, where a node is to listen, is in use: choose another --port, or end who is there"
        )


async def stop_recorded(folder: ClusterFolder, names: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """End the nodes of a folder that other processes have started; return (nodes ended, those of them killed).

    Args:
        names: only these.

    Raises:
        ClusterRefused: one of them does not run.
    """
    found = find_nodes(folder)
    running = [node.node for node in found]
    strange = [name for name in names if name not in running]
    if strange:
        there = f"; {', '.join(running)} do" if running else ""
        raise ClusterRefused(f"{strange[0]!r} does not run in {folder.root}{there}")
    found = [node for node in found if not names or node.node in names]
    killed = await stop_nodes(found)
    for node in found:
        folder.process_file(node.node).unlink(missing_ok=True)
    return [node.node for node in found], killed

"""A cluster with shard managers, whose orders are given by the command line, and nodes that join it later."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from shoal import AsyncClient
from shoal.admin.survey import Survey, examine, survey
from shoal.cli.failures import ExitCode
from shoal_server.local.cluster import NODE_COMMAND, LocalCluster, NodeExit
from shoal_server.local.layout import LOOPBACK, ClusterFolder, free_ports
from shoal_server.local.processes import ChildNode

from shoal_chaos.clusters.commands import CommandRunner, OrderFailed, command_output, run_command

CONDITION_SECONDS = 60.0
CONDITION_INTERVAL_SECONDS = 0.05
READY_KEYS = 200
MANAGER_TIMEOUT = "30s"
"""How long an order may wait for a manager that is being started again, on a machine that has much else to do."""

STEP_BEGUN = ('"event": "operation"', '"state": "running"')
MERGE_LINGER = "2s"
"""How long a shard that was merged into another still answers; by default for longer than anybody wants to watch."""


class Ended(msgspec.Struct, frozen=True):
    """An operation that is over, as `--json` prints it; milliseconds since 1970."""

    id: int
    kind: str
    state: str
    created_ms: int
    ended_ms: int
    reason: str = ""


class ManagedCluster:
    """Processes on loopback: some nodes that found the cluster, others that join it when asked, and managers."""

    def __init__(
        self,
        root: Path,
        *,
        founders: int = 3,
        joiners: int = 2,
        managers: int = 1,
        keyspace: str,
        timing: str = "",
        fronted: bool = False,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        hosts: Mapping[str, str] | None = None,
        wrappers: Mapping[str, Sequence[str]] | None = None,
        run_command: CommandRunner = run_command,
    ) -> None:
        """Write the configuration; start nothing.

        Args:
            keyspace: the settings of the keyspace `default`, such as "shards: 8".
            timing: settings of the section `timing`, such as "support: 2s"; "": the defaults.
            fronted: nodes listen elsewhere than where others look for them (see `ports`).
            environments: by node or manager, variables for its process.
            hosts: by node or manager, the address that it listens at, where that is not loopback.
            wrappers: by node or manager, what its command is begun with.
            run_command: runs `shoal ...`, as `commands.run_command` does.
        """
        folder = ClusterFolder(root)
        nodes = founders + joiners
        ports = free_ports(2 * nodes + 2 * managers)
        fronts, backs, manager_ports = ports[:nodes], ports[nodes : 2 * nodes], ports[2 * nodes :]
        self.ports = {
            f"n{number}": (front, back if fronted else front)
            for number, (front, back) in enumerate(zip(fronts, backs, strict=True), start=1)
        }
        """By node: at which port others look for it, and at which it listens."""
        manager_names = [f"m{number}" for number in range(1, managers + 1)]
        host = {name: (hosts or {}).get(name, LOOPBACK) for name in (*self.ports, *manager_names)}
        node_lines = [
            f"  - {{id: {name}, region: local, zone: z{name[1:]}, address: {host[name]}:{front}, "
            f"listen: '{host[name]}:{back}', data: ./{name}}}"
            for name, (front, back) in self.ports.items()
        ]
        manager_lines = [
            f"  - {{id: {name}, address: {host[name]}:{port}, admin: '{host[name]}:{admin}', data: ./{name}}}"
            for name, port, admin in zip(manager_names, manager_ports[::2], manager_ports[1::2], strict=True)
        ]
        # Others on this machine may have clusters, too: should one get a port of ours, it must not be taken for one of us.
        cluster = f"managed-{ports[0]}"
        rest = ["managers:", *manager_lines, f"timing: {{{timing}}}", "keyspaces:", f"  default: {{{keyspace}}}"]
        root.mkdir(parents=True, exist_ok=True)
        founding = root / "founding.yaml"
        founding.write_text("\n".join([f"cluster: {cluster}", "nodes:", *node_lines[:founders], *rest]) + "\n", "utf-8")
        folder.config_file.write_text("\n".join([f"cluster: {cluster}", "nodes:", *node_lines, *rest]) + "\n", "utf-8")
        self.folder = folder
        self._run_command = run_command
        self._ending: set[str] = set()
        self._founding = LocalCluster(folder, founding, NODE_COMMAND, environments, wrappers)
        joining = (*NODE_COMMAND, "--join")
        self._joining = LocalCluster(folder, folder.config_file, joining, environments, wrappers)
        self._founders = [node.id for node in self._founding.config.nodes]
        self._managers = [manager.id for manager in self._founding.config.managers]
        self.joiners = [node.id for node in self._joining.config.nodes if node.id not in self._founders]

    # -- processes

    @property
    def url(self) -> str:
        """For clients: the nodes that found the cluster."""
        return self._founding.url()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the founding nodes listen."""
        return self._founding.addresses

    def start(self, name: str) -> None:
        """Start a node or a manager that does not run."""
        self._home(name).start(name)

    @property
    def running(self) -> set[str]:
        """The nodes and managers whose processes run."""
        return {*self._founding.running, *self._joining.running}

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a node or a manager."""
        self._child(name).signal(number)

    async def end(self, name: str, number: signal.Signals) -> None:
        """End a node or a manager by a signal, and wait until it is gone.

        Raises:
            RuntimeError: others have ended as well, by themselves.
        """
        child = self._child(name)
        self._ending.add(name)
        child.signal(number)
        await until(f"{name} has ended", _ended(child))
        others = [gone for gone in self.take_exits() if gone.node not in self._ending]
        self._ending.discard(name)
        if others:
            raise RuntimeError(f"processes have ended by themselves: {others}")

    def take_exits(self) -> list[NodeExit]:
        """Return the processes that have ended since the last call."""
        return self._founding.take_exits() + self._joining.take_exits()

    async def start_all(self) -> None:
        """Start the founding nodes and the managers; wait until all serves."""
        self._founding.start_all()
        async with AsyncClient(self.url, timeout=CONDITION_SECONDS) as db:
            await db.put_many({f"ready-{number}": "yes" for number in range(READY_KEYS)})
        if not self._managers:
            return
        await until("the managers answer", self._managers_answer)
        await self.run("settings", "--set", f"merge_linger={MERGE_LINGER}")

    async def stop_all(self) -> None:
        """End whatever runs."""
        await self._joining.stop()
        await self._founding.stop()

    def _home(self, name: str) -> LocalCluster:
        return self._joining if name in self.joiners else self._founding

    def _child(self, name: str) -> ChildNode:
        return self._home(name).running[name]

    # -- orders

    async def run(self, *arguments: str) -> bytes:
        """Run `shoal ...`; return what it printed.

        Raises:
            OrderFailed: it did not end well.
        """
        return await command_output(arguments, self._environment, self._run_command)

    async def order(self, *arguments: str) -> Ended:
        """Give an order, and wait until the operation is done.

        Raises:
            OrderFailed: it was refused, or did not end well.
        """
        ended = msgspec.json.decode(await self.run(*arguments, "--json", "--timeout", MANAGER_TIMEOUT), type=Ended)
        if ended.state != "done":
            raise OrderFailed(f"`shoal {' '.join(arguments)}` is {ended.state}: {ended.reason}")
        return ended

    async def join(self, name: str) -> None:
        """Start a node that the cluster does not know, and wait until the others do."""
        self.start(name)

        async def known() -> bool:
            return any(node.id == name for node in (await self.survey()).shard_map.nodes)

        await until(f"{name} has joined", known)

    async def rolling_restart(self) -> None:
        """Restart every node when the managers say that it is its turn.

        Raises:
            OrderFailed: it was refused, or did not end well.
        """
        wanted = self.folder.root / "restart"
        wanted.mkdir(exist_ok=True)
        async with asyncio.TaskGroup() as group:
            restarting = group.create_task(self._restart_wanted(wanted))
            await self.order("rolling-restart", "--command", f"touch {shlex.quote(str(wanted))}/{{node}}")
            restarting.cancel()

    async def _restart_wanted(self, folder: Path) -> None:
        """Restart the nodes that there are files of."""
        while True:
            for name in _taken(folder):
                await self.end(name, signal.SIGTERM)
                self.start(name)
            await asyncio.sleep(CONDITION_INTERVAL_SECONDS)

    async def survey(self) -> Survey:
        """Ask all nodes how they are."""
        return await survey(self.addresses)

    async def well(self) -> None:
        """Wait until every shard has its leader and all its replicas are in step."""

        async def is_well() -> bool:
            return not (await examine(self.addresses)).problems

        await until("every replica is in step", is_well)

    def operation_steps(self) -> int:
        """Return how many steps of operations the managers have begun, as they say in their logs."""
        lines = [line for name in self._managers for line in self.folder.log_file(name).read_text().splitlines()]
        return sum(all(words in line for words in STEP_BEGUN) for line in lines)

    async def _managers_answer(self) -> bool:
        code, _, _ = await self._run_command(("operations", "--json", "--timeout", "1s"), self._environment)
        return code == ExitCode.DONE

    @property
    def _environment(self) -> dict[str, str]:
        admin = ",".join(manager.admin for manager in self._founding.config.managers if manager.admin)
        return {"SHOAL_MANAGERS": admin, "SHOAL_URL": self.url}


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds.

    Raises:
        TimeoutError: it does not in time; the message says what was waited for.
    """
    try:
        async with asyncio.timeout(CONDITION_SECONDS):
            while not await condition():  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(CONDITION_INTERVAL_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"not within {CONDITION_SECONDS:g} s: {what}") from error


def _ended(child: ChildNode) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return child.ended()

    return ended


def _taken(folder: Path) -> list[str]:
    """Remove the files of a folder; return their names."""
    names = [file.name for file in folder.iterdir()]
    for name in names:
        (folder / name).unlink()
    return names

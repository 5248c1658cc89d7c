"""A cluster of processes on this machine, whose operators' requests are given by the command line."""

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
from shoal_server.config import ClusterConfig
from shoal_server.local.cluster import NODE_COMMAND, LocalCluster, NodeExit
from shoal_server.local.layout import ClusterFolder
from shoal_server.local.processes import ChildNode

from shoal_chaos.clusters.commands import CommandRunner, RequestFailed, command_output, run_command
from shoal_chaos.clusters.configuration import Configuration

CONDITION_SECONDS = 60.0
CONDITION_INTERVAL_SECONDS = 0.05
READY_KEYS = 200
MANAGER_TIMEOUT = "30s"
"""How long a request may wait for a manager that is being started again, on a machine that has much else to do."""

STEP_BEGUN = ('"event": "operation"', '"state": "running"')
MERGE_LINGER = "2s"


class Ended(msgspec.Struct, frozen=True):
    """An operation that is over, as `--json` prints it; milliseconds since 1970."""

    id: int
    kind: str
    state: str
    created_ms: int
    ended_ms: int
    reason: str = ""


class ProcessCluster:
    """Processes that this one has started: nodes, managers, and nodes that join when asked. No others are ever signalled.

    `folder`: where their configuration, data and logs are. `names`, `joiners`, `managers`: who there is; of the nodes, those
    that found the cluster, and those that join it. `wrappers`: looked at each time that a process is started.
    """

    def __init__(
        self,
        root: Path,
        configuration: Configuration,
        *,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        wrappers: Mapping[str, Sequence[str]] | None = None,
        run_command: CommandRunner = run_command,
    ) -> None:
        """Write the configuration; start nothing.

        Args:
            environments: by node or manager, variables for its process.
            wrappers: by node or manager, what its command is begun with.
            run_command: runs `shoal ...`, as `commands.run_command` does.
        """
        self.folder = folder = ClusterFolder(root)
        root.mkdir(parents=True, exist_ok=True)
        folder.config_file.write_text(configuration.text, "utf-8")
        founding = folder.config_file
        if configuration.founding:
            founding = root / "founding.yaml"
            founding.write_text(configuration.founding, "utf-8")
        self.wrappers: dict[str, Sequence[str]] = dict(wrappers or {})
        self._founding = LocalCluster(folder, founding, NODE_COMMAND, environments, self.wrappers)
        self._joining = LocalCluster(folder, folder.config_file, NODE_COMMAND, environments, self.wrappers)
        self.names = [node.id for node in self.config.nodes]
        self.joiners = [node.id for node in self._joining.config.nodes if node.id not in self.names]
        self.managers = [manager.id for manager in self.config.managers]
        self._run_command = run_command
        self._ending: set[str] = set()

    @property
    def root(self) -> Path:
        return self.folder.root

    @property
    def url(self) -> str:
        """For clients: the nodes that found the cluster, and over TLS whom to trust."""
        tls = self.config.tls
        return self._founding.url() + (f"?cafile={tls.authorities}" if tls.on else "")

    @property
    def config(self) -> ClusterConfig:
        """What the founding nodes are configured by."""
        return self._founding.config

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the founding nodes listen."""
        return self._founding.addresses

    @property
    def ports(self) -> list[int]:
        """At which the founding nodes listen."""
        return [int(address.rpartition(":")[2]) for address in self.addresses]

    @property
    def environment(self) -> dict[str, str]:
        """Where the commands of `shoal` find this cluster, and what they show it: they are an operator's."""
        tls = self.config.tls
        scheme = "shoals://" if tls.on else ""
        admin = ",".join(f"{scheme}{manager.admin}" for manager in self.config.managers if manager.admin)
        trust = {
            "SHOAL_CAFILE": str(tls.authorities),
            "SHOAL_CERTFILE": str(tls.certificate),
            "SHOAL_KEYFILE": str(tls.key),
        }
        return {"SHOAL_MANAGERS": admin, "SHOAL_URL": self._founding.url(), **(trust if tls.on else {})}

    def log_of(self, name: str) -> str:
        """Return what a process has logged, in all its lives."""
        return self.folder.log_file(name).read_text()

    # -- processes

    def start(self, name: str, *options: str) -> None:
        """Start a node or a manager that does not run; a node that does not found the cluster joins it."""
        joins = ("--join",) if name in self.joiners else ()
        self._home(name).start(name, (*joins, *options))

    def start_all(self) -> None:
        """Start the founding nodes and the managers."""
        self._founding.start_all()

    @property
    def running(self) -> dict[str, ChildNode]:
        """The nodes and managers whose processes run."""
        return {**self._founding.running, **self._joining.running}

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a node or a manager."""
        self.running[name].signal(number)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.send_signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.send_signal(name, signal.SIGCONT)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end.

        Raises:
            RuntimeError: see `end`.
        """
        await self.end(name, signal.SIGKILL)

    async def stop(self, name: str) -> int:
        """SIGTERM, and wait for the end; return the exit code.

        Raises:
            RuntimeError: see `end`.
        """
        return await self.end(name, signal.SIGTERM)

    async def end(self, name: str, number: signal.Signals) -> int:
        """End a node or a manager by a signal, and wait until it is gone; return the exit code, negative for a signal.

        Raises:
            RuntimeError: others have ended as well, by themselves.
        """
        child = self.running[name]
        self._ending.add(name)
        child.signal(number)
        await until(f"{name} has ended", _ended(child))
        others = [gone for gone in self.take_exits() if gone.node not in self._ending]
        self._ending.discard(name)
        if others:
            raise RuntimeError(f"processes have ended by themselves: {others}")
        return child.exit_code() or 0

    async def kill_all(self) -> None:
        """SIGKILL whatever runs, and wait for the ends."""
        dying = list(self.running.values())
        for child in dying:
            child.signal(signal.SIGKILL)
        for child in dying:
            await until(f"{child.node} has ended", _ended(child))
        self.take_exits()

    async def stop_all(self) -> None:
        """End whatever runs, in order."""
        await self._joining.stop()
        await self._founding.stop()

    def take_exits(self) -> list[NodeExit]:
        """Return the processes that have ended since the last call."""
        return self._founding.take_exits() + self._joining.take_exits()

    def _home(self, name: str) -> LocalCluster:
        return self._joining if name in self.joiners else self._founding

    # -- how it is

    async def ready(self) -> None:
        """Wait until every shard of the keyspace `default` takes a write, and the managers answer, if there are some."""
        async with AsyncClient(self.url, timeout=CONDITION_SECONDS) as db:
            await db.put_many({f"ready-{number}": "yes" for number in range(READY_KEYS)})
        if self.managers:
            await until("the managers answer", self._managers_answer)

    async def leader(self, place: float) -> str:
        """Return the node that leads the shard at `place`, from 0 to 1, among all that have a leader."""
        found = await self.survey()
        leaders = [found.leader(shard.id) for shard in found.shard_map.shards]
        nodes = [leader.node for leader in leaders if leader is not None]
        return nodes[int(place * len(nodes))]

    async def survey(self) -> Survey:
        """Ask all nodes how they are."""
        return await survey(self.addresses, tls=self._founding.tls())

    async def well(self) -> None:
        """Wait until every shard has its leader and all its replicas are in step."""

        async def is_well() -> bool:
            return not (await examine(self.addresses, tls=self._founding.tls())).problems

        await until("every replica is in step", is_well)

    def operation_steps(self) -> int:
        """Return how many steps of operations the managers have begun, as they say in their logs."""
        lines = [line for name in self.managers for line in self.log_of(name).splitlines()]
        return sum(all(words in line for words in STEP_BEGUN) for line in lines)

    async def _managers_answer(self) -> bool:
        code, _, _ = await self._run_command(("operations", "--json", "--timeout", "1s"), self.environment)
        return code == ExitCode.DONE

    # -- requests

    async def run(self, *arguments: str) -> bytes:
        """Run `shoal ...`; return what it printed.

        Raises:
            RequestFailed: it did not end well.
        """
        return await command_output(arguments, self.environment, self._run_command)

    async def request(self, *arguments: str) -> Ended:
        """Send an operator's request, and wait until the operation is done.

        Raises:
            RequestFailed: it was refused, or did not end well.
        """
        ended = msgspec.json.decode(await self.run(*arguments, "--json", "--timeout", MANAGER_TIMEOUT), type=Ended)
        if ended.state != "done":
            raise RequestFailed(f"`shoal {' '.join(arguments)}` is {ended.state}: {ended.reason}")
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
            RequestFailed: it was refused, or did not end well.
        """
        wanted = self.folder.root / "restart"
        wanted.mkdir(exist_ok=True)
        async with asyncio.TaskGroup() as group:
            restarting = group.create_task(self._restart_wanted(wanted))
            await self.request("rolling-restart", "--command", f"touch {shlex.quote(str(wanted))}/{{node}}")
            restarting.cancel()

    async def _restart_wanted(self, folder: Path) -> None:
        """Restart the nodes that there are files of."""
        while True:
            for name in _taken(folder):
                await self.end(name, signal.SIGTERM)
                self.start(name)
            await asyncio.sleep(CONDITION_INTERVAL_SECONDS)

    async def linger_briefly(self) -> None:
        """Have shards that were merged into others go soon: by default they answer for longer than anybody wants to watch."""
        await self.run("settings", "--set", f"merge_linger={MERGE_LINGER}")


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

"""`shoal up`, `down`, `node`: a cluster's processes on this machine."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption, checked_duration
from shoal.cli.output import note, print_json, print_line, print_table
from shoal.options import parse_duration

from shoal_server.config import ClusterConfig, ConfigError, load_config
from shoal_server.local.cluster import (
    DEFAULT_MANAGERS,
    DEFAULT_NODES,
    DEFAULT_PORT,
    ClusterRefused,
    LocalCluster,
    NodeExit,
    prepare_folder,
    stop_recorded,
)
from shoal_server.local.layout import ClusterFolder

WATCH_SECONDS = 0.2
DEFAULT_DATA = Path("data")

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="The cluster's configuration.")]
DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="The cluster's folder.")]


class StartedNode(msgspec.Struct):
    """Where a node is, as `up` prints it; `grpc` is "" where it serves none."""

    id: str
    address: str
    pid: int
    data: str
    log: str
    grpc: str


class StartedCluster(msgspec.Struct):
    """What `up --json` prints once the cluster serves."""

    url: str
    config: str
    nodes: list[StartedNode]
    managers: list[StartedNode] = []


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("node")(node)
    app.command("new-cluster-id")(new_cluster_id)


def up(
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, max=64, help="How many nodes.", show_default=str(DEFAULT_NODES))
    ] = None,
    managers: Annotated[
        int | None,
        typer.Option("--managers", min=0, max=7, help="How many shard managers.", show_default=str(DEFAULT_MANAGERS)),
    ] = None,
    data: DataOption = DEFAULT_DATA,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65000, help="The first node's port; 0: any free ones.", show_default=str(DEFAULT_PORT)
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Start the nodes of this configuration instead.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running; `shoal down` ends it.")] = False,
    timeout: Annotated[
        str,
        typer.Option("--timeout", metavar="DURATION", callback=checked_duration, help="How long the start may take."),
    ] = "60s",
    as_json: JsonOption = False,
) -> None:
    """Start a cluster on this machine, and stay until Ctrl-C.

    Every node is a process of its own. Started again on the same DIR, the cluster has its data; with --detach, those of its
    nodes are started that do not run.
    """
    if config is not None and (nodes is not None or managers is not None or port is not None):
        raise CommandFailed(
            "--config says which nodes there are: leave out --nodes, --managers and --port", ExitCode.USAGE
        )
    if managers and managers % 2 == 0:
        raise CommandFailed(f"{managers} managers bear no more failures than {managers - 1}", ExitCode.USAGE)
    timeout_seconds = parse_duration(timeout)
    try:
        if config is None:
            folder = prepare_folder(data, nodes=nodes, port=port, managers=managers)
            cluster = LocalCluster(folder, folder.config_file)
        else:
            cluster = LocalCluster(ClusterFolder(data.absolute()), config)
        missing = cluster.startable(beside_others=detach)
    except ClusterRefused as error:
        raise CommandFailed(str(error)) from error
    except ConfigError as error:
        raise _refused(error) from error
    asyncio.run(_Session(cluster, missing, detach=detach, as_json=as_json).run(timeout_seconds))


class _Session:
    """One run of `shoal up`: from the first process to the last."""

    def __init__(self, cluster: LocalCluster, names: list[str], *, detach: bool, as_json: bool) -> None:
        self._cluster = cluster
        self._names = names
        self._detach = detach
        self._as_json = as_json
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._any_failed = False

    async def run(self, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        left_running = False
        try:
            self._cluster.start_all(self._names)
            await self._wait_until_ready(loop.time() + timeout_seconds)
            if not self._stop.is_set():
                self._print_where()
                left_running = self._detach
                if not left_running:
                    await self._watch()
        finally:
            if not left_running:
                await self._end()

    def _on_signal(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _wait_until_ready(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        note(f"starting {', '.join(self._names)}")
        while not self._stop.is_set():
            self._report_exits()
            in_the_way = await self._cluster.not_ready()
            if not in_the_way:
                return
            if loop.time() >= deadline:
                more = f" (and {len(in_the_way) - 1} more)" if len(in_the_way) > 1 else ""
                raise CommandFailed(
                    f"the cluster does not serve yet, and is ended again: {in_the_way[0]}{more}; its logs are in "
                    f"{self._cluster.folder.root / 'logs'}",
                    ExitCode.UNAVAILABLE,
                )
            await self._pause()

    async def _watch(self) -> None:
        """Stay until told to stop, or until no node is left."""
        while not self._stop.is_set():
            self._report_exits()
            await self._pause()

    async def _pause(self) -> None:
        try:
            # Not `wait_for`: Python 3.11's loses a cancellation that comes at the same moment as what it waits for.
            async with asyncio.timeout(WATCH_SECONDS):
                await self._stop.wait()
        except TimeoutError:
            return

    def _report_exits(self) -> None:
        for exited in self._cluster.take_exits():
            note(_described(exited))
            self._any_failed |= exited.exit_code != 0
        if self._cluster.running or self._stop.is_set():
            return
        if self._any_failed:
            raise CommandFailed("no node is running any more", ExitCode.UNAVAILABLE)
        note("all nodes were ended from elsewhere")
        self._stop.set()

    def _print_where(self) -> None:
        cluster = self._cluster
        config, running = cluster.config, cluster.running
        started = [
            self._started(node.id, node.address, node.data, node.admin or "")
            for node in config.nodes
            if node.id in running
        ]
        managers = [
            self._started(entry.id, entry.address, entry.data, entry.admin)
            for entry in config.managers
            if entry.id in running and entry.admin is not None
        ]
        if self._as_json:
            print_json(StartedCluster(cluster.url(), str(cluster.config_file), started, managers))
        else:
            print_table(
                ("node", "address", "gRPC", "process", "data"),
                [(entry.id, entry.address, entry.grpc, entry.pid, entry.data) for entry in (*started, *managers)],
            )
            print_line(f"logs are in {cluster.folder.root / 'logs'}; for the other commands:")
            print_line(f"export SHOAL_URL={cluster.url()}")
            if managers:
                secure = "shoals://" if config.tls.on else ""
                print_line(f"export SHOAL_MANAGERS={secure}{','.join(manager.grpc for manager in managers)}")
            if config.tls.on:
                print_line(f"export SHOAL_CAFILE={config.tls.authorities}")
        if self._detach:
            note(f"left running; `shoal down --data {cluster.folder.root}` ends it")
        else:
            note("Ctrl-C ends it")

    def _started(self, name: str, address: str, data: Path, grpc: str) -> StartedNode:
        cluster = self._cluster
        log = str(cluster.folder.log_file(name))
        return StartedNode(name, address, cluster.running[name].pid, str(data), log, grpc)

    async def _end(self) -> None:
        if not self._cluster.running:
            return
        note("ending the nodes; Ctrl-C once more kills them")
        for killed in await self._cluster.stop(self._hurry):
            note(f"node {killed} did not end when asked to, and was killed")


def _described(exited: NodeExit) -> str:
    if exited.exit_code == 0:
        return f"node {exited.node} has ended in good order, asked to by somebody else"
    how = f"by signal {signal.Signals(-exited.exit_code).name}" if exited.exit_code < 0 else f"code {exited.exit_code}"
    said = f"; its last words: {' | '.join(exited.last_lines)}" if exited.last_lines else ""
    return f"node {exited.node} has ended ({how}); the others go on{said}"


def down(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE...]", help="Only these.", show_default=False)
    ] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """End the nodes and managers that `shoal up` left running on DIR."""
    folder = ClusterFolder(data.absolute())
    if not (folder.root / "run").is_dir():
        raise CommandFailed(f"no cluster was ever started in {folder.root}", ExitCode.NOT_FOUND)
    try:
        ended, killed = asyncio.run(stop_recorded(folder, names or ()))
    except ClusterRefused as error:
        raise CommandFailed(str(error), ExitCode.NOT_FOUND) from error
    if as_json:
        print_json({"ended": ended, "killed": killed})
    elif not ended:
        print_line(f"nothing is running in {folder.root}")
    for name in ended if not as_json else ():
        print_line(f"{name} {'was killed' if name in killed else 'ended'}")


def node(
    config: ConfigOption,
    node_id: Annotated[str, typer.Option("--id", metavar="NODE", help="Which of its nodes.")],
    join: Annotated[
        bool, typer.Option("--join", help="The cluster is there already: begin empty, and wait to be given shards.")
    ] = False,
) -> None:
    """Run one storage node in the foreground."""
    try:
        cluster = load_config(config, os.environ)
    except ConfigError as error:
        raise _refused(error) from error
    _check_id(cluster, node_id, config)
    from shoal_server.process.server import run  # loads the storage engine, which the other commands do without

    raise typer.Exit(run(cluster, node_id, join=join))


def new_cluster_id(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The data folders of nodes that do not run.")],
    cluster_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The id given to the nodes before.", show_default="a new one"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make copies of nodes' data folders a cluster of their own.

    Clients and peers tell clusters apart by their ids, which copies have in common with what they were copied from. All
    nodes of the new cluster need the same one: name all their folders, or give the id that was printed to the others.
    Where one of the folders cannot be taken, none is changed.
    """
    # They load the storage engine, which the other commands do without.
    from shoal_server.process.copies import rename_stored_cluster
    from shoal_server.storage.engine import DataFolderRefused, StorageFailed
    from shoal_server.storage.node_rows import CLUSTER_ID_BYTES

    if cluster_id is not None and re.fullmatch(f"[0-9a-f]{{{2 * CLUSTER_ID_BYTES}}}", cluster_id) is None:
        raise CommandFailed(
            f"--id {cluster_id!r}: an id has {2 * CLUSTER_ID_BYTES} digits of 0 to 9 and a to f", ExitCode.USAGE
        )
    given = cluster_id or secrets.token_hex(CLUSTER_ID_BYTES)
    try:
        rename_stored_cluster(folders, given)
    except (DataFolderRefused, StorageFailed) as error:
        raise CommandFailed(str(error)) from error
    if as_json:
        print_json({"cluster_id": given})
    else:
        print_line(given)


def _check_id(cluster: ClusterConfig, node_id: str, config: Path) -> None:
    known = [entry.id for entry in cluster.nodes]
    if node_id not in known:
        raise CommandFailed(f"{config} has no node {node_id!r}; it has {', '.join(known)}", ExitCode.USAGE)


def _refused(error: ConfigError) -> CommandFailed:
    return CommandFailed(f"the configuration is refused:\n{error}", ExitCode.USAGE)

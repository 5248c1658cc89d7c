"""`shoal rolling-restart`: the managers say whose turn it is, and this command has that node restarted.

What it does is in the managers' operation, so it may be ended and begun again: it goes on where the operation stands. Whether
the command has run for the node whose turn it is, the managers cannot know as long as that node's process is the old one. So
begun again it runs the command once more, unless the node is away already: then somebody restarts it.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Annotated

import typer
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption
from shoal.cli.output import note

from shoal_shardmanager.cli.options import (
    DEFAULT_TIMEOUT,
    ConfigOption,
    DetachOption,
    ManagersOption,
    PlanOption,
    TimeoutOption,
    VersionOption,
    client_of,
)
from shoal_shardmanager.cli.output import follow, print_operation, print_plan
from shoal_shardmanager.rpc.client import ManagersClient
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

KIND = "rolling-restart"
RESTART_STEP = "restart"
NODE_PLACE = "{node}"
STDERR = 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(KIND)(rolling_restart)


def rolling_restart(
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE...]", help="Which, in order; none: all.")] = None,
    command: Annotated[
        str,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="What restarts a node, run by the shell here, such as 'ssh {node} systemctl restart shoal'; it is to end "
            "once the old process has, and may be run twice for a node if this is ended meanwhile and given again. "
            "Without it this says which node is to be restarted, and waits.",
        ),
    ] = "",
    managers: ManagersOption = None,
    config: ConfigOption = None,
    plan: PlanOption = False,
    detach: DetachOption = False,
    if_version: VersionOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Restart nodes one after the other: each gives its leaderships away first, and the next one waits until it is back.

    Refused unless every shard has its leader and all its replicas in step; never are two replicas of a shard away at
    once. Given again, it goes on where it was; give it from one place at a time. A node that is gone when its turn comes is
    skipped; one that does not come back in time ends it.
    """
    if command and NODE_PLACE not in command:
        raise CommandFailed(f"--command must say where the node's id goes, as {NODE_PLACE}", ExitCode.USAGE)
    client = client_of(managers, config, timeout)
    request = pb.StartRequest(
        rolling_restart=pb.RollingRestart(nodes=nodes or ()), plan_only=plan, if_version=if_version
    )
    if plan:
        print_plan(client.start(request), as_json=as_json)
        return
    known = next((one for one in client.operations(running_only=True) if one.kind == KIND), None)
    if known is not None:
        if nodes:
            raise CommandFailed(
                f"operation {known.id} is a rolling restart already: without nodes, this goes on with it; `shoal cancel "
                f"{known.id}` ends it",
                ExitCode.CONFLICT,
            )
        note(f"going on with operation {known.id}")
    operation = known if known is not None else client.start(request).operation
    if detach:
        print_operation(operation, as_json=as_json)
        return
    restarter = _Restarter(command)
    if known is not None and known.step == RESTART_STEP and not _answers(client, known.node):
        note(f"node {known.node} is away: whoever was here before is restarting it, and it is waited for")
        restarter.told = known.node
    follow(client, operation.id, as_json=as_json, on_change=restarter.take)


def _answers(client: ManagersClient, node: str) -> bool:
    return any(known.id == node and not known.silent_because for known in client.cluster().nodes)


class _Restarter:
    """Has the node restarted whose turn it is, once. `told`: the last one for which that was done."""

    def __init__(self, command: str) -> None:
        self.told = ""
        self._command = command

    def take(self, operation: pb.Operation) -> None:
        """Take in how the operation stands."""
        if operation.step != RESTART_STEP or operation.state != "running" or operation.node == self.told:
            return
        self.told = operation.node
        if not self._command:
            note(f"restart node {operation.node} now")
            return
        note(f"restarting node {operation.node}")
        line = self._command.replace(NODE_PLACE, shlex.quote(operation.node))
        # It is the operator's own command; what it prints is none of the data that this one prints.
        code = subprocess.run(line, shell=True, check=False, stdout=STDERR).returncode
        if code:
            raise CommandFailed(
                f"the command for node {operation.node} ended with {code}: {line}; operation {operation.id} waits: give "
                f"`shoal {KIND}` again, or `shoal cancel {operation.id}`"
            )

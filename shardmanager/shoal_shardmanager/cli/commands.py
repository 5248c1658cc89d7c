"""`shoal manager`, `move`, `drain`, `rebalance`, `operations` and the other commands of the control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from shoal.bounds import MAX_VERSION
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption
from shoal.cli.output import print_json, print_line
from shoal_server.config import ConfigError, load_config

from shoal_shardmanager.cli import keyspaces, resharding, restart, settings
from shoal_shardmanager.cli.options import (
    DEFAULT_TIMEOUT,
    ConfigOption,
    DetachOption,
    ManagersOption,
    NodeArgument,
    OperationArgument,
    ShardArgument,
    TimeoutOption,
    client_of,
    environment,
    request_command,
)
from shoal_shardmanager.cli.output import follow, print_operation, print_operations
from shoal_shardmanager.rpc.generated import admin_pb2 as pb


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("manager")(manager)
    app.command("move")(move)
    app.command("drain")(drain)
    app.command("undrain")(undrain)
    app.command("remove-node")(remove_node)
    app.command("failover")(failover)
    app.command("rebalance")(rebalance)
    app.command("operations")(operations)
    app.command("cancel")(cancel)
    app.command("why")(why)
    for part in (keyspaces, resharding, restart, settings):
        part.register(app)


def manager(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The cluster's configuration.")],
    manager_id: Annotated[str, typer.Option("--id", metavar="MANAGER", help="Which of its managers.")],
) -> None:
    """Run one shard manager in the foreground."""
    from shoal_shardmanager.process.settings import NoManagers, managers_config

    try:
        cluster = load_config(config, environment())
        managers_config(cluster)
    except ConfigError as error:
        raise CommandFailed(f"the configuration is refused:\n{error}", ExitCode.USAGE) from error
    except NoManagers as error:
        raise CommandFailed(f"{config} is not for managers: {error}", ExitCode.USAGE) from error
    known = {entry.id: entry for entry in cluster.managers}
    if manager_id not in known:
        raise CommandFailed(f"{config} has no manager {manager_id!r}; it has {', '.join(known)}", ExitCode.USAGE)
    if not known[manager_id].admin:
        raise CommandFailed(
            f"manager {manager_id!r} has no `admin:` in {config}, where operators reach it, such as 127.0.0.1:7550",
            ExitCode.USAGE,
        )
    from shoal_shardmanager.process.manager import run  # loads the storage engine, which the other commands do without

    raise typer.Exit(run(cluster, manager_id))


@request_command
def move(
    shard: ShardArgument,
    source: Annotated[str, typer.Option("--from", metavar="NODE", help="The node that gives its replica up.")],
    target: Annotated[str, typer.Option("--to", metavar="NODE", help="The node that takes it.")],
) -> pb.StartRequest:
    """Move a replica of a shard from one node to another, live.

    The new replica votes before the old one loses its vote, so that there are never fewer voters than asked for.
    """
    return pb.StartRequest(move=pb.Move(shard=shard, source=source, target=target))


@request_command
def drain(node: NodeArgument) -> pb.StartRequest:
    """Move everything off a node; nothing new is placed there from the first moment.

    Refused if the node cannot be emptied. Done once the node itself says that it holds nothing.
    """
    return pb.StartRequest(drain=pb.Drain(node=node))


@request_command
def undrain(node: NodeArgument) -> pb.StartRequest:
    """Let a drained or draining node hold replicas again."""
    return pb.StartRequest(undrain=pb.Undrain(node=node))


@request_command
def remove_node(node: NodeArgument) -> pb.StartRequest:
    """Have the cluster forget a node that is empty: drained, or gone and replaced. Its id is never used again."""
    return pb.StartRequest(remove_node=pb.RemoveNode(node=node))


@request_command
def failover(node: NodeArgument) -> pb.StartRequest:
    """Take all leaderships from a node at once; its replicas stay."""
    return pb.StartRequest(failover=pb.Failover(node=node))


@request_command
def rebalance() -> pb.StartRequest:
    """Even out replicas, leaders and load over the nodes, a few moves at a time, until nothing is gained any more."""
    return pb.StartRequest(rebalance=pb.Rebalance())


def operations(
    operation: Annotated[
        int | None, typer.Argument(metavar="[ID]", min=0, max=MAX_VERSION, help="Only this one.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    running: Annotated[bool, typer.Option("--running", help="Leave out those that have ended.")] = False,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """List the operations, or show one: how far it is, and what it waits for."""
    client = client_of(managers, config, timeout)
    if operation is None:
        if watch:
            raise CommandFailed("--watch needs the ID of an operation", ExitCode.USAGE)
        print_operations(client.operations(running_only=running), as_json=as_json)
    elif watch:
        follow(client, operation, as_json=as_json)
    else:
        print_operation(client.operation(operation), as_json=as_json)


def cancel(
    operation: OperationArgument,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel an operation: what it has half done is undone."""
    client = client_of(managers, config, timeout)
    found = client.cancel(operation)
    if detach or found.state != "running":
        print_operation(found, as_json=as_json)
    else:
        follow(client, operation, as_json=as_json, well=("cancelled",))


def why(
    shard: ShardArgument,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Say why the replicas of a shard are where they are, and what was refused."""
    lines = client_of(managers, config, timeout).explain(shard)
    if as_json:
        print_json({"shard": shard, "lines": lines})
    else:
        for line in lines:
            print_line(line)

"""`shoal manager`, `move`, `drain`, `rebalance`, `operations` and the other commands of the control plane."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from shoal.bounds import MAX_FOLLOWERS, MAX_MICROSHARDS, MAX_VERSION, MAX_VOTERS
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption, checked_duration, checked_ttl, parse_ttl
from shoal.cli.output import print_json, print_line
from shoal.options import parse_duration
from shoal_server.config import ConfigError, load_config

from shoal_shardmanager.cli import resharding, restart, settings
from shoal_shardmanager.cli.options import (
    DEFAULT_TIMEOUT,
    ConfigOption,
    DetachOption,
    ManagersOption,
    NodeArgument,
    OperationArgument,
    PlanOption,
    ShardArgument,
    TimeoutOption,
    client_of,
    environment,
    request_command,
)
from shoal_shardmanager.cli.output import follow, print_operation, print_operations
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

_COUNT = re.compile("[0-9]{1,2}")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The keyspace's name.")]

keyspace_app = typer.Typer(help="Create, alter and drop keyspaces.", no_args_is_help=True)


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
    app.add_typer(keyspace_app, name="keyspace")
    for part in (resharding, restart, settings):
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


MicroshardsOption = Annotated[
    int | None, typer.Option("--microshards", min=1, max=MAX_MICROSHARDS, help="How many; fixed for ever.")
]
ShardsOption = Annotated[
    int | None, typer.Option("--shards", min=1, max=MAX_MICROSHARDS, help="How many to begin with.")
]
DelimiterOption = Annotated[str | None, typer.Option("--delimiter", help="Ends the partition in a key.")]
VotersOption = Annotated[
    int | None, typer.Option("--voters", min=1, max=MAX_VOTERS, help="Replicas with a vote: 1, 3, 5 or 7.")
]
FollowersOption = Annotated[
    int | None, typer.Option("--followers", min=0, max=MAX_FOLLOWERS, help="Replicas without a vote.")
]
StalenessOption = Annotated[
    str | None,
    typer.Option("--max-staleness", metavar="DURATION", callback=checked_duration, help="Of eventual reads."),
]
TtlOption = Annotated[
    str | None,
    typer.Option("--default-ttl", metavar="DURATION", callback=checked_ttl, help="Of rows; 0: for ever."),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="REGION=N", help="A region that must hold at least N replicas; repeatable."),
]
LeaderRegionOption = Annotated[
    list[str] | None,
    typer.Option("--leader-region", metavar="REGION", help="Where leaders should be, the best first; repeatable."),
]


@keyspace_app.command("create")
@request_command
def create_keyspace(
    name: NameArgument,
    microshards: MicroshardsOption = None,
    shards: ShardsOption = None,
    delimiter: DelimiterOption = None,
    voters: VotersOption = None,
    followers: FollowersOption = None,
    max_staleness: StalenessOption = None,
    default_ttl: TtlOption = None,
    require: RequireOption = None,
    leader_region: LeaderRegionOption = None,
) -> pb.StartRequest:
    """Create a keyspace, live; done once all its shards serve."""
    settings = _settings(name, voters, followers, max_staleness, default_ttl, require, leader_region)
    if microshards is not None:
        settings.microshards = microshards
    if shards is not None:
        settings.shards = shards
    if delimiter is not None:
        settings.delimiter = delimiter.encode()
    return pb.StartRequest(create_keyspace=settings)


@keyspace_app.command("alter")
@request_command
def alter_keyspace(
    name: NameArgument,
    voters: VotersOption = None,
    followers: FollowersOption = None,
    max_staleness: StalenessOption = None,
    default_ttl: TtlOption = None,
    require: RequireOption = None,
    leader_region: LeaderRegionOption = None,
) -> pb.StartRequest:
    """Change the settings of a keyspace, live; `shoal rebalance` then makes replica counts true."""
    settings = _settings(name, voters, followers, max_staleness, default_ttl, require, leader_region)
    if settings == pb.KeyspaceSettings(name=name):
        raise CommandFailed(f"say what is to change of keyspace {name}, such as --voters 5", ExitCode.USAGE)
    return pb.StartRequest(alter_keyspace=settings)


@keyspace_app.command("drop")
@request_command
def drop_keyspace(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    plan: PlanOption = False,
) -> pb.StartRequest:
    """Drop a keyspace with all its data, for ever."""
    if not plan and not yes:
        typer.confirm(f"Delete keyspace {name} and all its data?", abort=True, err=True)
    return pb.StartRequest(drop_keyspace=pb.DropKeyspace(name=name))


def _settings(
    name: str,
    voters: int | None,
    followers: int | None,
    max_staleness: str | None,
    default_ttl: str | None,
    require: list[str] | None,
    leader_region: list[str] | None,
) -> pb.KeyspaceSettings:
    settings = pb.KeyspaceSettings(name=name, leader_regions=leader_region or ())
    if voters is not None:
        settings.voters = voters
    if followers is not None:
        settings.followers = followers
    if max_staleness is not None:
        settings.max_staleness_ms = int(parse_duration(max_staleness) * 1000)
    if (seconds := parse_ttl(default_ttl)) is not None:
        settings.default_ttl_ms = int(seconds * 1000)
    for entry in require or ():
        region, _, count = entry.rpartition("=")
        if not region or _COUNT.fullmatch(count) is None:
            raise CommandFailed(f"--require is REGION=N, such as eu=1, not {entry!r}", ExitCode.USAGE)
        settings.required_regions[region] = int(count)
    return settings

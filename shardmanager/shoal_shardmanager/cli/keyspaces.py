"""`shoal keyspace create`, `alter` and `drop`."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from shoal.bounds import MAX_FOLLOWERS, MAX_MICROSHARDS, MAX_VOTERS
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import checked_duration, checked_ttl, parse_ttl
from shoal.options import parse_duration

from shoal_shardmanager.cli.options import PlanOption, request_command
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

_COUNT = re.compile("[0-9]{1,2}")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The keyspace's name.")]

keyspace_app = typer.Typer(help="Create, alter and drop keyspaces.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keyspace_app, name="keyspace")


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

"""`shoal keyspace create`, `alter` and `drop`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import typer
from shoal.bounds import MAX_BYTES, MAX_FOLLOWERS, MAX_MICROSHARDS, MAX_QUOTA_RATE, MAX_VOTERS
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import checked_duration, checked_ttl, parse_ttl
from shoal.options import parse_duration
from shoal_server.config.units import size_bytes, whole_number

from shoal_shardmanager.cli.options import PlanOption, request_command
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

NO_QUOTA = "none"
"""What lifts a quota."""
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


def _quota(text: str, read: Callable[[object], int], most: int) -> int:
    """Return a quota as it goes into a request, where 0 is that there is none."""
    if text.strip().lower() == NO_QUOTA:
        return 0
    try:
        value = read(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; or {NO_QUOTA}") from error
    if not 1 <= value <= most:
        raise typer.BadParameter(f"from 1 to {most}, or {NO_QUOTA}, not {text.strip()}")
    return value


def parse_rate(text: str) -> int:
    """Return the operations a second that an option names; 0: no quota."""
    return _quota(text, whole_number, MAX_QUOTA_RATE)


def parse_size(text: str) -> int:
    """Return the bytes that an option names; 0: no quota."""
    return _quota(text, size_bytes, MAX_BYTES)


ReadsOption = Annotated[
    int | None,
    typer.Option(
        "--reads-per-second",
        metavar="N|none",
        parser=parse_rate,
        help="Quota of reads in the whole cluster: keys, and rows that scans come past, at least 1 a page.",
    ),
]
WritesOption = Annotated[
    int | None,
    typer.Option(
        "--writes-per-second",
        metavar="N|none",
        parser=parse_rate,
        help="Quota of operations of writes, in the whole cluster.",
    ),
]
MaxBytesOption = Annotated[
    int | None,
    typer.Option(
        "--max-bytes",
        metavar="SIZE|none",
        parser=parse_size,
        help="Quota of its keys and values, such as 10GiB, each counted once.",
    ),
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
    reads_per_second: ReadsOption = None,
    writes_per_second: WritesOption = None,
    max_bytes: MaxBytesOption = None,
) -> pb.StartRequest:
    """Create a keyspace, live; done once all its shards serve."""
    settings = _settings(name, voters, followers, max_staleness, default_ttl, require, leader_region)
    _put_quotas(settings, reads_per_second, writes_per_second, max_bytes)
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
    reads_per_second: ReadsOption = None,
    writes_per_second: WritesOption = None,
    max_bytes: MaxBytesOption = None,
) -> pb.StartRequest:
    """Change the settings of a keyspace, live; `shoal rebalance` then makes replica counts true."""
    settings = _settings(name, voters, followers, max_staleness, default_ttl, require, leader_region)
    _put_quotas(settings, reads_per_second, writes_per_second, max_bytes)
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


def _put_quotas(settings: pb.KeyspaceSettings, reads: int | None, writes: int | None, size: int | None) -> None:
    if reads is not None:
        settings.reads_per_second = reads
    if writes is not None:
        settings.writes_per_second = writes
    if size is not None:
        settings.max_bytes = size

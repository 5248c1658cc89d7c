"""`shoal split`, `merge`, `move-microshards` and `settle`."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from shoal.bounds import MAX_MICROSHARDS, MAX_SHARD
from shoal.cli.failures import CommandFailed, ExitCode

from shoal_shardmanager.cli.options import (
    ShardArgument,
    request_command,
)
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

_MICROSHARD = re.compile("[0-9]{1,5}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("split")(split)
    app.command("merge")(merge)
    app.command("move-microshards")(move_microshards)
    app.command("settle")(settle)


@request_command
def split(
    shard: ShardArgument,
    at: Annotated[
        int | None,
        typer.Option(
            "--at",
            metavar="MICROSHARD",
            min=0,
            max=MAX_MICROSHARDS - 1,
            help="The first of the new shard.  [default: where it parts the load]",
        ),
    ] = None,
) -> pb.StartRequest:
    """Split a shard in two, live, where its replicas are; no row moves.

    Without --at the point is where it parts reads and writes best, else bytes, else microshards.
    """
    return pb.StartRequest(split=pb.Split(shard=shard, at=at))


@request_command
def merge(
    shard: ShardArgument,
    other: Annotated[
        int,
        typer.Argument(metavar="OTHER", min=0, max=MAX_SHARD, help="The shard that is merged into it, and dropped."),
    ],
) -> pb.StartRequest:
    """Give a shard all microshards of another one, live; the other one is then dropped.

    The other one stays for a while, empty, to answer writes that are repeated (`shoal settings`: merge_linger).
    """
    return pb.StartRequest(merge=pb.Merge(target=shard, source=other))


@request_command
def move_microshards(
    source: Annotated[
        int, typer.Option("--from", metavar="SHARD", min=0, max=MAX_SHARD, help="The shard that gives them.")
    ],
    target: Annotated[
        int, typer.Option("--to", metavar="SHARD", min=0, max=MAX_SHARD, help="The shard that gets them.")
    ],
    microshards: Annotated[str, typer.Option("--microshards", metavar="LIST", help="Which: such as 10-19,30.")],
) -> pb.StartRequest:
    """Move microshards from one shard to another, live, wherever the replicas of both are."""
    move = pb.MoveMicroshards(source=source, target=target, ranges=parse_microshards(microshards))
    return pb.StartRequest(move_microshards=move)


@request_command
def settle(shard: ShardArgument) -> pb.StartRequest:
    """Settle what was begun on a shard without the shard manager, as `shoal doctor` finds it.

    A migration is undone, or finished where its source has parted with the microshards already; a new shard that a split
    has made comes into the map.
    """
    return pb.StartRequest(settle=pb.Settle(shard=shard))


def parse_microshards(text: str) -> list[pb.MicroshardRange]:
    """Return the ranges of a list such as `10-19,30`."""
    ranges: list[pb.MicroshardRange] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        numbers = [first, last] if dash else [first, first]
        if not all(_MICROSHARD.fullmatch(number) and int(number) < MAX_MICROSHARDS for number in numbers):
            raise CommandFailed(f"--microshards is a list such as 10-19,30, not {text!r}", ExitCode.USAGE)
        low, high = int(numbers[0]), int(numbers[1])
        if high < low:
            raise CommandFailed(f"--microshards: {low}-{high} ends before it begins", ExitCode.USAGE)
        ranges.append(pb.MicroshardRange(first=low, end=high + 1))
    return ranges

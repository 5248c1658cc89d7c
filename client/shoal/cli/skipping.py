"""`shoal skip-entry`: past an entry of a shard's log that its replicas cannot apply, without losing anything else."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import msgspec
import typer

from shoal.admin.connection import AdminConnection
from shoal.admin.survey import survey
from shoal.bounds import MAX_INDEX, MAX_SHARD, MAX_TERM
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, ClusterUrlOption, JsonOption, admin_options
from shoal.cli.output import print_json, print_line, print_table
from shoal.errors import InvalidArgument
from shoal.options import Options
from shoal.protocol.messages import ReplicaStatus
from shoal.shardmap import Routes


class ReplicaView(msgspec.Struct):
    """Where one replica is. `state`: "stuck", "skipped" by this command, "applied", "behind" or "unreachable"."""

    node: str
    applied_index: int
    state: str
    term: int
    checksum: str


class SkipView(msgspec.Struct):
    """`shoal skip-entry`."""

    shard: int
    index: int
    replicas: list[ReplicaView]

    def nodes(self, state: str) -> list[str]:
        """Return the nodes whose replicas are in a state."""
        return [each.node for each in self.replicas if each.state == state]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("skip-entry")(skip_entry)


def skip_entry(
    shard: Annotated[int, typer.Argument(metavar="SHARD", help="The shard's number.", min=1, max=MAX_SHARD)],
    index: Annotated[
        int, typer.Argument(metavar="INDEX", help="Where the entry is in the shard's log.", min=1, max=MAX_INDEX)
    ],
    term: Annotated[
        int | None, typer.Option("--term", help="The entry's term, as `--plan` shows it.", min=0, max=MAX_TERM)
    ] = None,
    checksum: Annotated[str | None, typer.Option("--checksum", help="The entry's checksum, likewise.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show where each replica is, and do nothing.")] = False,
    although_applied: Annotated[
        bool,
        typer.Option(
            "--although-applied",
            help="Go on although a replica has applied it, or may have: that one differs from then on.",
        ),
    ] = False,
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Have replicas go on behind an entry of their log that they cannot apply, as if it did nothing.

    Every replica that is stuck at it is told; what the entry was to change is lost, and nothing else.
    """
    view = asyncio.run(_skip(admin_options(url), shard, index, term, checksum, plan, although_applied))
    if as_json:
        print_json(view)
        return
    rows = [[each.node, each.applied_index, each.state, each.term or "", each.checksum] for each in view.replicas]
    print_table(["node", "applied", "is", "term", "checksum"], rows)
    if plan:
        print_line(_what_next(view))


async def _skip(
    options: Options, shard_id: int, index: int, term: int | None, checksum: str | None, plan: bool, although: bool
) -> SkipView:
    tls = options.tls_context()
    found = await survey(options.seeds, options.timeout, tls)
    routes = Routes(found.shard_map)
    shard = routes.shards.get(shard_id)
    if shard is None:
        raise CommandFailed(f"no shard {shard_id}", ExitCode.NOT_FOUND)
    view = SkipView(
        shard_id, index, [_view(node, found.replica(shard_id, node), index) for node in sorted(shard.replicas)]
    )
    if plan:
        return view
    if term is None or checksum is None or not re.fullmatch("[0-9a-fA-F]{8}", checksum):
        raise CommandFailed(
            f"say which entry is meant, with --term and --checksum: `skip-entry {shard_id} {index} --plan`",
            ExitCode.USAGE,
        )
    applied = view.nodes("applied")
    if applied and not although:
        raise InvalidArgument(
            f"{', '.join(applied)} {'has' if len(applied) == 1 else 'have'} applied entry {index}: "
            "bring the nodes that cannot to the same version; "
            "skipped there, their rows would differ (--although-applied)"
        )
    unheard = view.nodes("unreachable")
    if unheard and not although:
        raise InvalidArgument(
            f"{', '.join(unheard)} cannot be reached, and may have applied entry {index}: bring every replica back first, or "
            "take those out of the shard that are gone for good; skipped by the others, rows may differ (--although-applied)"
        )
    stuck = [each for each in view.replicas if each.state == "stuck"]
    if not stuck:
        raise CommandFailed(f"no replica of shard {shard_id} is stuck at entry {index}", ExitCode.NOT_FOUND)
    for each in stuck:
        async with await AdminConnection.open(routes.nodes[each.node].address, options.timeout, tls) as connection:
            await connection.skip_entry(shard_id, index, term, int(checksum, 16))
        each.state = "skipped"
    return view


def _what_next(view: SkipView) -> str:
    """Return what a plan comes to, in words."""
    stuck = {(each.term, each.checksum) for each in view.replicas if each.state == "stuck"}
    if not stuck:
        return f"nothing was done, and nothing is to be: no replica is stuck at entry {view.index}"
    if view.nodes("applied"):
        return "nothing was done; some have applied it: bring the nodes that cannot to the same version"
    if len(stuck) > 1:
        return (
            "nothing was done; the replicas are stuck at different entries of that index, which is a defect: report it"
        )
    unheard = view.nodes("unreachable")
    if unheard:
        return (
            f"nothing was done; {', '.join(unheard)} cannot be reached, and may have applied it: bring every replica back "
            "first, or take those out of the shard that are gone for good"
        )
    [(term, checksum)] = stuck
    return (
        "nothing was done; all stuck ones go on after: "
        f"shoal skip-entry {view.shard} {view.index} --term {term} --checksum {checksum}"
    )


def _view(node: str, replica: ReplicaStatus | None, index: int) -> ReplicaView:
    if replica is None:
        return ReplicaView(node, 0, "unreachable", 0, "")
    failure = replica.failure
    if failure is not None and failure.is_at(index):
        return ReplicaView(node, replica.applied_index, "stuck", failure.term, f"{failure.checksum:08x}")
    return ReplicaView(node, replica.applied_index, "applied" if replica.applied_index >= index else "behind", 0, "")

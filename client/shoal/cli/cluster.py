"""`shoal status`, `nodes`, `shards`, `keyspaces`, `locate`, `transfer-leader`: what is where, and is it well."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from shoal.admin.connection import AdminConnection, NotLeader
from shoal.admin.survey import Examination, Survey, examine, fetch_shard_map, survey
from shoal.bounds import MAX_SHARD
from shoal.cli import views
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import (
    DEFAULT_URL,
    ClusterUrlOption,
    JsonOption,
    KeyArgument,
    admin_options,
    argument_bytes,
    checked_duration,
)
from shoal.cli.output import print_json, print_line, print_table, shown, shown_bytes, shown_duration
from shoal.errors import InvalidArgument, KeyspaceNotFound, Unavailable
from shoal.keys import partition_of
from shoal.options import Options, parse_duration
from shoal.shardmap import Keyspace, Routes, Shard, ShardMap

ShardArgument = Annotated[int, typer.Argument(metavar="SHARD", min=0, max=MAX_SHARD, help="The shard's number.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status")(status)
    app.command("nodes")(nodes)
    app.command("shards")(shards)
    app.command("keyspaces")(keyspaces)
    app.command("locate")(locate)
    app.command("transfer-leader")(transfer_leader)


def status(
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
    wait: Annotated[
        str | None,
        typer.Option(
            "--wait",
            metavar="DURATION",
            callback=checked_duration,
            help="Wait up to this long (such as 30s) until all is well.",
        ),
    ] = None,
) -> None:
    """Say whether the cluster is well, and what is wrong.

    Exit code 0 only if every shard has its leader and all its replicas, else 5.
    """
    options = admin_options(url)
    wait_seconds = 0.0 if wait is None else parse_duration(wait)
    found = asyncio.run(examine(options.seeds, options.timeout, wait_seconds, options.tls_context()))
    view = views.status_view(found)
    if as_json:
        print_json(view)
    else:
        print_line(f"cluster {view.cluster}: {'well' if view.healthy else 'NOT WELL'}")
        print_line(f"nodes     {view.nodes_reachable} of {view.nodes} reachable")
        print_line(f"shards    {view.shards_with_leader} of {view.shards} with a leader")
        print_line(f"replicas  {view.replicas_in_step} of {view.replicas} in step")
        for problem in view.problems:
            print_line(f"  - {problem.message}")
    _end(found, [problem.message for problem in view.problems])


def nodes(url: ClusterUrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the nodes.

    Exit code 5 if one cannot be reached, takes no writes or leads nothing.
    """
    options = admin_options(url)
    found = asyncio.run(examine(options.seeds, options.timeout, tls=options.tls_context()))
    listed = views.node_views(found.survey)
    if as_json:
        print_json(listed)
    else:
        print_table(
            ("node", "address", "region/zone", "state", "leads", "replicas", "up for", "disk free", "memory"),
            [
                (
                    node.id,
                    node.address,
                    f"{node.region}/{node.zone}",
                    node.state,
                    node.leads,
                    node.replicas,
                    "" if node.uptime_ms is None else shown_duration(node.uptime_ms),
                    "" if node.disk_free_bytes is None else shown_bytes(node.disk_free_bytes),
                    _shown_memory(node),
                )
                for node in listed
            ],
        )
    _end(found, [f"node {node.id} is {node.state}: {node.problem}" for node in listed if node.problem])


def _shown_memory(node: views.NodeView) -> str:
    """Return what a node holds for others, of what it may; and the account that is fullest, where one nearly is."""
    if not node.memory:
        return ""
    used, bound = (
        sum(sizes) for sizes in zip(*((use.used_bytes, use.bound_bytes) for use in node.memory), strict=True)
    )
    fullest = max(node.memory, key=lambda use: use.used_bytes / max(1, use.bound_bytes))
    shown = f"{shown_bytes(used)} of {shown_bytes(bound)}"
    part = fullest.used_bytes / max(1, fullest.bound_bytes)
    return f"{shown}, {fullest.account} {part:.0%}" if part >= views.MEMORY_NEARLY_FULL else shown


def shards(
    shard: Annotated[int | None, typer.Argument(metavar="[ID]", help="Only this shard, with all its replicas.")] = None,
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List the shards, or show one of them.

    Followers, which have no vote, stand in brackets. Exit code 5 if a shard that is shown has no leader or not all its
    replicas.
    """
    options = admin_options(url)
    found = asyncio.run(examine(options.seeds, options.timeout, tls=options.tls_context()))
    if shard is None:
        listed = [views.shard_view(found, known) for known in found.survey.shard_map.shards]
    else:
        listed = [views.shard_view(found, _shard(found.survey.shard_map, shard))]
    if as_json:
        print_json(listed if shard is None else listed[0])
    elif shard is None:
        _print_shards(listed)
    else:
        _print_shard(listed[0])
    _end(found, [problem for view in listed for problem in view.problems])


def _print_shards(listed: list[views.ShardView]) -> None:
    print_table(
        ("shard", "keyspace", "microshards", "leader", "replicas", "term", "seq", "state"),
        [
            (
                view.id,
                view.keyspace,
                view.microshards,
                view.leader or "-",
                " ".join((*view.voters, *(f"({follower})" for follower in view.followers))),
                "" if view.term is None else view.term,
                "" if view.seq is None else view.seq,
                view.state,
            )
            for view in listed
        ],
    )


def _print_shard(view: views.ShardView) -> None:
    print_line(f"shard {view.id} of keyspace {view.keyspace}, microshards {view.microshards}: {view.state}")
    print_table(
        ("node", "role", "term", "first", "last", "committed", "applied", "held", "state"),
        [
            (
                replica.node,
                replica.role,
                "" if replica.term is None else replica.term,
                "" if replica.first_index is None else replica.first_index,
                "" if replica.last_index is None else replica.last_index,
                "" if replica.commit_index is None else replica.commit_index,
                "" if replica.applied_index is None else replica.applied_index,
                "" if replica.match_index is None else replica.match_index,
                replica.state,
            )
            for replica in view.replicas
        ],
    )


def keyspaces(url: ClusterUrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the keyspaces and their settings."""
    listed = views.keyspace_views(_shard_map(admin_options(url)))
    if as_json:
        print_json(listed)
    else:
        print_table(
            (
                "keyspace",
                "id",
                "microshards",
                "shards",
                "voters",
                "followers",
                "delimiter",
                "staleness bound",
                "quotas",
            ),
            [
                (
                    view.name,
                    view.id,
                    view.microshards,
                    view.shards,
                    view.voters,
                    view.followers,
                    view.delimiter or view.delimiter_base64 or "none",
                    f"{view.max_staleness_ms} ms",
                    view.quotas,
                )
                for view in listed
            ],
        )


def locate(key: KeyArgument, url: ClusterUrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Say where a key is, or would be."""
    options = admin_options(url)
    wanted = argument_bytes(key)
    if not wanted:
        raise InvalidArgument("a key has at least one byte")
    routes = Routes(_shard_map(options))
    keyspace = _keyspace(routes, options)
    shard = routes.shards[routes.shard_of(keyspace, wanted)]
    view = views.location_view(keyspace, shard, wanted)
    if as_json:
        print_json(view)
        return
    print_line(f"key         {shown(wanted)}")
    print_line(f"partition   {shown(partition_of(wanted, keyspace.delimiter))}")
    print_line(f"microshard  {view.microshard} of keyspace {view.keyspace}")
    print_line(f"shard       {view.shard}")
    print_line(f"leader      {view.leader or 'not known to the node asked'}")
    print_line(f"voters      {' '.join(view.voters)}")
    if view.followers:
        print_line(f"followers   {' '.join(view.followers)}")


def transfer_leader(
    shard: ShardArgument,
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that is to lead it.")],
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Hand the leadership of a shard to another node.

    Done once that node, which must be one of its voters, leads.
    """
    options = admin_options(url)
    view = asyncio.run(_transfer(options, shard, node))
    if as_json:
        print_json(view)
    elif view.before == node:
        print_line(f"node {node} already leads shard {shard}")
    else:
        print_line(f"shard {shard} is led by {node}, no longer by {view.before} ({view.took_ms} ms)")


async def _transfer(options: Options, shard_id: int, target: str) -> views.TransferView:
    tls = options.tls_context()
    found = await survey(options.seeds, options.timeout, tls)
    shard = _shard(found.shard_map, shard_id)
    names = sorted(node.id for node in found.shard_map.nodes)
    if target not in names:
        raise CommandFailed(f"no node {target!r}; there are {', '.join(names)}", ExitCode.NOT_FOUND)
    if target not in shard.voters:
        voters = ", ".join(shard.voters)
        raise InvalidArgument(
            f"node {target!r} is no voter of shard {shard_id}: its voters are {voters}", shard=shard_id
        )
    leader = _leader(found, shard)
    started = time.monotonic()
    if leader != target:
        address = Routes(found.shard_map).nodes[leader].address
        async with await AdminConnection.open(address, options.timeout, tls) as connection:
            try:
                await connection.transfer_leader(shard_id, target)
            except NotLeader as error:
                # It led when we asked around. Whoever leads now was just chosen: the operator decides on fresh facts.
                raise Unavailable(f"shard {shard_id} changed its leader meanwhile: {error}", shard=shard_id) from error
    return views.TransferView(shard_id, leader, target, int((time.monotonic() - started) * 1000))


def _leader(found: Survey, shard: Shard) -> str:
    leader = found.leader(shard.id)
    if leader is None:
        raise Unavailable(f"shard {shard.id} has no leader that could hand over; see `shoal status`", shard=shard.id)
    return leader.node


def _shard_map(options: Options) -> ShardMap:
    return asyncio.run(fetch_shard_map(options.seeds, options.timeout, options.tls_context()))


def _keyspace(routes: Routes, options: Options) -> Keyspace:
    keyspace = routes.keyspaces_by_name.get(options.keyspace)
    if keyspace is None:
        known = ", ".join(sorted(routes.keyspaces_by_name))
        raise KeyspaceNotFound(f"no keyspace {options.keyspace!r} in cluster {routes.map.cluster!r}; it has {known}")
    return keyspace


def _shard(shard_map: ShardMap, shard_id: int) -> Shard:
    for shard in shard_map.shards:
        if shard.id == shard_id:
            return shard
    ids = [shard.id for shard in shard_map.shards]
    raise CommandFailed(f"no shard {shard_id}; the shards are {min(ids)} to {max(ids)}", ExitCode.NOT_FOUND)


def _end(found: Examination, problems: list[str]) -> None:
    """End well, or with the first problem as the reason and how many more there are."""
    if not problems:
        return
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    name = found.survey.shard_map.cluster
    raise CommandFailed(f"cluster {name} is not well: {problems[0]}{more}", ExitCode.UNAVAILABLE)

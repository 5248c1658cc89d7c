"""`shoal hot`: which keys clients ask for most, just now."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from shoal.admin.hot_keys import HotKeyRate, find_hot_keys
from shoal.admin.survey import fetch_shard_map
from shoal.bounds import MAX_SHARD
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, ClusterUrlOption, JsonOption, admin_options
from shoal.cli.output import note, print_json, print_table, shown
from shoal.cli.rows import EncodedRow, encoded_key
from shoal.errors import Unavailable
from shoal.options import Options
from shoal.shardmap import ShardMap

SHOWN_CHARACTERS = 60
DEFAULT_LIMIT = 20
LIMIT_MAX = 1000


class HotKeyView(EncodedRow, omit_defaults=True, kw_only=True):
    """One row of `shoal hot`: what is asked of a key, a second, at all nodes together.

    Both rates are off by `error` together at the most, 19 times of 20. `share`: of all that is asked of its shard.
    """

    keyspace: str
    shard: int
    reads: int
    writes: int
    error: int
    share: float


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("hot")(hot)


def hot(
    shard: Annotated[
        int | None, typer.Option("--shard", min=1, max=MAX_SHARD, help="Of this shard; else of the busiest.")
    ] = None,
    keyspace: Annotated[str | None, typer.Option("--keyspace", metavar="NAME", help="Of this keyspace.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=LIMIT_MAX, help="So many keys.")] = DEFAULT_LIMIT,
    url: ClusterUrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List the keys that clients read and write most, over about the last ten seconds.

    Estimated from a sample of requests; keys that are asked for less than some 20 times a second at a node are not met often
    enough to be listed. Exit code 5 if no node answers.
    """
    listed = asyncio.run(_hottest(admin_options(url), shard or 0, keyspace))[:limit]
    if as_json:
        print_json(listed)
        return
    print_table(
        ("key", "keyspace", "shard", "reads/s", "writes/s", "give or take", "of its shard"),
        [
            (
                _short(view),
                view.keyspace,
                view.shard,
                view.reads,
                view.writes,
                view.error,
                f"{100 * view.share:.0f} %",
            )
            for view in listed
        ],
    )


async def _hottest(options: Options, shard: int, keyspace: str | None) -> list[HotKeyView]:
    tls = options.tls_context()
    shard_map = await fetch_shard_map(options.seeds, options.timeout, tls)
    _check(shard_map, shard, keyspace)
    found = await find_hot_keys(shard_map.nodes, shard_map, shard, options.timeout, tls)
    if not found.answered:
        raise Unavailable("no node answered: " + "; ".join(found.silent.values()))
    for node, reason in found.silent.items():
        note(f"shoal: without what is asked of node {node}: {reason}")
    return [_view(hot) for hot in found.keys if keyspace in (None, hot.keyspace)]


def _check(shard_map: ShardMap, shard: int, keyspace: str | None) -> None:
    if shard and all(known.id != shard for known in shard_map.shards):
        raise CommandFailed(f"no shard {shard}; `shoal shards` lists them", ExitCode.NOT_FOUND)
    names = sorted(known.name for known in shard_map.keyspaces)
    if keyspace is not None and keyspace not in names:
        raise CommandFailed(f"no keyspace {keyspace!r}; there are {', '.join(names)}", ExitCode.NOT_FOUND)


def _view(hot: HotKeyRate) -> HotKeyView:
    return HotKeyView(
        **msgspec.structs.asdict(encoded_key(hot.key)),
        keyspace=hot.keyspace,
        shard=hot.shard,
        reads=hot.reads,
        writes=hot.writes,
        error=hot.error,
        share=hot.share,
    )


def _short(view: HotKeyView) -> str:
    text = shown(view.key.encode()) if view.key is not None else f"base64 {view.key_base64}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."

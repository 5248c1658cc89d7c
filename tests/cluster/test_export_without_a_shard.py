"""A shard whose replicas are all down: an export is refused, or has the rows of the others and names what it lacks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import shoal
from shoal.admin.survey import fetch_shard_map
from shoal.shardmap import Routes
from shoal_server.local.layout import generated_config

KEYS = 3000
TIMEOUT_SECONDS = 5


def one_copy_each(ports: Sequence[int]) -> str:
    return generated_config(3, ports).replace("shards: 8", "shards: 3").replace("voters: 3", "voters: 1")


async def export(url: str, output: Path, *options: str) -> tuple[int | None, str]:
    """Run `shoal export`; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal.cli", "export", "--url", f"{url}?timeout={TIMEOUT_SECONDS}s", "--output", str(output),
        *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_an_export_without_a_lost_shard_has_the_rows_of_the_others(
    real_cluster: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    async with real_cluster(layout=one_copy_each) as cluster:
        rows = {f"k{number}": f"value {number}" for number in range(KEYS)}
        async with shoal.AsyncClient(cluster.url) as db:
            await db.put_many(rows)
            everything = {key async for key in db.scan("", keys_only=True)}
        routes = Routes(await fetch_shard_map(cluster.addresses[:1], TIMEOUT_SECONDS, None))
        lost = next(shard for shard in routes.map.shards if shard.replicas == ("n2",))
        await cluster.kill("n2")

        code, said = await export(cluster.url, output)
        assert code == 5, said
        assert not output.exists()

        code, said = await export(cluster.url, output, "--skip-unavailable")
        keyspace = routes.keyspaces_by_name["default"]
        left = {key for key in everything if routes.shard_of(keyspace, key) != lost.id}
        exported = [json.loads(line)["key"].encode() for line in output.read_text().splitlines()]
        assert code == 8, said
        assert len(exported) == len(left)
        assert set(exported) == left
        [span] = lost.ranges
        missing, summary = said.splitlines()
        assert missing.startswith(f"not exported: microshards {span.first}-{span.end - 1} (shard {lost.id}): ")
        count = span.end - span.first
        assert summary.endswith(
            f"exported {len(left)} rows to {output}; rows of {count} of 1024 microshards are missing"
        )

        cluster.start("n2")
        await cluster.ready()
        code, said = await export(cluster.url, output, "--skip-unavailable")
        assert (code, said) == (0, f"exported {len(everything)} rows to {output}\n")

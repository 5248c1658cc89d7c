"""The demonstration, step by step: fill, read back, kill the busiest leader under load, bring it back, verify."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from shoal import AsyncClient
from shoal.admin.survey import Survey
from shoal.cli.output import print_line, print_table
from shoal.shardmap import Routes
from shoal_server.local.cluster import LocalCluster, prepare_folder

from shoal_chaos.demo.load import Rows, count_wrong, write_all
from shoal_chaos.demo.unicode_rows import unicode_rows
from shoal_chaos.probes.closed_loop import ClosedLoopProbes

NODES = 3
CONDITION_TIMEOUT_SECONDS = 30.0
CONDITION_INTERVAL_SECONDS = 0.05
QUIET_SECONDS = 1.0
"""How long the probes run undisturbed before the kill, and again after the return."""

KEYSPACE = "default"


class DemoFailed(Exception):
    """Something did not happen that must."""


@dataclass(slots=True)
class Verdict:
    """What was checked, and how often it was not so."""

    checked: int = 0
    wrong: int = 0

    def add(self, checked: int, wrong: int) -> None:
        self.checked += checked
        self.wrong += wrong


async def tell() -> int:
    """Run the demonstration; return its exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shoal-demo-") as directory:
        folder = prepare_folder(Path(directory), nodes=NODES, port=0)
        cluster = LocalCluster(folder, folder.config_file)
        try:
            cluster.start_all()
            verdict = await _story(cluster)
        except DemoFailed as error:
            print_line(f"FAILED: {error}")
            return 1
        finally:
            killed = await cluster.stop()
    for node in killed:
        print_line(f"FAILED: node {node} did not end when asked to")
    seconds = time.monotonic() - began
    print_line(f"{verdict.checked - verdict.wrong:,} of {verdict.checked:,} checks right, {seconds:.1f} s in all")
    return 1 if verdict.wrong or killed else 0


async def _story(cluster: LocalCluster) -> Verdict:
    verdict = Verdict()
    seconds = await _until("the cluster serves", cluster.is_ready)
    survey = (await cluster.examine()).survey
    print_line(f"{NODES} nodes, {len(survey.shard_map.shards)} shards, ready after {seconds:.1f} s: {cluster.url()}")
    async with AsyncClient(cluster.url(KEYSPACE)) as db:
        rows = list(unicode_rows())
        began = time.monotonic()
        await write_all(db, rows)
        _say_rate("wrote the Unicode character database", len(rows), began)
        await _read_back(db, rows, verdict)
        await _fail_over(cluster, db, verdict)
        await _read_back(db, rows, verdict)
    return verdict


async def _read_back(db: AsyncClient, rows: Rows, verdict: Verdict) -> None:
    began = time.monotonic()
    wrong = await count_wrong(db, rows)
    verdict.add(len(rows), wrong)
    _say_rate(f"read it back and compared, {wrong} wrong", len(rows), began)


async def _fail_over(cluster: LocalCluster, db: AsyncClient, verdict: Verdict) -> None:
    survey = (await cluster.examine()).survey
    routes = Routes(survey.shard_map)
    probes = ClosedLoopProbes(routes, routes.keyspaces_by_name[KEYSPACE])
    async with probes.running(db):
        await asyncio.sleep(QUIET_SECONDS)
        before = (await cluster.examine()).survey
        victim = _busiest(before)
        killed_at = time.monotonic()
        cluster.running[victim].signal(signal.SIGKILL)
        print_line(f"killed node {victim} (SIGKILL) with a writer and a reader on each shard")
        await _until("every shard is written to and read from again", _served_since(probes, killed_at))
        after = (await cluster.examine()).survey
        _print_outage(probes, killed_at, before, after)
        cluster.take_exits()
        cluster.start(victim)
        seconds = await _until(f"node {victim} has caught up", _well(cluster))
        print_line(f"started node {victim} again: all replicas in step after {seconds:.1f} s, under load")
        await asyncio.sleep(QUIET_SECONDS)
        probes.check_running()
    await _verify(probes, db, verdict)


async def _verify(probes: ClosedLoopProbes, db: AsyncClient, verdict: Verdict) -> None:
    acknowledged = probes.acknowledged
    wrong = await count_wrong(db, acknowledged, "verifying")
    verdict.add(len(acknowledged), wrong)
    verdict.add(0, len(probes.lost_reads))
    print_line(
        f"{len(acknowledged):,} writes acknowledged meanwhile: {wrong} missing or changed, "
        f"{len(probes.lost_reads)} not seen by a strong read, {len(probes.failed)} calls failed"
    )
    for message, count in Counter(str(error) for error in probes.failed).most_common(3):
        print_line(f"  {count} x {message}")


def _served_since(probes: ClosedLoopProbes, moment: float) -> Callable[[], Awaitable[bool]]:
    async def served() -> bool:
        return probes.back_after(moment)

    return served


def _well(cluster: LocalCluster) -> Callable[[], Awaitable[bool]]:
    async def well() -> bool:
        exits = cluster.take_exits()
        if exits:
            raise DemoFailed(f"node {exits[0].node} ended with {exits[0].exit_code}: {' | '.join(exits[0].last_lines)}")
        return not (await cluster.examine()).problems

    return well


async def _until(what: str, condition: Callable[[], Awaitable[bool]]) -> float:
    """Wait until `condition` holds; return the seconds that it took.

    Raises:
        DemoFailed: it does not hold in time.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > CONDITION_TIMEOUT_SECONDS:
            raise DemoFailed(f"not within {CONDITION_TIMEOUT_SECONDS:g} s: {what}")
        await asyncio.sleep(CONDITION_INTERVAL_SECONDS)
    return time.monotonic() - began


def _busiest(survey: Survey) -> str:
    """Return the node that leads most shards."""
    leaders = (survey.leader(shard.id) for shard in survey.shard_map.shards)
    return Counter(leader.node for leader in leaders if leader is not None).most_common(1)[0][0]


def _print_outage(probes: ClosedLoopProbes, killed_at: float, before: Survey, after: Survey) -> None:
    print_table(
        ("shard", "led by", "then by", "first write after (ms)", "first read after (ms)"),
        [
            (
                probe.shard,
                _leader(before, probe.shard),
                _leader(after, probe.shard),
                _milliseconds(probe.writes.back_after(killed_at)),
                _milliseconds(probe.reads.back_after(killed_at)),
            )
            for probe in probes.all
        ],
    )


def _leader(survey: Survey, shard: int) -> str:
    leader = survey.leader(shard)
    return leader.node if leader is not None else "-"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def _say_rate(what: str, rows: int, began: float) -> None:
    seconds = time.monotonic() - began
    print_line(f"{what}: {rows:,} keys in {seconds:.1f} s, {rows / seconds:,.0f}/s")

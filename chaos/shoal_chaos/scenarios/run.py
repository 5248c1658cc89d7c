"""Runs one scenario: steady state, faults, what comes after, comparison, verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from shoal import ShoalError
from shoal.admin.survey import fetch_shard_map
from shoal.options import parse_url

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.clusters.memory import MemoryWatch
from shoal_chaos.clusters.possible import NotPossibleHere
from shoal_chaos.nemeses.base import Disturbance
from shoal_chaos.probes.open_loop import OpenLoopProbes
from shoal_chaos.report.records import (
    Bucket,
    FaultSpan,
    Phase,
    PhaseFigures,
    RunOutcome,
    RunRecord,
    ShardRecovery,
    Verdict,
)
from shoal_chaos.scenarios import comparison, replicas
from shoal_chaos.scenarios.model import Scenario, TimedNemesis
from shoal_chaos.scenarios.remote import RemoteCluster
from shoal_chaos.workloads.suite import Suite, open_clients, urls_of_single_nodes

STEADY_SHARE = 0.15
STEADY_SECONDS = (1.5, 6.0)
"""How much of a run is measured before the first fault, and again after the last: this share, within these bounds."""

CLIENTS = 2
SHOWN = 5
FINISH_SECONDS = 60.0
MEMORY_CEILING_MIB = 4096.0
"""A node that holds more is ended."""

Say = Callable[[str], None]
Cluster = FaultyCluster | RemoteCluster


class NotPossibleThere(Exception):
    """The scenario needs a hold of the cluster's processes, links or disks, and it is somebody else's cluster."""


async def run_here(scenario: Scenario, seed: int, seconds: float, folder: Path, say: Say) -> RunRecord:
    """Run a scenario on a new cluster of its own.

    Args:
        seconds: how long faults may begin.
        folder: of the cluster's configuration, data and logs.
        say: is told what is going on.
    """
    random = Random(f"{scenario.name} {seed}")
    try:
        cluster = FaultyCluster(
            folder, scenario.shape, random, system_faults=scenario.needs_system_faults, medium=scenario.medium
        )
    except NotPossibleHere as lack:
        return _record(scenario, seed, RunOutcome.SKIPPED, str(lack), datetime.now(UTC), 0.0, scenario.shape.words)
    try:
        await cluster.start()
        experiment = _Experiment(scenario, cluster, random, f"chaos-{seed}", say)
        await experiment.run(seconds)
    finally:
        await cluster.stop()
    return experiment.record(seed, scenario.shape.words)


async def run_there(scenario: Scenario, url: str, seed: int, seconds: float, say: Say) -> RunRecord:
    """Run a scenario on a cluster that is there; its keys begin with "chaos-" and stay.

    Raises:
        NotPossibleThere: the scenario needs a cluster of our own.
        ShoalError: the cluster cannot be reached.
    """
    if not scenario.anywhere:
        raise NotPossibleThere(
            f"{scenario.name} needs a hold of the nodes' processes, links or disks, so it runs on a cluster of its own: "
            "leave out --url"
        )
    random = Random(f"{scenario.name} {seed}")
    experiment = _Experiment(scenario, RemoteCluster(url), random, f"chaos-{seed}-{time.time_ns()}", say)
    await experiment.run(seconds)
    return experiment.record(seed, url)


class _Experiment:
    """One run, on a cluster that serves."""

    def __init__(self, scenario: Scenario, cluster: Cluster, random: Random, run: str, say: Say) -> None:
        self._scenario = scenario
        self._cluster = cluster
        self._random = random
        self._run = run
        self._say = say
        self._faults: list[FaultSpan] = []
        self._verdicts: list[Verdict] = []
        self._began_at: datetime
        self._began = self._harmed = self._calmed = self._ended = 0.0
        self._peak_mib = 0.0
        self._probes: OpenLoopProbes

    async def run(self, seconds: float) -> None:
        """Do everything but judge liveness: see `record`."""
        options = parse_url(self._cluster.url)
        tls = options.tls_context()
        steady = min(max(seconds * STEADY_SHARE, STEADY_SECONDS[0]), STEADY_SECONDS[1])
        async with AsyncExitStack() as stack:
            clients = await open_clients(stack, self._cluster.url, [""] * CLIENTS)
            # Clients that are made meanwhile may use another cluster: then there are none beside those of the beginning.
            urls = [] if self._scenario.other_clusters else urls_of_single_nodes(self._cluster.url)
            suite = Suite(self._run, self._random, clients, urls, exported_url=self._cluster.url)
            if self._scenario.other_clusters:
                suite.allow_other_clusters()
            if self._scenario.wall_clocks_wrong:
                suite.allow_clocks(self._scenario.shape.clock_tolerance_ms)
            suite.workloads = [one for one in suite.workloads if one.name in self._scenario.workloads]
            self._probes = OpenLoopProbes(
                clients[0], await fetch_shard_map(options.seeds, tls=tls), options.keyspace, self._run
            )
            self._began_at, self._began = datetime.now(UTC), time.monotonic()
            async with self._load(suite), self._watching_memory():
                self._say(f"steady state for {steady:.1f} s")
                await asyncio.sleep(steady)
                self._harmed = time.monotonic()
                await self._do_harm(self._harmed + seconds)
                self._calmed = time.monotonic()
                self._say(f"and again for {steady:.1f} s")
                await asyncio.sleep(steady)
                self._ended = time.monotonic()
            self._say(suite.summary())
            await self._read_back()
            lost, alone = self._cluster.lost, isinstance(self._cluster, FaultyCluster)
            self._verdicts.append(await replicas.are_in_step(options.seeds, lost, tls))
            self._verdicts.append(await replicas.are_equal(options.seeds, lost, alone=alone, tls=tls))
        self._judge(suite)

    @asynccontextmanager
    async def _load(self, suite: Suite) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with self._probes.running():
            task = asyncio.create_task(suite.run(stop))
            try:
                yield
            finally:
                stop.set()
                await asyncio.wait([task], timeout=FINISH_SECONDS)
                stuck = not task.done()
                task.cancel()
                (problem,) = await asyncio.gather(task, return_exceptions=True)
        found = (f"the load has not ended {FINISH_SECONDS:g} s after it was asked to",) if stuck else ()
        if isinstance(problem, BaseException) and not stuck:
            found = (repr(problem),)
        self._verdicts.append(Verdict("the load ends", not found, found=found, safety=False))

    @asynccontextmanager
    async def _watching_memory(self) -> AsyncIterator[None]:
        """See what nodes hold, where that is judged; one that holds very much is ended, for the sake of this machine."""
        if self._scenario.isolation is None:
            yield
            return
        memory = MemoryWatch(self._own().processes, MEMORY_CEILING_MIB)
        async with memory.running():
            try:
                yield
            finally:
                self._peak_mib = memory.peak()
        self._cluster.remarks += [f"{node} was ended at {mib:,.0f} MiB" for node, mib in memory.ended.items()]

    async def _do_harm(self, until: float) -> None:
        while time.monotonic() < until:
            for fault in self._scenario.round(self._random):
                if not await self._inflict(fault):
                    return
                if time.monotonic() >= until:
                    return

    async def _inflict(self, fault: TimedNemesis) -> bool:
        """Let one fault do its work; return whether the cluster has got over it."""
        began = time.monotonic()
        try:
            try:
                if not isinstance(fault.nemesis, Disturbance):
                    await fault.nemesis.prepare(self._own(), self._random)
                    began = time.monotonic()
                words = await self._begin(fault)
                self._say(f"{words}, for {fault.seconds:.1f} s")
                await asyncio.sleep(fault.seconds)
            except ShoalError as error:
                words = f"{fault.nemesis.name} could not be begun: {error}"
                self._cluster.remarks.append(words)
            finally:
                await self._heal(fault)
            healed = time.monotonic()
            await self._cluster.ready()
            ready: float | None = time.monotonic()
        except TimeoutError as error:
            self._say(str(error))
            self._cluster.remarks.append(str(error))
            healed, ready = time.monotonic(), None
        self._faults.append(
            FaultSpan(
                fault.nemesis.name,
                words,
                began - self._began,
                healed - self._began,
                None if ready is None else ready - self._began,
                fault.nemesis.outcome,
            )
        )
        if ready is not None:
            await asyncio.sleep(fault.rest_seconds)
        return ready is not None

    async def _begin(self, fault: TimedNemesis) -> str:
        if isinstance(fault.nemesis, Disturbance):
            return await fault.nemesis.start(self._cluster, self._random)
        return await fault.nemesis.start(self._own(), self._random)

    async def _heal(self, fault: TimedNemesis) -> None:
        if isinstance(fault.nemesis, Disturbance):
            await fault.nemesis.heal(self._cluster)
        else:
            await fault.nemesis.heal(self._own())

    def _own(self) -> FaultyCluster:
        if not isinstance(self._cluster, FaultyCluster):
            raise NotPossibleThere(f"{self._scenario.name} has faults that cannot be done to any cluster")
        return self._cluster

    async def _read_back(self) -> None:
        try:
            lost = await self._probes.lost()
        except ShoalError as error:
            problem = f"acknowledged writes could not be read again: {error}"
            self._verdicts.append(Verdict("read-back", False, found=(problem,), safety=False))
            return
        judged = f"{self._probes.acknowledged:,} acknowledged writes read again"
        self._verdicts.append(Verdict("acknowledged writes", not lost, judged, tuple(lost[:SHOWN])))

    def _judge(self, suite: Suite) -> None:
        for workload in suite.workloads:
            found = workload.violations()
            judged = f"{workload.recorder.done:,} calls"
            self._verdicts.append(Verdict(workload.name, not found, judged, tuple(found[:SHOWN])))
        broken = tuple(self._cluster.broken[:SHOWN])
        self._verdicts.append(Verdict("what faults themselves have shown", not broken, found=broken))
        failures = tuple(self._cluster.failures[:SHOWN])
        self._verdicts.append(Verdict("no process ends by itself", not failures, found=failures, safety=False))
        limits = self._scenario.isolation
        if limits is not None:
            self._verdicts += comparison.isolation(
                limits, self._faults, self._probes.samples, self._began, self._harmed, self._peak_mib
            )
            unserved = tuple(self._own().unserved[:SHOWN])
            self._verdicts.append(Verdict("what is neighbours' due", not unserved, found=unserved, safety=False))

    def record(self, seed: int, cluster: str) -> RunRecord:
        """Return the run, judged."""
        samples = self._probes.samples
        phases = (
            comparison.figures(Phase.STEADY, samples, self._began, self._harmed),
            comparison.figures(Phase.FAULTS, samples, self._harmed, self._calmed),
            comparison.figures(Phase.AFTER, samples, self._calmed, self._ended),
        )
        heals = [self._began + fault.healed for fault in self._faults]
        shards = comparison.recoveries(samples, self._began, self._harmed, self._ended, heals)
        verdicts = [*self._verdicts, *comparison.liveness(self._scenario, phases, shards, self._faults)]
        found, reason = comparison.outcome(self._scenario, verdicts)
        return _record(
            self._scenario, seed, found, reason, self._began_at, self._ended - self._began, cluster,
            score=comparison.score(self._scenario, verdicts, phases, shards),
            faults=tuple(self._faults), verdicts=tuple(verdicts), phases=phases, shards=shards,
            timeline=comparison.timeline(samples, self._began), remarks=tuple(self._cluster.remarks),
        )  # fmt: skip


def _record(
    scenario: Scenario,
    seed: int,
    outcome: RunOutcome,
    reason: str,
    began: datetime,
    seconds: float,
    cluster: str,
    *,
    score: int = 0,
    faults: tuple[FaultSpan, ...] = (),
    verdicts: tuple[Verdict, ...] = (),
    phases: tuple[PhaseFigures, ...] = (),
    shards: tuple[ShardRecovery, ...] = (),
    timeline: tuple[Bucket, ...] = (),
    remarks: tuple[str, ...] = (),
) -> RunRecord:
    return RunRecord(
        scenario=scenario.name, hypothesis=scenario.hypothesis, outcome=outcome, reason=reason, seed=seed,
        began=began.isoformat(timespec="seconds"), seconds=round(seconds, 1), cluster=cluster, score=score,
        faults=faults, verdicts=verdicts, phases=phases, shards=shards, timeline=timeline, remarks=remarks,
        must_break=scenario.must_break,
    )  # fmt: skip

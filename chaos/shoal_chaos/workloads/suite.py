"""All workloads at once, on one cluster, and what is wrong with what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from urllib.parse import urlsplit, urlunsplit

from shoal import AsyncClient, ConditionFailed, TransactionConflict

from shoal_chaos.workloads.append_lists import AppendLists
from shoal_chaos.workloads.bank import Bank
from shoal_chaos.workloads.base import Workload
from shoal_chaos.workloads.counting import Counting
from shoal_chaos.workloads.expiry import Expiry
from shoal_chaos.workloads.exports import Exports
from shoal_chaos.workloads.locks import Locks
from shoal_chaos.workloads.on_call import OnCall
from shoal_chaos.workloads.queues import Queues
from shoal_chaos.workloads.ranges import Ranges
from shoal_chaos.workloads.registers import Registers
from shoal_chaos.workloads.scans import Scans
from shoal_chaos.workloads.sessions import Sessions
from shoal_chaos.workloads.sets import Sets
from shoal_chaos.workloads.staleness import Staleness
from shoal_chaos.workloads.swaps import Swaps

ANSWERS = (ConditionFailed.__name__, TransactionConflict.__name__)
"""The errors that say what was found, not that something is broken."""


class Suite:
    """One run of every workload."""

    def __init__(
        self,
        run: str,
        random: Random,
        clients: Sequence[AsyncClient],
        urls: Sequence[str] = (),
        *,
        exported_url: str = "",
    ) -> None:
        """
        Args:
            run: begins all keys, none of which may be there yet. Without a delimiter.
            clients: of one keyspace; the first makes most calls, sessions and weak reads go through all.
            urls: of the same keyspace, by one node each (see `Registers`).
            exported_url: of the same keyspace, all of which is exported again and again; "": it is not.
        """
        self.staleness = Staleness(run, random, clients)
        self._expiry, self._locks = Expiry(run, random), Locks(run, random)
        self.workloads: list[Workload] = [
            Registers(run, random, urls),
            Swaps(run, random),
            Counting(run, random),
            Bank(run, random),
            OnCall(run, random),
            AppendLists(run, random),
            Sets(run, random),
            Queues(run, random),
            Scans(run, random),
            Ranges(run, random),
            Sessions(run, random, clients),
            self.staleness,
            self._expiry,
            self._locks,
        ]
        if exported_url:
            self.workloads.append(Exports(run, random, exported_url))
        self._db = clients[0]

    def be_patient(self) -> None:
        """Have every call wait for its answer: where nothing breaks, none may fail (see `failures`)."""
        for workload in self.workloads:
            workload.be_patient()

    def keep_pace(self, pace_seconds: float) -> None:
        """Have every task wait for so long between two calls, on average."""
        for workload in self.workloads:
            workload.pace_seconds = pace_seconds

    def allow_clocks(self, tolerance_ms: int) -> None:
        """Judge rows that expire by what holds where fewer than half of the nodes' wall clocks are wrong."""
        self._expiry.allow_clocks(tolerance_ms)
        self._locks.allow_clocks(tolerance_ms)

    def allow_other_clusters(self) -> None:
        """Let calls end since another cluster answers at the addresses, as long as they say so."""
        for workload in self.workloads:
            workload.recorder.other_clusters = True

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        async with asyncio.TaskGroup() as group:
            for workload in self.workloads:
                group.create_task(workload.run(self._db, stop))

    def violations(self) -> list[str]:
        """Return, in words, all that is wrong."""
        return [found for workload in self.workloads for found in workload.violations()]

    def failures(self) -> list[str]:
        """Return, in words, the calls that failed; a conflict with another transaction is an answer."""
        return [
            f"{workload.name}: {count} x {name}, the last of them {workload.recorder.last_errors[name]!r}"
            for workload in self.workloads
            for name, count in workload.recorder.errors.items()
            if name not in ANSWERS
        ]

    def summary(self) -> str:
        """Say how much there was to judge."""
        recorders = [workload.recorder for workload in self.workloads]
        done, unknown = sum(recorder.done for recorder in recorders), sum(recorder.unknown for recorder in recorders)
        weak = sum(self.staleness.weakly_served.values())
        not_done = sum(recorder.not_done for recorder in recorders)
        return (
            f"{done:,} calls answered, {unknown:,} of unknown outcome, {not_done:,} surely not done; "
            f"{weak:,} of {len(self.staleness.reads):,} bounded reads served by followers"
        )


async def open_clients(stack: AsyncExitStack, url: str, regions: Sequence[str]) -> list[AsyncClient]:
    """Open a client for each region, which it prefers; "": none."""
    clients: list[AsyncClient] = []
    for region in regions:
        joint = "&" if "?" in url else "?"
        client = AsyncClient(f"{url}{joint}region={region}" if region else url)
        clients.append(await stack.enter_async_context(client))
    return clients


def urls_of_single_nodes(url: str) -> list[str]:
    """Return the URL once for each address in it, with that address alone."""
    parts = urlsplit(url)
    return [urlunsplit(parts._replace(netloc=address)) for address in parts.netloc.split(",")]

"""`shoal export` and surveys, again and again: each shows the whole keyspace, whatever becomes of its shards meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import ClassVar

import psutil
from shoal import AsyncClient, ShoalError
from shoal.admin.survey import Survey, survey
from shoal.cli.failures import ExitCode
from shoal.options import parse_url
from shoal.shardmap import ShardMap

from shoal_chaos.checkers.exports import find_violations, rows_of
from shoal_chaos.clusters.commands import COMMAND, LOW_PRIORITY
from shoal_chaos.workloads.base import Workload, WorkloadStep

ROWS = 8_000
"""Every microshard has some."""
VALUE_BYTES = 100
READ_BYTES = 8192
READ_PAUSE_SECONDS = 0.025
"""What is exported is read slowly, so that an export lasts for seconds, in which shards change."""
EXPORT_SECONDS = 120.0
ROWS_AT_ONCE = 500
PUT_SECONDS = 30.0
PAUSE_SECONDS = 0.5


class Exports(Workload):
    """Rows that nobody touches, beside those of all others; the whole keyspace is exported, and its shards surveyed."""

    name: ClassVar[str] = "exports"

    def __init__(self, run: str, random: Random, url: str) -> None:
        """
        Args:
            url: of the keyspace that is exported, all of it.
        """
        super().__init__(run, random)
        self.exported = 0
        self._url = url
        keys = [f"{self.prefix}-{number}".encode() for number in range(ROWS)]
        self._kept = {key: key.ljust(VALUE_BYTES, b".") for key in keys}
        self._newest = 0
        self._may_fail = True

    def be_patient(self) -> None:
        super().be_patient()
        self._may_fail = False

    async def prepare(self, db: AsyncClient) -> None:
        rows = list(self._kept.items())
        for first in range(0, ROWS, ROWS_AT_ONCE):
            await db.put_many(dict(rows[first : first + ROWS_AT_ONCE]), timeout=PUT_SECONDS)

    def steps(self) -> list[WorkloadStep]:
        return [self._export, self._survey]

    def check(self) -> Iterator[str]:
        """What is wrong was noted when it was seen."""
        yield from ()

    async def _export(self, db: AsyncClient) -> None:  # noqa: ARG002 - by a process of its own
        code, printed, said = await _exported(self._url)
        if code != ExitCode.DONE:
            self._failed(f"an export ended with {code}: {said}")
        else:
            for found in find_violations(self._kept, rows_of(printed.splitlines())):
                self.recorder.complain(f"In an export that says that it is whole, {found}.")
            self.exported += 1
            self.recorder.done += 1
        await asyncio.sleep(PAUSE_SECONDS)

    async def _survey(self, db: AsyncClient) -> None:  # noqa: ARG002 - as operators do
        options = parse_url(self._url)
        try:
            found = await survey(options.seeds, tls=options.tls_context())
        except ShoalError as error:
            self._failed(f"a survey ended with {error!r}")
        else:
            for problem in whole_or_not(found.shard_map):
                self.recorder.complain(f"In a survey, {problem}.")
            self._note_version(found)
            self.recorder.done += 1
        await asyncio.sleep(PAUSE_SECONDS)

    def _note_version(self, found: Survey) -> None:
        """Where every node has answered, nobody may have known a newer map before."""
        if all(report.status is not None for report in found.nodes):
            version = found.shard_map.version
            if version < self._newest:
                self.recorder.complain(
                    f"A survey of all nodes shows map {version}, an earlier one showed {self._newest}."
                )
            self._newest = max(self._newest, version)

    def _failed(self, why: str) -> None:
        if self._may_fail:
            self.recorder.not_done += 1
        else:
            self.recorder.complain(f"Though nothing is broken, {why}.")


async def _exported(url: str) -> tuple[int, bytes, str]:
    """Run `shoal export`; return its exit code, what it printed, and what it said of it.

    Raises:
        TimeoutError: it has not ended in time, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "export", "--url", url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=READ_BYTES,
    )  # fmt: skip
    psutil.Process(process.pid).nice(LOW_PRIORITY)
    assert process.stdout is not None
    printed: list[bytes] = []
    try:
        async with asyncio.timeout(EXPORT_SECONDS):
            while part := await process.stdout.read(READ_BYTES):
                printed.append(part)
                await asyncio.sleep(READ_PAUSE_SECONDS)
            _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, b"".join(printed), said.decode().strip()


def whole_or_not(shard_map: ShardMap) -> Iterator[str]:
    """Yield, in words, the microshards that not exactly one shard has."""
    for keyspace in shard_map.keyspaces:
        owners = [0] * keyspace.microshards
        for shard in shard_map.shards:
            for span in shard.ranges if shard.keyspace == keyspace.id else ():
                for microshard in range(span.first, span.end):
                    owners[microshard] += 1
        wrong = [microshard for microshard, count in enumerate(owners) if count != 1]
        if wrong:
            yield f"microshards {wrong} of {keyspace.name} are not those of one shard each"

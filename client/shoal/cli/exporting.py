"""`shoal export`: every row of a keyspace as JSON Lines, page by page from the shards' leaders, in constant memory.

Each page is read strongly. The export as a whole is not of one instant: what is written while it runs may or may not be
in it. What is not written meanwhile is in it once, whatever becomes of the shards (see `shoal.coverage`). What no leader
gives ends it, or is left out where that was asked for, and then named on stderr to the microshard and key.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from msgspec import structs

from shoal.admin.connection import AdminConnection, NotLeader, WrongShard
from shoal.admin.survey import fetch_shard_map
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, ClusterUrlOption, PriorityOption, admin_options, priority_of
from shoal.cli.output import note
from shoal.cli.progress import Progress
from shoal.cli.rows import encode_file_row, encode_key
from shoal.cli.views import shown_ranges
from shoal.coverage import KeyspaceCoverage, Unread
from shoal.errors import DeadlineExceeded, KeyspaceNotFound, Overloaded, ShoalError, Unavailable
from shoal.options import Options
from shoal.priorities import Priority
from shoal.protocol.messages import Page
from shoal.shardmap import Ranges, Routes, count_in, one_microshard, without_ranges

PAGE_ROWS = 2048
RETRY_SECONDS = 0.1
ATTEMPT_SECONDS = 2.0
"""How long one node may be silent before the next is asked."""
_OF_NO_LEADER = (Unavailable, DeadlineExceeded, Overloaded)
"""What is tried again until the timeout: nobody who has the next page gives it now."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    url: ClusterUrlOption = DEFAULT_URL,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, which appears when it is complete.")
    ] = None,
    skip_unavailable: Annotated[
        bool,
        typer.Option(
            "--skip-unavailable",
            help="Leave out what no leader gives within the timeout; stderr names it, and the exit code is 8.",
        ),
    ] = False,
    priority: PriorityOption = None,
) -> None:
    """Print all rows of the keyspace.

    They are printed as JSON Lines, in the form that `shoal import` reads; a row that expires says when. Each page is read
    strongly; what is written while the export runs may or may not be in it.
    """
    options = admin_options(url)
    options = structs.replace(options, priority=priority_of(priority, options))
    with _destination(output) as stream:
        exported = asyncio.run(_export(options, stream, skip_unavailable=skip_unavailable))
    done = f"exported {exported.rows} rows" + (f" to {output}" if output else "")
    if not exported.missing:
        note(done)
        return
    for missing in exported.missing:
        note(f"not exported: {missing.described}")
    count = sum(count_in(missing.unread.ranges) for missing in exported.missing)
    raise CommandFailed(
        f"{done}; rows of {count} of {exported.microshards} microshards are missing", ExitCode.INCOMPLETE
    )


@dataclass(frozen=True, slots=True)
class _Missing:
    """What nobody gave, and why."""

    unread: Unread
    reason: str

    @property
    def described(self) -> str:
        """The microshard of which some rows were exported, with the last key that was, and those of which none were."""
        unread, ranges, parts = self.unread, self.unread.ranges, []
        if unread.after:
            begun = ranges[0].first
            parts.append(f"microshard {begun} behind the key {encode_key(unread.after).decode().strip()}")
            ranges = without_ranges(ranges, one_microshard(begun))
        if ranges:
            parts.append(f"microshards {shown_ranges(ranges)}")
        return f"{' and '.join(parts)} (shard {unread.shard}): {self.reason}"


@dataclass(frozen=True, slots=True)
class _Exported:
    """How an export ended."""

    rows: int
    microshards: int
    missing: list[_Missing]


async def _export(options: Options, stream: BinaryIO, *, skip_unavailable: bool) -> _Exported:
    routes = Routes(await fetch_shard_map(options.seeds, options.timeout, options.tls_context()))
    keyspace = routes.keyspaces_by_name.get(options.keyspace)
    if keyspace is None:
        known = ", ".join(sorted(routes.keyspaces_by_name))
        raise KeyspaceNotFound(f"no keyspace {options.keyspace!r} in cluster {routes.map.cluster!r}; it has {known}")
    coverage = KeyspaceCoverage(routes, keyspace)
    pages = _Pages(options, routes, coverage, skip_unavailable=skip_unavailable)
    rows = 0
    with Progress(f"export {keyspace.name}", keyspace.microshards) as progress:
        async for page in pages.all():
            stream.writelines(_lines(page, may_say_never=keyspace.default_ttl_ms > 0))
            rows += len(page.keys)
            progress.update(keyspace.microshards - coverage.microshards_left, rows)
    stream.flush()
    return _Exported(rows, keyspace.microshards, pages.missing)


def _lines(page: Page, *, may_say_never: bool) -> Iterator[bytes]:
    expiries = page.expiries or [0] * len(page.keys)
    for key, value, expiry_ms in zip(page.keys, page.values, expiries, strict=True):
        yield encode_file_row(key, value, expiry_ms, may_say_never=may_say_never)


class _Pages:
    """Reads the pages of a keyspace, each from the leader of the shard that has what comes next, by the newest map.

    `missing`: what it has gone on without, where that was asked for.
    """

    def __init__(self, options: Options, routes: Routes, coverage: KeyspaceCoverage, *, skip_unavailable: bool) -> None:
        self.missing: list[_Missing] = []
        self._skip_unavailable = skip_unavailable
        self._routes = routes
        self._coverage = coverage
        self._seeds = options.seeds
        self._timeout_seconds = options.timeout
        self._attempt_seconds = min(options.timeout, ATTEMPT_SECONDS)
        self._tls = options.tls_context()
        self._priority = options.priority or Priority.BATCH
        self._connection: AdminConnection | None = None
        self._shard = 0
        self._candidates: list[str] = []

    async def all(self) -> AsyncIterator[Page]:
        """Yield the pages, each after the coverage has taken note of it.

        Raises:
            ShoalError: nobody gave the next page within the timeout, and it was not to be left out.
        """
        coverage = self._coverage
        try:
            while coverage.part is not None:
                try:
                    page = await self._next()
                except _OF_NO_LEADER as error:
                    if not self._skip_unavailable:
                        raise
                    served = await self._served() if isinstance(error, WrongShard) else ()
                    self.missing.append(_Missing(coverage.leave(served), str(error)))
                    continue
                coverage.take(page.microshards, page.keys, page.resume)
                yield page
        finally:
            self._disconnect()

    async def _next(self) -> Page:
        """Read the next page from whoever leads its shard."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_seconds
        while True:
            part = self._coverage.part
            assert part is not None, "it is left while something is left to read"
            try:
                connection = await self._connected(part.shard)
                return await connection.read_page(
                    part.shard, self._coverage.keyspace.id, part.ranges, self._coverage.after, max_rows=PAGE_ROWS
                )
            except _OF_NO_LEADER as error:
                if loop.time() + RETRY_SECONDS >= deadline:
                    raise
                if await self._learn(error):
                    continue
                self._disconnect()
                if isinstance(error, NotLeader) and error.route is not None and error.route.leader:
                    self._candidates.insert(0, error.route.leader)
                await asyncio.sleep(RETRY_SECONDS)

    async def _served(self) -> Ranges:
        """Return what the shard has by its log, whose leader has just refused a page; () where that is not known."""
        if self._connection is None:
            return ()
        try:
            status = await self._connection.status()
        except ShoalError:
            return ()
        return next((replica.ranges for replica in status.replicas if replica.shard == self._shard), ())

    async def _connected(self, shard: int) -> AdminConnection:
        """Return a connection to the node that leads a shard, or may."""
        if shard != self._shard:
            self._disconnect()
            self._shard = shard
            known = self._routes.shards[shard]
            self._candidates = [known.leader or known.voters[0], *known.voters]
        if self._connection is None:
            node = self._candidates[0]
            self._candidates = [*self._candidates[1:], node]
            self._connection = await AdminConnection.open(
                self._routes.nodes[node].address, self._attempt_seconds, self._tls, self._priority
            )
        return self._connection

    async def _learn(self, error: ShoalError) -> bool:
        """After a refusal or failure, look for a newer map: of the node that refused, or else of any; say if there is one."""
        try:
            if isinstance(error, WrongShard) and self._connection is not None:
                shard_map = await self._connection.shard_map()
            else:
                shard_map = await fetch_shard_map(self._seeds, self._attempt_seconds, self._tls)
        except (Unavailable, DeadlineExceeded):
            return False
        if shard_map.version <= self._routes.map.version:
            return False
        self._routes = Routes(shard_map)
        self._coverage.follow(self._routes)
        self._disconnect()
        self._shard = 0
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    """Yield where to write: standard output, or a file that takes its name only once everything is in it."""
    if output is None:
        yield sys.stdout.buffer
        return
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(output)
    except ShoalError:
        raise  # one of them is an OSError, too: DeadlineExceeded
    except OSError as error:
        raise CommandFailed(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)

"""Keys of one and of many shards are changed and scanned in every way: does each row fit the history of its key?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.linearizability import NEVER, RegisterOperation, find_violation
from shoal_chaos.checkers.scans import Scan, find_violations, reads_of
from shoal_chaos.workloads.base import Workload, WorkloadStep

CLIENTS = 4
KEYS = 6
"""Of each kind: in a partition of their own, and together in one."""
SCAN_SHARE = 0.4
MOST_LIMIT = 8
MOST_CALLS = 400
"""After so many, the keys are replaced by new ones, so that the calls of unknown outcome among them stay few."""


class Scans(Workload):
    """put, delete and delete_prefix, and scans of all keys and parts, from both ends, limited or not, keys only or not."""

    name: ClassVar[str] = "scans"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.scans: list[Scan] = []
        self.writes: dict[bytes, list[RegisterOperation]] = {}
        self._keys: list[bytes] = []
        self._prefix = b""
        self._calls = 0

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    def check(self) -> Iterator[str]:
        histories = {key: list(writes) for key, writes in self.writes.items()}
        keys = sorted(histories)
        for scan in self.scans:
            yield from find_violations(scan)
            for key, read in reads_of(scan, keys):
                if key not in histories:
                    yield f"A scan returned {key!r}, which nobody ever wrote."
                else:
                    histories[key].append(read)
        for key, history in histories.items():
            part = find_violation(history)
            if part is not None:
                lines = "\n".join(f"  {operation}" for operation in part)
                yield f"what scans showed of {key!r} is not linearizable:\n{lines}"

    async def _step(self, db: AsyncClient) -> None:
        if self._calls % MOST_CALLS == 0:
            self._replace_keys()
        self._calls += 1
        kind = self.random.random()
        key = self.random.choice(self._keys)
        if kind < SCAN_SHARE:
            await self._scan(db)
        elif kind < 0.85:
            await self._write(db, key, self.recorder.new_value())
        elif kind < 0.98:
            await self._write(db, key, None)
        else:
            await self._delete_together(db)

    def _replace_keys(self) -> None:
        self._prefix = f"{self.prefix}{self._calls}-".encode()
        self._keys = [self._prefix + b"%d" % number for number in range(KEYS)]
        self._keys += [self._prefix + b"x/%d" % number for number in range(KEYS)]
        self.writes.update({key: [] for key in self._keys})

    async def _write(self, db: AsyncClient, key: bytes, value: bytes | None) -> None:
        began = monotonic_ns()
        try:
            if value is None:
                await db.delete(key, timeout=self.patience())
            else:
                await db.put(key, value, timeout=self.patience())
        except ShoalError as error:
            if self.recorder.failed(error, *([] if value is None else [value])):
                self.writes[key].append(RegisterOperation("", True, value, began, NEVER))
        else:
            self.recorder.wrote()
            self.writes[key].append(RegisterOperation("", True, value, began, monotonic_ns()))

    async def _delete_together(self, db: AsyncClient) -> None:
        prefix = self._prefix + b"x/"
        keys = [key for key in self._keys if key.startswith(prefix)]
        began, ended = monotonic_ns(), NEVER
        try:
            await db.delete_prefix(prefix, timeout=self.patience())
        except ShoalError as error:
            if not self.recorder.failed(error):
                return
        else:
            self.recorder.wrote()
            ended = monotonic_ns()
        for key in keys:
            self.writes[key].append(RegisterOperation("", True, None, began, ended))

    async def _scan(self, db: AsyncClient) -> None:
        one, other = sorted(self.random.sample(self._keys, 2))
        whole = self.random.random() < 0.5
        start, end = (self._prefix, self._prefix + b"\xff") if whole else (one, other)
        limit = self.random.choice([None, self.random.randint(1, MOST_LIMIT)])
        reverse, keys_only = self.random.random() < 0.5, self.random.random() < 0.3
        began = monotonic_ns()
        try:
            found = db.scan(
                start=start,
                end=end,
                limit=limit,
                reverse=reverse,
                keys_only=keys_only,
                page_rows=self.random.randint(1, 2 * KEYS),
                timeout=self.patience(),
            )
            rows = [(row, b"") if keys_only else row async for row in found]
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        if keys_only:
            self.recorder.done += 1
        else:
            self.recorder.saw(*(value for _, value in rows))
        self.scans.append(Scan(start, end, limit, reverse, keys_only, rows, began, monotonic_ns()))

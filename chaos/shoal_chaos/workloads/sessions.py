"""Sessions travel from client to client by their tokens: does each read its own writes, and never go back?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from time import monotonic_ns
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.sessions import SessionEvent, find_violations
from shoal_chaos.workloads.base import Workload, WorkloadStep

SESSIONS = 4
PARTITIONS = 2
KEYS = 3
HAND_OVER_SHARE = 0.1
LAST_EVENT = 150
UNBOUNDED = 2**63


class Sessions(Workload):
    """Keys of one partition are in one shard, so what a session saw of one of them binds its reads of the others.

    A client does not say how far the replica had applied the shard. It was at least at the version that it showed, and had
    not come to the next one that was ever acknowledged or seen: keys are not deleted here.
    """

    name: ClassVar[str] = "sessions"

    def __init__(self, run: str, random: Random, clients: Sequence[AsyncClient]) -> None:
        """
        Args:
            clients: between which sessions are handed over, with connections of their own.
        """
        super().__init__(run, random)
        self.events: list[SessionEvent] = []
        self._clients = clients
        self._begun = 0

    def steps(self) -> list[WorkloadStep]:
        return [_Traveller(self).step for _ in range(SESSIONS)]

    def check(self) -> Iterator[str]:
        for found in find_violations(self._bounded()):
            yield found.sentence

    def new_name(self) -> str:
        self._begun += 1
        return f"s{self._begun}"

    def move(self, session: AsyncClient | None) -> AsyncClient:
        """Return a session on any of the clients that goes on from `session`."""
        client = self.random.choice(self._clients)
        if session is None:
            return client.session()
        if self.random.random() < 0.5:
            return client.session(session.token())
        merged = client.session()
        merged.merge(session.token())
        return merged

    async def put(self, name: str, session: AsyncClient) -> None:
        partition, key = self._any_key()
        value = self.recorder.new_value()
        began = monotonic_ns()
        try:
            result = await session.put(key, value, timeout=self.patience())
        except ShoalError as error:
            self.recorder.failed(error, value)
            return
        self.recorder.wrote()
        event = SessionEvent(name, key.encode(), "write", result.seq, began, monotonic_ns(), result.seq, partition)
        self.events.append(event)

    async def get(self, name: str, session: AsyncClient) -> None:
        partition, key = self._any_key()
        began = monotonic_ns()
        try:
            entry = await session.get_entry(key, timeout=self.patience())
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(None if entry is None else entry.value)
        seq = 0 if entry is None else entry.seq
        self.events.append(SessionEvent(name, key.encode(), "read", seq, began, monotonic_ns(), seq, partition))

    def _any_key(self) -> tuple[int, str]:
        partition = self.random.randrange(PARTITIONS)
        return partition, f"{self.prefix}{partition}/{self.random.randrange(KEYS)}"

    def _bounded(self) -> Iterator[SessionEvent]:
        known: dict[bytes, set[int]] = {}
        for event in self.events:
            known.setdefault(event.key, set()).add(event.seq)
        versions = {key: sorted(seqs) for key, seqs in known.items()}
        for event in self.events:
            if event.kind == "read":
                later = versions[event.key][bisect_right(versions[event.key], event.seq) :]
                yield replace(event, shard_seq_most=later[0] - 1 if later else UNBOUNDED)
            else:
                yield event


class _Traveller:
    """One session at a time: it begins on one client, is handed over to others, and ends."""

    def __init__(self, workload: Sessions) -> None:
        self._workload = workload
        self._session: AsyncClient | None = None
        self._name = ""
        self._events = 0

    async def step(self, db: AsyncClient) -> None:  # noqa: ARG002 - it has clients of its own
        workload = self._workload
        if self._session is None or self._events == LAST_EVENT:
            self._session, self._name, self._events = workload.move(None), workload.new_name(), 0
        elif workload.random.random() < HAND_OVER_SHARE:
            self._session = workload.move(self._session)
        self._events += 1
        if workload.random.random() < 0.4:
            await workload.put(self._name, self._session)
        else:
            await workload.get(self._name, self._session)

"""The managers' rows, durable and simulated: each write happens whole, at one moment, or not; its answer may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from random import Random
from typing import TypeVar

import shoal
from shoal.errors import ConditionFailed, DeadlineExceeded, Unavailable
from shoal.protocol.messages import AtomicOperation, Condition, Delete, KeyAbsent, Put, ValueEquals

from shoal_chaos.simulation.world.events import MILLISECOND, Events
from shoal_chaos.simulation.world.network import Network

ROWS = "rows"
"""The name of the managers' own shard on the network."""
TIMEOUT_SECONDS = 5.0
DELAY_MAX = 5 * MILLISECOND

T = TypeVar("T")


class ManagerRows:
    """What outlives every manager. `written` is called with what each write has changed; None: deleted."""

    def __init__(self, written: Callable[[dict[str, bytes | None]], None]) -> None:
        self.data: dict[str, bytes] = {}
        self.loss = 0.0
        self._written = written

    def apply(self, operations: Iterable[AtomicOperation], conditions: Iterable[Condition]) -> bool:
        """Do all of it, if the conditions hold; return whether they do."""
        for condition in conditions:
            assert isinstance(condition, KeyAbsent | ValueEquals)
            expected = condition.value if isinstance(condition, ValueEquals) else None
            if self.data.get(condition.key.decode()) != expected:
                return False
        changes: dict[str, bytes | None] = {}
        for operation in operations:
            assert isinstance(operation, Put | Delete)
            changes[operation.key.decode()] = operation.value if isinstance(operation, Put) else None
        for key, value in changes.items():
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value
        self._written(changes)
        return True


class RowsClient:
    """What a manager reads and writes the rows with: the part of `shoal.AsyncClient` that `Store` uses."""

    def __init__(self, name: str, rows: ManagerRows, events: Events, random: Random, network: Network) -> None:
        self.closed = False
        self._name = name
        self._rows = rows
        self._events = events
        self._random = random
        self._network = network

    async def get(self, key: str) -> bytes | None:
        return await self._ask(lambda: self._rows.data.get(key))

    async def get_entry(self, key: str) -> shoal.Entry | None:
        value = await self.get(key)
        return None if value is None else shoal.Entry(value, 0, None, 0.0, ROWS)

    async def scan(self, prefix: str = "") -> AsyncIterator[tuple[bytes, bytes]]:
        found = await self._ask(
            lambda: [(key.encode(), value) for key, value in sorted(self._rows.data.items()) if key.startswith(prefix)]
        )
        for item in found:
            yield item

    async def delete(self, key: str) -> None:
        await self._ask(lambda: self._rows.apply([shoal.delete(key)], []))

    async def write(self, operations: list[AtomicOperation], *, when: list[Condition]) -> None:
        if not await self._ask(lambda: self._rows.apply(operations, when), maybe_applied=True):
            raise ConditionFailed("a row is another by now")

    async def _ask(self, do: Callable[[], T], *, maybe_applied: bool = False) -> T:
        """Have `do` done at the rows, and bring its answer; either way may be lost, and what was sent is done even so."""
        if self.closed:
            raise Unavailable("this manager has ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def arrive() -> None:
            if not self._network.connected(self._name, ROWS) or self._random.random() < self._rows.loss:
                return
            answer = do()
            if self._random.random() >= self._rows.loss:
                self._events.after(self._delay(), lambda: None if future.done() else future.set_result(answer))

        self._events.after(self._delay(), arrive)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await future
        except TimeoutError as error:
            raise DeadlineExceeded("the rows do not answer", maybe_applied=maybe_applied) from error

    def _delay(self) -> int:
        return self._random.randint(1, DELAY_MAX)

"""What a simulated client does with rows that expire: writes them, looks for them before and after, and takes locks.

Every row has one client that writes it and knows between which instants it must expire (`checkers.expirations`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar

from shoal.protocol.messages import (
    STRONG,
    Applied,
    Atomic,
    Freshness,
    KeyAbsent,
    Operation,
    Put,
    Read,
    Request,
    Rows,
    ScanPage,
    Touch,
    Written,
)

from shoal_chaos.checkers.expirations import Lifetime, Look
from shoal_chaos.simulation.clients.histories import Histories
from shoal_chaos.simulation.clients.steps import ClientStep
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND

KEPT = 8
"""A client goes on looking for so many rows."""
WATCHED = 6 * SECOND
"""For so long after a row must be gone somebody looks for it."""
TTLS_MS = (200, 1_000, 4_000, 3_600_000)
STALENESS_MS = 5_000

Lived = Callable[[bytes, Lifetime | None], None]
"""Told of a row's life, None where nobody knows it any more."""


class Lives:
    """The rows of one client."""

    def __init__(self, client: str, histories: Histories) -> None:
        self._client = client
        self._histories = histories
        self._rows: dict[bytes, Lifetime] = {}
        self._made = 0

    def step(self, random: Random, now: int) -> ClientStep:
        """Return what to do next."""
        self._rows = {key: life for key, life in self._rows.items() if now < life.latest + WATCHED}
        kind, ttl_ms = random.random(), random.choice(TTLS_MS)
        if len(self._rows) < KEPT and (not self._rows or kind < 0.2):
            self._made += 1
            # Each is a partition of its own, so that all shards have some.
            key = f"life/{self._client}-{self._made}".encode()
            return TakeStep(key, ttl_ms, None, now, self._histories, self._lived)
        key = random.choice(list(self._rows))
        life = self._rows[key]
        if kind < 0.35:
            return TakeStep(key, ttl_ms, life, now, self._histories, self._lived)
        if kind < 0.45:
            return TouchStep(key, ttl_ms, life, now, self._histories, self._lived)
        freshness = STRONG if kind < 0.75 else Freshness(False, 0, STALENESS_MS)
        return LookStep(key, life, freshness, self._histories)

    def _lived(self, key: bytes, life: Lifetime | None) -> None:
        if life is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = life


class _WriteStep:
    """A write that says whether its row was there, and gives it another life."""

    weak = False

    def __init__(
        self,
        key: bytes,
        ttl_ms: int,
        life: Lifetime | None,
        began: int,
        histories: Histories,
        lived: Lived,
    ) -> None:
        self.key = key
        self._ttl = ttl_ms * MILLISECOND
        self._life = life
        self._began = began
        self._histories = histories
        self._lived = lived

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        raise NotImplementedError

    def given_up(self) -> None:
        self._lived(self.key, None)

    def _found(self, how: str, now: int, *, there: bool, lives_on: bool) -> None:
        if self._life is not None:
            look = Look(self.key.decode(), how, there, False, self._life, self._began, now)
            self._histories.looks.append(look)
        if lives_on:
            self._lived(self.key, Lifetime(self._began + self._ttl, now + self._ttl))


class TakeStep(_WriteStep):
    """Takes a lock, unless it is held: `put_if_absent` with a time to live."""

    def __init__(
        self, key: bytes, ttl_ms: int, life: Lifetime | None, began: int, histories: Histories, lived: Lived
    ) -> None:
        super().__init__(key, ttl_ms, life, began, histories, lived)
        self.operations: list[Operation] = [Atomic([KeyAbsent(key)], [Put(key, b"held", ttl_ms)])]

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        assert isinstance(answer, Written)
        taken = isinstance(answer.results[0], Applied)
        self._found("take", now, there=not taken, lives_on=taken)
        return None


class TouchStep(_WriteStep):
    """Lets a row live on, if it is still there."""

    def __init__(
        self, key: bytes, ttl_ms: int, life: Lifetime | None, began: int, histories: Histories, lived: Lived
    ) -> None:
        super().__init__(key, ttl_ms, life, began, histories, lived)
        self.operations: list[Operation] = [Touch(key, ttl_ms)]

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        assert isinstance(answer, Written)
        there = answer.results[0] == Applied([1])
        self._found("touch", now, there=there, lives_on=there)
        return None


class LookStep:
    """Reads a row that expires."""

    operations: ClassVar[list[Operation]] = []

    def __init__(self, key: bytes, life: Lifetime, freshness: Freshness, histories: Histories) -> None:
        self.key = key
        self.weak = not freshness.strong
        self._life = life
        self._freshness = freshness
        self._histories = histories

    def strengthen(self) -> None:
        """After replicas have declined: ask the leader."""
        self._freshness = STRONG
        self.weak = False

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:  # noqa: ARG002
        return Read(number, shard, keyspace, 0, [self.key], self._freshness)

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:
        assert isinstance(answer, Rows)
        how = "strong" if self._freshness.strong else "eventual"
        there = answer.values[0] is not None
        self._histories.looks.append(Look(self.key.decode(), how, there, self.weak, self._life, sent, now))
        return None

    def given_up(self) -> None:
        """A read that ended nowhere tells nothing."""

"""What all attackers have in common: where they are let loose, what they may still do, and what they say of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import msgspec
from shoal import AsyncClient, ShoalError
from shoal.errors import ErrorCode

CALL_SECONDS = 5.0
"""An attacker's call is given up after this, as a client's is by default."""

PAUSE_SECONDS = 0.05
"""After a call that failed: an attacker that is refused does not spin."""


class Family(StrEnum):
    """What kind of neighbour an attacker is; the nemeses are named so."""

    GREEDY_CLIENT = "greedy-client"
    SLOW_READER = "slow-reader"
    SLOW_LINK = "slow-link"
    IDLE_CONNECTIONS = "idle-connections"
    GIANT_VALUES = "giant-values"
    TINY_DEADLINES = "tiny-deadlines"
    EXPENSIVE_REQUESTS = "expensive-requests"


class Needs(StrEnum):
    """What an attack needs of the cluster that not every one has."""

    NOTHING = "nothing"
    PAGES = "pages"
    GRPC = "gRPC"
    TLS = "TLS"
    FEW_DESCRIPTORS = "few descriptors"
    """Nodes that may open 1,024 files, which many systems have for a default."""


class Ground(msgspec.Struct, frozen=True):
    """The cluster that is attacked, as whoever attacks it may know it.

    Args:
        addresses: where clients find the nodes.
        pages, grpc: where nodes have their pages, and serve gRPC; empty: they do not.
        seed: of what is chosen at random.
        seconds: how long the attack lasts.
    """

    url: str
    addresses: tuple[str, ...]
    pages: tuple[str, ...] = ()
    grpc: tuple[str, ...] = ()
    seed: int = 0
    seconds: float = 5.0


class Deeds(msgspec.Struct):
    """What an attacker has done.

    Args:
        requests: calls, or requests in frames of its own making.
        answered: of these, those that got what they asked for; overloaded: those that were refused as too much; failed:
            those that ended otherwise.
        connections: that it has opened; refused_connections: those that the node turned away or closed.
        sent_bytes, received_bytes: on connections of its own making, not those of Shoal's client.
        errors: by kind, how many; words: the last of each kind.
        cpu_seconds: processor time of the attacker's own process during the attack, which on a small machine is
            time that the nodes did not get.
    """

    requests: int = 0
    answered: int = 0
    overloaded: int = 0
    failed: int = 0
    connections: int = 0
    refused_connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    errors: dict[str, int] = {}
    words: dict[str, str] = {}
    cpu_seconds: float = 0.0

    def note(self, kind: str, words: str) -> None:
        """Note a failure."""
        if kind == ErrorCode.OVERLOADED:
            self.overloaded += 1
        else:
            self.failed += 1
        self.remember(kind, words)

    def remember(self, kind: str, words: str) -> None:
        """Note what went wrong, where no request has failed by it."""
        self.errors[kind] = self.errors.get(kind, 0) + 1
        self.words[kind] = words[:300]


class Assault:
    """One attack while it lasts: what each attacker is given."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.random = Random(ground.seed)
        self.deeds = Deeds()
        self._ends = time.monotonic() + ground.seconds

    def begin(self) -> None:
        """Count from now on."""
        self.deeds = Deeds()
        self._ends = time.monotonic() + self.ground.seconds

    @property
    def left(self) -> float:
        """How many seconds there are still."""
        return max(0.0, self._ends - time.monotonic())

    @asynccontextmanager
    async def client(self, seconds: float = CALL_SECONDS, url: str = "") -> AsyncIterator[AsyncClient]:
        """Open one of Shoal's own clients."""
        async with AsyncClient(url or self.ground.url, timeout=seconds) as db:
            self.deeds.connections += len(self.ground.addresses)
            yield db

    async def call(self, make: Callable[[], Awaitable[object]]) -> bool:
        """Make a call of Shoal's own client, and note what came of it; return whether it was answered."""
        self.deeds.requests += 1
        try:
            await make()
        except ShoalError as error:
            self.deeds.note(error.code.value, str(error))
            return False
        self.deeds.answered += 1
        return True

    async def again_and_again(self, make: Callable[[], Awaitable[object]]) -> None:
        """Make one call after the other until the time is up."""
        while self.left:
            if not await self.call(make):
                await asyncio.sleep(PAUSE_SECONDS)

    async def many(self, callers: int, make: Callable[[], Awaitable[object]]) -> None:
        """Have so many callers make one call after the other until the time is up."""
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self.again_and_again(make))


async def nothing(_: Assault) -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One thing that a neighbour can do.

    Args:
        words: what it does, in words.
        run: does it until the time is up; `Assault.left` says how much there is. It is cancelled soon after.
        prepare: writes what has to be there before.
        valid: what it asks for is its due, so that its own calls are to be answered as well.
        seconds_least: it is not complete before.
    """

    name: str
    family: Family
    words: str
    run: Callable[[Assault], Awaitable[None]]
    prepare: Callable[[Assault], Awaitable[None]] = nothing
    needs: Needs = Needs.NOTHING
    valid: bool = False
    seconds_least: float = 0.0

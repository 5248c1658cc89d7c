"""What may go wrong in an application's simulation: faults as data, ordered by a test or drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

FAULTS_MAX = 6
"""So many faults a plan that is drawn has at the most."""
SECONDS_MIN, SECONDS_MAX = 0.05, 4.0
SPAN_MIN = 0.2
"""A plan is spread over at least so many seconds, however soon the application ends without faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong for a while.

    Args:
        at: simulated seconds after the start of the run; in `Simulation.inject`, from now on.
        seconds: how long it lasts.
    """

    at: float = 0.0
    seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Fault):
    """A node's or manager's process ends without warning, its disk loses what was not synced; then it starts again."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Fault):
    """A process (node, manager, or one of the application) stands still, and goes on as if nothing had happened."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Fault):
    """Those of `side` and all others do not hear of each other."""

    side: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWayCut(Fault):
    """Nothing that `sender` sends reaches `receiver`; the other direction works."""

    sender: str
    receiver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNetwork(Fault):
    """Every link is late, and loses frames: between nodes for good, elsewhere until TCP sends them again.

    Args:
        loss: of 1, how many are lost.
        delay_ms: how late one is at the most.
    """

    loss: float = 0.0
    delay_ms: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDisk(Fault):
    """A node's disk syncs take up to `sync_ms`."""

    name: str
    sync_ms: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(Fault):
    """A node's wall clock is wrong by `ms` more. Monotonic clocks always drift a little; each seed has its own drifts."""

    name: str
    ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderMove(Fault):
    """Every shard that has a replica on `name` is asked to have its leader there. It is not undone."""

    name: str


Plan: TypeAlias = Sequence[Fault]


def draw_plan(random: Random, nodes: Sequence[str], others: Sequence[str], span: float) -> list[Fault]:
    """Return faults in order of time.

    Args:
        others: further processes that may be cut off: managers, the application's own.
        span: simulated seconds that the application takes without faults.
    """
    makers = _makers(random, nodes, others)
    # Swarm testing (Groce and others, ISSTA 2012): leaving kinds out finds what their presence would mask.
    kinds = [make for make in makers if random.random() < 0.5] or makers[:1]
    count = random.randint(1, FAULTS_MAX)
    pause = max(span, SPAN_MIN) / count
    plan: list[Fault] = []
    at = 0.0
    for _ in range(count):
        at += random.uniform(0, 2 * pause)
        seconds = round(SECONDS_MIN * (SECONDS_MAX / SECONDS_MIN) ** random.random(), 3)
        plan.append(replace(random.choice(kinds)(), at=round(at, 3), seconds=seconds))
        if random.random() < 0.5:
            # Faults make the application late: half of the time the next one comes only after this one is over.
            at += seconds
    return plan


def _makers(random: Random, nodes: Sequence[str], others: Sequence[str]) -> list[Callable[[], Fault]]:
    """Return what makes one fault of each kind."""
    everybody = [*nodes, *others]

    def partition() -> Fault:
        side = tuple(name for name in everybody if random.random() < 0.5)
        return Partition(side=side or (random.choice(nodes),))

    def one_way_cut() -> Fault:
        sender, receiver = random.sample(everybody, 2)
        return OneWayCut(sender=sender, receiver=receiver)

    return [
        lambda: Crash(name=random.choice(nodes)),
        lambda: Pause(name=random.choice(everybody)),
        lambda: Partition(side=(random.choice(nodes),)),
        partition,
        one_way_cut,
        lambda: BadNetwork(loss=random.choice([0.0, 0.02, 0.2]), delay_ms=random.choice([20, 200])),
        lambda: SlowDisk(name=random.choice(nodes), sync_ms=random.choice([50, 500, 3000])),
        lambda: ClockJump(name=random.choice(nodes), ms=random.randint(-5000, 5000)),
        lambda: LeaderMove(name=random.choice(nodes)),
    ]

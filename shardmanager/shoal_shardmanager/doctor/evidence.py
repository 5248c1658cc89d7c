"""What the doctor looks at, as plain values, and what it finds."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from shoal.admin.hot_keys import HotKeyRate
from shoal.admin.survey import Survey


class Severity(StrEnum):
    """How bad it is, the worst first: requests fail now; something is wrong; good to know."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Finding(msgspec.Struct, frozen=True):
    """One thing that the doctor has to say.

    Args:
        code: names the kind of finding, for programs; docs/observability.md lists them.
        what: what is so, in a sentence; `advice`: what to do about it.
        node, shard, operation: what it is about; "" or 0: not of one.
    """

    severity: Severity
    code: str
    what: str
    advice: str
    node: str = ""
    shard: int = 0
    operation: int = 0


class ClockReading(msgspec.Struct, frozen=True):
    """What a node's clock showed at some instant between two of ours (Unix time, ms)."""

    node: str
    asked_ms: int
    shown_ms: int
    answered_ms: int


class RunningOperation(msgspec.Struct, frozen=True):
    """An operation under way. `waiting`: what for, "" where it goes on."""

    id: int
    kind: str
    subject: str
    step: str
    step_seconds: float
    waiting: str = ""


class SilentNode(msgspec.Struct, frozen=True):
    """A node that the controller does not hear, or does not take for itself."""

    id: str
    state: str
    reason: str


class ControlPlane(msgspec.Struct, frozen=True):
    """What the managers said.

    Args:
        asked: whether anybody was; False: no addresses are known.
        problem: "" or why there was no answer.
        drained: nodes that take no replicas, since somebody has drained them.
    """

    asked: bool
    problem: str = ""
    manager: str = ""
    map_version: int = 0
    silent: tuple[SilentNode, ...] = ()
    operations: tuple[RunningOperation, ...] = ()
    drained: tuple[str, ...] = ()


class ManagerAnswer(msgspec.Struct, frozen=True):
    """One manager's own address, asked directly. `problem`: "" where it is well."""

    address: str
    problem: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """All that the doctor looks at. `target_indexes`: shard -> the log index up to which every replica should be by now.

    `hot_keys`: those that are asked for most, the first most.
    """

    survey: Survey
    target_indexes: dict[int, int]
    clocks: tuple[ClockReading, ...]
    control: ControlPlane
    managers: tuple[ManagerAnswer, ...] = ()
    hot_keys: tuple[HotKeyRate, ...] = ()

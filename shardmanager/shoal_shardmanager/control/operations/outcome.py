"""What a moment's look at an operation can lead to; and the table of steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace
from shoal_server.invariants import invariant

from shoal_shardmanager.control.node_requests import NodeRequest
from shoal_shardmanager.control.rows import OperationRow, State, Step
from shoal_shardmanager.control.state import RowChange

TRANSITIONS: dict[Step, frozenset[Step]] = {
    Step.QUEUED: frozenset({Step.ROUTE, Step.HAND_OVER, Step.TRANSFER, Step.COPY}),
    Step.ROUTE: frozenset({Step.ADD, Step.HAND_OVER}),
    Step.ADD: frozenset({Step.CATCH_UP, Step.HAND_OVER}),
    Step.CATCH_UP: frozenset({Step.ADD, Step.PROMOTE, Step.HAND_OVER}),
    Step.PROMOTE: frozenset({Step.ADD, Step.HAND_OVER}),
    Step.HAND_OVER: frozenset({Step.DEMOTE, Step.REMOVE}),
    Step.DEMOTE: frozenset({Step.HAND_OVER, Step.REMOVE}),
    Step.REMOVE: frozenset({Step.DROP}),
    Step.DROP: frozenset(),
    Step.TRANSFER: frozenset(),
    Step.EVACUATE: frozenset({Step.RESTART}),
    Step.RESTART: frozenset({Step.SETTLE}),
    Step.SETTLE: frozenset({Step.EVACUATE}),
    Step.WORK: frozenset(),
    Step.FOUND: frozenset(),
    Step.SPREAD: frozenset({Step.DROP}),
    Step.SPLIT: frozenset({Step.SPREAD}),
    Step.COPY: frozenset({Step.SEAL, Step.UNDO}),
    Step.SEAL: frozenset({Step.FORGET}),
    Step.UNDO: frozenset(),
    Step.FORGET: frozenset({Step.LINGER}),
    Step.LINGER: frozenset({Step.SPREAD}),
}
"""Which step may follow which. A step may end the operation wherever it stands."""


@dataclass(frozen=True, slots=True)
class Note:
    """How far a running operation is, and what it waits for; not stored, since the next look finds it again.

    `left` and `total` count `unit`s; -1: not known.
    """

    waiting: str = ""
    left: int = -1
    total: int = -1
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows to write, requests to send, or neither: then `note` says what is waited for, such as placement's plan.

    Requests are sent only where no rows are written: what is asked of nodes follows from what is on disk. `migrator`: a task
    that copies rows is to be at work.
    """

    changes: tuple[RowChange, ...] = ()
    requests: tuple[NodeRequest, ...] = ()
    note: Note = field(default_factory=Note)
    wants_plan: bool = False
    migrator: bool = False


def wait(reason: str, *, left: int = -1, total: int = -1, unit: str = "") -> Outcome:
    """Do nothing now."""
    return Outcome(note=Note(reason, left, total, unit))


def ask(*requests: NodeRequest, waiting: str) -> Outcome:
    """Send requests."""
    return Outcome(requests=requests, note=Note(waiting))


def go(row: OperationRow, step: Step, now_ms: int, *more: RowChange, map_version: int = 0) -> Outcome:
    """Go on to another step."""
    invariant(step in TRANSITIONS[row.step], f"{row.step} is followed by one of {sorted(TRANSITIONS[row.step])}")
    moved = replace(row, step=step, step_ms=now_ms, map_version=map_version or row.map_version)
    return Outcome(changes=(moved, *more))


def end(row: OperationRow, state: State, now_ms: int, reason: str, *more: RowChange) -> Outcome:
    """End the operation."""
    invariant(state is not State.RUNNING, "an end is no running state")
    return Outcome(changes=(ended(row, state, now_ms, reason), *more))


def ended(row: OperationRow, state: State, now_ms: int, reason: str) -> OperationRow:
    """Return the row of an operation that ends now."""
    return replace(row, state=state, ended_ms=now_ms, reason=reason)

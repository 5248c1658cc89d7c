"""How the control plane's commands show operations and plans: tables, JSON, and a progress line while one runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.output import note, print_json, print_line, print_table, shown_bytes, shown_duration

from shoal_shardmanager.rpc.client import ManagersClient
from shoal_shardmanager.rpc.generated import admin_pb2 as pb

RUNNING = "running"
MILLISECONDS = "ms"
"""The unit of what is left where an operation waits for a time to go by."""


class OperationView(msgspec.Struct):
    """An operation, as `--json` prints it."""

    id: int
    kind: str
    subject: str
    state: str
    step: str
    waiting: str
    reason: str
    left: int | None
    total: int | None
    unit: str
    parent: int | None
    parts_running: list[int]
    created_ms: int
    step_since_ms: int
    ended_ms: int | None
    undoing: bool
    node: str | None
    automatic: bool


class PlanView(msgspec.Struct):
    """A plan, as `--json` prints it."""

    steps: list[str]
    notes: list[str]
    bytes: int
    map_version: int


def operation_view(operation: pb.Operation) -> OperationView:
    """Return an operation as plain data."""
    return OperationView(
        id=operation.id,
        kind=operation.kind,
        subject=operation.subject,
        state=operation.state,
        step=operation.step,
        waiting=operation.waiting,
        reason=operation.reason,
        left=None if operation.left < 0 else operation.left,
        total=None if operation.total < 0 else operation.total,
        unit=operation.unit,
        parent=operation.parent or None,
        parts_running=list(operation.parts_running),
        created_ms=operation.created_ms,
        step_since_ms=operation.step_since_ms,
        ended_ms=operation.ended_ms or None,
        undoing=operation.undoing,
        node=operation.node or None,
        automatic=operation.automatic,
    )


def print_plan(reply: pb.StartReply, *, as_json: bool) -> None:
    """Print what would be done."""
    if as_json:
        print_json(PlanView(list(reply.steps), list(reply.notes), reply.bytes, reply.map_version))
        return
    for number, step in enumerate(reply.steps, start=1):
        print_line(f"{number:>3}. {step}")
    for line in reply.notes:
        print_line(f"  - not possible: {line}")
    print_line(f"copies {shown_bytes(reply.bytes)}, as far as known; shard map {reply.map_version}; nothing was done")


def print_operations(found: list[pb.Operation], *, as_json: bool) -> None:
    """Print a list of operations."""
    if as_json:
        print_json([operation_view(operation) for operation in found])
        return
    print_table(
        ("id", "operation", "on", "state", "step", "left", "for", "what"),
        [
            (
                operation.id,
                operation.kind,
                operation.subject,
                _state(operation),
                operation.step if operation.state == RUNNING else "",
                _left(operation),
                _age(operation),
                operation.waiting or operation.reason,
            )
            for operation in found
        ],
    )


def print_operation(operation: pb.Operation, *, as_json: bool) -> None:
    """Print one operation."""
    if as_json:
        print_json(operation_view(operation))
        return
    print_line(f"operation {operation.id}: {operation.kind}, {operation.subject}: {_state(operation)}")
    if operation.state == RUNNING:
        since = shown_duration(max(0, int(time.time() * 1000) - operation.step_since_ms))
        print_line(f"step        {operation.step}, for {since}")
        if operation.waiting:
            print_line(f"waits       {operation.waiting}")
        if operation.left >= 0:
            print_line(f"left        {_left(operation)}")
    if operation.reason:
        print_line(f"{'reason' if operation.state == RUNNING else 'end':<12}{operation.reason}")
    if operation.parent:
        print_line(f"part of     operation {operation.parent}")
    if operation.parts_running:
        print_line(f"parts       {', '.join(map(str, operation.parts_running))}")


def follow(
    client: ManagersClient,
    number: int,
    *,
    as_json: bool,
    well: tuple[str, ...] = ("done",),
    on_change: Callable[[pb.Operation], None] = lambda _: None,
) -> None:
    """Show an operation until it has ended; Ctrl-C leaves it running.

    Args:
        well: the ends that are what was asked for; another one is a failure.
        on_change: called with the operation whenever something about it has changed.
    """
    last: pb.Operation | None = None
    try:
        last = _watched(client, number, on_change)
    except KeyboardInterrupt:
        note(
            f"operation {number} goes on; `shoal operations {number} --watch` shows it, `shoal cancel {number}` ends it"
        )
        raise CommandFailed(f"stopped watching operation {number}", ExitCode.FAILED) from None
    if as_json:
        print_json(operation_view(last))
    elif last.state in well:
        print_line(f"operation {number} is {last.state} ({_age(last)}): {last.reason}")
    if last.state not in well:
        raise CommandFailed(f"operation {number} ({last.kind}, {last.subject}) is {last.state}: {last.reason}")


def _watched(client: ManagersClient, number: int, on_change: Callable[[pb.Operation], None]) -> pb.Operation:
    from rich.console import Console
    from rich.status import Status

    terminal = sys.stderr.isatty()
    last: pb.Operation | None = None
    said = ""
    with Status("", console=Console(file=sys.stderr, quiet=not terminal)) as status:
        for now in client.watch(number):
            if last is None and not terminal:
                note(f"operation {number}: {now.kind}, {now.subject}")
            last = now
            rest = f", {_left(now)} left{_time_left(now)}" if now.left > 0 else ""
            line = f"operation {number}: {now.step}{rest}{': ' if now.waiting else ''}{now.waiting}"
            if terminal:
                status.update(line)
            elif now.state == RUNNING and now.step != said:
                note(line)
            said = now.step
            on_change(now)
    if last is None:
        raise CommandFailed(f"operation {number} cannot be watched", ExitCode.UNAVAILABLE)
    return last


def _state(operation: pb.Operation) -> str:
    return "going back" if operation.undoing else str(operation.state)


def _left(operation: pb.Operation) -> str:
    if operation.left < 0 or operation.state != RUNNING:
        return ""
    if operation.unit == MILLISECONDS:
        return shown_duration(operation.left)
    of = f" of {operation.total}" if operation.total >= 0 else ""
    return f"{operation.left}{of} {operation.unit}"


def _time_left(operation: pb.Operation) -> str:
    if operation.rate <= 0 or operation.left <= 0 or operation.unit == MILLISECONDS:
        return ""
    return f" at {operation.rate:.0f}/s, {shown_duration(int(operation.left / operation.rate * 1000))} still"


def _age(operation: pb.Operation) -> str:
    until = operation.ended_ms or int(time.time() * 1000)
    took = max(0, until - operation.created_ms)
    return shown_duration(took) if took >= 1000 else f"{took} ms"

"""Requests that have waited at a node for longer than their callers wait: they are refused, and surely not done."""

from __future__ import annotations

from shoal.errors import ErrorCode
from shoal.protocol.messages import Read, ReadPage, Scan, Write

from shoal_server.node.outbox import Outbox
from shoal_server.node.request_frames import Received

NS_PER_MS = 1_000_000
SOONEST_NS = NS_PER_MS
"""No caller waits for less."""
_WITH_DEADLINES = frozenset((Write, Read, Scan, ReadPage))


def deadline_of(request: Received, arrived: int) -> int | None:
    """Return until when the caller waits for a request that arrived then (ns); None where nobody says so."""
    if type(request) not in _WITH_DEADLINES or request.timeout_ms <= 0:  # type: ignore[union-attr]  # all of these have one
        return None
    return arrived + request.timeout_ms * NS_PER_MS  # type: ignore[union-attr]


def refuse_late(client: int, request: Received, age: int, outbox: Outbox) -> bool:
    """Answer a request of that age (ns) that nobody waits for any more, and nothing has been done of; say whether it is one."""
    deadline = deadline_of(request, 0)
    if deadline is None or age <= deadline:
        return False
    say_late(client, request.request, age, outbox)
    return True


def say_late(client: int, request: int, age: int, outbox: Outbox) -> None:
    """Answer that a request of that age (ns) was not done, since nobody waits for it any more."""
    outbox.fail(
        client,
        request,
        ErrorCode.DEADLINE_EXCEEDED,
        f"it had waited at the node for {age // NS_PER_MS} ms, longer than its caller waits, and was not done",
    )

"""Requests that have waited at a node for longer than their callers wait: they are refused, and surely not done."""

from __future__ import annotations

from shoal.errors import ErrorCode
from shoal.protocol.messages import Read, ReadPage, Scan, Write

from shoal_server.node.outbox import Outbox
from shoal_server.node.request_frames import Received

NS_PER_MS = 1_000_000
SOONEST_NS = NS_PER_MS
"""No caller waits for less."""


def refuse_late(client: int, request: Received, age: int, outbox: Outbox) -> bool:
    """Answer a request of that age (ns) that nobody waits for any more, and nothing has been done of; say whether it is one."""
    if not isinstance(request, (Write, Read, Scan, ReadPage)) or not 0 < request.timeout_ms * NS_PER_MS < age:
        return False
    outbox.fail(
        client,
        request.request,
        ErrorCode.DEADLINE_EXCEEDED,
        f"it had waited at the node for {age // NS_PER_MS} ms, longer than its caller waits, and was not done",
    )
    return True

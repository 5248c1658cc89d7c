"""gRPC's health service, with a bound of its own: however many watch, others can still ask."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health

WATCHES_MAX = 1024
"""The most `Watch` streams at once: a gRPC client that follows the health of its nodes keeps one a connection."""


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]
    """What `grpc_health` has, bounded."""

    def __init__(self) -> None:
        super().__init__()
        self._watching = 0

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's
        """Send the state of a service, and each further one."""
        if self._watching >= WATCHES_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{WATCHES_MAX} callers watch this node's health, and more may not: ask with Check instead",
            )
        self._watching += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watching -= 1

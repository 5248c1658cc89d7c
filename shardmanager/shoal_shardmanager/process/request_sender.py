"""Carries the controller's requests to nodes: none twice at once, failed ones again after a while, longer each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from shoal.errors import ShoalError
from shoal.shardmap import ShardMap

from shoal_shardmanager.control.node_requests import Install, NodeRequest, Transfer
from shoal_shardmanager.control.observed import Trouble
from shoal_shardmanager.process.clock import SYSTEM, Clock
from shoal_shardmanager.process.node_watcher import NodeWatcher

log = structlog.get_logger("shoal.manager")

FIRST_RETRY_MS = 200
RETRY_CAP_MS = 5_000
SEEN_SECONDS = 2.0
"""How long an operation waits, after a node has done what was asked, for the node's report to show it."""


@dataclass(slots=True)
class _Failed:
    attempts: int
    retry_at_ms: int
    reason: str


class RequestSender:
    """Requests under way, and those that failed last."""

    def __init__(self, watchers: Mapping[str, NodeWatcher], changed: Callable[[], None], clock: Clock = SYSTEM) -> None:
        """`changed` is called when a request has ended."""
        self._watchers = watchers
        self._changed = changed
        self._clock = clock
        self._under_way: dict[NodeRequest, asyncio.Task[None]] = {}
        self._failed: dict[NodeRequest, _Failed] = {}

    def waiting(self) -> frozenset[int]:
        """Return the operations with a request under way."""
        return frozenset(request.operation for request in self._under_way if request.operation)

    def troubles(self) -> dict[int, Trouble]:
        """Return why the last requests of operations failed."""
        return {
            request.operation: Trouble(failed.reason, failed.attempts)
            for request, failed in self._failed.items()
            if request.operation
        }

    def send(self, requests: list[NodeRequest], shard_map: ShardMap) -> None:
        """Send what is neither under way nor to be put off; forget failures of what is not wanted any more."""
        wanted = set(requests)
        waiting = self.waiting()
        for request in list(self._failed):
            if request not in wanted and request.operation not in waiting:
                del self._failed[request]
        now = self._clock.now_ms()
        installing = {request.node for request in self._under_way if isinstance(request, Install)}
        for request in requests:
            failed = self._failed.get(request)
            if request in self._under_way or (failed is not None and now < failed.retry_at_ms):
                continue
            if request.node not in self._watchers or (isinstance(request, Install) and request.node in installing):
                continue
            self._under_way[request] = asyncio.create_task(self._carry(request, shard_map))

    async def stop(self) -> None:
        """Give up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, request: NodeRequest, shard_map: ShardMap) -> None:
        watcher = self._watchers[request.node]
        try:
            await watcher.send(request, shard_map)
        except ShoalError as error:
            before = self._failed.get(request)
            attempts = 1 if before is None else before.attempts + 1
            pause = min(RETRY_CAP_MS, FIRST_RETRY_MS * 2 ** (attempts - 1))
            self._failed[request] = _Failed(attempts, self._clock.now_ms() + pause, str(error))
            log.info("request_failed", request=repr(request), attempts=attempts, reason=str(error))
        else:
            self._failed.pop(request, None)
            log.info("request_done", request=repr(request))
        try:
            # Before the nodes have reported again, the same would be decided once more.
            nodes = [request.node, request.target] if isinstance(request, Transfer) else [request.node]
            done_ms = self._clock.now_ms()
            await asyncio.gather(*(self._seen(node, done_ms) for node in nodes))
        finally:
            del self._under_way[request]
            self._changed()

    async def _seen(self, node: str, since_ms: int) -> None:
        watcher = self._watchers.get(node)
        if watcher is None:
            return
        watcher.poll_now()
        try:
            async with asyncio.timeout(SEEN_SECONDS):
                while watcher.report is None or watcher.report.at_ms <= since_ms:
                    await watcher.next_report()
        except TimeoutError:
            return

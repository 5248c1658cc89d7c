"""The managers' side of the storage nodes: a watcher a node, which polls its status and carries requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLContext
from typing import NoReturn

import structlog
from shoal.admin.connection import AdminConnection
from shoal.errors import InvalidArgument, ShoalError
from shoal.shardmap import ShardMap

from shoal_shardmanager.control.node_requests import (
    CancelMigration,
    ChangeMember,
    Drop,
    Forget,
    Install,
    NodeRequest,
    Split,
    Transfer,
)
from shoal_shardmanager.control.observed import NodeReport
from shoal_shardmanager.control.quota_dealing import NodeShares
from shoal_shardmanager.process.clock import SYSTEM, Clock

log = structlog.get_logger("shoal.manager")

POLL_SECONDS = 1.0
POLL_BUSY_SECONDS = 0.1
"""How often a node is polled that an operation waits for."""
STATUS_TIMEOUT_SECONDS = 2.0
REQUEST_TIMEOUT_SECONDS = 10.0
REQUESTS_AT_ONCE = 8


class NodeWatcher:
    """One storage node, as the manager sees it: its newest report, and requests under way to it."""

    def __init__(
        self,
        node: str,
        address: str,
        changed: Callable[[], None],
        clock: Clock = SYSTEM,
        tls: SSLContext | None = None,
    ) -> None:
        """Connect to nothing yet; `changed` is called after every new report."""
        self.node = node
        self.address = address
        self.report: NodeReport | None = None
        self.silent_because = ""
        self.busy = False
        self._changed = changed
        self._clock = clock
        self._tls = tls
        self._poll_now = asyncio.Event()
        self._reported = asyncio.Condition()
        self._shares: NodeShares | None = None
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to poll."""
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.node}")

    async def stop(self) -> None:
        """End polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def poll_now(self) -> None:
        """Ask for a report at once."""
        self._poll_now.set()

    def tell_shares(self, shares: NodeShares | None) -> None:
        """Tell the node its shares of quotas, which its newest report does not show; None: it does."""
        if shares is not None and shares != self._shares:
            self.poll_now()
        self._shares = shares

    async def next_report(self) -> None:
        """Wait for the next report; a request for one that is under way already does not count."""
        async with self._reported:
            await self._reported.wait()
        self.poll_now()

    async def _watch(self) -> None:
        while True:
            try:
                async with await AdminConnection.open(self.address, STATUS_TIMEOUT_SECONDS, self._tls) as connection:
                    await self._poll(connection)
            except ShoalError as error:
                if not self.silent_because:
                    log.warning("node_silent", node=self.node, address=self.address, reason=str(error))
                self.silent_because = str(error)
            await self._pause()

    async def _poll(self, connection: AdminConnection) -> NoReturn:
        """Ask again and again, over one connection for as long as it lasts.

        Raises:
            ShoalError: it does not last.
        """
        while True:
            await self._send_shares(connection)
            asked = self._clock.now_ms()
            status = await connection.status()
            if status.node == self.node:
                if self.silent_because:
                    log.info("node_answers", node=self.node)
                self.report, self.silent_because = NodeReport(status, asked), ""
                self._changed()
                async with self._reported:
                    self._reported.notify_all()
            else:
                self.silent_because = f"node {status.node!r} answers at {self.address}"
            await self._pause()

    async def _send_shares(self, connection: AdminConnection) -> None:
        """Send what there is to be told; the report that follows shows whether it has been taken."""
        shares = self._shares
        if shares is None:
            return
        try:
            await connection.set_quota_shares(shares.epoch, shares.number, shares.shares)
        except InvalidArgument as error:
            # Another manager deals them out by now.
            log.info("shares_refused", node=self.node, reason=str(error))

    async def _pause(self) -> None:
        seconds = POLL_BUSY_SECONDS if self.busy and self.report is not None else POLL_SECONDS
        try:
            # Not `wait_for`: Python 3.11's loses a cancellation that comes at the same moment as what it waits for.
            async with asyncio.timeout(seconds):
                await self._poll_now.wait()
        except TimeoutError:
            return
        self._poll_now.clear()

    async def send(self, request: NodeRequest, shard_map: ShardMap) -> None:
        """Send one request, and wait for its answer.

        Raises:
            ShoalError: the node refused, or did not answer in time.
        """
        async with (
            self._slots,
            await AdminConnection.open(self.address, REQUEST_TIMEOUT_SECONDS, self._tls) as connection,
        ):
            match request:
                case Install():
                    await connection.install_shard_map(shard_map, list(request.found))
                case ChangeMember():
                    await connection.change_membership(
                        request.shard, request.kind, request.member, if_version=request.if_version
                    )
                case Transfer():
                    await connection.transfer_leader(request.shard, request.target)
                case Drop():
                    await connection.drop_replica(request.shard, empty_at=request.empty_at)
                case Split():
                    await connection.split_shard(request.shard, request.child, request.map_version)
                case Forget():
                    await connection.forget_moved(request.shard, request.migration)
                case CancelMigration():
                    await connection.cancel_migration(request.shard, request.migration)

"""A manager as a process: a storage node of the managers' own cluster, the control RPC, and the controller if it leads.

This is the one place where a manager's objects are put together.
"""

from __future__ import annotations

import asyncio
import sys

import shoal
import structlog
import uvloop
from shoal.admin.connection import AdminConnection
from shoal.errors import ShoalError
from shoal_server.certificates import Certificates, CertificatesRefused, open_certificates
from shoal_server.config import ClusterConfig
from shoal_server.config.schema import ManagerConfig
from shoal_server.logs import LEVELS, configure_logging
from shoal_server.observe.pages import Pages, serving
from shoal_server.process.joining import managers_url
from shoal_server.process.server import EXIT_REFUSED, NodeServer
from shoal_server.storage.engine import DataFolderRefused, StorageFailed

from shoal_shardmanager.control.rows import UnreadableRow
from shoal_shardmanager.process.clock import SYSTEM, Clock
from shoal_shardmanager.process.leadership import Leadership, begin_leadership
from shoal_shardmanager.process.metrics import manager_families
from shoal_shardmanager.process.service import STOP_SECONDS, serve, tell_health
from shoal_shardmanager.process.settings import managers_config
from shoal_shardmanager.process.store import Deposed, Store

log = structlog.get_logger("shoal.manager")

LOOK_SECONDS = 0.2
"""How often a manager that stands by looks whether its replica leads."""
RETRY_SECONDS = 1.0
OWN_TIMEOUT_SECONDS = 2.0
STORE_TIMEOUT_SECONDS = 5.0
SYSTEM_SHARD = 1


class Manager:
    """One manager. Implements `rpc.service.ControllerHost`."""

    def __init__(
        self, config: ClusterConfig, manager: str, certificates: Certificates | None, clock: Clock = SYSTEM
    ) -> None:
        """Connect to nothing yet. `clock`: what rows are stamped by."""
        self.manager = manager
        self._tls = None if certificates is None else certificates.dialling
        self._config = config
        self._clock = clock
        self._entry = next(entry for entry in config.managers if entry.id == manager)
        self._leadership: Leadership | None = None

    @property
    def leadership(self) -> Leadership | None:
        """The controller, where this manager runs it."""
        return self._leadership

    async def leader_hint(self) -> tuple[str, str]:
        """Return which manager leads, and its admin address."""
        leader = await self._leader()
        found = next((entry for entry in self._config.managers if entry.id == leader), None)
        return (leader, found.admin or "") if found is not None else ("", "")

    async def control(self) -> None:
        """Run the controller whenever this manager's replica leads the managers' shard."""
        async with shoal.AsyncClient(
            managers_url(self._config), timeout=STORE_TIMEOUT_SECONDS, ssl=self._tls
        ) as client:
            while True:
                if await self._leader() == self.manager:
                    await self._control_once(client)
                    await asyncio.sleep(RETRY_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)

    async def _control_once(self, client: shoal.AsyncClient) -> None:
        began = False
        try:
            leadership = await begin_leadership(self._config, Store(client, self.manager), self._clock, tls=self._tls)
            self._leadership = leadership
            began = True
            log.info(
                "controller_began",
                manager=self.manager,
                epoch=leadership.epoch,
                map_version=leadership.state.map.version,
            )
            running = asyncio.create_task(leadership.run())
            leading = asyncio.create_task(self._while_leading())
            try:
                await asyncio.wait({running, leading}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (running, leading):
                    task.cancel()
                await asyncio.gather(running, leading, return_exceptions=True)
            if not running.cancelled() and (error := running.exception()) is not None:
                raise error
            log.info("controller_ended", manager=self.manager, reason="its replica leads no longer")
        except Deposed as error:
            # What never began is not told as if it had.
            log.info("controller_ended" if began else "controller_not_begun", manager=self.manager, reason=str(error))
        except ShoalError as error:
            log.warning(
                "controller_ended" if began else "controller_not_begun", manager=self.manager, reason=str(error)
            )
        except UnreadableRow as error:
            log.critical("controller_refused", manager=self.manager, reason=str(error))
        except Exception as error:  # the root of the controller's work: the next leadership begins anew from the rows
            log.critical("controller_failed", manager=self.manager, exc_info=error)
        finally:
            self._leadership = None

    async def _while_leading(self) -> None:
        while await self._leader() == self.manager:  # noqa: ASYNC110 - it is another task's state, on the other side of a socket
            await asyncio.sleep(LOOK_SECONDS)

    async def _leader(self) -> str:
        """Return who leads the managers' shard, by this manager's own replica; "": it knows of none."""
        try:
            async with await AdminConnection.open(self._entry.address, OWN_TIMEOUT_SECONDS, self._tls) as connection:
                status = await connection.status()
        except ShoalError:
            return ""
        return next((replica.leader for replica in status.replicas if replica.shard == SYSTEM_SHARD), "")


def run(config: ClusterConfig, manager: str) -> int:
    """Run a manager in this process until it is told to stop; return the exit code."""
    configure_logging(LEVELS[config.observe.log_level])

    entry = next(entry for entry in config.managers if entry.id == manager)

    async def main() -> int:
        try:
            async with serving(entry.metrics) as pages:
                return await _run_with(pages, config, entry)
        except (DataFolderRefused, StorageFailed, CertificatesRefused, OSError) as error:
            log.critical("manager_refused", manager=manager, reason=str(error))
            return EXIT_REFUSED

    return uvloop.run(main())


async def _run_with(pages: Pages, config: ClusterConfig, entry: ManagerConfig) -> int:
    own = managers_config(config)
    certificates = open_certificates(own.tls, entry.id, entry.address)
    server = NodeServer(own, entry.id, pages, certificates=certificates, callers=True)
    # Managers hold their wall clocks against each other, as nodes do: what one of them stamps, the next one goes by.
    clock = Clock(unix=server.unix_seconds)
    host = Manager(config, entry.id, certificates, clock)
    server.add_metrics(lambda: manager_families(entry.id, lambda: host.leadership, clock.wall_ms))
    rpc, health = await serve(host, entry.admin or "", certificates, clients_required=config.tls.clients == "required")
    server.when_ready_changes(lambda ready: tell_health(health, ready=ready))
    control = asyncio.create_task(host.control())
    control.add_done_callback(_end_process_on_failure)
    log.info("manager_started", manager=entry.id, cluster=config.cluster, admin=entry.admin)
    try:
        return await server.run()
    finally:
        control.cancel()
        await asyncio.gather(control, return_exceptions=True)
        await health.enter_graceful_shutdown()
        await rpc.stop(STOP_SECONDS)


def _end_process_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("manager_failed", exc_info=error)
        sys.exit(1)

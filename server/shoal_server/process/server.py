"""The node as a process: opens the data folder, runs the core on an event loop, and ends it in good order.

This is the one place where a node process's objects are put together. The core decides, the driver takes its turns;
this file carries bytes between sockets and the core, the state of the disk to it, and signals to an orderly end.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from importlib.metadata import version
from random import SystemRandom
from typing import TYPE_CHECKING

import structlog
import uvloop
from msgspec.structs import replace
from shoal.errors import ShoalError
from shoal.metrics import Family, gauge

from shoal_server.bootstrap import empty_shard_map, initial_shard_map
from shoal_server.certificates import Certificates, CertificatesRefused, host_of, open_certificates
from shoal_server.config import ClusterConfig
from shoal_server.listener import Listener
from shoal_server.logs import LEVELS, configure_logging, set_log_level
from shoal_server.node.core import Node
from shoal_server.node.damage import say_failed
from shoal_server.node.settings import NodeIdentity, memory_of_process, settings_from_config
from shoal_server.observe import readiness
from shoal_server.observe.node_metrics import NodeMetrics
from shoal_server.observe.pages import Pages, serving
from shoal_server.observe.refusal_log import RefusalLog
from shoal_server.observe.slow_log import SlowLog
from shoal_server.observe.span_export import TracingRefused, exporting
from shoal_server.process import machine
from shoal_server.process.cluster_finding import find_cluster
from shoal_server.process.connection_watch import LOOK_SECONDS
from shoal_server.process.descriptors import descriptors_of
from shoal_server.process.driver import NodeDriver, monotonic_ns
from shoal_server.process.health import HealthWatch
from shoal_server.process.identities import PeerIdentities
from shoal_server.process.joining import ask_to_join
from shoal_server.process.known_hosts import KnownHosts
from shoal_server.process.memory_watch import MemoryWatch
from shoal_server.process.peer_links import PeerLinks
from shoal_server.process.reception import Reception
from shoal_server.secure_listener import SecureListener
from shoal_server.storage.engine import DataFolderRefused, StorageFailed
from shoal_server.storage.folder import DataFolder, open_data_folder
from shoal_server.storage.node_rows import (
    begin_epoch,
    load_shard_map,
    save_shard_map,
)
from shoal_server.storage.rewriting import WrittenAnew, write_anew
from shoal_server.storage.rocks import RocksEngine

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shoal_server.api.server import ApiServer
    from shoal_server.observe.tracing import NodeTracing

log = structlog.get_logger("shoal.node")

DRAIN_SECONDS = 5.0
API_STOP_SECONDS = 2.0
HAND_OVER_CHECK_SECONDS = 0.02
JOIN_SECONDS = 1.0
SWITCH_SECONDS = 0.00005
CERTIFICATE_EXPIRES = (
    "shoal_node_certificate_expires_seconds",
    "When the certificate ends, in seconds since 1970; 0 without TLS",
)
EXIT_FAILED = 1
EXIT_REFUSED = 2


class NodeServer:
    """One node process."""

    def __init__(
        self,
        config: ClusterConfig,
        node_id: str,
        pages: Pages,
        *,
        certificates: Certificates | None = None,
        spans: TracerProvider | None = None,
        join: bool = False,
        callers: bool = False,
    ) -> None:
        """Open the data folder and everything on it.

        Args:
            callers: the process serves gRPC besides.
            pages: of the process, which serve for as long as it lives.
            certificates: of the process; None: connections are plain.
            spans: makes them of traced requests; None: nothing is traced.

        Raises:
            DataFolderRefused: the folder is another cluster's or node's, of a newer format, or in use.
            TooFewDescriptors: the process may not open as many files as it needs.
        """
        self._config = config
        self._entry = next(node for node in config.nodes if node.id == node_id)
        self._loop = asyncio.get_running_loop()
        descriptors = self._descriptors = descriptors_of(
            node_id, config, tls=certificates is not None, api=callers or self._entry.admin is not None
        )
        self._folder: DataFolder = open_data_folder(self._entry.data, config.cluster, node_id)
        self._engine = RocksEngine(
            self._folder.database,
            open_files=descriptors.tables,
            block_cache_bytes=config.storage.block_cache_bytes,
            write_buffer_bytes=config.storage.write_buffer_bytes,
            counters=config.observe.storage_counters,
        )
        self._say_damage(node_id, write_anew(self._engine, node_id))
        shard_map = load_shard_map(self._engine)
        if shard_map is None:
            shard_map = empty_shard_map(config, node_id) if join else initial_shard_map(config)
            save_shard_map(self._engine, shard_map)
        replicas = sum(node_id in shard.replicas for shard in shard_map.shards)
        settings = settings_from_config(config, replicas, machine.memory_bytes())
        settings = replace(settings, limits=replace(settings.limits, clients=descriptors.clients))
        self._limits = settings.limits
        epoch = begin_epoch(self._engine, time.time())
        self._identity = NodeIdentity(config.cluster, node_id, self._folder.incarnation, epoch, version("shoal"))
        # Not a generator seeded with it: from some ids of sessions one could tell the next ones.
        self._node = Node(self._identity, shard_map, self._engine, settings, SystemRandom(), monotonic_ns())
        self._driver = NodeDriver(
            self._node,
            self._engine,
            self._loop,
            to_peers=lambda to_peers: self._links.send(to_peers),
            to_clients=lambda to_clients: self._reception.send(to_clients),
            resumed=lambda clients: self._reception.resume(clients),
            failed=self._on_failure,
            map_changed=self._map_changed,
            cut_off=lambda peer, reason: self._reception.cut_off(peer, reason),
            slow=lambda slow, ended: self._slow_log.take(slow, ended),
        )
        self._node.set_log_level = set_log_level
        self._node.counters.slow_ns = config.observe.slow_request_ns
        self._slow_log = SlowLog(node_id, lambda client: self._reception.address_of(client))
        self._spans = spans
        self._tracing = None if spans is None else self._traced_by(spans)
        self._refusal_log = RefusalLog(node_id)
        self._certificates = certificates
        self._pages = pages
        self._gatherers: list[Callable[[], Iterable[Family]]] = []
        self._ready_told: Callable[[bool], Awaitable[None]] | None = None
        self._metrics = NodeMetrics(
            self._node,
            self._engine,
            self._slow_log,
            clients=lambda: len(self._reception.clients),
            unsent_bytes=lambda: self._links.unsent_bytes(),
            readiness=lambda: self._pages.readiness,
        )
        self._health = HealthWatch(
            self._node,
            self._driver,
            self._engine,
            self._entry.data,
            config.storage.disk_reserve_bytes,
            self._judge_readiness,
        )
        self._identities = PeerIdentities(self._node, self._engine)
        self._links = PeerLinks(
            self._identities.hello,
            max_frame_bytes=settings.limits.max_frame_bytes,
            check=self._identities.check,
            connected=self._peer_connected,
            lost=self._peer_lost,
            failed=self._task_ended,
            liveness=self._node.liveness,
            clock=monotonic_ns,
            support_ns=settings.timing.support_ns,
            memory=self._node.memory,
            tls=None if certificates is None else certificates.dialling,
        )
        self._reception = Reception(
            self._node,
            self._identities,
            self._refusal_log,
            self._tracing,
            self._loop,
            secure=certificates is not None,
            unfinished=descriptors.unfinished,
            connections=descriptors.connections,
            schedule_turn=self._driver.schedule_turn,
            peer_is_there=self._links.is_there,
            peer_sends=self._links.received,
        )
        self._known_hosts = KnownHosts(self._machines, self._reception.know, self._loop.getaddrinfo)
        self._memory_watch = MemoryWatch(
            self._node.memory,
            memory_of_process(config, machine.memory_bytes()),
            resident=machine.resident_bytes,
            clock=self._loop.time,
        )
        self._stop = asyncio.Event()
        self._api: ApiServer | None = None

    # -- what it tells

    def unix_seconds(self) -> float:
        """Return what the node takes for the time, by its own clock and those of its peers (see wall_clock.py)."""
        return self._node.clock.now_ms(monotonic_ns()) / 1000

    def add_metrics(self, gather: Callable[[], Iterable[Family]]) -> None:
        """Have further families in each scrape. `gather` is called in the event loop."""
        self._gatherers.append(gather)

    def when_ready_changes(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Have `tell` called whenever the node becomes ready, or ceases to be; it is not at first."""
        self._ready_told = tell

    def _gather(self) -> list[Family]:
        families = list(self._metrics.families(monotonic_ns()))
        expires = 0.0 if self._certificates is None else self._certificates.expires
        families.append(gauge(*CERTIFICATE_EXPIRES, expires))
        for gather in self._gatherers:
            families.extend(gather())
        return families

    def _judge_readiness(self) -> None:
        before = self._pages.readiness
        now = readiness.judge(self._node, monotonic_ns(), stopping=self._stop.is_set(), failure=self._driver.failure)
        self._pages.beat(now)
        if self._api is not None:
            self._api.tell_ready(now.ready)
        if now.ready != before.ready:
            if self._ready_told is not None:
                self._telling = asyncio.ensure_future(self._ready_told(now.ready))
            log.info("node_ready" if now.ready else "node_not_ready", node=self._identity.node, reason=now.reason)

    def _traced_by(self, spans: TracerProvider) -> NodeTracing:
        from shoal_server.observe.tracing import NodeTracing  # loads OpenTelemetry, which other nodes do without

        tracing = NodeTracing(self._identity.node, spans, monotonic_ns)
        self._node.counters.watched = tracing.watched
        return tracing

    # -- life

    async def run(self) -> int:
        """Serve until a signal or a failure; return the exit code."""
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        close_listener = await self._listen()
        if self._entry.admin:
            await self._start_api(self._entry.admin)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._map_changed()
        self._pages.serve_metrics(self._gather)
        tasks = [asyncio.create_task(self._health.run())]
        if self._certificates is not None:
            tasks.append(asyncio.create_task(self._certificates.follow()))
        if self._node.routes.map.version == 0 and self._config.managers:
            tasks.append(asyncio.create_task(self._ask_to_join()))
        tasks.append(asyncio.create_task(find_cluster(self._node, self._links.greet_again)))
        tasks.append(asyncio.create_task(self._look_around()))
        tasks.append(asyncio.create_task(self._known_hosts.follow()))
        for task in tasks:
            task.add_done_callback(self._task_ended)
        log.info(
            "node_started",
            node=self._identity.node,
            cluster=self._identity.cluster,
            address=self._entry.address,
            shards=len(self._node.replicas),
            incarnation=self._identity.incarnation,
            clients_max=self._limits.clients,
            memory_bytes=self._memory_watch.most,
        )
        self._driver.schedule_turn()
        await self._stop.wait()
        self._judge_readiness()
        if self._driver.failure:
            await self._stop_api(0.0)
        else:
            await asyncio.gather(self._hand_over(), self._stop_api(API_STOP_SECONDS))
        await close_listener()
        for task in tasks:
            task.remove_done_callback(self._task_ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._links.close()
        self._reception.close()
        self._driver.stop()
        self._pages.serve_metrics(None)
        return self._close()

    def _say_damage(self, node: str, written_anew: WrittenAnew) -> None:
        for family in self._engine.rewritten:
            log.info("tables_rewritten", node=node, family=family)
        for shard, failure in written_anew.failed.items():
            say_failed(node, shard, failure)
        for family in self._engine.damaged_families:
            reason = f"it is not compacted: {written_anew.reason}"
            log.warning("tables_damaged", node=node, family=family, reason=reason)

    def _reload(self) -> None:
        """Look at the certificates' files again: a signal asks for it, which without a handler would end the process."""
        if self._certificates is None:
            log.info("nothing_to_reload", node=self._identity.node, reason="without TLS there are no certificates")
        else:
            self._certificates.ask()

    def _close(self) -> int:
        if self._driver.failure:
            log.critical("node_failed", node=self._identity.node, reason=self._driver.failure)
            return EXIT_FAILED
        try:
            self._driver.close()
        except StorageFailed as error:
            log.critical("node_failed", node=self._identity.node, reason=str(error))
            return EXIT_FAILED
        finally:
            self._folder.close()
        log.info("node_stopped", node=self._identity.node)
        return 0

    async def _listen(self) -> Callable[[], Awaitable[None]]:
        """Accept connections from now on; return what ends that."""
        host, port = host_of(self._entry.listens_at), int(self._entry.listens_at.rpartition(":")[2])
        reception = self._reception
        listener = (
            Listener(reception.made, self._refusal_log.take, self._task_ended, reception.has_room)
            if self._certificates is None
            else SecureListener(
                self._certificates,
                reception.made,
                self._refusal_log.take,
                self._task_ended,
                reception.has_room,
                handshakes=self._descriptors.unfinished,
                began=reception.arrived,
                ended=reception.unfinished.leave,
            )
        )
        await listener.start(host, port)
        return listener.close

    async def _start_api(self, address: str) -> None:
        from shoal_server.api.server import ApiServer  # loads gRPC, which a node without this address does without

        self._api = ApiServer(
            address,
            self._entry,
            self._limits,
            self._certificates,
            self._spans,
            self._descriptors.callers,
            self._node.memory,
            ways=self._descriptors.ways,
            knows=lambda name: name in self._node.routes.keyspaces_by_name,
        )
        self._api.tell_ready(False)
        self.add_metrics(self._api.counters.families)
        await self._api.start()

    async def _stop_api(self, patience_seconds: float) -> None:
        if self._api is not None:
            await self._api.stop(patience_seconds)

    async def _hand_over(self) -> None:
        """Give every leadership to a peer that is up to date, for at most `DRAIN_SECONDS`."""
        deadline = self._loop.time() + DRAIN_SECONDS
        log.info("node_stopping", node=self._identity.node)
        while self._loop.time() < deadline and not self._driver.failure:
            left = self._node.hand_over(monotonic_ns())
            self._driver.schedule_turn()
            if not left:
                return
            await asyncio.sleep(HAND_OVER_CHECK_SECONDS)
        log.warning("hand_over_incomplete", node=self._identity.node, reason="no peer took over in time")

    def _on_failure(self, reason: str, error: Exception | None) -> None:  # noqa: ARG002 - told again when it ends
        """End the process: what is on disk, or in memory, can no longer be relied on."""
        if error is not None:
            log.critical("turn_failed", node=self._identity.node, exc_info=error)
        self._stop.set()

    async def _look_around(self) -> None:
        """Look at connections and memory, again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._reception.watch.look()
            self._memory_watch.look()

    def _machines(self) -> list[str]:
        """Return where nodes and managers of the cluster are."""
        nodes = (node.address for node in self._node.routes.nodes.values())
        return [*nodes, *(manager.address for manager in self._config.managers)]

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._driver.fail(f"{task.get_coro()} ended: {error!r}")

    async def _ask_to_join(self) -> None:
        """Ask the managers to be let in, until they have given this node a shard map."""
        said = ""
        while self._node.routes.map.version == 0:
            try:
                tls = None if self._certificates is None else self._certificates.dialling
                await ask_to_join(self._config, self._entry, self._identity.incarnation, tls=tls)
                problem = ""
            except ShoalError as error:
                problem = str(error)
            if problem != said:
                said = problem
                log.warning("join_not_asked_for", node=self._identity.node, reason=problem)
            await asyncio.sleep(JOIN_SECONDS)
        # A task that ends is one that failed, for who looks after them: this one is cancelled when the node stops.
        await asyncio.Event().wait()

    # -- peers

    def _map_changed(self) -> None:
        routes = self._node.routes
        self._links.update({peer: routes.nodes[peer].address for peer in self._node.peers})
        if self._api is not None and routes.map.version:
            self._api.serve()

    def _peer_connected(self, peer: str) -> None:
        self._node.peer_connected(peer)
        self._driver.schedule_turn()

    def _peer_lost(self, peer: str) -> None:
        self._node.peer_lost(peer)
        self._driver.schedule_turn()


def run(config: ClusterConfig, node_id: str, *, join: bool = False) -> int:
    """Run node `node_id` of `config` in this process until it is told to stop; return the exit code.

    Args:
        join: on a new data folder, begin with no shards, and wait for the shard manager's map.
    """
    configure_logging(LEVELS[config.observe.log_level])
    # What exists by now lives as long as the process. Garbage is mostly acyclic here, so look for cycles rarely:
    # a full collection in the middle of a turn is a pause that every client sees.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # The thread that syncs begins its sync while the loop still applies: let it have the interpreter soon.
    sys.setswitchinterval(SWITCH_SECONDS)

    async def main() -> int:
        entry = next(node for node in config.nodes if node.id == node_id)
        try:
            with exporting(config.cluster, node_id) if config.observe.tracing else nullcontext() as spans:
                async with serving(entry.metrics) as pages:
                    certificates = open_certificates(config.tls, node_id, entry.address)
                    node = NodeServer(config, node_id, pages, certificates=certificates, spans=spans, join=join)
                    # So do its replicas.
                    gc.collect()
                    gc.freeze()
                    return await node.run()
        except (DataFolderRefused, StorageFailed, CertificatesRefused, TracingRefused, OSError) as error:
            log.critical("node_refused", node=node_id, reason=str(error))
            return EXIT_REFUSED

    return uvloop.run(main())

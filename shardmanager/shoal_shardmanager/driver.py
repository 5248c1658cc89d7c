"""The controller as a task: gathers reports, lets `decide` decide, writes its rows, sends its requests, takes orders.

One manager at a time runs it: the one whose replica leads the managers' own shard. A term begins with taking over the
`leader` row and loading all others, and ends when either is lost; nothing in memory outlives it.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from msgspec.structs import replace
from shoal.admin import AdminConnection
from shoal.errors import ShoalError, Unavailable
from shoal.shardmap import NodeAddress, ShardMap
from shoal_server.config import ClusterConfig

from shoal_shardmanager import placement
from shoal_shardmanager.controller import Decision, Memory, adopted, decide, joined
from shoal_shardmanager.courier import Courier
from shoal_shardmanager.nodes import NodeWatcher, now_ms
from shoal_shardmanager.operations.campaign import Planned, mode_of
from shoal_shardmanager.operations.outcome import Note
from shoal_shardmanager.orders import Accepted, Facts, Order, cancel, check
from shoal_shardmanager.pace import Paces
from shoal_shardmanager.planning import Loads, placement_settings, placement_state
from shoal_shardmanager.rows import Drain, Heal, MoveReplica, NodeState, OperationRow, Rebalance
from shoal_shardmanager.state import Change, ClusterState, changed
from shoal_shardmanager.store import Store
from shoal_shardmanager.view import View

log = structlog.get_logger("shoal.manager")

TICK_SECONDS = 1.0
REST_SECONDS = 0.02
"""The least time between two decisions: reports that arrive together are decided on together."""
HOUSEKEEPING_SECONDS = 1.0
BOOTSTRAP_TIMEOUT_SECONDS = 2.0
ORDER_TRIES = 3


def wall_ms() -> int:
    """Unix time in milliseconds, for rows."""
    return int(time.time() * 1000)


class Term:
    """One run of the controller, from taking over to the loss of it."""

    def __init__(self, config: ClusterConfig, store: Store, epoch: int, state: ClusterState) -> None:
        self.epoch = epoch
        self.state = state
        self.notes: dict[int, Note] = {}
        self.loads = Loads()
        self.paces = Paces()
        self._config = config
        self._store = store
        self._memory = Memory(since_ms=now_ms())
        self._watchers: dict[str, NodeWatcher] = {}
        self._wake = asyncio.Event()
        self._courier = Courier(self._watchers, self._wake.set)
        self._writing = asyncio.Lock()
        self._planning: dict[int, asyncio.Task[None]] = {}
        self._progress = asyncio.Condition()

    # -- life

    async def run(self) -> None:
        """Control the cluster until this manager is deposed.

        Raises:
            Deposed: another one has taken over.
            ShoalError: the rows cannot be read or written.
        """
        checked = 0.0
        try:
            while True:
                await self._follow_nodes()
                if time.monotonic() - checked > HOUSEKEEPING_SECONDS:
                    await self._store.check()
                    await self._take_joins()
                    checked = time.monotonic()
                began = time.monotonic()
                async with self._writing:
                    await self._decide()
                async with self._progress:
                    self._progress.notify_all()
                await asyncio.sleep(max(REST_SECONDS, 2 * (time.monotonic() - began)))
                await self._rest()
        finally:
            for task in self._planning.values():
                task.cancel()
            await self._courier.stop()
            await asyncio.gather(*(watcher.stop() for watcher in self._watchers.values()))

    async def _rest(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), TICK_SECONDS)
        except TimeoutError:
            return
        self._wake.clear()

    async def _decide(self) -> None:
        decision = decide(self.state, self.view(), self._memory)
        await self._write(decision.changes)
        self.notes = decision.notes
        self.paces.take(decision.notes, now_ms())
        self._plan(decision)
        self._courier.send(decision.requests, self.state.map)
        self._hurry()
        if decision.changes:
            self._wake.set()

    async def _write(self, changes: list[Change]) -> None:
        if not changes:
            return
        after = changed(self.state, changes)
        await self._store.write(changes)
        for change in changes:
            if isinstance(change, OperationRow):
                log.info(
                    "operation",
                    id=change.id,
                    kind=change.kind,
                    state=change.state,
                    step=change.step,
                    reason=change.undo or change.reason,
                )
        self.state = after

    def view(self) -> View:
        """Return the newest reports."""
        reports = {node: watcher.report for node, watcher in self._watchers.items() if watcher.report is not None}
        return View(now_ms(), wall_ms(), reports, self._courier.waiting(), self._courier.troubles())

    def facts(self) -> Facts:
        """Return what orders are checked against."""
        return Facts(self.state, self.view(), self.loads)

    def silent_because(self, node: str) -> str:
        """Return why a node does not answer; "": it does."""
        watcher = self._watchers.get(node)
        return watcher.silent_because if watcher is not None else "not asked yet"

    def plan_of(self, operation: int) -> placement.Plan | None:
        """Return placement's newest answer for an operation."""
        planned = self._memory.plans.get(operation)
        return None if planned is None else planned.plan

    # -- nodes

    async def _follow_nodes(self) -> None:
        wanted = {row.id: row.address for row in self.state.nodes.values() if row.state is not NodeState.REMOVED}
        for node in set(self._watchers) - set(wanted):
            await self._watchers.pop(node).stop()
        for node, address in wanted.items():
            if node not in self._watchers:
                self._watchers[node] = NodeWatcher(node, address, self._on_report)
                self._watchers[node].start()
        for node, watcher in self._watchers.items():
            if watcher.report is not None:
                self.loads.take(node, watcher.report)

    def _on_report(self) -> None:
        self._wake.set()

    def _hurry(self) -> None:
        """Poll often the nodes that an operation waits for."""
        waited_for: set[str] = set()
        for row in self.state.running():
            shard = self.state.shard(row.shard) if row.shard else None
            waited_for.update(shard.replicas if shard is not None else ())
            if isinstance(row.arguments, MoveReplica):
                waited_for.update((row.arguments.source, row.arguments.target))
            elif not row.shard and not isinstance(row.arguments, Drain | Heal | Rebalance):
                waited_for.update(self._watchers)
        for node, watcher in self._watchers.items():
            busy = node in waited_for
            if busy and not watcher.busy:
                watcher.poll_now()
            watcher.busy = busy

    async def _take_joins(self) -> None:
        for key, request in await self._store.joins():
            if request is None or request.cluster != self._config.cluster:
                log.warning("join_refused", row=key, reason="it cannot be read, or is of another cluster")
            else:
                address = NodeAddress(request.id, request.address, request.region, request.zone)
                async with self._writing:
                    changes, refusal = joined(self.state, address, wall_ms())
                    await self._write(changes)
                if refusal:
                    log.warning("join_refused", node=request.id, address=request.address, reason=refusal)
                elif changes:
                    log.info("node_joined", node=request.id, address=request.address)
            await self._store.forget_join(key)

    # -- placement

    def _plan(self, decision: Decision) -> None:
        for operation in decision.plans_wanted:
            if operation not in self._planning:
                self._planning[operation] = asyncio.create_task(self._plan_for(operation))

    async def _plan_for(self, operation: int) -> None:
        try:
            state = self.state
            work = state.operations[operation].arguments
            if not isinstance(work, Drain | Heal | Rebalance):
                return
            known = placement_state(state, self.view(), self.loads)
            settings = placement_settings(state.settings)
            plan = await asyncio.to_thread(placement.plan, known, settings, mode_of(work))
            self._memory.plans[operation] = Planned(plan, now_ms())
        except ValueError as error:
            log.error("placement_failed", operation=operation, reason=str(error))
            await asyncio.sleep(TICK_SECONDS)
        finally:
            del self._planning[operation]
            self._wake.set()

    # -- orders

    async def order(self, order: Order, *, plan_only: bool, if_version: int) -> Accepted:
        """Check an order and begin it, unless only its plan is wanted.

        Raises:
            Refused: it cannot be done.
        """
        for _ in range(ORDER_TRIES):
            facts = self.facts()
            # Some orders ask placement, which may take long: not on the loop, and with the rows free to change.
            accepted = await asyncio.to_thread(check, order, facts, if_version)
            if plan_only:
                return accepted
            async with self._writing:
                if self.state is facts.state:
                    await self._write(list(accepted.changes))
                    self._wake.set()
                    return accepted
        async with self._writing:
            accepted = check(order, self.facts(), if_version)
            await self._write(list(accepted.changes))
            self._wake.set()
        return accepted

    async def cancel(self, operation: int) -> None:
        """Cancel an operation.

        Raises:
            Refused: it cannot be cancelled.
        """
        async with self._writing:
            await self._write(list(cancel(operation, self.state, wall_ms())))
        self._wake.set()

    async def next_progress(self, timeout_seconds: float) -> None:
        """Wait for the next decision, for so long at the most."""
        try:
            async with asyncio.timeout(timeout_seconds), self._progress:
                await self._progress.wait()
        except TimeoutError:
            return


async def begin_term(config: ClusterConfig, store: Store) -> Term:
    """Take over: claim the rows, load them, or make the first ones from the map that the nodes have.

    Raises:
        Deposed: another manager took over at the same moment.
        ShoalError: the rows cannot be read or written, or too few nodes answer to know the newest map.
    """
    epoch = await store.take_over()
    state = await store.load()
    if state is None:
        newest = await _newest_map(config)
        policies = {name: (known.voters, known.followers) for name, known in config.keyspaces.items()}
        changes = adopted(newest, policies, wall_ms())
        empty = ClusterState(ShardMap(0, newest.cluster, (), (), ()))
        state = changed(empty, changes)
        await store.write(changes)
        log.info("map_adopted", version=newest.version, nodes=len(newest.nodes), shards=len(newest.shards))
    return Term(config, store, epoch, state)


async def _newest_map(config: ClusterConfig) -> ShardMap:
    """Return the newest map that nodes have, if a majority of the nodes in it answer; others may be yet to join."""
    found = await asyncio.gather(*(_map_of(node.address) for node in config.nodes))
    maps = [known for known in found if known is not None and known.cluster == config.cluster and known.version > 0]
    if not maps:
        raise Unavailable(f"none of {len(config.nodes)} nodes answers with a shard map")
    newest = max(maps, key=lambda known: known.version)
    if len(maps) * 2 <= len(newest.nodes):
        raise Unavailable(
            f"{len(maps)} of {len(newest.nodes)} nodes answer; a majority must, for the managers to know the newest map"
        )
    return replace(newest, shards=tuple(replace(shard, leader="") for shard in newest.shards))


async def _map_of(address: str) -> ShardMap | None:
    try:
        async with await AdminConnection.open(address, BOOTSTRAP_TIMEOUT_SECONDS) as connection:
            return connection.welcome.shard_map
    except ShoalError:
        return None

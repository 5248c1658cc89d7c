"""The controller as a task: gathers reports, lets `decide` decide, writes its rows, sends its requests, takes requests.

One manager at a time runs it: the one whose replica leads the managers' own shard. A leadership begins with taking over the
`leader` row and loading all others, and ends when either is lost; nothing in memory outlives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from ssl import SSLContext

import structlog
from msgspec.structs import replace
from shoal.admin.connection import AdminConnection
from shoal.errors import ShoalError, Unavailable
from shoal.protocol.messages import StatusReply
from shoal.shardmap import NodeAddress, ShardMap
from shoal_server.config import ClusterConfig

from shoal_shardmanager import placement
from shoal_shardmanager.control.controller import (
    OTHER_CLUSTER,
    OTHER_IDENTITY,
    Decision,
    Memory,
    adopted,
    decide,
    joined,
)
from shoal_shardmanager.control.observed import ObservedState, is_strange, trusted
from shoal_shardmanager.control.operations.outcome import Note
from shoal_shardmanager.control.operations.planned_moves import mode_of, planned_from
from shoal_shardmanager.control.placement_input import Loads, placement_settings, placement_state
from shoal_shardmanager.control.progress_rate import Paces
from shoal_shardmanager.control.quota_dealing import QuotaDealing
from shoal_shardmanager.control.requests import (
    Accepted,
    OperatorRequest,
    Situation,
    Unsettled,
    begun_by,
    cancel,
    check,
    named,
    with_settings,
)
from shoal_shardmanager.control.rows import (
    Drain,
    Heal,
    MoveReplica,
    NodeState,
    OperationRow,
    Rebalance,
    SettingsRow,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, RowChange, changed
from shoal_shardmanager.process.clock import SYSTEM, Clock
from shoal_shardmanager.process.migrators import Migrators, open_leader
from shoal_shardmanager.process.node_watcher import NodeWatcher
from shoal_shardmanager.process.request_sender import RequestSender
from shoal_shardmanager.process.store import Deposed, Store

log = structlog.get_logger("shoal.manager")

TICK_SECONDS = 1.0
REST_SECONDS = 0.02
"""The least time between two decisions: reports that arrive together are decided on together."""
HOUSEKEEPING_SECONDS = 1.0
BOOTSTRAP_TIMEOUT_SECONDS = 2.0
REQUEST_TRIES = 3
SETTLE_SECONDS = 5.0
"""A request that is refused for what passes by itself, such as an election, is held for so long before it is refused."""


class Leadership:
    """One run of the controller, from taking over to the loss of it."""

    def __init__(
        self,
        config: ClusterConfig,
        store: Store,
        epoch: int,
        state: ClusterState,
        clock: Clock = SYSTEM,
        tls: SSLContext | None = None,
    ) -> None:
        self.epoch = epoch
        self.state = state
        self.notes: dict[int, Note] = {}
        self.loads = Loads()
        self.paces = Paces()
        self._config = config
        self._store = store
        self._clock = clock
        self._tls = tls
        self.quotas = QuotaDealing(epoch)
        self._memory = Memory(since_ms=clock.now_ms(), loads=self.loads, quotas=self.quotas)
        self._watchers: dict[str, NodeWatcher] = {}
        self._wake = asyncio.Event()
        self._request_sender = RequestSender(self._watchers, self._wake.set, clock)
        self._writing = asyncio.Lock()
        self._planning: dict[int, asyncio.Task[None]] = {}
        self._migrators = Migrators(self, partial(open_leader, tls=tls))
        self._progress = asyncio.Condition()
        self._ended: Deposed | ShoalError | None = None

    # -- life

    async def run(self) -> None:
        """Control the cluster until this manager is deposed.

        Raises:
            Deposed: another one has taken over.
            ShoalError: the rows cannot be read or written.
        """
        checked = 0.0
        try:
            while self._ended is None:
                await self._follow_nodes()
                if self._clock.monotonic() - checked > HOUSEKEEPING_SECONDS:
                    await self._store.check()
                    await self._take_joins()
                    checked = self._clock.monotonic()
                began = self._clock.monotonic()
                async with self._writing:
                    await self._decide()
                async with self._progress:
                    self._progress.notify_all()
                await asyncio.sleep(max(REST_SECONDS, 2 * (self._clock.monotonic() - began)))
                await self._rest()
            raise self._ended
        finally:
            for task in self._planning.values():
                task.cancel()
            await self._request_sender.stop()
            await self._migrators.stop()
            await asyncio.gather(*(watcher.stop() for watcher in self._watchers.values()))

    async def _rest(self) -> None:
        try:
            # Not `wait_for`: Python 3.11's loses a cancellation that comes at the same moment as what it waits for.
            async with asyncio.timeout(TICK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _decide(self) -> None:
        self._memory.progress = self._migrators.progress()
        decision = decide(self.state, self.observed(), self._memory)
        await self._write(decision.changes)
        self.notes = decision.notes
        self.paces.take(decision.notes, self._clock.now_ms())
        self._plan(decision)
        self._migrators.follow(decision.migrators_wanted)
        self._request_sender.send(decision.requests, self.state.map)
        for node, watcher in self._watchers.items():
            watcher.tell_shares(decision.shares.get(node))
        self._hurry()
        if decision.changes:
            self._wake.set()

    async def _write(self, changes: list[RowChange]) -> None:
        if not changes:
            return
        if self._ended is not None:
            raise self._ended
        after = changed(self.state, changes)
        try:
            await self._store.write(changes)
        except BaseException as error:
            # The rows may be others now than `state`: whatever were written on top of that would undo them.
            given_up = Unavailable("a write of rows was given up before it had ended: they are loaded anew")
            self._ended = error if isinstance(error, Deposed | ShoalError) else given_up
            self._wake.set()
            raise
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

    async def change(self, made: Callable[[ClusterState, ObservedState], tuple[RowChange, ...]]) -> None:
        """Write rows that are made from the state as it is when nobody else writes.

        Raises:
            Deposed: another manager runs the controller.
            ShoalError: they cannot be written.
        """
        async with self._writing:
            await self._write(list(made(self.state, self.observed())))
        self._wake.set()

    def observed(self) -> ObservedState:
        """Return the newest reports."""
        reports = {node: watcher.report for node, watcher in self._watchers.items() if watcher.report is not None}
        incarnations = {row.id: row.incarnation for row in self.state.nodes.values()}
        return ObservedState(
            self._clock.now_ms(),
            self._clock.wall_ms(),
            trusted(reports, incarnations, self.state.map.cluster_id),
            self._request_sender.waiting(),
            self._request_sender.troubles(),
        )

    def situation(self) -> Situation:
        """Return what requests are checked against."""
        return Situation(self.state, self.observed(), self.loads)

    def silent_because(self, node: str) -> str:
        """Return why a node does not answer, or is not taken for itself; "": it does, and is."""
        watcher = self._watchers.get(node)
        if watcher is None:
            return "not asked yet"
        known = self.state.nodes[node].incarnation
        if watcher.report is not None and known not in ("", watcher.report.status.incarnation):
            return OTHER_IDENTITY.format(node=node)
        if watcher.report is not None:
            theirs, ours = watcher.report.status.cluster_id, self.state.map.cluster_id
            if is_strange(theirs, ours):
                return OTHER_CLUSTER.format(node=node, theirs=theirs, ours=ours)
        return watcher.silent_because

    def address_of(self, node: str) -> str:
        """Return where a node is reached."""
        return self.state.nodes[node].address

    def plan_of(self, operation: int) -> placement.Plan | None:
        """Return placement's newest answer for an operation."""
        planned = self._memory.plans.get(operation)
        return None if planned is None else planned.plan

    # -- nodes

    async def _follow_nodes(self) -> None:
        wanted = {row.id: row.address for row in self.state.nodes.values() if row.state is not NodeState.REMOVED}
        for node in [node for node in self._watchers if node not in wanted]:
            await self._watchers.pop(node).stop()
        for node, address in wanted.items():
            if node not in self._watchers:
                self._watchers[node] = NodeWatcher(node, address, self._on_report, self._clock, self._tls)
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
            for shard_id in row.shards:
                shard = self.state.shard(shard_id)
                waited_for.update(shard.replicas if shard is not None else ())
            if isinstance(row.arguments, MoveReplica):
                waited_for.update((row.arguments.source, row.arguments.target))
            elif row.step in (
                Step.SPREAD,
                Step.FOUND,
                Step.DROP,
                Step.EVACUATE,
                Step.RESTART,
                Step.SETTLE,
            ):
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
                    changes, refusal = joined(self.state, address, request.incarnation, self._clock.wall_ms())
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
            known = placement_state(state, self.observed(), self.loads, healing=isinstance(work, Heal))
            settings = placement_settings(state.settings)
            plan = await asyncio.to_thread(placement.plan, known, settings, mode_of(work))
            self._memory.plans[operation] = planned_from(plan, known, self._clock.now_ms())
        except ValueError as error:
            log.error("placement_failed", operation=operation, reason=str(error))
            await asyncio.sleep(TICK_SECONDS)
        finally:
            del self._planning[operation]
            self._wake.set()

    # -- requests

    async def request(
        self, request: OperatorRequest, *, plan_only: bool, if_version: int, request_id: str = ""
    ) -> Accepted:
        """Check a request and begin it, unless only its plan is wanted.

        One that a shard has no leader for at this moment is held until it has one, for a while. One whose `request_id` is that
        of an operation was sent again by somebody who got no answer: it begins nothing, and has that operation.

        Raises:
            Refused: it cannot be done.
        """
        until = self._clock.monotonic() + SETTLE_SECONDS
        while not self._has_looked() and self._clock.monotonic() < until:
            await self.next_progress(until - self._clock.monotonic())
        while True:
            try:
                return await self._request(request, plan_only, if_version, request_id)
            except Unsettled:
                if self._clock.monotonic() >= until:
                    raise
            await self.next_progress(until - self._clock.monotonic())

    def _has_looked(self) -> bool:
        """Say whether every node has been asked once: before, a node that is well looks like one that is silent."""
        return bool(self._watchers) and all(
            watcher.report is not None or watcher.silent_because for watcher in self._watchers.values()
        )

    async def _request(self, request: OperatorRequest, plan_only: bool, if_version: int, request_id: str) -> Accepted:
        for _ in range(REQUEST_TRIES):
            situation = self.situation()
            begun = begun_by(request_id, situation.state)
            if begun is not None:
                return begun
            # Some requests ask placement, which may take long: not on the loop, and with the rows free to change.
            accepted = await asyncio.to_thread(check, request, situation, if_version)
            if plan_only:
                return accepted
            async with self._writing:
                if self.state is situation.state:
                    return await self._begin(named(accepted, request_id))
        async with self._writing:
            situation = self.situation()
            return begun_by(request_id, situation.state) or await self._begin(
                named(check(request, situation, if_version), request_id)
            )

    async def _begin(self, accepted: Accepted) -> Accepted:
        await self._write(list(accepted.changes))
        self._wake.set()
        return accepted

    async def change_settings(self, values: Mapping[str, str], *, plan_only: bool, if_version: int) -> SettingsRow:
        """Change settings, unless it is only to be checked; return them as they are then.

        Raises:
            Refused: one of them makes no sense, or they have been changed meanwhile.
        """
        async with self._writing:
            after = with_settings(self.state.settings, values, if_version)
            if not plan_only and after is not self.state.settings:
                await self._write([after])
        self._wake.set()
        return after

    async def cancel(self, operation: int) -> None:
        """Cancel an operation.

        Raises:
            Refused: it cannot be cancelled.
        """
        async with self._writing:
            await self._write(list(cancel(operation, self.state, self._clock.wall_ms())))
        self._wake.set()

    async def next_progress(self, timeout_seconds: float) -> None:
        """Wait for the next decision, for so long at the most."""
        try:
            async with asyncio.timeout(timeout_seconds), self._progress:
                await self._progress.wait()
        except TimeoutError:
            return


async def begin_leadership(
    config: ClusterConfig, store: Store, clock: Clock = SYSTEM, tls: SSLContext | None = None
) -> Leadership:
    """Take over: claim the rows, load them, or make the first ones from the map that the nodes have.

    Raises:
        Deposed: another manager took over at the same moment.
        ShoalError: the rows cannot be read or written, or too few nodes answer to know the newest map.
    """
    epoch = await store.take_over()
    state = await store.load()
    if state is None:
        newest, statuses = await _newest_map(config, tls)
        policies = {name: (known.voters, known.followers) for name, known in config.keyspaces.items()}
        changes = adopted(newest, policies, clock.wall_ms(), statuses)
        empty = ClusterState(ShardMap(0, newest.cluster, (), (), ()))
        state = changed(empty, changes)
        await store.write(changes)
        log.info("map_adopted", version=newest.version, nodes=len(newest.nodes), shards=len(newest.shards))
    return Leadership(config, store, epoch, state, clock, tls)


async def _newest_map(config: ClusterConfig, tls: SSLContext | None) -> tuple[ShardMap, dict[str, StatusReply]]:
    """Return the newest map that nodes have, and what they say of themselves, if a majority of the nodes in it answer.

    Others may be yet to join; those that are in the map and not in the configuration are asked, too.
    """
    answers = await _ask_for_map([node.address for node in config.nodes], config.cluster, tls)
    known = [shard_map for shard_map, _ in answers]
    newest = max(known, key=lambda known: known.version, default=None)
    if newest is not None:
        asked = {node.address for node in config.nodes}
        others = [node.address for node in newest.nodes if node.address not in asked]
        answers += await _ask_for_map(others, config.cluster, tls)
    maps = [shard_map for shard_map, _ in answers]
    if not maps:
        raise Unavailable(f"none of {len(config.nodes)} nodes answers with a shard map, and knows its cluster's id")
    ids = sorted({known.cluster_id for known in maps})
    if len(ids) > 1:
        raise Unavailable(f"the nodes are of several clusters, of ids {', '.join(ids)}: some are copies, or made anew")
    newest = max(maps, key=lambda known: known.version)
    if len(maps) * 2 <= len(newest.nodes):
        raise Unavailable(
            f"{len(maps)} of {len(newest.nodes)} nodes answer; a majority must, for the managers to know the newest map"
        )
    adopted_map = replace(newest, shards=tuple(replace(shard, leader="") for shard in newest.shards))
    return adopted_map, {status.node: status for _, status in answers}


async def _ask_for_map(
    addresses: list[str], cluster: str, tls: SSLContext | None
) -> list[tuple[ShardMap, StatusReply]]:
    """Return the maps and the states of the cluster's nodes at these addresses that answer, and know its id."""
    found = await asyncio.gather(*(_map_of(address, tls) for address in addresses))
    return [
        answer
        for answer in found
        if answer is not None and answer[0].cluster == cluster and answer[0].version > 0 and answer[0].cluster_id
    ]


async def _map_of(address: str, tls: SSLContext | None) -> tuple[ShardMap, StatusReply] | None:
    try:
        async with await AdminConnection.open(address, BOOTSTRAP_TIMEOUT_SECONDS, tls) as connection:
            return connection.welcome.shard_map, await connection.status()
    except ShoalError:
        return None

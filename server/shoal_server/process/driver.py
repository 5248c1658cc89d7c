"""What drives a node's core on an event loop: turns, its timer, and the two threads that wait for the disk.

Whoever owns the driver (the node process in server.py, the embedded database in embedded.py) gives the core what
arrives, calls `schedule_turn`, and is told what to say to peers and clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from shoal.protocol.messages import Answer, Welcome

from shoal_server.node.core import Node
from shoal_server.node.counters import TimedRequest
from shoal_server.node.outbox import PeerMessage
from shoal_server.storage.disk_thread import DiskThread, DiskWorkDone
from shoal_server.storage.engine import Engine


def monotonic_ns() -> int:
    """The node's clock: monotonic, and going on while the machine sleeps, so that a lease does not outlive a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def welcome_of(node: Node, version: int, features: tuple[str, ...] = ()) -> Welcome:
    """Return how `node`, which has `features`, greets whoever connects to it and speaks `version` of the protocol."""
    identity, limits = node.identity, node.settings.limits
    return Welcome(
        version=version,
        cluster=identity.cluster,
        node=identity.node,
        incarnation=identity.incarnation,
        max_frame_bytes=limits.max_frame_bytes,
        max_key_bytes=limits.max_key_bytes,
        max_value_bytes=limits.max_value_bytes,
        max_batch_bytes=limits.max_batch_bytes,
        shard_map=node.map_with_leaders(),
        features=features,
        cluster_id=node.cluster_id,
    )


class NodeDriver:
    """Runs `node` on `loop`. `failure` is "" until the first failure; no turn is taken after it, or after `stop`.

    Every method but `close` belongs to the loop's thread.
    """

    def __init__(
        self,
        node: Node,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        *,
        to_peers: Callable[[dict[str, list[PeerMessage]]], None],
        to_clients: Callable[[dict[int, list[Answer]]], None],
        failed: Callable[[str, Exception | None], None],
        map_changed: Callable[[], None],
        slow: Callable[[list[TimedRequest], int], None] = lambda _slow, _ended: None,
        cut_off: Callable[[str, str], None] = lambda _peer, _reason: None,
        resumed: Callable[[list[int]], None] = lambda _clients: None,
    ) -> None:
        """
        Args:
            failed: told once why nothing on disk, or in memory, can be relied on any more; with the exception, where
                it was a turn that failed.
            map_changed: told when the node has another shard map.
            cut_off: told of a peer whose connection is to be ended, and why.
            slow: told of the slow requests that a turn has answered, and when it ended.
            resumed: told of the clients that more may be received of again.
        """
        self.failure = ""
        self._node = node
        self._engine = engine
        self._loop = loop
        self._to_peers = to_peers
        self._to_clients = to_clients
        self._failed = failed
        self._map_changed = map_changed
        self._slow = slow
        self._cut_off = cut_off
        self._resumed = resumed
        self._replica_set = node.replica_set
        self._map_version = node.routes.map.version
        self._syncs = DiskThread("sync", engine.sync, self._in_loop(self._sync_done))
        self._flushes = DiskThread("flush", engine.flush, self._in_loop(self._flush_done))
        self._requested_sync = 0
        self._requested_flush = 0
        self._stopped = False
        self._turn_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def schedule_turn(self) -> None:
        """Have a turn taken once the callbacks that are ready now have run."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._node.arrived = monotonic_ns()
            self._loop.call_soon(self._scheduled_turn)

    def turn(self) -> None:
        """Take a turn now."""
        if self._stopped or self.failure:
            return
        now = monotonic_ns()
        try:
            turn = self._node.turn(now, int(time.time() * 1000))
            if turn.to_peers:
                self._to_peers(turn.to_peers)
            if turn.sync is not None and turn.sync > self._requested_sync:
                self._requested_sync = turn.sync
                done = self._syncs.request_and_wait(turn.sync)
                if done is not None:
                    if done.failure is not None:
                        self.fail(str(done.failure))
                        return
                    self._node.synced(done.ticket)
                    now = monotonic_ns()
            end = self._node.finish_turn(now)
            if end.flush is not None and end.flush > self._requested_flush:
                self._requested_flush = end.flush
                self._flushes.request(end.flush)
        except Exception as error:  # the root of the node's work: whatever failed, nothing after it may be trusted
            self.fail(f"{type(error).__name__}: {error}", error)
            return
        version = self._replica_set.routes.map.version
        if version != self._map_version:
            self._map_version = version
            self._map_changed()
        while self._node.cut_off:
            self._cut_off(*self._node.cut_off.popitem())
        self._arm_timer(end.wake_at, now)
        if end.to_peers:
            self._to_peers(end.to_peers)
        if end.to_clients:
            self._to_clients(end.to_clients)
        if end.resumed:
            self._resumed(end.resumed)
        ended = monotonic_ns()
        counters = self._node.counters
        counters.end_turn(ended)
        if counters.slow:
            self._slow(counters.take_slow(), ended)

    def sync_stalled_for(self) -> float:
        """Return for how many seconds the sync under way has been going on, 0 where there is none."""
        return self._syncs.stalled_for()

    def take_sync_durations(self) -> list[int]:
        """Return how long each sync took that has ended since the last time (ns)."""
        return self._syncs.take_durations()

    def fail(self, reason: str, error: Exception | None = None) -> None:
        """Take no turn any more, and say why."""
        if not self.failure:
            self.failure = reason
            self._failed(reason, error)

    def stop(self) -> None:
        """Take no turn any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """End the threads and close the engine: everything written is on disk then. After `stop`; takes a while.

        Raises:
            StorageFailed: what was written may not all be on disk.
        """
        self._syncs.stop()
        self._flushes.stop()
        self._engine.close()

    # -- turns

    def _scheduled_turn(self) -> None:
        self._turn_scheduled = False
        self.turn()

    def _on_timer(self) -> None:
        self._timer = None
        self.schedule_turn()

    def _arm_timer(self, wake_at: int, now: int) -> None:
        """Be woken by `wake_at`; a timer that is due earlier stays, since setting one anew costs more than a turn too many."""
        if self._timer is not None:
            if self._timer_at <= wake_at:
                return
            self._timer.cancel()
        self._timer_at = wake_at
        self._timer = self._loop.call_later(max(0, wake_at - now) / 1e9, self._on_timer)

    # -- the disk

    def _in_loop(self, done: Callable[[DiskWorkDone], None]) -> Callable[[DiskWorkDone], None]:
        """Return what a disk's thread calls to have `done` called in the loop's."""

        def notify(report: DiskWorkDone) -> None:
            # A loop that was closed before the node was (an application's) has nobody left who waits for this.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(done, report)

        return notify

    def _sync_done(self, report: DiskWorkDone) -> None:
        if report.failure is not None:
            self.fail(str(report.failure))
            return
        self._node.synced(report.ticket)
        self.schedule_turn()

    def _flush_done(self, report: DiskWorkDone) -> None:
        if report.failure is not None:
            self.fail(str(report.failure))
            return
        self._node.flushed(report.ticket)
        self.schedule_turn()

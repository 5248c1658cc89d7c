"""Whoever drives a migration in simulation: it asks both shards how far they are, over the network, and takes a step.

It knows nothing but what it was told to move, so any number of drivers may be at work on one migration, and each may
die at any moment. It does not hurry to see what became of a step: what it asks next shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shoal.errors import ErrorCode
from shoal.protocol.messages import Answer, Done, Failure, GetStatus, ReplicaStatus, Request, StatusReply
from shoal.protocol.migration import (
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    CancelMigration,
    ForgetMoved,
    MigrationEnd,
    MovingRows,
    ReadMoving,
    SealMicroshards,
    StoreMoved,
)
from shoal.shardmap import MicroshardRange

from shoal_chaos.simulation.world.events import MILLISECOND, Events

PATIENCE = 100 * MILLISECOND
"""Whoever has not answered by then is asked again, or another node is."""
PAUSE = 10 * MILLISECOND
LINGERS = 30
"""So many times some drivers follow what changes after nothing more was left to copy, before they seal."""
SMALL_ROUND = 8
TRIMS = 0.3
"""How often the source is told what the target has of its journal, instead of being asked for more."""
"""A round of so few rows is small enough to seal the source after it."""


@dataclass(slots=True)
class MigrationOrder:
    """What is to be moved. `cancelled`: it is to be given up, if that may still be. `over`: both shards are done with it.

    `moved`: it was not given up. `mapped`: the shard map says by now that the microshards are the target's.
    """

    migration: int
    source: int
    target: int
    ranges: tuple[MicroshardRange, ...]
    cancelled: bool = False
    over: bool = False
    moved: bool = False
    mapped: bool = False


class SimulatedDriver:
    """One driver of one migration, until it is over or `stop` is called."""

    def __init__(
        self,
        order: MigrationOrder,
        nodes: list[str],
        events: Events,
        random: Random,
        send: Callable[[str, list[Request]], None],
        map_version: Callable[[], int],
        *,
        in_haste: bool,
    ) -> None:
        """
        Args:
            map_version: gives a version that no shard map had yet.
            in_haste: copy in large pages, and seal as soon as it may be; otherwise as chance has it.
        """
        self._order = order
        self._nodes = nodes
        self._events = events
        self._random = random
        self._send = send
        self._map_version = map_version
        self._leaders = {order.source: nodes[0], order.target: nodes[0]}
        self._known: dict[int, ReplicaStatus] = {}
        self._page: MovingRows | None = None
        self._page_bytes = 1 << 20 if in_haste else random.choice([1, 100, 1 << 20])
        self._lingers = 0 if in_haste else random.choice([0, LINGERS])
        self._asked = order.target
        self._step: Request | None = None
        self._request = 0
        self._stopped = False
        self._ask()

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True

    # -- asking

    def _ask(self) -> None:
        """Ask the next shard how far it is, or take a step if both are known."""
        order = self._order
        if self._stopped or order.over:
            return
        for shard in (order.target, order.source):
            if shard not in self._known:
                self._request += 1
                self._asked, self._step = shard, None
                self._say(GetStatus(self._request))
                return
        self._take_step()

    def _say(self, request: Request) -> None:
        number = self._request
        self._send(self._leaders[self._asked], [request])
        self._events.after(PATIENCE, lambda: self._unanswered(number))

    def _unanswered(self, number: int) -> None:
        if number == self._request:
            self._turn_to("")
            self._begin_anew()

    def _turn_to(self, leader: str) -> None:
        self._leaders[self._asked] = leader if leader in self._nodes else self._random.choice(self._nodes)

    def _begin_anew(self) -> None:
        self._known = {}
        self._request += 1
        number = self._request
        delay = self._random.randrange(1, PAUSE)
        self._events.after(delay, lambda: self._ask() if number == self._request else None)

    def receive(self, answers: list[Answer]) -> None:
        """Take the answers of one frame; those that it does not wait for any more are ignored."""
        for answer in answers:
            if not isinstance(answer, StatusReply | MovingRows | Done | Failure) or answer.request != self._request:
                continue
            if isinstance(answer, StatusReply):
                self._take_status(answer)
            elif isinstance(answer, MovingRows):
                self._page = answer
                self._store(answer)
            elif isinstance(answer, Failure):
                self._refused(answer)
            else:
                self._begin_anew()

    def _take_status(self, status: StatusReply) -> None:
        replica = next((replica for replica in status.replicas if replica.shard == self._asked), None)
        if replica is None or replica.leader != status.node:
            self._turn_to(replica.leader if replica is not None else "")
            self._begin_anew()
        else:
            self._known[self._asked] = replica
            self._ask()

    def _refused(self, failure: Failure) -> None:
        if failure.code == ErrorCode.INVALID_ARGUMENT and isinstance(self._step, BeginIncoming | BeginOutgoing):
            # The shards are not what they were when the order was given.
            self._order.cancelled = True
        elif failure.code == ErrorCode.INVALID_ARGUMENT and isinstance(self._step, CancelMigration):
            self._order.cancelled = False
        elif failure.code != ErrorCode.INVALID_ARGUMENT:
            self._turn_to(failure.route.leader if failure.route is not None else "")
        self._begin_anew()

    # -- steps

    def _take_step(self) -> None:
        order = self._order
        source, target = self._known[order.source], self._known[order.target]
        ends = {
            shard: next((each.end for each in status.migrations_ended if each.migration == order.migration), None)
            for shard, status in ((order.source, source), (order.target, target))
        }
        taking = target.incoming is not None and target.incoming.migration == order.migration
        giving = source.outgoing is not None and source.outgoing.migration == order.migration
        number, migration = self._request + 1, order.migration
        if ends[order.target] is MigrationEnd.ADOPTED:
            if ends[order.source] is MigrationEnd.FORGOTTEN:
                order.over = order.moved = True
            else:
                self._ask_for(order.source, ForgetMoved(number, order.source, migration))
        elif ends[order.source] is MigrationEnd.CANCELLED:
            if ends[order.target] is MigrationEnd.CANCELLED:
                order.over = True
            else:
                self._ask_for(order.target, CancelMigration(number, order.target, migration))
        elif order.cancelled:
            self._ask_for(order.source, CancelMigration(number, order.source, migration))
        elif not taking:
            step = BeginIncoming(number, order.target, migration, order.source, order.ranges)
            self._ask_for(order.target, step)
        elif not giving:
            give = BeginOutgoing(number, order.source, migration, order.target, order.ranges)
            self._ask_for(order.source, give)
        else:
            self._copy(source, target, number)

    def _copy(self, source: ReplicaStatus, target: ReplicaStatus, number: int) -> None:
        assert source.outgoing is not None, "it gives"
        assert target.incoming is not None, "it takes"
        order, cursor = self._order, target.incoming.cursor
        page = self._page
        if cursor.complete:
            self._ask_for(order.target, AdoptMicroshards(number, order.target, order.migration, self._map_version()))
        elif (
            page is not None
            and page.cursor == cursor
            and page.done
            and not source.outgoing.sealed
            and self._is_small(page)
            and not self._lingers
        ):
            self._page = None
            self._ask_for(order.source, SealMicroshards(number, order.source, order.migration, self._map_version()))
        elif cursor.scanned and self._random.random() < TRIMS:
            give = BeginOutgoing(number, order.source, order.migration, order.target, order.ranges, cursor)
            self._ask_for(order.source, give)
        else:
            self._lingers -= self._lingers > 0 and page is not None and page.done
            self._ask_for(order.source, ReadMoving(number, order.source, order.migration, cursor, self._page_bytes))

    def _is_small(self, page: MovingRows) -> bool:
        return len(page.rows) <= SMALL_ROUND

    def _store(self, page: MovingRows) -> None:
        target = self._known[self._order.target]
        assert target.incoming is not None, "it was asked to be read from its cursor"
        self._ask_for(
            self._order.target,
            StoreMoved(
                self._request + 1,
                self._order.target,
                self._order.migration,
                target.incoming.number,
                page.cleared,
                page.rows,
                page.cursor,
                target.incoming.cursor,
            ),
        )

    def _ask_for(self, shard: int, step: Request) -> None:
        self._request += 1
        self._asked, self._step = shard, step
        self._say(step)

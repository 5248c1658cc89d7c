"""Whoever drives a migration in simulation: it asks both shards how far they are, over the network, and takes a step.

It knows nothing but what it was told to move, so any number of migrators may be at work on one migration, and each may
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
"""So many times some migrators follow what changes after nothing more was left to copy, before they seal."""
SMALL_ROUND = 8
"""A round of so few rows is small enough to seal the source after it."""
TRIMS = 0.3
"""How often the source is told what the target has of its journal, instead of being asked for more."""


@dataclass(slots=True)
class PlannedMigration:
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


class SimulatedMigrator:
    """One migrator of one migration, until it is over or `stop` is called."""

    def __init__(
        self,
        planned: PlannedMigration,
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
        self._planned = planned
        self._nodes = nodes
        self._events = events
        self._random = random
        self._send = send
        self._map_version = map_version
        self._leaders = {planned.source: nodes[0], planned.target: nodes[0]}
        self._known: dict[int, ReplicaStatus] = {}
        self._page: MovingRows | None = None
        self._page_bytes = 1 << 20 if in_haste else random.choice([1, 100, 1 << 20])
        self._lingers = 0 if in_haste else random.choice([0, LINGERS])
        self._asked = planned.target
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
        planned = self._planned
        if self._stopped or planned.over:
            return
        for shard in (planned.target, planned.source):
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
            # The shards are not what they were when the migration was planned.
            self._planned.cancelled = True
        elif failure.code == ErrorCode.INVALID_ARGUMENT and isinstance(self._step, CancelMigration):
            self._planned.cancelled = False
        elif failure.code != ErrorCode.INVALID_ARGUMENT:
            self._turn_to(failure.route.leader if failure.route is not None else "")
        self._begin_anew()

    # -- steps

    def _take_step(self) -> None:
        planned = self._planned
        source, target = self._known[planned.source], self._known[planned.target]
        ends = {
            shard: next((each.end for each in status.migrations_ended if each.migration == planned.migration), None)
            for shard, status in ((planned.source, source), (planned.target, target))
        }
        incoming_side = target.incoming is not None and target.incoming.migration == planned.migration
        outgoing_side = source.outgoing is not None and source.outgoing.migration == planned.migration
        number, migration = self._request + 1, planned.migration
        if ends[planned.target] is MigrationEnd.ADOPTED:
            if ends[planned.source] is MigrationEnd.FORGOTTEN:
                planned.over = planned.moved = True
            else:
                self._ask_for(planned.source, ForgetMoved(number, planned.source, migration))
        elif ends[planned.source] is MigrationEnd.CANCELLED:
            if ends[planned.target] is MigrationEnd.CANCELLED:
                planned.over = True
            else:
                self._ask_for(planned.target, CancelMigration(number, planned.target, migration))
        elif planned.cancelled:
            self._ask_for(planned.source, CancelMigration(number, planned.source, migration))
        elif not incoming_side:
            step = BeginIncoming(number, planned.target, migration, planned.source, planned.ranges)
            self._ask_for(planned.target, step)
        elif not outgoing_side:
            give = BeginOutgoing(number, planned.source, migration, planned.target, planned.ranges)
            self._ask_for(planned.source, give)
        else:
            self._copy(source, target, number)

    def _copy(self, source: ReplicaStatus, target: ReplicaStatus, number: int) -> None:
        assert source.outgoing is not None, "it gives"
        assert target.incoming is not None, "it takes"
        planned, cursor = self._planned, target.incoming.cursor
        page = self._page
        if cursor.complete:
            self._ask_for(
                planned.target, AdoptMicroshards(number, planned.target, planned.migration, self._map_version())
            )
        elif (
            page is not None
            and page.cursor == cursor
            and page.done
            and not source.outgoing.sealed
            and self._is_small(page)
            and not self._lingers
        ):
            self._page = None
            self._ask_for(
                planned.source, SealMicroshards(number, planned.source, planned.migration, self._map_version())
            )
        elif cursor.scanned and self._random.random() < TRIMS:
            give = BeginOutgoing(number, planned.source, planned.migration, planned.target, planned.ranges, cursor)
            self._ask_for(planned.source, give)
        else:
            self._lingers -= self._lingers > 0 and page is not None and page.done
            self._ask_for(
                planned.source, ReadMoving(number, planned.source, planned.migration, cursor, self._page_bytes)
            )

    def _is_small(self, page: MovingRows) -> bool:
        return len(page.rows) <= SMALL_ROUND

    def _store(self, page: MovingRows) -> None:
        target = self._known[self._planned.target]
        assert target.incoming is not None, "it was asked to be read from its cursor"
        self._ask_for(
            self._planned.target,
            StoreMoved(
                self._request + 1,
                self._planned.target,
                self._planned.migration,
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

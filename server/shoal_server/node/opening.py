"""Opens a replica: with what the engine has of its shard, or as an empty one that begins, or waits for a snapshot."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import TypedDict

import msgspec
from shoal.shardmap import Keyspace, MicroshardRange, Routes, Shard

from shoal_server.node.counters import NodeCounters
from shoal_server.node.damage import say_failed
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.replica import Replica
from shoal_server.node.replica_memory import ReplicaMemory
from shoal_server.node.settings import NodeSettings
from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.messages import HardState, Membership
from shoal_server.raft.ready import BadMessage
from shoal_server.shard.beginnings import Beginnings
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.storage.applied_state import AppliedState, load_applied_state
from shoal_server.storage.damaged_meta import set_right
from shoal_server.storage.dropped_replicas import has_never_had, is_remembered, take_up_dropped
from shoal_server.storage.engine import Batch, Damaged, Engine
from shoal_server.storage.generations import next_generation
from shoal_server.storage.layout import (
    LogStart,
    encode_log_start,
    is_split_off,
    load_log_start,
    log_start_key,
)
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.promises import FORGOTTEN_PROMISES, has_forgotten, load_hard_state, put_hard_state
from shoal_server.storage.replica_failure import (
    ANY_INDEX,
    FailureKind,
    ReplicaFailure,
    acknowledged_to,
    load_failure,
    load_lost_to,
    put_failure,
    regained,
)
from shoal_server.storage.replica_rows import (
    ReplicaOrigin,
    discard_staged,
    is_stored,
    load_origin,
    origin_of_newcomer,
    put_origin,
    put_strays,
)
from shoal_server.storage.skipped_entries import load_skipped


def origin_of_empty(engine: Engine, node: str, shard: Shard) -> ReplicaOrigin:
    """Return where a replica comes from that is about to be opened empty, where no stored one is open.

    A split's voters begin with the rows, each from its own replica of the parent. One whose replica of the parent was taken
    past the split by a snapshot has none, and waits for one of the child's. Were it silent until then, and most of the others
    with it, the one that has the rows would never be elected, and could send it nothing. So it votes, if it is sure to have
    promised nothing in the child: the node has never had one, and is known by one folder for as long as its name is.
    Any other replica that begins empty was added to its shard by a leader, which needs no vote of it before it is level.
    """
    missed_the_split = shard.parent and node in shard.founders and node in shard.voters
    if missed_the_split and has_never_had(engine, shard.id):
        return ReplicaOrigin(False, 0, shard.parent)
    return origin_of_newcomer(shard)


def put_origin_of_new(batch: Batch, engine: Engine, node: str, shard: Shard, *, founds: bool) -> None:
    """Store where a replica comes from that is about to be opened, unless there is one here, which only is not open.

    A map that left a shard out, and one that has it again, find its replica as it was. Its log goes on from what its origin
    says, whoever may want it to have begun anew.

    Args:
        founds: it begins its group, as one of the founders: unless the node remembers a replica of the shard that it has
            dropped, or may have forgotten one. What that had promised binds this one, which waits for the others' snapshot.
    """
    if is_stored(engine, shard.id):
        return
    if founds and not is_remembered(engine, shard.id):
        origin = ReplicaOrigin(True, shard.membership_version, shard.parent)
    else:
        origin = origin_of_empty(engine, node, shard)
    put_origin(batch, engine, shard.id, origin)


class ReplicaOpener:
    """Opens the replicas of one node; has what all of them have in common."""

    __slots__ = (
        "_beginnings",
        "_connected",
        "_counters",
        "_engine",
        "_liveness",
        "_memory",
        "_node",
        "_random",
        "_settings",
    )

    def __init__(
        self,
        node: str,
        engine: Engine,
        settings: NodeSettings,
        liveness: Liveness,
        counters: NodeCounters,
        random: Random,
        connected: Collection[str],
        beginnings: Beginnings,
        memory: MemoryBudget,
    ) -> None:
        """`connected` are, at every moment, the peers that messages have a way to."""
        self._node = node
        self._engine = engine
        self._settings = settings
        self._liveness = liveness
        self._counters = counters
        self._random = random
        self._connected = connected
        self._beginnings = beginnings
        self._memory = memory

    def open(self, routes: Routes, shard_id: int, now: int) -> Replica:
        """Open the replica of a shard that `routes` knows; one of which something cannot be read has failed.

        Args:
            now: nanoseconds of the node's own monotonic clock.

        Raises:
            Damaged: the node's own rows cannot be read.
        """
        shard, node, engine = routes.shards[shard_id], self._node, self._engine
        of_meta = set_right(engine, shard)
        if of_meta is not None:
            say_failed(node, shard_id, of_meta)
        take_up_dropped(engine, shard_id)
        origin = load_origin(engine, shard_id)
        store = GroupLogStore(engine, shard_id)
        known = failure = load_failure(engine, shard_id)
        founded_ranges = shard.founded_with if origin.founded else shard.ranges
        awaits_snapshot = rows_unknown = False
        log_start = load_log_start(engine, shard_id)
        try:
            state = load_applied_state(engine, shard_id, routes.keyspaces[shard.keyspace].microshards)
            if log_start.index > (0 if state is None else state.index):
                raise Damaged("data", f"what shard {shard_id} applied up to entry {log_start.index} is not stored")
        except Damaged as error:
            # Without the membership as of what was applied, the log cannot be followed either.
            failure = ReplicaFailure(FailureKind.DAMAGED, str(error), 0, log_lost_to=acknowledged_to(store))
            state = _initial(shard, engine, shard.ranges)
            rows_unknown = True
            self._store_strays(shard)
        else:
            awaits_snapshot = state is None and not origin.founded
            if state is not None:
                _begin_log_of_split_off(engine, shard_id, state)
            else:
                state = _initial(shard, engine, founded_ranges)
        forgotten = has_forgotten(engine, shard_id)
        if forgotten and failure is None:
            failure = ReplicaFailure(FailureKind.DAMAGED, FORGOTTEN_PROMISES, state.index)
        machine, failure = self._open_machine(shard, routes.keyspaces[shard.keyspace], state, failure)
        leftovers = engine.batch()
        discard_staged(leftovers, engine, shard_id)
        if not leftovers.is_empty():
            engine.write(leftovers)
        lost_to = load_lost_to(engine, shard_id)
        ends = store.load_ends()
        arguments = _GroupArguments(
            config=self._settings.raft,
            timing=self._settings.timing,
            liveness=self._liveness,
            hard_state=ends.hard_state,
            membership=state.membership,
            membership_index=state.membership_index,
            now=now,
            priority=shard.voters.index(node) if node in shard.voters else len(shard.voters),
            silent_until=0 if origin.founded else origin.membership_version,
            has_forgotten=forgotten,
        )
        if failure is None or not failure.log_lost_to:
            try:
                opened = _open_log(store, shard_id, ends.start, state)
                if awaits_snapshot and opened.last_index:
                    raise Damaged("log", f"shard {shard_id} has a log here, and nothing of what that begins with")
                if lost_to and failure is None and opened.last_index >= lost_to:
                    regained(engine, shard_id)
                    lost_to = 0
                group = self._open_group(
                    shard_id,
                    arguments,
                    opened,
                    awaits_snapshot=awaits_snapshot,
                    failed=failure is not None,
                    lost_to=lost_to,
                )
            except Damaged as error:
                if error.family != "log":
                    raise
                failure = ReplicaFailure(FailureKind.DAMAGED, str(error), state.index, _log_lost_to(store, state))
        if failure is not None and failure.log_lost_to:
            # Of a log that is damaged nothing is believed: a snapshot begins it anew.
            group = self._open_group(
                shard_id,
                arguments,
                Log(
                    store,
                    truncated_index=state.index,
                    truncated_term=state.term,
                    last_index=state.index,
                    applied_index=state.index,
                ),
                awaits_snapshot=True,
                failed=True,
                lost_to=max(lost_to, failure.log_lost_to),
            )
        replica = Replica(
            node, group, store, machine, self._settings, self._counters, self._connected, ReplicaMemory(self._memory)
        )
        replica.skipped = load_skipped(engine, shard_id)
        replica.rows_unknown = rows_unknown
        if failure is not None:
            replica.opened_failed(failure, state)
            if failure is not known:
                self._store_failure(shard_id, failure)
        return replica

    def _open_machine(
        self, shard: Shard, keyspace: Keyspace, state: AppliedState, failure: ReplicaFailure | None
    ) -> tuple[ShardStateMachine, ReplicaFailure | None]:
        """Open the state machine of `state`, or, where its rows are not to be relied on, an empty one at the same position."""
        engine, beginnings = self._engine, self._beginnings
        if failure is None:
            try:
                return ShardStateMachine(shard, keyspace, engine, state, beginnings), None
            except Damaged as error:
                if error.family != "data":
                    raise
                failure = ReplicaFailure(FailureKind.DAMAGED, str(error), state.index)
        empty = msgspec.structs.replace(state, generation=next_generation(engine), placements=())
        return ShardStateMachine(shard, keyspace, engine, empty, beginnings), failure

    def _open_group(
        self, shard: int, arguments: _GroupArguments, log: Log, *, awaits_snapshot: bool, failed: bool, lost_to: int
    ) -> Group:
        """
        Raises:
            Damaged: the log cannot be read, or no group can have one that says this.
        """
        try:
            return Group(
                shard,
                self._node,
                log=log,
                random=Random(self._random.getrandbits(64)),
                awaits_snapshot=awaits_snapshot,
                failed=failed,
                lost_to=lost_to,
                **arguments,
            )
        except BadMessage as error:
            # What the group says of a peer's entries it says of the stored ones, too.
            raise Damaged("log", str(error)) from error

    def _store_strays(self, shard: Shard) -> None:
        batch = self._engine.batch()
        put_strays(batch, self._engine, shard.id, shard.keyspace)
        self._engine.write(batch)

    def _store_failure(self, shard: int, failure: ReplicaFailure) -> None:
        batch = self._engine.batch()
        put_failure(batch, self._engine, shard, failure)
        self._engine.write(batch)
        say_failed(self._node, shard, failure)


class _GroupArguments(TypedDict):
    """What a group is opened with, whatever its log is."""

    config: RaftConfig
    timing: Timing
    liveness: Liveness
    hard_state: HardState
    membership: Membership
    membership_index: int
    now: int
    priority: int
    silent_until: int
    has_forgotten: bool


def _initial(shard: Shard, engine: Engine, ranges: tuple[MicroshardRange, ...]) -> AppliedState:
    """Return the state of a replica that has applied nothing, with a generation in which no rows lie."""
    return AppliedState(
        index=0,
        term=0,
        seq_base=0,
        generation=next_generation(engine),
        membership=Membership(1, *shard.founded_by),
        membership_index=0,
        ranges=ranges,
    )


def _open_log(store: GroupLogStore, shard: int, start: LogStart, state: AppliedState) -> Log:
    """
    Raises:
        Damaged: it cannot be read, or lacks what was applied.
    """
    last_index = store.load_last_index()
    if last_index < state.index:
        raise Damaged("log", f"the log of shard {shard} ends at entry {last_index}, and {state.index} was applied")
    return Log(
        store,
        truncated_index=start.index,
        truncated_term=start.term,
        last_index=last_index,
        applied_index=state.index,
    )


def _log_lost_to(store: GroupLogStore, state: AppliedState) -> int:
    """Return up to where a log that cannot be read may have been acknowledged: one without its end, nobody knows how far."""
    last_index = acknowledged_to(store)
    return last_index if last_index >= state.index else ANY_INDEX


def _begin_log_of_split_off(engine: Engine, shard: int, state: AppliedState) -> None:
    """Let the log of a replica that a split made begin where its state does, unless it has begun already."""
    if not is_split_off(engine, shard) or engine.get(engine.meta, log_start_key(shard)) is not None:
        return
    batch = engine.batch()
    batch.put(log_start_key(shard), encode_log_start(LogStart(state.index, state.term)), engine.meta)
    if load_hard_state(engine, shard).term < state.term:
        put_hard_state(batch, engine, shard, HardState(state.term, ""))
    engine.write(batch)

"""Opens a replica: with what the engine has of its shard, or as an empty one that begins, or waits for a snapshot."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from shoal.shardmap import Routes

from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.observe.tally import Tally
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.messages import HardState, Membership
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.storage.applied_state import AppliedState, load_applied_state
from shoal_server.storage.engine import REPLACE_NODE, Engine, StorageDamaged
from shoal_server.storage.generations import next_generation
from shoal_server.storage.layout import (
    LogStart,
    encode_hard_state,
    encode_log_start,
    hard_state_key,
    is_split_off,
    log_start_key,
)
from shoal_server.storage.log_store import GroupLogStore
from shoal_server.storage.replica_rows import ReplicaOrigin, discard_staged


class ReplicaOpener:
    """Opens the replicas of one node; has what all of them have in common."""

    __slots__ = ("_connected", "_engine", "_liveness", "_node", "_random", "_settings", "_tally")

    def __init__(
        self,
        node: str,
        engine: Engine,
        settings: NodeSettings,
        liveness: Liveness,
        tally: Tally,
        random: Random,
        connected: Collection[str],
    ) -> None:
        """`connected` are, at every moment, the peers that messages have a way to."""
        self._node = node
        self._engine = engine
        self._settings = settings
        self._liveness = liveness
        self._tally = tally
        self._random = random
        self._connected = connected

    def open(self, routes: Routes, shard_id: int, origin: ReplicaOrigin, now: int) -> Replica:
        """Open the replica of a shard that `routes` knows.

        Args:
            origin: how the replica came here.
            now: nanoseconds of the node's own monotonic clock.

        Raises:
            StorageDamaged: the log lacks what was applied.
        """
        shard, node, engine = routes.shards[shard_id], self._node, self._engine
        store = GroupLogStore(engine, shard_id)
        state = load_applied_state(engine, shard_id)
        awaits_snapshot = state is None and not origin.founded
        if state is not None:
            _begin_log_of_split_off(engine, shard_id, state)
        else:
            state = AppliedState(
                index=0,
                term=0,
                seq_base=0,
                generation=next_generation(engine),
                sessions_opened=0,
                membership=Membership(1, shard.founders, shard.founding_followers)
                if shard.founders
                else Membership(1, shard.voters, shard.followers),
                membership_index=0,
                ranges=(shard.founding_ranges or shard.ranges) if origin.founded else shard.ranges,
            )
        machine = ShardStateMachine(shard, routes.keyspaces[shard.keyspace], engine, state)
        leftovers = engine.batch()
        discard_staged(leftovers, engine, shard_id)
        if not leftovers.is_empty():
            engine.write(leftovers)
        stored = store.load()
        if stored.last_index < state.index:
            raise StorageDamaged(
                f"the log of shard {shard_id} ends at entry {stored.last_index}, and {state.index} was applied: "
                f"{REPLACE_NODE}"
            )
        log = Log(
            store,
            truncated_index=stored.start.index,
            truncated_term=stored.start.term,
            last_index=stored.last_index,
            applied_index=state.index,
        )
        group = Group(
            shard_id,
            node,
            config=self._settings.raft,
            timing=self._settings.timing,
            liveness=self._liveness,
            log=log,
            hard_state=stored.hard_state,
            membership=state.membership,
            membership_index=state.membership_index,
            random=Random(self._random.getrandbits(64)),
            now=now,
            priority=shard.voters.index(node) if node in shard.voters else len(shard.voters),
            silent_until=0 if origin.founded else origin.membership_version,
            awaits_snapshot=awaits_snapshot,
        )
        return Replica(node, group, store, machine, self._settings, self._tally, self._connected)


def _begin_log_of_split_off(engine: Engine, shard: int, state: AppliedState) -> None:
    """Let the log of a replica that a split made begin where its state does, unless it has begun already."""
    if not is_split_off(engine, shard) or engine.get(engine.meta, log_start_key(shard)) is not None:
        return
    batch = engine.batch()
    batch.put(log_start_key(shard), encode_log_start(LogStart(state.index, state.term)), engine.meta)
    batch.put(hard_state_key(shard), encode_hard_state(HardState(state.term, "")), engine.meta)
    engine.write(batch)

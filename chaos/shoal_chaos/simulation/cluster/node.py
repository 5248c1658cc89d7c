"""One simulated node: the real core in a process that takes turns, on a disk that outlives it."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Protocol

from shoal.protocol.messages import Answer
from shoal.shardmap import ShardMap
from shoal_server.node.core import Node, TurnEnd
from shoal_server.node.disk_health import DiskState, SyncLatency
from shoal_server.node.outbox import peer_decoder
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.group import Group
from shoal_server.raft.messages import VoteResponse
from shoal_server.storage.layout import applied_state_key, split_off_key
from shoal_server.storage.node_rows import load_shard_map
from shoal_server.storage.replica_rows import is_stored

from shoal_chaos.simulation.cluster.callers import Callers
from shoal_chaos.simulation.cluster.work import turn_takes
from shoal_chaos.simulation.invariants import Invariants, Serving, Violation
from shoal_chaos.simulation.world.disk import SimulatedEngine
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Clock
from shoal_chaos.simulation.world.world import World

WALL_START_MS = 1_700_000_000_000
MAX_SKEW_MS = 450
"""No two of them differ by more than is tolerated: clocks that are wrong are a fault (faults/wrong_clocks.py)."""
TURN_DELAY = MILLISECOND // 20
PAGE_PAUSE = 20 * MILLISECOND
"""A page that is made in pieces goes on after so long at the most."""
DISK_LOOK_INTERVAL = 250 * MILLISECOND
FLUSH_DELAY_MOST = (50 * MILLISECOND, 2_000 * MILLISECOND)
USUAL_SYNC_DELAY = (MILLISECOND // 10, MILLISECOND)
QUICK_PART = 4
"""One sync in so many is as quick as that its turn waits for it."""
CLIENT = "client-"
"""What the names of those on the network begin with who speak to nodes as clients; a number follows."""
FIRST_CONNECTION = 1 << 20
"""Clients below this number are those on the network; others have a connection of their own (see `Keeper.answered`)."""


def client_name(number: int) -> str:
    """Return the name of a client on the network."""
    return f"{CLIENT}{number}"


class Keeper(Protocol):
    """Who gives nodes their maps, and knows them to each other: managers, or nobody but the simulation."""

    def first_map(self, node: SimulatedNode) -> ShardMap:
        """Return the map of a node that has none yet."""
        ...

    def open_replicas(self, node: SimulatedNode, core: Node, shard_map: ShardMap) -> None:
        """A process begins: open replicas that the map does not put there."""
        ...

    def connect(self, node: SimulatedNode, core: Node) -> None:
        """A process has begun: connect it with the nodes that run."""
        ...

    def process_ends(self, node: SimulatedNode) -> None:
        """A process is about to end without warning."""
        ...

    def turn_taken(self, node: SimulatedNode, core: Node) -> None: ...

    def answered(self, node: SimulatedNode, client: int, answers: list[Answer]) -> None:
        """Bring answers to a client that is not on the network."""
        ...


class Surroundings(Protocol):
    """What a node finds around it, which is a cluster."""

    settings: NodeSettings
    keeper: Keeper
    turns_take_time: bool

    @property
    def world(self) -> World: ...
    @property
    def invariants(self) -> Invariants: ...
    @property
    def nodes(self) -> dict[str, SimulatedNode]: ...
    @property
    def introduced(self) -> dict[int, tuple[bytes, str]]: ...
    def break_link(self, sender: str, receiver: str) -> None: ...


class SimulatedNode:
    """One node: its disk outlives its process. `told`: something has reached it since its last turn. `callers`: its clients.

    `ended`: it never comes back: its machine is gone, or it was removed and its process ended.
    """

    def __init__(self, cluster: Surroundings, name: str, clock: Clock, random: Random) -> None:
        self.name = name
        self.random = random
        self.ended = False
        self.engine = SimulatedEngine()
        self.epoch = 0
        self.node: Node | None = None
        self.paused_until = 0
        self.sync_delay = USUAL_SYNC_DELAY
        self.syncs_fail = False
        self.wall_skew_ms = random.choice([0, random.randint(-MAX_SKEW_MS, MAX_SKEW_MS)])
        self._cluster = cluster
        self._events = cluster.world.events
        self._clock = clock
        self.told = False
        self._turn_at: int | None = None
        self._turns_scheduled: set[int] = set()
        self._syncing = False
        self._wanted_sync = 0
        self._synced = 0
        self._flushing = 0
        self._serving: list[Serving] = []
        self._sync_began = 0
        self._looked_at_disk = 0
        self._sync_durations: list[int] = []
        self._latency = SyncLatency(0)
        self.callers = Callers(name)

    @property
    def replicas(self) -> dict[int, Replica]:
        """Those of the process, by shard; none while it is down."""
        return {} if self.node is None else self.node.replicas

    def groups(self) -> Iterable[Group]:
        return [replica.group for replica in self.replicas.values()]

    @property
    def idle(self) -> bool:
        """Whether the process runs, has a way to every peer, and nothing of what it was told or asked is still to be done."""
        node = self.node
        return (
            node is not None
            and not self.told
            and not self._syncing
            and self.paused_until <= self._events.now
            and node.connected.issuperset(node.peers)
            and not any(length for length, _ in node.queues().values())
        )

    def serving(self) -> list[Serving]:
        """Return what this node's leaders would answer for at this moment."""
        served: list[Serving] = []
        now = self.local_now()
        for replica in self.replicas.values():
            index = replica.group.read_index(now) if replica.group.is_leader else None
            if index is not None:
                state = replica.machine.state
                if state.index >= index:
                    served.append((replica.keyspace.id, replica.shard.id, state.ranges))
        return served

    def local_now(self) -> int:
        return self._clock.now()

    def disk_hangs_for(self) -> int:
        """Return for how long the sync under way has been going on, 0 where there is none (true time, ns)."""
        return self._events.now - self._sync_began if self._syncing else 0

    def _look_at_disk(self, node: Node, now: int) -> None:
        """Do what a node's process does now and then, by its own clock."""
        self._looked_at_disk = now
        durations, self._sync_durations = self._sync_durations, []
        latency_us = self._latency.take(durations, now)
        node.set_disk(DiskState(syncing_ns=self.disk_hangs_for(), latency_us=latency_us), now)

    def _wall_ms(self) -> int:
        """The wall clock, which may be wrong."""
        return WALL_START_MS + self._cluster.world.time.now // MILLISECOND + self.wall_skew_ms

    # -- life

    def start(self) -> None:
        """Begin a new life of the process on what the disk has, unless it has ended for good."""
        if self.ended:
            return
        cluster = self._cluster
        self.epoch += 1
        self._syncing = False
        self._wanted_sync = self._synced = self._flushing = 0
        self._turn_at = None
        self._turns_scheduled = set()
        self._looked_at_disk = self.local_now()
        self._sync_durations = []
        self._latency = SyncLatency(self.local_now())
        self.callers = Callers(self.name)
        identity = NodeIdentity("simulated", self.name, f"{self.name}-1", self.epoch)
        keeper = cluster.keeper
        shard_map = load_shard_map(self.engine) or keeper.first_map(self)
        self.node = Node(identity, shard_map, self.engine, cluster.settings, self.random, self.local_now())
        for client, (identity_of_client, address) in cluster.introduced.items():
            self.node.client_connected(client, identity_of_client, address=address)
        keeper.open_replicas(self, self.node, shard_map)
        cluster.invariants.check_began(self.name, self.node.groups.values())
        keeper.connect(self, self.node)
        self.turn_soon()

    def start_again(self) -> None:
        """Begin a new process, unless one runs."""
        if self.node is None:
            self.start()

    def end(self) -> None:
        """Go for good."""
        self.ended = True
        if self.node is not None:
            self.crash()

    def holds(self, shard: int) -> bool:
        """Say whether it has a replica, be it that its process is down at the moment."""
        if self.ended:
            return False
        return shard in self.node.replicas if self.node is not None else is_stored(self.engine, shard)

    def crash(self) -> None:
        """End the process without warning; the disk loses some of what was not synced."""
        self._cluster.keeper.process_ends(self)
        self.node = None
        self.engine = self.engine.after_crash(self.random)
        self.paused_until = 0
        self._cluster.invariants.forget_node(self.name)
        for other in self._cluster.nodes.values():
            if other.node is not None:
                other.node.peer_lost(self.name)
                other.turn_soon()

    # -- turns

    def turn_soon(self) -> None:
        """Take a turn for what the node has been told."""
        self.told = True
        self._turn_by(self._events.now + self.random.randrange(TURN_DELAY))

    def _turn_by(self, time: int) -> None:
        time = max(time, self.paused_until)
        if self.node is not None and (self._turn_at is None or time < self._turn_at):
            self._turn_at = time
            if time not in self._turns_scheduled:
                self._turns_scheduled.add(time)
                epoch = self.epoch
                self._events.at(time, lambda: self._turn(epoch, time))

    def _turn(self, epoch: int, time: int) -> None:
        """Take a turn, unless an earlier one has been taken since, and none is due any more."""
        if epoch != self.epoch:
            return
        self._turns_scheduled.discard(time)
        node = self.node
        if node is None or self._turn_at != time:
            return
        self._turn_at = None
        now = self._events.now
        if now < self.paused_until:
            self._turn_by(self.paused_until)
            return
        self._take_turn(node, now)

    def _take_turn(self, node: Node, now: int) -> None:
        epoch = self.epoch
        self.told = False
        local_now = self.local_now()
        if local_now - self._looked_at_disk >= DISK_LOOK_INTERVAL:
            self._look_at_disk(node, local_now)
        self.engine.damage.met.clear()
        adopted = node.counters.snapshots_adopted
        turn = node.turn(local_now, self._wall_ms())
        if turn.to_peers:
            self._say(turn.to_peers, {})
        if turn.sync is not None and turn.sync > self._wanted_sync:
            self._wanted_sync = turn.sync
            self._sync(epoch, may_end=True)
        end = node.finish_turn(local_now)
        self.callers.answered(end.to_clients)
        took = turn_takes(end.to_clients) if self._cluster.turns_take_time else 0
        if took:
            self._is_busy(node, end, local_now, took)
        elif end.to_peers or end.to_clients:
            self._say(end.to_peers, end.to_clients)
        if end.flush is not None and end.flush > self._flushing:
            self._flushing = end.flush
            self._flush(epoch, end.flush, self.engine.written)
        if self.engine.damage.met and node.counters.snapshots_adopted == adopted:
            self._check_damage_was_heeded(node)
        while node.cut_off:
            self._cluster.break_link(node.cut_off.popitem()[0], self.name)
        self._cluster.invariants.check(self)
        self._cluster.invariants.check_cluster_id(self.name, node.cluster_id)
        serving = self.serving()
        if serving != self._serving:
            self._serving = serving
            cluster = self._cluster
            cluster.invariants.check_serving((name, other.serving()) for name, other in cluster.nodes.items())
        if end.resumed and self.callers.resumed(end.resumed, node.receive_client):
            self.turn_soon()
        at_least = 1
        if node.queues()["reads_open"][0]:
            # Others write meanwhile, as they do where the rest of a page takes turns that last.
            at_least += self.random.randrange(PAGE_PAUSE)
        self._turn_by(max(self._clock.true_time(end.wake_at), now + at_least))
        self._cluster.keeper.turn_taken(self, node)

    def _is_busy(self, node: Node, end: TurnEnd, began: int, took: int) -> None:
        """What came of a turn is there when its time is over, and nothing else is done before.

        Args:
            began: by the node's clock (ns).
        """
        self._cluster.invariants.check_turn(self.name, took)
        self.callers.check(self._cluster.settings.limits.client_requests)
        node.counters.end_turn(began + took)
        epoch, over = self.epoch, self._events.now + took
        self.paused_until = max(self.paused_until, over)

        def say() -> None:
            if epoch == self.epoch and self.node is not None:
                self._say(end.to_peers, end.to_clients)

        self._events.at(over, say)

    def hang_up(self, client: int) -> None:
        """A client ends its connection, whatever it still waits for."""
        if self.node is not None:
            self.callers.hang_up(client)
            self.node.client_gone(client)
            self.turn_soon()

    def _check_damage_was_heeded(self, node: Node) -> None:
        """Whoever has met damage in the turn that ends has failed, but for who has only asked whether a shard is here."""
        questions = {make(shard) for shard in node.routes.shards for make in (applied_state_key, split_off_key)}
        if self.engine.damage.met - questions and not any(each.failure for each in node.replicas.values()):
            raise Violation(f"{self.name} has met damage, and none of its replicas has failed")

    def _sync(self, epoch: int, *, may_end: bool = False) -> None:
        if self._syncing or self.node is None or self._wanted_sync <= self._synced:
            return
        self._syncing = True
        self._sync_began = self._events.now
        ticket, written = self._wanted_sync, self.engine.written
        low, high = self.sync_delay
        delay = self.random.randint(low, high)
        if may_end and delay - low < (high - low) // QUICK_PART and not self.syncs_fail:
            # The turn waits for it, as it does where a disk is quick.
            self._synced_to(self.node, ticket, written)
        else:
            self._events.after(delay, lambda: self._sync_done(epoch, ticket, written))

    def _synced_to(self, node: Node, ticket: int, written: int) -> None:
        self.engine.synced(written)
        self._sync_durations.append(self.disk_hangs_for())
        self._syncing = False
        self._synced = ticket
        node.synced(ticket)

    def _sync_done(self, epoch: int, ticket: int, written: int) -> None:
        if epoch != self.epoch or self.node is None:
            return
        if self.syncs_fail:
            # After a failed sync the process ends; whoever watches over it starts it again.
            self.syncs_fail = False
            self.crash()
            self._events.after(SECOND, self.start_again)
            return
        self._synced_to(self.node, ticket, written)
        self.turn_soon()
        self._sync(epoch)

    def _flush(self, epoch: int, ticket: int, written: int) -> None:
        def done() -> None:
            if epoch == self.epoch and self.node is not None:
                self.engine.flushed(written)
                self.node.flushed(ticket)
                self.turn_soon()

        self._events.after(self.random.randint(MILLISECOND, self.random.choice(FLUSH_DELAY_MOST)), done)

    def _say(self, to_peers: dict[str, list[Any]], to_clients: dict[int, list[Answer]]) -> None:
        cluster, network = self._cluster, self._cluster.world.network
        for peer, messages in to_peers.items():
            for message in messages:
                if type(message) is VoteResponse and message.granted and not message.pre:
                    cluster.invariants.check_vote(self, peer, message)
                cluster.invariants.check_message(self, message)
            network.send(self.name, peer, messages)
        for client, answers in to_clients.items():
            if client < FIRST_CONNECTION:
                network.send(self.name, client_name(client), answers)
        for client, answers in to_clients.items():
            if client >= FIRST_CONNECTION:
                cluster.keeper.answered(self, client, answers)

    def receive(self, sender: str, body: bytes) -> None:
        """A frame arrives."""
        if self.node is None:
            return
        if sender.startswith(CLIENT):
            if self._cluster.turns_take_time and not self.node.arrived:
                self.node.arrived = self.local_now()
            if not self.callers.receive(int(sender.removeprefix(CLIENT)), body, self.node.receive_client):
                return
        else:
            self.node.receive_peer(sender, peer_decoder.decode(body))
        self.turn_soon()

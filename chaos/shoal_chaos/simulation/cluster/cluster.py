"""A simulated cluster: the real node core on simulated clocks, disks and a simulated network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar, TypeVar
from zlib import crc32

import msgspec
from shoal.protocol.frames import answer_decoder, request_decoder
from shoal.protocol.messages import Answer, Request
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Routes, Shard, ShardMap
from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskState, SyncLatency
from shoal_server.node.outbox import peer_decoder
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.raft.group import Group
from shoal_server.raft.messages import VoteResponse
from shoal_server.storage.engine import Damaged
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import (
    DATA_PREFIX_BYTES,
    applied_state_key,
    data_prefix,
    expiry_prefix,
    prefix_end,
    sessions_prefix,
    split_off_key,
)
from shoal_server.storage.node_rows import load_shard_map
from shoal_server.storage.promises import load_hard_state

from shoal_chaos.simulation.checks.invariants import Invariants, Serving, Violation
from shoal_chaos.simulation.clients.client import SimulatedClient
from shoal_chaos.simulation.clients.histories import COUNTER, Histories
from shoal_chaos.simulation.clients.range_client import RangeClient
from shoal_chaos.simulation.resharding.manager import FIRST_DRIVER, SimulatedManager
from shoal_chaos.simulation.world.disk import SimulatedEngine
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Clock, Events, derived_random
from shoal_chaos.simulation.world.network import Network

C = TypeVar("C", bound=SimulatedClient)

MICROSHARDS = 12
FIRST_RANGE_CLIENT = 500
"""The number, as a client, of the first client of ranges; drivers of migrations have higher ones."""
WALL_START_MS = 1_700_000_000_000
MAX_SKEW_MS = 450
"""No two of them differ by more than is tolerated: clocks that are wrong are a fault (wrong_clocks.py)."""
TURN_DELAY = MILLISECOND // 20
REDIAL = 100 * MILLISECOND
"""So long after it was ended a connection between nodes is made anew."""
DISK_LOOK_INTERVAL = 250 * MILLISECOND
FLUSH_DELAY_MOST = (50 * MILLISECOND, 2_000 * MILLISECOND)


class SimulatedNode:
    """One node: its disk outlives its process. `told`: something has reached it since its last turn."""

    core_type: ClassVar[type[Node]] = Node

    def __init__(self, cluster: Cluster, name: str, clock: Clock, random: Random) -> None:
        self.name = name
        self.engine = SimulatedEngine()
        self.epoch = 0
        self.node: Node | None = None
        self.paused_until = 0
        self.sync_delay = (MILLISECOND // 10, MILLISECOND)
        self.syncs_fail = False
        self.wall_skew_ms = random.choice([0, random.randint(-MAX_SKEW_MS, MAX_SKEW_MS)])
        self._cluster = cluster
        self._clock = clock
        self._random = random
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
            and self.paused_until <= self._cluster.events.now
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
        return self._cluster.events.now - self._sync_began if self._syncing else 0

    def _look_at_disk(self, node: Node, now: int) -> None:
        """Do what a node's process does now and then, by its own clock."""
        self._looked_at_disk = now
        durations, self._sync_durations = self._sync_durations, []
        latency_us = self._latency.take(durations, now)
        node.set_disk(DiskState(syncing_ns=self.disk_hangs_for(), latency_us=latency_us), now)

    def _wall_ms(self) -> int:
        """The wall clock, which may be wrong."""
        return WALL_START_MS + self._cluster.world.now // MILLISECOND + self.wall_skew_ms

    # -- life

    def start(self) -> None:
        """Begin a new life of the process on what the disk has."""
        cluster = self._cluster
        self.epoch += 1
        self._syncing = False
        self._wanted_sync = self._synced = self._flushing = 0
        self._turn_at = None
        self._turns_scheduled = set()
        self._looked_at_disk = self.local_now()
        self._sync_durations = []
        self._latency = SyncLatency(self.local_now())
        identity = NodeIdentity("simulated", self.name, f"{self.name}-1", self.epoch)
        shard_map = load_shard_map(self.engine) or self._first_map()
        self.node = self.core_type(identity, shard_map, self.engine, cluster.settings, self._random, self.local_now())
        for client, certificate in cluster.identities.items():
            self.node.client_connected(client, certificate)
        self._open_others(shard_map)
        cluster.invariants.check_began(self.name, self.node.groups.values())
        self._connect(self.node)
        self.turn_soon()

    def _first_map(self) -> ShardMap:
        """The map of a node that has none yet."""
        return self._cluster.shard_map

    def _open_others(self, shard_map: ShardMap) -> None:
        """Open replicas that the map does not put here, which changes of membership have brought or may bring."""
        first = {shard.id for shard in self._cluster.shard_map.shards}
        for shard in shard_map.shards:
            if shard.id in first or self._has_voted(shard.id):
                self.make_room(shard.id)

    def _has_voted(self, shard: int) -> bool:
        try:
            return load_hard_state(self.engine, shard).term > 0
        except Damaged:
            return True

    def _connect(self, node: Node) -> None:
        """Connect with the nodes that run."""
        for other in self._cluster.nodes.values():
            if other is not self and other.node is not None:
                node.peer_connected(other.name)
                other.node.peer_connected(self.name)
                other.turn_soon()

    def make_room(self, shard_id: int) -> bool:
        """Open a replica that the map does not put here, so that the shard may add this node; return whether it is open."""
        node = self.node
        if node is None or shard_id not in node.routes.shards:
            return False
        shard = node.routes.shards[shard_id]
        elsewhere = msgspec.structs.replace(shard, followers=(*shard.followers, self.name))
        if node.lacks_replica(elsewhere):
            node.open_replica(shard_id, self.local_now())
        return shard_id in node.replicas

    def crash(self) -> None:
        """End the process without warning; the disk loses some of what was not synced."""
        self.node = None
        self.engine = self.engine.after_crash(self._random)
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
        self._turn_by(self._cluster.events.now + self._random.randrange(TURN_DELAY))

    def _turn_by(self, time: int) -> None:
        time = max(time, self.paused_until)
        if self.node is not None and (self._turn_at is None or time < self._turn_at):
            self._turn_at = time
            if time not in self._turns_scheduled:
                self._turns_scheduled.add(time)
                epoch = self.epoch
                self._cluster.events.at(time, lambda: self._turn(epoch, time))

    def _turn(self, epoch: int, time: int) -> None:
        """Take a turn, unless an earlier one has been taken since, and none is due any more."""
        if epoch != self.epoch:
            return
        self._turns_scheduled.discard(time)
        node = self.node
        if node is None or self._turn_at != time:
            return
        self._turn_at = None
        now = self._cluster.events.now
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
            self._sync(epoch)
        end = node.finish_turn(local_now)
        if end.to_peers or end.to_clients:
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
        self._turn_by(max(self._clock.true_time(end.wake_at), now + 1))

    def _check_damage_was_heeded(self, node: Node) -> None:
        """Whoever has met damage in the turn that ends has failed, but for who has only asked whether a shard is here."""
        questions = {make(shard) for shard in node.routes.shards for make in (applied_state_key, split_off_key)}
        if self.engine.damage.met - questions and not any(each.failure for each in node.replicas.values()):
            raise Violation(f"{self.name} has met damage, and none of its replicas has failed")

    def _sync(self, epoch: int) -> None:
        if self._syncing or self.node is None or self._wanted_sync <= self._synced:
            return
        self._syncing = True
        self._sync_began = self._cluster.events.now
        ticket, written = self._wanted_sync, self.engine.written
        self._cluster.events.after(
            self._random.randint(*self.sync_delay), lambda: self._sync_done(epoch, ticket, written)
        )

    def _sync_done(self, epoch: int, ticket: int, written: int) -> None:
        if epoch != self.epoch or self.node is None:
            return
        if self.syncs_fail:
            # After a failed sync the process ends; whoever watches over it starts it again.
            self.syncs_fail = False
            self.crash()
            self._cluster.events.after(SECOND, self._restart)
            return
        self.engine.synced(written)
        self._sync_durations.append(self.disk_hangs_for())
        self._syncing = False
        self._synced = ticket
        self.node.synced(ticket)
        self.turn_soon()
        self._sync(epoch)

    def _flush(self, epoch: int, ticket: int, written: int) -> None:
        def done() -> None:
            if epoch == self.epoch and self.node is not None:
                self.engine.flushed(written)
                self.node.flushed(ticket)
                self.turn_soon()

        self._cluster.events.after(self._random.randint(MILLISECOND, self._random.choice(FLUSH_DELAY_MOST)), done)

    def _restart(self) -> None:
        if self.node is None:
            self.start()

    def _say(self, to_peers: dict[str, list[Any]], to_clients: dict[int, list[Answer]]) -> None:
        cluster = self._cluster
        for peer, messages in to_peers.items():
            for message in messages:
                if type(message) is VoteResponse and message.granted and not message.pre:
                    cluster.invariants.check_vote(self, peer, message)
                cluster.invariants.check_message(self, message)
            cluster.network.send(self.name, peer, messages)
        for client, answers in to_clients.items():
            cluster.network.send(self.name, f"client-{client}", answers)

    def receive(self, sender: str, body: bytes) -> None:
        """A frame arrives."""
        if self.node is None:
            return
        if sender.startswith("client-"):
            self.node.receive_client(int(sender.removeprefix("client-")), request_decoder.decode(body))
        else:
            self.node.receive_peer(sender, peer_decoder.decode(body))
        self.turn_soon()

    def stray_rows(self) -> list[str]:
        """Return what the prefixes of rows are, in hex, that no replica here would miss, or remove when it goes."""
        known: set[bytes] = set()
        assert self.node is not None, "asked of a node that runs"
        for shard, replica in self.node.replicas.items():
            state, keyspace = replica.machine.state, replica.keyspace.id
            known.update((applied_state_key(shard), split_off_key(shard)))
            known.update((sessions_prefix(shard, state.generation), journal_prefix(shard, state.generation)))
            for microshard, generation in state.generations(state.stored_ranges).items():
                known.update(make(keyspace, microshard, generation) for make in (data_prefix, expiry_prefix))
        rows = self.engine.scan(self.engine.data, b"", b"\xff" * DATA_PREFIX_BYTES)
        return sorted({key[:DATA_PREFIX_BYTES].hex() for key, _ in rows if key[:DATA_PREFIX_BYTES] not in known})

    def state_hashes(self) -> dict[int, tuple[int, int]]:
        """Return, by shard, the applied index and a hash of the state as applied, all but where its rows lie.

        A replica that has applied nothing is left out: it may be empty, and then has what a shard map said.
        """
        hashes: dict[int, tuple[int, int]] = {}
        if self.node is not None:
            for shard, replica in self.node.replicas.items():
                state = replica.machine.state
                if not state.index or replica.failure is not None:
                    continue
                value = crc32(repr(state.shared).encode())
                prefixes = [
                    make(replica.keyspace.id, microshard, generation)
                    for microshard, generation in state.generations(state.stored_ranges).items()
                    for make in (data_prefix, expiry_prefix)
                ]
                try:
                    for prefix in (*prefixes, journal_prefix(shard, state.generation)):
                        for key, row in self.engine.scan(self.engine.data, prefix, prefix_end(prefix)):
                            value = crc32(row, crc32(key[len(prefix) :], value))
                except Damaged:
                    # It does not know yet.
                    continue
                hashes[shard] = (state.index, value)
        return hashes


class Cluster:
    """Nodes, network and clients, from one seed.

    `events`: what is to happen to them. `world`: what is to happen at all; its time is true time, and theirs, too, unless a
    kind of cluster says otherwise.
    """

    node_type: ClassVar[type[SimulatedNode]] = SimulatedNode
    cluster_id: ClassVar[str] = ""
    """The id that the nodes begin with; "": they have it settled, as a new cluster's do."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int,
        shards: int,
        clients: int,
        keys: int,
        settings: NodeSettings,
        range_clients: int = 0,
    ) -> None:
        self.seed = seed
        self.settings = settings
        self.world, self.events = self._timelines()
        self.invariants = Invariants(settings.sync_stall_ns + DISK_LOOK_INTERVAL + settings.timing.support_ns)
        self.trace = 0
        self.replicas_may_fail = False
        names = [f"n{number}" for number in range(1, nodes + 1)]
        keyspace = Keyspace(1, "default", MICROSHARDS, b"/")
        self.shard_map = ShardMap(
            1,
            "simulated",
            tuple(NodeAddress(name, f"{name}:1") for name in names),
            (keyspace,),
            tuple(
                Shard(
                    number + 1,
                    1,
                    (MicroshardRange(MICROSHARDS * number // shards, MICROSHARDS * (number + 1) // shards),),
                    tuple(names[(number + place) % nodes] for place in range(3)),
                )
                for number in range(shards)
            ),
            self.cluster_id,
        )
        self.network = Network(self.events, derived_random(seed, "network"), self._deliver)
        clocks = derived_random(seed, "clocks")
        drift = settings.timing.drift_permille // 2
        self.nodes: dict[str, SimulatedNode] = {}
        for name in names:
            clock = Clock(self.events, clocks.randrange(1, 1000 * SECOND), 1000 + clocks.randint(-drift, drift))
            self.nodes[name] = self.node_type(self, name, clock, derived_random(seed, f"node {name}"))
        self._keys = [f"key-{number}".encode() for number in range(keys)]
        self.histories = Histories({key: [] for key in self._keys})
        self.identities: dict[int, bytes] = {}
        self.clients: list[SimulatedClient] = []
        for number in range(clients):
            self.add_client(SimulatedClient, f"c{number}")
        self.range_clients = [
            RangeClient(
                f"r{number}",
                self.events,
                derived_random(seed, f"range client {number}"),
                Routes(self.shard_map),
                keyspace,
                self.histories,
                self.sender(FIRST_RANGE_CLIENT + number),
            )
            for number in range(range_clients)
        ]
        self._begin_managing()
        for node in self.nodes.values():
            node.start()
        for client in self.everybody:
            client.start()

    @property
    def everybody(self) -> list[SimulatedClient | RangeClient]:
        """All clients."""
        return [*self.clients, *self.range_clients]

    def add_client(self, kind: type[C], name: str) -> C:
        """Make another client, which is still to be started."""
        number = len(self.clients)
        client = kind(
            name,
            number,
            self.events,
            derived_random(self.seed, f"client {number}"),
            Routes(self.shard_map),
            self.shard_map.keyspaces[0],
            self._keys,
            self.histories,
            self.sender(number),
        )
        self.clients.append(client)
        return client

    def introduce(self, client: int, identity: bytes) -> None:
        """Have all nodes know whom a client's certificate is of, in all their lives."""
        self.identities[client] = identity
        for node in self.nodes.values():
            if node.node is not None:
                node.node.client_connected(client, identity)

    def _timelines(self) -> tuple[Events, Events]:
        """Return what becomes `world` and `events`."""
        events = Events()
        return events, events

    def _begin_managing(self) -> None:
        """Give the cluster its manager, before its nodes start."""
        self.manager = SimulatedManager(self, self.shard_map, derived_random(self.seed, "manager"))

    def sender(self, client: int) -> Callable[[str, list[Request]], None]:
        """Return what sends requests as client number `client`."""

        def send(node: str, requests: list[Request]) -> None:
            self.network.send(f"client-{client}", node, requests)

        return send

    def _deliver(self, sender: str, receiver: str, body: bytes) -> None:
        self.trace = crc32(body, crc32(f"{self.events.now} {sender} {receiver}".encode(), self.trace))
        if receiver.startswith("client-"):
            number, answers = int(receiver.removeprefix("client-")), answer_decoder.decode(body)
            if number >= FIRST_DRIVER:
                self.manager.drivers[number - FIRST_DRIVER].receive(answers)
            elif number >= FIRST_RANGE_CLIENT:
                self.range_clients[number - FIRST_RANGE_CLIENT].receive(answers)
            else:
                self.clients[number].receive(answers)
        else:
            self.nodes[receiver].receive(sender, body)

    def break_link(self, sender: str, receiver: str) -> None:
        """End the connection by which `sender` speaks to `receiver`, and what is in it; it is dialled again soon."""
        self.network.break_off(sender, receiver)
        node = self.nodes[sender]
        if node.node is not None:
            node.node.peer_lost(receiver)
            node.turn_soon()
        self.events.after(REDIAL, lambda: self._redial(sender, receiver))

    def _redial(self, sender: str, receiver: str) -> None:
        self.network.mend(sender, receiver)
        node = self.nodes[sender]
        if node.node is not None and self.nodes[receiver].node is not None:
            node.node.peer_connected(receiver)
            node.turn_soon()

    def tell_of_links(self, random: Random) -> None:
        """Tell nodes which of their links carry something now; sometimes nobody notices that one is cut."""
        for node in self.nodes.values():
            if node.node is None:
                continue
            for peer in node.node.peers:
                other = self.nodes.get(peer)
                if other is not None and other.node is not None and self.network.connected(node.name, peer):
                    node.node.peer_connected(peer)
                elif random.random() < 0.5:
                    node.node.peer_lost(peer)
            node.turn_soon()

    def run_until(self, time: int) -> None:
        """Let things happen until `time` (true time, ns)."""
        events = self.world
        while events.pending and events.now < time:
            events.step()

    def compare_states(self) -> None:
        """Compare the rows of replicas that have applied the same entries."""
        for node in self.nodes.values():
            for shard, replica in node.replicas.items():
                if replica.failure is not None and not self.replicas_may_fail:
                    raise Violation(f"the replica of shard {shard} on {node.name} has failed: {replica.failure}")
            for shard, (index, value) in node.state_hashes().items():
                self.invariants.check_state(node.name, shard, index, value)

    def counted(self) -> int:
        """Return what clients have counted, as the leader of its shard has it stored, once all have ended.

        Raises:
            Violation: nobody leads that shard.
        """
        keyspace = self.shard_map.keyspaces[0]
        microshard = keyspace.microshard_of(COUNTER)
        for node in self.nodes.values():
            for replica in node.replicas.values():
                machine = replica.machine
                leads = replica.group.is_leader and replica.keyspace.id == keyspace.id
                if leads and microshard in machine.prefixes:
                    return int(machine.read([COUNTER], [microshard], 0)[0][0] or 0)
        raise Violation("nobody leads the counter's shard long after the last fault")

"""What clients ask: data requests are queued at their replica, and what a node can say by itself is answered at once."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
from shoal.errors import ErrorCode
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import (
    Done,
    GetShardMap,
    GetStatus,
    OpenSession,
    Ping,
    Read,
    ReadPage,
    Request,
    Scan,
    ShardMapReply,
    StatusReply,
    TransferLeader,
    Write,
)
from shoal.shardmap import ShardMap

from shoal_server.node.administration import AdminRequest
from shoal_server.node.admission import Admission
from shoal_server.node.agenda import Agenda
from shoal_server.node.checksums import checksum
from shoal_server.node.counters import NodeCounters
from shoal_server.node.disk_health import DiskHealth
from shoal_server.node.failing import Failing
from shoal_server.node.leaderships import Leaderships
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import OVERLOADED_RETRY_MS
from shoal_server.node.replica_set import ReplicaSet
from shoal_server.storage.engine import Damaged, Engine


class ClientInput:
    """See the module's first line.

    `in_flight`: by client, how many requests are unanswered. `admin_requests`: what the shard manager has asked for, each
    of which changes what is stored, in a batch of its own: they are done at the turn's end, before the groups' batch.
    """

    __slots__ = (
        "_admission",
        "_agenda",
        "_counters",
        "_describe",
        "_disk",
        "_engine",
        "_failing",
        "_leaderships",
        "_replica_set",
        "_requests_max",
        "admin_requests",
        "in_flight",
    )

    def __init__(
        self,
        replica_set: ReplicaSet,
        engine: Engine,
        agenda: Agenda,
        admission: Admission,
        leaderships: Leaderships,
        disk: DiskHealth,
        counters: NodeCounters,
        failing: Failing,
        describe: Callable[[int, int], StatusReply],
        requests_max: int,
    ) -> None:
        """
        Args:
            describe: returns the answer to a `GetStatus` of that number, now (ns).
            requests_max: how many requests of a client may be unanswered.
        """
        self.in_flight: dict[int, int] = {}
        self.admin_requests: list[tuple[int, AdminRequest]] = []
        self._replica_set = replica_set
        self._engine = engine
        self._agenda = agenda
        self._admission = admission
        self._leaderships = leaderships
        self._disk = disk
        self._counters = counters
        self._failing = failing
        self._describe = describe
        self._requests_max = requests_max

    def take(self, frames: Collection[tuple[int, list[Request]]], now: int, outbox: Outbox) -> None:
        """Take in the frames of clients, in their order."""
        counts, in_flight, dirty = self._counters.requests, self.in_flight, self._agenda.dirty
        for client, requests in frames:
            unanswered = in_flight.get(client, 0) + len(requests)
            in_flight[client] = unanswered
            if unanswered > self._requests_max:
                self._refuse_all(client, requests, unanswered, outbox)
                continue
            for request in requests:
                kind = type(request)
                counts[kind] = counts.get(kind, 0) + 1
                if isinstance(request, (Write, Read, Scan, ReadPage, OpenSession)):
                    replica = self._admission.admit(client, request, self._disk.state.not_writable, outbox)
                    if replica is not None:
                        dirty[replica.shard.id] = replica
                elif isinstance(request, GetShardMap):
                    outbox.answer(client, ShardMapReply(request.request, self.map_with_leaders()))
                elif isinstance(request, Ping):
                    outbox.answer(client, Done(request.request))
                elif isinstance(request, GetStatus):
                    outbox.answer(client, self._describe(request.request, now))
                elif isinstance(request, ReadChecksum):
                    self._read_checksum(client, request, now, outbox)
                elif isinstance(request, TransferLeader):
                    replica = self._admission.replica_of(client, request.request, request.shard, outbox)
                    if replica is not None:
                        self._leaderships.transfer(client, request, replica, now, outbox)
                        dirty[request.shard] = replica
                else:
                    self.admin_requests.append((client, request))

    def take_admin_requests(self) -> list[tuple[int, AdminRequest]]:
        """Take out what the shard manager has asked for since the last time."""
        requests, self.admin_requests = self.admin_requests, []
        return requests

    def _read_checksum(self, client: int, request: ReadChecksum, now: int, outbox: Outbox) -> None:
        replica, node = self._replica_set.by_shard.get(request.shard), self._replica_set.identity.node
        if replica is None:
            where = f"{node} has no replica of shard {request.shard}"
            outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, where)
            return
        if request.ranges and not replica.machine.has_ranges(request.ranges):
            replica.refusals.not_here(client, request.request, outbox)
            return
        if replica.failure is None:
            try:
                outbox.answer(client, checksum(replica, self._engine, request))
                return
            except Damaged as error:
                self._failing.damaged(replica, error, now)
        where = f"the replica of shard {request.shard} on {node} has failed ({replica.failure})"
        outbox.fail(client, request.request, ErrorCode.UNAVAILABLE, where)

    def _refuse_all(self, client: int, requests: list[Request], unanswered: int, outbox: Outbox) -> None:
        for request in requests:
            outbox.fail(
                client,
                request.request,
                ErrorCode.OVERLOADED,
                f"{unanswered} requests of this connection are unanswered; at most {self._requests_max} may be",
                retry_after_ms=OVERLOADED_RETRY_MS,
            )

    def map_with_leaders(self) -> ShardMap:
        """The shard map with the leaders that this node knows of its own replicas."""
        shard_map, replicas = self._replica_set.routes.map, self._replica_set.by_shard
        shards = tuple(
            replicas[shard.id].refusals.route if shard.id in replicas else shard for shard in shard_map.shards
        )
        return msgspec.structs.replace(shard_map, shards=shards)

"""What a client may ask of a replica: routes and sizes are checked here, once, before anything is queued.

A request that is refused is answered at once with what was wrong and what would be right; the rest of its frame is
served all the same.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from shoal.errors import ErrorCode
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import OpenSession, Operation, Put, Read, ReadPage, Write
from shoal.shardmap import Routes

from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import QueuedCommand, QueuedRead, Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.shard.commands import OpenSessionCommand, WriteCommand

DataRequest: TypeAlias = OpenSession | Write | Read | ReadPage

SHOWN_KEY_BYTES = 64
OPEN_SESSION_BYTES = 16


class Refusal(Exception):
    """A request cannot be admitted: why, and under which code."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Admission:
    """Checks data requests and queues them at their replica."""

    __slots__ = ("_limits", "_replicas", "_routes")

    def __init__(self, replicas: dict[int, Replica], routes: Routes, settings: NodeSettings) -> None:
        self._replicas = replicas
        self._routes = routes
        self._limits = settings.limits

    def replica_of(self, client: int, request: int, shard: int, outbox: Outbox) -> Replica | None:
        """Return the replica of `shard` here; where there is none, answer with the route and return None."""
        replica = self._replicas.get(shard)
        if replica is None:
            route = self._routes.shards.get(shard)
            where = f"it is on {', '.join(route.replicas)}" if route is not None else "no such shard is known"
            outbox.fail(
                client, request, ErrorCode.WRONG_SHARD, f"shard {shard} is not on this node: {where}", route=route
            )
        return replica

    def admit(self, client: int, request: DataRequest, not_writable: str, outbox: Outbox) -> Replica | None:
        """Queue `request` at its replica and return that, or answer why not and return None.

        Args:
            not_writable: "" or the reason why this node takes no writes now.
        """
        replica = self.replica_of(client, request.request, request.shard, outbox)
        if replica is None:
            return None
        if not replica.group.is_leader:
            replica.fail_not_leader(client, request.request, outbox)
            return None
        try:
            if type(request) is Write:
                replica.queue_command(self._check_write(client, request, replica, not_writable))
            elif type(request) is Read:
                replica.queue_read(QueuedRead(client, request, self._check_read(request, replica)))
            elif type(request) is ReadPage:
                self._check_keyspace(request, replica)
                replica.queue_read(QueuedRead(client, request, []))
            else:
                self._check_writable(not_writable)
                replica.queue_command(
                    QueuedCommand(client, request.request, OpenSessionCommand(), None, OPEN_SESSION_BYTES)
                )
        except Refusal as refusal:
            route = replica.route if refusal.code is ErrorCode.WRONG_SHARD else None
            outbox.fail(client, request.request, refusal.code, str(refusal), route=route)
            return None
        return replica

    def _check_write(self, client: int, request: Write, replica: Replica, not_writable: str) -> QueuedCommand:
        self._check_writable(not_writable)
        self._check_keyspace(request, replica)
        if request.number < 1:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, f"a write's number must be 1 or more, not {request.number}")
        size = len(memoryview(request.operations))
        if size > self._limits.max_batch_bytes:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"the batch has {size} bytes; at most {self._limits.max_batch_bytes} are accepted: send less at a time",
            )
        try:
            operations = operations_decoder.decode(request.operations)
        except msgspec.MsgspecError as error:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, f"the operations cannot be decoded: {error}") from error
        if not operations:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, "a write without operations")
        microshards = self._check_keys([operation.key for operation in operations], replica)
        self._check_values(operations)
        command = WriteCommand(request.session, request.number, microshards, request.operations)
        return QueuedCommand(client, request.request, command, operations, size)

    def _check_read(self, request: Read, replica: Replica) -> list[int]:
        self._check_keyspace(request, replica)
        return self._check_keys(request.keys, replica)

    def _check_keyspace(self, request: Write | Read | ReadPage, replica: Replica) -> None:
        if request.keyspace != replica.keyspace.id:
            raise Refusal(
                ErrorCode.WRONG_SHARD,
                f"shard {request.shard} belongs to keyspace {replica.keyspace.name!r}, "
                f"not to number {request.keyspace}: fetch the shard map again",
            )

    def _check_writable(self, not_writable: str) -> None:
        if not_writable:
            raise Refusal(ErrorCode.UNAVAILABLE, f"this node takes no writes now: {not_writable}")

    def _check_keys(self, keys: list[bytes], replica: Replica) -> list[int]:
        longest = self._limits.max_key_bytes
        sizes = [len(key) for key in keys]
        if sizes and (min(sizes) == 0 or max(sizes) > longest):
            if min(sizes) == 0:
                raise Refusal(ErrorCode.INVALID_ARGUMENT, f"an empty key; a key has 1 to {longest} bytes")
            key = next(key for key in keys if len(key) > longest)
            raise Refusal(
                ErrorCode.TOO_LARGE, f"a key of {len(key)} bytes ({_shown(key)}); a key has 1 to {longest} bytes"
            )
        microshards = replica.machine.route(keys)
        if microshards is None:
            key = next(key for key in keys if replica.machine.route([key]) is None)
            raise Refusal(
                ErrorCode.WRONG_SHARD,
                f"key {_shown(key)} is not in shard {replica.shard.id}: fetch the shard map again",
            )
        return microshards

    def _check_values(self, operations: list[Operation]) -> None:
        largest = self._limits.max_value_bytes
        for operation in operations:
            if type(operation) is Put and len(operation.value) > largest:
                raise Refusal(
                    ErrorCode.TOO_LARGE,
                    f"the value of key {_shown(operation.key)} has {len(operation.value)} bytes; "
                    f"at most {largest} are accepted",
                )


def _shown(key: bytes) -> str:
    return repr(key) if len(key) <= SHOWN_KEY_BYTES else f"{key[:SHOWN_KEY_BYTES]!r}..."

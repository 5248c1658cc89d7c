"""What a client may ask of a replica: routes and sizes are checked here, once, before anything is queued.

A request that is refused is answered at once with what was wrong and what would be right; the rest of its frame is
served all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from shoal.bounds import MAX_RESULTS
from shoal.errors import ErrorCode
from shoal.protocol.digest import rows_of
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import (
    DEFAULT_TTL,
    Atomic,
    AtomicOperation,
    DeleteRange,
    Increment,
    OpenSession,
    Operation,
    Put,
    RangeUnchanged,
    Read,
    ReadPage,
    Scan,
    Touch,
    Write,
)
from shoal.shardmap import Ranges, Routes, count_in, is_well_formed, microshards_in

from shoal_server.node.callers import Callers
from shoal_server.node.outbox import Outbox
from shoal_server.node.replica import Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.node.waiting import QueuedCommand, QueuedRead
from shoal_server.shard.commands import PLAIN, OpenSessionCommand, WriteCommand, named_keys

DataRequest: TypeAlias = OpenSession | Write | Read | Scan | ReadPage

HAND_OVER_RETRY_MS = 5
SHOWN_KEY_BYTES = 64
OPEN_SESSION_BYTES = 64
MAX_TTL_MS = 100 * 365 * 24 * 3600 * 1000
MAX_SPANS = 65_536
"""Ranges in one write, each counted once a microshard: applying it must not hold up every replica."""
MAX_RANGE_ROWS = 100_000
"""Rows that the range conditions of one write cover."""


class Refusal(Exception):
    """A request cannot be admitted: why, and under which code."""

    def __init__(self, code: ErrorCode, message: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class NotHere(Refusal):
    """What the request is about is another shard's, or not yet this one's."""


class Admission:
    """Checks data requests and queues them at their replica."""

    __slots__ = ("_callers", "_limits", "_replicas", "_routes", "_sessions")

    def __init__(self, replicas: dict[int, Replica], routes: Routes, settings: NodeSettings, callers: Callers) -> None:
        self._callers = callers
        self._replicas = replicas
        self._routes = routes
        self._limits = settings.limits
        self._sessions = settings.sessions_per_shard

    def adopt(self, routes: Routes) -> None:
        """Route by a newer shard map."""
        self._routes = routes

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
        weak = isinstance(request, (Read, Scan)) and not request.freshness.strong
        if not replica.group.is_leader and not weak:
            replica.refusals.not_leader(client, request.request, outbox)
            return None
        if replica.failure is not None:
            # Weak: another replica can serve it.
            self._decline(client, request.request, replica, outbox)
            return None
        try:
            if type(request) is Write:
                replica.queue_command(self._check_write(client, request, replica, not_writable))
            elif type(request) is Read:
                replica.reads.queue(QueuedRead(client, request, self._check_read(request, replica), weak))
            elif type(request) is Scan:
                self._check_keyspace(request, replica)
                self._check_here(request.ranges, replica)
                replica.reads.queue(QueuedRead(client, request, [], weak))
            elif type(request) is ReadPage:
                self._check_keyspace(request, replica)
                self._check_here(request.ranges, replica)
                replica.reads.queue(QueuedRead(client, request, []))
            else:
                self._check_writable(not_writable)
                callers = self._callers
                opening = OpenSessionCommand(callers.draw_session(), callers.owner(client), self._sessions)
                replica.queue_command(QueuedCommand(client, request.request, opening, None, OPEN_SESSION_BYTES))
        except Refusal as refusal:
            not_here = isinstance(refusal, NotHere)
            if (
                not_here
                and isinstance(request, Write)
                and replica.answer_repeated(client, request, self._callers.identity(client), outbox)
            ):
                return None
            about_here = not_here or refusal.code is ErrorCode.WRONG_SHARD
            route = replica.refusals.route if about_here else None
            wait = refusal.retry_after_ms
            outbox.fail(client, request.request, refusal.code, str(refusal), retry_after_ms=wait, route=route)
            return None
        return replica

    def _decline(self, client: int, request: int, replica: Replica, outbox: Outbox) -> None:
        outbox.fail(
            client,
            request,
            ErrorCode.TOO_STALE,
            f"the replica of shard {replica.shard.id} on {replica.node} has failed ({replica.failure}): ask another",
            route=replica.refusals.route,
        )

    def _check_write(self, client: int, request: Write, replica: Replica, not_writable: str) -> QueuedCommand:
        self._check_writable(not_writable)
        self._check_keyspace(request, replica)
        if request.number < 1:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, f"a write's number must be 1 or more, not {request.number}")
        size = len(request.operations)
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
        kinds = set(map(type, operations))
        if kinds <= PLAIN:
            keys = [operation.key for operation in operations]  # type: ignore[union-attr]
        elif request.fast:
            raise Refusal(
                ErrorCode.INVALID_ARGUMENT,
                "only puts and deletes may be fast: nothing else knows its result before it is applied",
            )
        else:
            keys = list(named_keys(operations))
            self._check_ranges(operations, replica)
            self._check_results(operations)
        microshards = self._check_keys(keys, replica)
        self._check_values(operations)
        identity = self._callers.identity(client)
        command = WriteCommand(request.session, request.number, microshards, request.operations, identity)
        return QueuedCommand(client, request.request, command, operations, size, request.fast)

    def _check_ranges(self, operations: list[Operation], replica: Replica) -> None:
        ranges: list[DeleteRange | RangeUnchanged] = []
        for operation in operations:
            if isinstance(operation, DeleteRange):
                ranges.append(operation)
            elif isinstance(operation, Atomic):
                ranges += [condition for condition in operation.conditions if isinstance(condition, RangeUnchanged)]
        rows = sum(max(0, rows_of(each.digest)) for each in ranges if isinstance(each, RangeUnchanged))
        if rows > MAX_RANGE_ROWS:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"ranges of {rows} rows to be compared in one write; at most {MAX_RANGE_ROWS} may be, since every replica "
                "reads them again: read less in a transaction",
            )
        spans = 0
        for each in ranges:
            self._check_here(each.ranges, replica)
            spans += count_in(each.ranges)
        if len(ranges) > 1 and spans > MAX_SPANS:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"{len(ranges)} ranges over {spans} microshards in one write; at most {MAX_SPANS} are accepted, "
                "or one range: send fewer at a time",
            )

    def _check_results(self, operations: list[Operation]) -> None:
        """Every replica keeps a write's results for as long as it may be repeated, and they go out in one message."""
        results = 0
        for operation in operations:
            if isinstance(operation, Atomic):
                results += 1 + sum(isinstance(part, (Touch, Increment)) for part in operation.operations)
            elif type(operation) not in PLAIN:
                results += 1
        if results > MAX_RESULTS:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"{results} operations of one write have results; at most {MAX_RESULTS} may: send fewer at a time",
            )

    def _check_here(self, ranges: Ranges, replica: Replica) -> None:
        """What is read or deleted in a microshard that is another shard's would be missing without notice."""
        microshards = replica.keyspace.microshards
        if not is_well_formed(ranges, microshards):
            raise Refusal(
                ErrorCode.INVALID_ARGUMENT,
                f"a request names the microshards that it is about, in order and each once, of the {microshards} that "
                f"keyspace {replica.keyspace.name!r} has",
            )
        if not replica.machine.has_ranges(ranges):
            here = replica.machine.prefixes
            missing = [microshard for microshard in microshards_in(ranges) if microshard not in here]
            raise _not_here(replica, missing, f"{len(missing)} of the microshards, {missing[0]} among them")

    def _check_read(self, request: Read, replica: Replica) -> list[int]:
        self._check_keyspace(request, replica)
        return self._check_keys(request.keys, replica)

    def _check_keyspace(self, request: Write | Read | Scan | ReadPage, replica: Replica) -> None:
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
            missing = [key for key in keys if replica.machine.route([key]) is None]
            wanted = list(map(replica.keyspace.microshard_of, missing))
            raise _not_here(replica, wanted, f"key {_shown(missing[0])}")
        return microshards

    def _check_values(self, operations: Sequence[Operation | AtomicOperation]) -> None:
        largest = self._limits.max_value_bytes
        for operation in operations:
            # By its type, the most frequent one first: each key that is written comes by here.
            if type(operation) is Put or type(operation) is Touch:
                if not DEFAULT_TTL <= operation.ttl_ms <= MAX_TTL_MS:
                    raise Refusal(
                        ErrorCode.INVALID_ARGUMENT,
                        f"a time to live of {operation.ttl_ms} ms; it is from 1 to {MAX_TTL_MS} ms",
                    )
                if type(operation) is Put and len(operation.value) > largest:
                    raise Refusal(
                        ErrorCode.TOO_LARGE,
                        f"the value of key {_shown(operation.key)} has {len(operation.value)} bytes; "
                        f"at most {largest} are accepted",
                    )
            elif type(operation) is Atomic:
                self._check_values(operation.operations)


def _not_here(replica: Replica, missing: list[int], what: str) -> NotHere:
    """Return the refusal of a request for `what`, which lies in the microshards `missing` here.

    Where they are on their way to it, it is the right place to ask: clients are sent here from the moment at which the
    other shard has parted with them, and this one has them within milliseconds.
    """
    shard, incoming = replica.shard.id, replica.machine.state.incoming
    if missing and incoming is not None and set(missing) <= set(microshards_in(incoming.ranges)):
        return NotHere(
            ErrorCode.UNAVAILABLE,
            f"shard {shard} is being given what has {what}, and does not have it yet: try again",
            retry_after_ms=HAND_OVER_RETRY_MS,
        )
    return NotHere(ErrorCode.WRONG_SHARD, f"shard {shard} does not have {what}: fetch the shard map again")


def _shown(key: bytes) -> str:
    return repr(key) if len(key) <= SHOWN_KEY_BYTES else f"{key[:SHOWN_KEY_BYTES]!r}..."

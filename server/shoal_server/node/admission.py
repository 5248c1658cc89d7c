"""What a client may ask of a replica: routes and sizes are checked here, once, before anything is queued.

A request that is refused is answered at once with what was wrong and what would be right; the rest of its frame is
served all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason
from shoal.protocol.messages import (
    DEFAULT_TTL,
    Atomic,
    AtomicOperation,
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
from shoal.quotas import adds
from shoal.shardmap import Ranges, Routes, is_well_formed, microshards_in
from shoal.write_costs import WHAT_IS_ACCEPTED, too_much_work

from shoal_server.node.callers import Callers
from shoal_server.node.elements import OPERATION_BYTES, RANGE_BYTES, length_of_array
from shoal_server.node.keyspace_quota import KeyspaceQuota, QuotaRefusal, extra_operations_of
from shoal_server.node.outbox import Outbox
from shoal_server.node.quotas import Quotas
from shoal_server.node.replica import OVERLOADED_RETRY_MS, Replica
from shoal_server.node.settings import NodeSettings
from shoal_server.node.waiting import QueuedCommand, QueuedRead
from shoal_server.node.write_budget import WriteBudget
from shoal_server.node.write_decoding import MAX_OPERATIONS, TooManyOperations, decode_write, refusing_ns
from shoal_server.shard.commands import PLAIN, OpenSessionCommand, WriteCommand, named_keys, named_ranges
from shoal_server.shard.costs import ACCEPTED_US, plain_write_cost, write_cost
from shoal_server.shard.reading import READ_KEYS

DataRequest: TypeAlias = OpenSession | Write | Read | Scan | ReadPage

HAND_OVER_RETRY_MS = 5
SHOWN_KEY_BYTES = 64
OPEN_SESSION_BYTES = 64
_PUTS = {Put}
MAX_TTL_MS = 100 * 365 * 24 * 3600 * 1000


class Refusal(Exception):
    """A request cannot be admitted: why, and under which code.

    `reason`: of an overload. `only_adding`: what of a write adds nothing would be admitted.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry_after_ms: int = 0,
        reason: OverloadReason | None = None,
        only_adding: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.reason = reason
        self.only_adding = only_adding


class NotHere(Refusal):
    """What the request is about is another shard's, or not yet this one's."""


class Admission:
    """Checks data requests and queues them at their replica.

    Whatever a request that is refused has taken of a quota or of the disk's budget is given back.

    Attributes:
        shed: why requests were refused as overloaded, and of which keyspace, for whoever knows whose they were to take out.
        refusing_ns: what it has cost to see that the last request is refused, besides what it says itself.
    """

    __slots__ = (
        "_budget",
        "_bytes_taken",
        "_callers",
        "_limits",
        "_quotas",
        "_replicas",
        "_routes",
        "_sessions",
        "refusing_ns",
        "shed",
    )

    def __init__(
        self,
        replicas: dict[int, Replica],
        routes: Routes,
        settings: NodeSettings,
        callers: Callers,
        quotas: Quotas,
        budget: WriteBudget,
    ) -> None:
        self.shed: list[tuple[OverloadReason, int]] = []
        self.refusing_ns = 0
        self._bytes_taken = 0
        """Of the disk's budget, for the write that is looked at."""
        self._budget = budget
        self._callers = callers
        self._quotas = quotas
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
        self.refusing_ns = 0
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
        if type(request) is Read and len(request.keys) > READ_KEYS:
            # Nothing is done about those behind, which no answer has room for.
            request = msgspec.structs.replace(request, keys=request.keys[:READ_KEYS])
        quota = replica.reads.quota
        taken = 0
        try:
            if quota is not None:
                taken = self._check_quota(request, quota)
            if type(request) is Write:
                command = self._check_write(client, request, replica, not_writable)
                if quota is not None:
                    taken += self._check_bytes(command, quota)
                command.taken, self._bytes_taken = taken, 0
                replica.queue_command(command)
                hot_keys = replica.load.hot_keys
                hot_keys.left -= 1
                if not hot_keys.left:
                    hot_keys.take(list(named_keys(command.operations or [])), self._quotas.now, writes=True)
            elif type(request) is Read:
                hot_keys = replica.load.hot_keys
                hot_keys.left -= 1
                if not hot_keys.left:
                    hot_keys.take(request.keys, self._quotas.now, writes=False)
                replica.reads.queue(QueuedRead(client, request, self._check_read(request, replica), weak, taken))
            elif type(request) is Scan:
                self._check_keyspace(request, replica)
                self._check_here(request.ranges, replica)
                replica.reads.queue(QueuedRead(client, request, [], weak, taken))
            elif type(request) is ReadPage:
                self._check_keyspace(request, replica)
                self._check_here(request.ranges, replica)
                replica.reads.queue(QueuedRead(client, request, [], False, taken))
            else:
                self._check_writable(not_writable)
                callers = self._callers
                allowed = replica.memory.sessions_allowed(self._sessions, len(replica.machine.sessions))
                opening = OpenSessionCommand(callers.draw_session(), callers.owner(client), allowed)
                command = QueuedCommand(client, request.request, opening, None, OPEN_SESSION_BYTES)
                command.taken = taken
                replica.queue_command(command)
        except Refusal as refusal:
            if quota is not None and taken:
                is_read = isinstance(request, (Read, Scan, ReadPage))
                quota.charge(reads=-taken) if is_read else quota.charge(writes=-taken)
            if isinstance(request, Write) and self._bytes_taken:
                # So far was it let through before that it was decoded.
                self.refusing_ns = refusing_ns(request.operations)
                self._budget.give_back(self._bytes_taken)
                self._bytes_taken = 0
            not_here = isinstance(refusal, NotHere)
            if (
                (not_here or refusal.only_adding)
                and isinstance(request, Write)
                and replica.answer_repeated(client, request, self._callers.identity(client), outbox)
            ):
                return None
            if refusal.reason is not None:
                self.shed.append((refusal.reason, replica.keyspace.id))
            about_here = not_here or refusal.code is ErrorCode.WRONG_SHARD
            route = replica.refusals.route if about_here else None
            outbox.fail(
                client,
                request.request,
                refusal.code,
                str(refusal),
                retry_after_ms=refusal.retry_after_ms,
                route=route,
                reason=refusal.reason,
                only_adding=refusal.only_adding,
            )
            return None
        return replica

    def _check_quota(self, request: DataRequest, quota: KeyspaceQuota) -> int:
        """Count a request against its keyspace's quotas, before anything in it is decoded; return what it takes."""
        reads = writes = 0
        if type(request) is Write:
            # One that says to have more is refused, and nothing of it done.
            writes = max(1, min(length_of_array(request.operations), MAX_OPERATIONS))
        elif type(request) is OpenSession:
            writes = 1
        else:
            reads = len(request.keys) or 1 if type(request) is Read else 1
        refusal = quota.admit(reads, writes, self._quotas.now)
        if refusal is not None:
            raise _beyond(refusal)
        return reads or writes

    def _check_bytes(self, command: QueuedCommand, quota: KeyspaceQuota) -> int:
        """Refuse what adds to a keyspace that is full; return what else a write takes of the quota, now that it is decoded."""
        operations = command.operations or []
        if quota.full and any(map(adds, operations)):
            refusal = quota.admit_bytes(self._quotas.now)
            if refusal is not None:
                raise _beyond(refusal, only_adding=True)
        extra = extra_operations_of(command)
        quota.charge(writes=extra)
        return extra

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
        wait = self._budget.admit(size, self._quotas.now)
        if wait:
            raise Refusal(
                ErrorCode.OVERLOADED,
                f"the disk of node {replica.node} falls behind: {self._budget.words}; ask again in {wait} ms",
                retry_after_ms=wait,
                reason=OverloadReason.DISK,
            )
        self._bytes_taken = size
        try:
            operations = decode_write(request.operations)
        except TooManyOperations as error:
            raise Refusal(ErrorCode.TOO_LARGE, f"{error} in one write: {WHAT_IS_ACCEPTED}") from error
        except msgspec.MsgspecError as error:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, f"the operations cannot be decoded: {error}") from error
        except MemoryError as error:
            raise Refusal(
                ErrorCode.OVERLOADED,
                f"there was no memory for a write of {size} bytes: send less at once, or later",
                retry_after_ms=OVERLOADED_RETRY_MS,
                reason=OverloadReason.MEMORY,
            ) from error
        if not operations:
            raise Refusal(ErrorCode.INVALID_ARGUMENT, "a write without operations")
        kinds = set(map(type, operations))
        begins_entry = False
        decoded = size + OPERATION_BYTES * len(operations)
        if kinds <= PLAIN:
            cost = 0
            keys = [operation.key for operation in operations]  # type: ignore[union-attr]
        elif request.fast:
            raise Refusal(
                ErrorCode.INVALID_ARGUMENT,
                "only puts and deletes may be fast: nothing else knows its result before it is applied",
            )
        else:
            self._check_forms(operations, replica)
            cost = write_cost(operations, size)
            self._check_cost(cost, operations)
            keys = list(named_keys(operations))
            decoded += OPERATION_BYTES * len(keys)
            for each in named_ranges(operations):
                self._check_all_here(each.ranges, replica)
                decoded += RANGE_BYTES * len(each.ranges)
                begins_entry = begins_entry or type(each) is RangeUnchanged
        microshards = self._check_keys(keys, replica)
        expiring = self._check_values(operations, kinds)
        if not cost:
            cost = plain_write_cost(len(operations), size, expiring)
            self._check_cost(cost, operations)
        identity = self._callers.identity(client)
        command = WriteCommand(request.session, request.number, microshards, request.operations, identity)
        return QueuedCommand(
            client,
            request.request,
            command,
            operations,
            size,
            request.fast,
            cost,
            begins_entry=begins_entry,
            timeout_ms=request.timeout_ms,
            decoded_bytes=decoded,
        )

    def _check_forms(self, operations: list[Operation], replica: Replica) -> None:
        """Nothing is asked of ranges, be that what work they are, before it is known that they are well formed."""
        longest = self._limits.max_key_bytes + 1
        for each in named_ranges(operations):
            self._check_form(each.ranges, replica)
            size = max(len(each.start), len(each.end))
            if size > longest:
                raise Refusal(
                    ErrorCode.TOO_LARGE,
                    f"a range begins or ends at {size} bytes; at most {longest} are accepted, one more than a key has",
                )

    def _check_form(self, ranges: Ranges, replica: Replica) -> None:
        microshards = replica.keyspace.microshards
        if not is_well_formed(ranges, microshards):
            raise Refusal(
                ErrorCode.INVALID_ARGUMENT,
                f"a request names the microshards that it is about, in order and each once, of the {microshards} that "
                f"keyspace {replica.keyspace.name!r} has",
            )

    def _check_here(self, ranges: Ranges, replica: Replica) -> None:
        self._check_form(ranges, replica)
        self._check_all_here(ranges, replica)

    def _check_all_here(self, ranges: Ranges, replica: Replica) -> None:
        """What is read or deleted in a microshard that is another shard's would be missing without notice."""
        if not replica.machine.has_ranges(ranges):
            here = replica.machine.prefixes
            missing = next(microshard for microshard in microshards_in(ranges) if microshard not in here)
            raise _not_here(replica, missing, f"microshard {missing}")

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
        sizes = list(map(len, keys))
        if sizes and (min(sizes) == 0 or max(sizes) > longest):
            if min(sizes) == 0:
                raise Refusal(ErrorCode.INVALID_ARGUMENT, f"an empty key; a key has 1 to {longest} bytes")
            key = next(key for key in keys if len(key) > longest)
            raise Refusal(
                ErrorCode.TOO_LARGE, f"a key of {len(key)} bytes ({_shown(key)}); a key has 1 to {longest} bytes"
            )
        microshards = replica.machine.route(keys)
        if microshards is None:
            here, routed = replica.machine.prefixes, replica.keyspace.microshards_of(keys)
            missing, key = next(each for each in zip(routed, keys, strict=True) if each[0] not in here)
            raise _not_here(replica, missing, f"key {_shown(key)}")
        return microshards

    def _check_cost(self, cost: int, operations: list[Operation]) -> None:
        if cost > ACCEPTED_US:
            raise Refusal(ErrorCode.TOO_LARGE, too_much_work(f"{len(operations)} operations in one write", cost))

    def _check_values(self, operations: Sequence[Operation | AtomicOperation], kinds: set[type]) -> int:
        """Check values and times to live; return how many of the operations say that what they put expires.

        Args:
            kinds: of all these operations.
        """
        largest = self._limits.max_value_bytes
        if kinds == _PUTS:
            # As most are. Where one is not right, the loop below says which.
            times = [operation.ttl_ms for operation in operations]  # type: ignore[union-attr]
            sizes = [len(operation.value) for operation in operations]  # type: ignore[union-attr]
            if min(times) >= DEFAULT_TTL and max(times) <= MAX_TTL_MS and max(sizes) <= largest:
                return sum([time > 0 for time in times]) if max(times) > 0 else 0
        expiring = 0
        for operation in operations:
            # By its type, the most frequent one first: each key that is written comes by here.
            if type(operation) is Put or type(operation) is Touch or type(operation) is Increment:
                if not DEFAULT_TTL <= operation.ttl_ms <= MAX_TTL_MS:
                    raise Refusal(
                        ErrorCode.INVALID_ARGUMENT,
                        f"a time to live of {operation.ttl_ms} ms; it is from 1 to {MAX_TTL_MS} ms",
                    )
                expiring += operation.ttl_ms > 0
                if type(operation) is Put and len(operation.value) > largest:
                    raise Refusal(
                        ErrorCode.TOO_LARGE,
                        f"the value of key {_shown(operation.key)} has {len(operation.value)} bytes; "
                        f"at most {largest} are accepted",
                    )
            elif type(operation) is Atomic:
                self._check_values(operation.operations, set(map(type, operation.operations)))
        return expiring


def _beyond(refusal: QuotaRefusal, *, only_adding: bool = False) -> Refusal:
    return Refusal(
        ErrorCode.OVERLOADED,
        refusal.words,
        retry_after_ms=refusal.retry_after_ms,
        reason=OverloadReason.QUOTA,
        only_adding=only_adding,
    )


def _not_here(replica: Replica, missing: int, what: str) -> NotHere:
    """Return the refusal of a request for `what`: the first microshard that is missing here for it, whatever else may be.

    Where that is on its way to it, it is the right place to ask: clients are sent here from the moment at which the
    other shard has parted with it, and this one has it within milliseconds.
    """
    shard, incoming = replica.shard.id, replica.machine.state.incoming
    if incoming is not None and any(span.first <= missing < span.end for span in incoming.ranges):
        return NotHere(
            ErrorCode.UNAVAILABLE,
            f"shard {shard} is being given what has {what}, and does not have it yet: try again",
            retry_after_ms=HAND_OVER_RETRY_MS,
        )
    return NotHere(ErrorCode.WRONG_SHARD, f"shard {shard} does not have {what}: fetch the shard map again")


def _shown(key: bytes) -> str:
    return repr(key) if len(key) <= SHOWN_KEY_BYTES else f"{key[:SHOWN_KEY_BYTES]!r}..."

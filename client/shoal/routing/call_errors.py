"""The errors that calls end with, each built from what is known of the call at that moment.

Messages say what was asked, of whom, and what to do. Which error it is when is the table in router.py.
"""

from __future__ import annotations

from msgspec.structs import astuple

from shoal.errors import (
    BY_CODE,
    Closed,
    ConditionFailed,
    CrossShard,
    DeadlineExceeded,
    ErrorCode,
    Internal,
    InvalidArgument,
    OutcomeUnknown,
    Overloaded,
    ProtocolMismatch,
    ShoalError,
    TooStale,
    Unavailable,
)
from shoal.priorities import OverloadReason, known_reason
from shoal.protocol.messages import Atomic, Condition, ConditionNotMet, DeleteRange, Failure, Impossible, RangeUnchanged
from shoal.routing.calls import AnyCall, Trouble, W, WriteCall, shown
from shoal.routing.shard_queue import AnyBatch, AnyQuery, ShardQueue, WriteBatch
from shoal.routing.throttle import Throttle


class ShardChanged(Unavailable):
    """What was asked for some microshards was not done: they are of several shards now.

    Never leaves the client: whoever makes a call for several microshards plans it anew. So it is caught in two places
    only, where pages are read and where ranges are deleted.
    """


def expired(
    call: AnyCall[W],
    shard_queue: ShardQueue[W],
    batch: AnyBatch[W] | None,
    trouble: Trouble | None,
    *,
    unanswered: bool,
    maybe_applied: bool,
) -> ShoalError:
    """The deadline passed.

    Args:
        batch: the one that it travels in, None where it is in none yet.
        trouble: why it is not getting through, None where nothing is known.
        unanswered: an attempt is under way, or one was whose outcome is not known.
        maybe_applied: the same, and it is a write.
    """
    what = f"{call.what}, shard {shard_queue.shard.id}"
    request_id = 0 if batch is None else batch.request_id
    asked = (batch.asked if batch is not None else "") or shard_queue.target
    if not unanswered and trouble is not None:
        if trouble.code is ErrorCode.OVERLOADED:
            because = f" ({trouble.reason})" if trouble.reason else ""
            return Overloaded(
                f"{what}: turned away until its deadline{because}: {trouble.message}; send less, or later",
                retry_after=trouble.retry_after,
                shard=shard_queue.shard.id,
                request_id=request_id or None,
                reason=trouble.reason,
            )
        return Unavailable(
            f"{what}: nobody served it before its deadline, and it was not done: {trouble.message}; try again",
            shard=shard_queue.shard.id,
            request_id=request_id or None,
        )
    if maybe_applied:
        ending = "it was sent and may have been done: read the key, or write again if that does no harm"
    elif unanswered:
        ending = "try again, or give it more time"
    else:
        ending = "it was not sent yet, and not done: the queue is long; try again, or give it more time"
    because = f" ({trouble.message})" if trouble is not None else ""
    return DeadlineExceeded(
        f"{what}: no answer from {asked} before the deadline{because}; {ending}",
        maybe_applied=maybe_applied,
        shard=shard_queue.shard.id,
        request_id=request_id or None,
    )


def dropped(call: AnyCall[W], shard_queue: ShardQueue[W], asked: str, failure: Failure) -> ShoalError:
    """A node did not come to it before the deadline, and so has not begun with it."""
    return DeadlineExceeded(
        f"{call.what}, shard {shard_queue.shard.id}: {asked} did not come to it before the deadline, and it was not done "
        f"({failure.message}): try again later, or give it more time",
        shard=shard_queue.shard.id,
        request_id=failure.request,
    )


def throttled(
    call: AnyCall[W], shard_queue: ShardQueue[W], node: str, throttle: Throttle, probability: float
) -> ShoalError:
    """The client has turned a call away itself."""
    return Overloaded(
        f"{call.what}, shard {shard_queue.shard.id}: turned away by this client ({throttle.reason}), and not done: {node} has "
        f"refused so much lately that {probability:.0%} of what it would be asked is not sent; the last refusal was: "
        f"{throttle.refusal}; send less, or later",
        retry_after=throttle.retry_after,
        shard=shard_queue.shard.id,
        reason=throttle.reason,
    )


def crowded_out(call: AnyCall[W], shard_queue: ShardQueue[W], node: str, pages: int, wait_seconds: float) -> ShoalError:
    """The client has too many scans itself to begin another one."""
    return Overloaded(
        f"{call.what}, shard {shard_queue.shard.id}: not begun: {pages} pages of this client's scans wait to be asked of "
        f"{node}, and it would wait for about {wait_seconds:.1f} s; scan less at once, or give it more time",
        shard=shard_queue.shard.id,
        reason=OverloadReason.NODE_BUSY.value,
    )


def refused(
    call: AnyCall[W], shard_queue: ShardQueue[W], asked: str, failure: Failure, *, maybe_applied: bool
) -> ShoalError:
    """A node refused for a reason that another attempt would not change."""
    kind = BY_CODE.get(failure.code, Internal)
    error = kind(
        f"{call.what}, shard {shard_queue.shard.id}: {asked} refused: {failure.message}",
        maybe_applied=maybe_applied,
        retry_after=failure.retry_after_ms / 1000 if failure.retry_after_ms else None,
        shard=shard_queue.shard.id,
        request_id=failure.request,
    )
    if isinstance(error, Overloaded):
        error.reason = known_reason(failure.reason)
    return error


def outcome_lost(call: AnyCall[W], shard_queue: ShardQueue[W], request_id: int, reason: str) -> ShoalError:
    """An earlier attempt may have been applied, and nobody can tell any more."""
    return OutcomeUnknown(
        f"{call.what}, shard {shard_queue.shard.id}: it was sent and may have been done, "
        f"but {reason}: read the key, or write again if that does no harm",
        shard=shard_queue.shard.id,
        request_id=request_id or None,
    )


def disowned(
    call: AnyCall[W], shard_queue: ShardQueue[W], request_id: int, reason: str, *, maybe_applied: bool
) -> ShoalError:
    """Another cluster is where the client's own was."""
    what = f"{call.what}, shard {shard_queue.shard.id}"
    if maybe_applied:
        return OutcomeUnknown(
            f"{what}: it was sent before and may have been done, but {reason}",
            shard=shard_queue.shard.id,
            request_id=request_id or None,
        )
    return ProtocolMismatch(f"{what}: {reason}", shard=shard_queue.shard.id, request_id=request_id or None)


def closed(call: AnyCall[W], shard_queue: ShardQueue[W], *, maybe_applied: bool) -> ShoalError:
    """The client was closed while the call was open."""
    ending = "it was sent and may have been done" if maybe_applied else "it was not done"
    return Closed(
        f"{call.what}: the client was closed; {ending}",
        maybe_applied=maybe_applied,
        shard=shard_queue.shard.id,
    )


ONE_SHARD_HERE = (
    "a cluster may have them in several shards, so an embedded or simulated database refuses them, too, though it has them "
    "together (`embedded://?microshards=1` stands for a keyspace of one microshard, which is one shard anywhere)"
)


def too_stale(call: AnyCall[W], batch: AnyQuery[W]) -> ShoalError:
    """No replica was fresh enough, and the leader was not reached in time."""
    shard_queue, bound = batch.shard_queue, batch.calls[0].max_staleness_ms
    declined = "; ".join(f"{node}: {reason}" for node, reason in batch.declined.items())
    return TooStale(
        f"{call.what}, shard {shard_queue.shard.id}: no replica is within {bound} ms ({declined}), and the "
        f"leader {shard_queue.target} did not answer before the deadline; accept more staleness, or try again",
        shard=shard_queue.shard.id,
        request_id=batch.request_id or None,
    )


def misplaced(call: AnyCall[W]) -> ShoalError:
    """No one shard has all that the call is about, by the present map."""
    if isinstance(call, WriteCall) and not isinstance(call.operation, DeleteRange):
        return CrossShard(
            f"{call.what}: its keys, and the ranges that it depends on, are of several shards, and nothing was written; "
            "keys that are written together need a common partition: the same text up to the keyspace's delimiter"
        )
    return ShardChanged(f"{call.what}: they are of several shards now, and nothing was done; try again")


def scattered(call: AnyCall[W], delimiter: bytes) -> ShoalError:
    """A write that a database for testing has a single shard for, and a cluster may have several."""
    return CrossShard(
        f"{call.what}: its keys, and the ranges that it depends on, are of several partitions, and nothing was written; "
        f"{ONE_SHARD_HERE}; keys that are written together need a common partition: {same_text(delimiter)}"
    )


def same_text(delimiter: bytes) -> str:
    """Return what keys of one partition have in common, in words."""
    if not delimiter:
        return "there is none without a delimiter, each key is one by itself"
    return f"the same text up to and with the first {shown(delimiter)}"


def condition_failed(call: WriteCall[W], batch: WriteBatch[W], result: ConditionNotMet) -> ShoalError:
    """A condition did not hold."""
    operation = call.operation
    conditions = operation.conditions if isinstance(operation, Atomic) else []
    condition = conditions[result.condition] if 0 <= result.condition < len(conditions) else None
    if result.found_seq and result.found is None:
        found = f"a value that is not shown, written at {result.found_seq}"
    elif result.found_seq:
        found = f"{shown(result.found or b'')}, written at {result.found_seq}"
    else:
        found = "no value"
    if isinstance(condition, RangeUnchanged):
        found = "other rows"
    error = ConditionFailed(
        f"{call.what}, shard {batch.shard_queue.shard.id}: nothing was written: {_named(condition)}; found was {found}",
        shard=batch.shard_queue.shard.id,
        request_id=batch.request_id,
    )
    error.condition = condition
    error.found = result.found
    error.found_seq = result.found_seq
    return error


def _named(condition: Condition | None) -> str:
    if condition is None:
        return "a condition did not hold"
    if isinstance(condition, RangeUnchanged):
        return f"the rows from {shown(condition.start)} were to be unchanged"
    fields = [shown(field) if isinstance(field, bytes) else str(field) for field in astuple(condition)]
    return f"the condition was {type(condition).__name__}({', '.join(fields)})"


def impossible(call: WriteCall[W], batch: WriteBatch[W], result: Impossible) -> ShoalError:
    """What is stored is not what the operation needs."""
    return InvalidArgument(
        f"{call.what}, shard {batch.shard_queue.shard.id}: nothing was written: {result.reason}",
        shard=batch.shard_queue.shard.id,
        request_id=batch.request_id,
    )

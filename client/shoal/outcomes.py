"""The errors that calls end with, each built from what is known of the call at that moment.

Messages say what was asked, of whom, and what to do. Which error it is when is the table in router.py.
"""

from __future__ import annotations

from typing import TypeAlias

from shoal.calls import ReadCall, W, WriteCall
from shoal.errors import (
    BY_CODE,
    Closed,
    DeadlineExceeded,
    ErrorCode,
    Internal,
    OutcomeUnknown,
    Overloaded,
    ShoalError,
    Unavailable,
)
from shoal.lanes import Lane
from shoal.protocol.messages import Failure

AnyCall: TypeAlias = WriteCall[W] | ReadCall[W]

SHOWN_KEY_BYTES = 64


def shown(key: bytes) -> str:
    """Return a key as messages show it: shortened where it is long."""
    return repr(key) if len(key) <= SHOWN_KEY_BYTES else f"{key[:SHOWN_KEY_BYTES]!r}..."


def expired(call: AnyCall[W], lane: Lane[W], request: int, *, unanswered: bool, maybe_applied: bool) -> ShoalError:
    """The deadline passed.

    Args:
        request: the last attempt's number, 0 where there was none.
        unanswered: an attempt is under way, or one was whose outcome is not known.
        maybe_applied: the same, and it is a write.
    """
    what = f"{call.verb} of key {shown(call.key)}, shard {lane.shard.id}"
    trouble = lane.trouble
    if not unanswered and trouble is not None:
        if trouble.code is ErrorCode.OVERLOADED:
            return Overloaded(
                f"{what}: turned away until its deadline: {trouble.message}; send less, or later",
                retry_after=trouble.retry_after,
                shard=lane.shard.id,
                request_id=request or None,
            )
        return Unavailable(
            f"{what}: nobody served it before its deadline, and it was not done: {trouble.message}; try again",
            shard=lane.shard.id,
            request_id=request or None,
        )
    if maybe_applied:
        ending = "it was sent and may have been done: read the key, or write again if that does no harm"
    elif unanswered:
        ending = "try again, or give it more time"
    else:
        ending = "it was not sent yet, and not done: the queue is long; try again, or give it more time"
    because = f" ({trouble.message})" if trouble is not None else ""
    return DeadlineExceeded(
        f"{what}: no answer from {lane.target} before the deadline{because}; {ending}",
        maybe_applied=maybe_applied,
        shard=lane.shard.id,
        request_id=request or None,
    )


def refused(call: AnyCall[W], lane: Lane[W], failure: Failure, *, maybe_applied: bool) -> ShoalError:
    """A node refused for a reason that another attempt would not change."""
    kind = BY_CODE.get(failure.code, Internal)
    return kind(
        f"{call.verb} of key {shown(call.key)}, shard {lane.shard.id}: {lane.target} refused: {failure.message}",
        maybe_applied=maybe_applied,
        retry_after=failure.retry_after_ms / 1000 if failure.retry_after_ms else None,
        shard=lane.shard.id,
        request_id=failure.request,
    )


def outcome_lost(call: AnyCall[W], lane: Lane[W], request: int, reason: str) -> ShoalError:
    """An earlier attempt may have been applied, and nobody can tell any more."""
    return OutcomeUnknown(
        f"{call.verb} of key {shown(call.key)}, shard {lane.shard.id}: it was sent and may have been done, "
        f"but {reason}: read the key, or write again if that does no harm",
        shard=lane.shard.id,
        request_id=request or None,
    )


def closed(call: AnyCall[W], lane: Lane[W], *, maybe_applied: bool) -> ShoalError:
    """The client was closed while the call was open."""
    ending = "it was sent and may have been done" if maybe_applied else "it was not done"
    return Closed(
        f"{call.verb} of key {shown(call.key)}: the client was closed; {ending}",
        maybe_applied=maybe_applied,
        shard=lane.shard.id,
    )

"""The closed family of errors that Shoal raises, and what each says about what happened.

Every error answers four questions: may the same call be tried again (`retryable`), may a write have been done
(`maybe_applied`), how long to wait first (`retry_after`, seconds), and of whom was it asked (`shard`, `request_id`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from shoal.protocol.messages import Condition


class ErrorCode(StrEnum):
    """What went wrong, as it travels on the wire. The first group never leaves the client: it acts on them itself."""

    NOT_LEADER = "not_leader"
    WRONG_SHARD = "wrong_shard"
    SESSION_EXPIRED = "session_expired"

    INVALID_ARGUMENT = "invalid_argument"
    TOO_LARGE = "too_large"
    KEYSPACE_NOT_FOUND = "keyspace_not_found"
    CONDITION_FAILED = "condition_failed"
    TRANSACTION_CONFLICT = "transaction_conflict"
    CROSS_SHARD = "cross_shard"
    TOO_STALE = "too_stale"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    OUTCOME_UNKNOWN = "outcome_unknown"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    PERMISSION_DENIED = "permission_denied"
    UNAUTHENTICATED = "unauthenticated"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    CLOSED = "closed"
    INTERNAL = "internal"


class ShoalError(Exception):
    """Base of everything Shoal raises.

    Args:
        message: what was asked, of whom, and what to do.
        maybe_applied: True where a write of this call may have taken effect.
        retry_after: seconds to wait before trying again, or None where the server named none.
        shard: the shard that was asked, or None where no single shard was.
        request_id: the client's number for the request, for finding it in logs.

    `failed_keys` names the keys of a multi-key call that failed (the error is then that of the first of them; the
    other keys of the call were served); it is empty on errors of other calls.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    retryable: bool = False
    failed_keys: tuple[bytes, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = False,
        retry_after: float | None = None,
        shard: int | None = None,
        request_id: int | None = None,
    ) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied
        self.retry_after = retry_after
        self.shard = shard
        self.request_id = request_id


class InvalidArgument(ShoalError):
    """The call itself is wrong: nothing was sent or nothing was done."""

    code = ErrorCode.INVALID_ARGUMENT


class TooLarge(InvalidArgument):
    """A key, value or batch is over a limit."""

    code = ErrorCode.TOO_LARGE


class KeyspaceNotFound(ShoalError):
    """No keyspace of that name in this cluster."""

    code = ErrorCode.KEYSPACE_NOT_FOUND


class ConditionFailed(ShoalError):
    """A condition of the write did not hold; nothing was written.

    `condition` is the one that did not. `found_seq` is the sequence number of the row found instead, 0 where there was
    none; `found` is its value, None where there was none, or where it is not shown: it has more than 1,024 bytes, or many
    conditions of other calls failed with this one.
    """

    code = ErrorCode.CONDITION_FAILED
    condition: Condition | None = None
    found: bytes | None = None
    found_seq: int = 0


class TransactionConflict(ShoalError):
    """What the transaction read has changed since; nothing was written."""

    code = ErrorCode.TRANSACTION_CONFLICT
    retryable = True


class CrossShard(ShoalError):
    """An atomic write names keys of more than one shard; nothing was written."""

    code = ErrorCode.CROSS_SHARD


class TooStale(ShoalError):
    """No replica could answer within the staleness that was asked for."""

    code = ErrorCode.TOO_STALE
    retryable = True


class Overloaded(ShoalError):
    """There is too much to do: the request was surely not done; try again after `retry_after` seconds, or ask for less.

    `reason` says of what there is too much: an `OverloadReason`, such as "quota" or "node_busy"; "" where that is not known.
    """

    code = ErrorCode.OVERLOADED
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = False,
        retry_after: float | None = None,
        shard: int | None = None,
        request_id: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(
            message, maybe_applied=maybe_applied, retry_after=retry_after, shard=shard, request_id=request_id
        )
        self.reason = reason


class Unavailable(ShoalError):
    """Nobody who could serve the request was reached: it was surely not done."""

    code = ErrorCode.UNAVAILABLE
    retryable = True


class OutcomeUnknown(ShoalError):
    """The write was sent and its answer was lost: it may or may not have been done."""

    code = ErrorCode.OUTCOME_UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = True,
        retry_after: float | None = None,
        shard: int | None = None,
        request_id: int | None = None,
    ) -> None:
        super().__init__(
            message, maybe_applied=maybe_applied, retry_after=retry_after, shard=shard, request_id=request_id
        )


class DeadlineExceeded(ShoalError, TimeoutError):
    """The call's deadline passed. `maybe_applied` says whether a write had been sent by then."""

    code = ErrorCode.DEADLINE_EXCEEDED


class PermissionDenied(ShoalError):
    """The caller is known and may not do this."""

    code = ErrorCode.PERMISSION_DENIED


class Unauthenticated(ShoalError):
    """The server does not know who the caller is."""

    code = ErrorCode.UNAUTHENTICATED


class ProtocolMismatch(ShoalError):
    """The two sides share no protocol version, belong to different clusters, or one of them sent garbage."""

    code = ErrorCode.PROTOCOL_MISMATCH


class Closed(ShoalError):
    """The client was closed."""

    code = ErrorCode.CLOSED


class Internal(ShoalError):
    """The server found a fault of its own; it said so rather than guess."""

    code = ErrorCode.INTERNAL


E = TypeVar("E", bound=ShoalError)


def said_again(error: E, message: str, *, maybe_applied: bool) -> E:
    """Return an error like `error` in other words, of which the same is known besides."""
    again = type(error)(
        message,
        maybe_applied=maybe_applied,
        retry_after=error.retry_after,
        shard=error.shard,
        request_id=error.request_id,
    )
    if isinstance(error, Overloaded) and isinstance(again, Overloaded):
        again.reason = error.reason
    if isinstance(error, ConditionFailed) and isinstance(again, ConditionFailed):
        again.condition, again.found, again.found_seq = error.condition, error.found, error.found_seq
    return again


BY_CODE: dict[str, type[ShoalError]] = {
    error.code.value: error
    for error in (
        InvalidArgument,
        TooLarge,
        KeyspaceNotFound,
        ConditionFailed,
        TransactionConflict,
        CrossShard,
        TooStale,
        Overloaded,
        Unavailable,
        OutcomeUnknown,
        DeadlineExceeded,
        PermissionDenied,
        Unauthenticated,
        ProtocolMismatch,
        Closed,
        Internal,
    )
}
"""The public error for a code on the wire; the codes that the client acts on itself are not in it."""

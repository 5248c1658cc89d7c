"""From Shoal's errors to what gRPC's callers are told: a status code, a message, and the details as `google.rpc.Status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
from google.protobuf import any_pb2
from shoal.errors import ConditionFailed, ErrorCode, Overloaded, ShoalError
from shoal.protocol.messages import Condition

from shoal_server.api.generated import shoal_pb2 as pb

DETAILS_METADATA = "grpc-status-details-bin"
"""Where gRPC's libraries look for a `google.rpc.Status`."""
MESSAGE_CHARACTERS_MAX = 1000
FAILED_KEYS_BYTES_MAX = 2048
"""Of the keys that an error names: with its message, which is in it thrice, all fits in the 8 KiB that peers accept."""

_CODES = {
    ErrorCode.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.KEYSPACE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.CONDITION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.TRANSACTION_CONFLICT: grpc.StatusCode.ABORTED,
    ErrorCode.CROSS_SHARD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.TOO_STALE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.OUTCOME_UNKNOWN: grpc.StatusCode.UNKNOWN,
    ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PROTOCOL_MISMATCH: grpc.StatusCode.INTERNAL,
    ErrorCode.CLOSED: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}


class Mismatched(ConditionFailed):
    """A condition of a write did not hold; `place` is its number among the write's conditions."""

    def __init__(self, failed: ConditionFailed, conditions: Sequence[Condition]) -> None:
        """
        Args:
            conditions: the write's.
        """
        super().__init__(str(failed), shard=failed.shard, request_id=failed.request_id)
        assert failed.condition is not None, "who says that a condition failed says which"
        self.condition = failed.condition
        self.found = failed.found
        self.found_seq = failed.found_seq
        self.place = conditions.index(failed.condition)


def status_code(error: ShoalError) -> grpc.StatusCode:
    """Return the code for an error. UNAVAILABLE is repeated by many a gRPC client, so it surely was not done."""
    code = _CODES[error.code]
    return grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.UNAVAILABLE and error.maybe_applied else code


def error_message(error: ShoalError) -> pb.Error:
    """Return an error as the API shows it."""
    mismatch = None
    if isinstance(error, Mismatched):
        mismatch = pb.Mismatch(condition=error.place, found_seq=error.found_seq, found=error.found)
    return pb.Error(
        code=error.code.value,
        message=shown_message(error),
        retryable=error.retryable,
        maybe_applied=error.maybe_applied,
        retry_after_ms=None if error.retry_after is None else round(error.retry_after * 1000),
        shard=error.shard,
        request_id=error.request_id,
        failed=len(error.failed_keys),
        failed_keys=_fitting(error.failed_keys),
        mismatch=mismatch,
        reason=error.reason if isinstance(error, Overloaded) else "",
    )


def status_details(error: ShoalError) -> bytes:
    """Return the `google.rpc.Status` of an error, encoded."""
    details = any_pb2.Any()
    details.Pack(error_message(error))
    number: int = status_code(error).value[0]
    status = pb.ErrorStatus(code=number, message=shown_message(error), details=[details])
    encoded: bytes = status.SerializeToString()
    return encoded


def shown_message(error: ShoalError) -> str:
    """Return an error's message, shortened where it is very long."""
    message = str(error)
    return message if len(message) <= MESSAGE_CHARACTERS_MAX else f"{message[:MESSAGE_CHARACTERS_MAX]}..."


def _fitting(keys: tuple[bytes, ...]) -> Iterator[bytes]:
    size = 0
    for key in keys:
        size += len(key)
        if size > FAILED_KEYS_BYTES_MAX:
            return
        yield key

"""Shoal: a sharded, replicated key-value database. This is the client."""

from shoal.aio import AsyncClient, AsyncPipeline
from shoal.blocking import Client, Pipeline
from shoal.errors import (
    Closed,
    ConditionFailed,
    CrossShard,
    DeadlineExceeded,
    ErrorCode,
    Internal,
    InvalidArgument,
    KeyspaceNotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    ProtocolMismatch,
    ShoalError,
    TooLarge,
    TooStale,
    TransactionConflict,
    Unauthenticated,
    Unavailable,
)
from shoal.results import Entry, WriteResult

__all__ = [
    "AsyncClient",
    "AsyncPipeline",
    "Client",
    "Closed",
    "ConditionFailed",
    "CrossShard",
    "DeadlineExceeded",
    "Entry",
    "ErrorCode",
    "Internal",
    "InvalidArgument",
    "KeyspaceNotFound",
    "OutcomeUnknown",
    "Overloaded",
    "PermissionDenied",
    "Pipeline",
    "ProtocolMismatch",
    "ShoalError",
    "TooLarge",
    "TooStale",
    "TransactionConflict",
    "Unauthenticated",
    "Unavailable",
    "WriteResult",
]

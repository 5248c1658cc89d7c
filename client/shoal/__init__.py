"""Shoal: a sharded, replicated key-value database. This is the client."""

from typing import TYPE_CHECKING

from shoal.aio import AsyncClient
from shoal.blocking import Client, Pipeline, Transaction
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
from shoal.operations import (
    delete,
    increment,
    key_absent,
    key_present,
    put,
    seq_equals,
    touch,
    value_equals,
    value_equals_or_absent,
)
from shoal.pipelines import AsyncPipeline
from shoal.priorities import OverloadReason, PriorityName
from shoal.results import Consistency, Durability, Entry, WriteResult
from shoal.scans import AsyncScan, Scan
from shoal.transactions import AsyncTransaction

__all__ = [
    "AsyncClient",
    "AsyncPipeline",
    "AsyncScan",
    "AsyncTransaction",
    "Client",
    "Closed",
    "ConditionFailed",
    "Consistency",
    "CrossShard",
    "DeadlineExceeded",
    "Durability",
    "Entry",
    "ErrorCode",
    "Internal",
    "InvalidArgument",
    "KeyspaceNotFound",
    "OutcomeUnknown",
    "OverloadReason",
    "Overloaded",
    "PermissionDenied",
    "Pipeline",
    "PriorityName",
    "ProtocolMismatch",
    "Scan",
    "ShoalError",
    "TooLarge",
    "TooStale",
    "Transaction",
    "TransactionConflict",
    "Unauthenticated",
    "Unavailable",
    "WriteResult",
    "delete",
    "increment",
    "key_absent",
    "key_present",
    "put",
    "seq_equals",
    "touch",
    "value_equals",
    "value_equals_or_absent",
]

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """Return `__version__`, which takes a search in the installed distributions: too long for every start."""
    if name == "__version__":
        from importlib.metadata import version

        return version("shoal")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

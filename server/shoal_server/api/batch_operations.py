"""One operation of a batch: how it is queued, and what its result looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import shoal
from shoal.errors import ConditionFailed, InvalidArgument, ShoalError, TooLarge
from shoal.pipelines import Result
from shoal.protocol.messages import Condition
from shoal.results import Consistency, Durability, Entry, WriteResult
from shoal.steps import atomic, check_key, check_step

from shoal_server.api.convert import (
    condition_of,
    entry_message,
    expected_of,
    operation_of,
    step_of,
    ttl_of,
)
from shoal_server.api.errors import Mismatched, error_message
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.node.settings import Limits

ERROR_BYTES = 1024
"""About what an error takes in an answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the operations of a message have in common; times are in seconds."""

    consistency: Consistency | None
    max_staleness: float | None
    durability: Durability
    timeout: float


def queue(
    pipeline: shoal.AsyncPipeline, operation: pb.BatchOperation, options: Options, limits: Limits
) -> Sequence[Condition] | None:
    """Queue an operation; return the conditions of a `write`, and None of any other.

    The sizes are checked here, though the pipeline does it, too: that turns all its operations away for one of them.

    Raises:
        InvalidArgument: it is none, or its arguments are wrong.
    """
    match operation.WhichOneof("operation"):
        case "get":
            key = operation.get
            check_key(key, limits)
            pipeline.get(key, consistency=options.consistency, max_staleness=options.max_staleness)
        case "put":
            put = operation.put
            pipeline.put(*_row(put, limits), ttl=ttl_of(put), durability=options.durability)
        case "delete":
            check_key(operation.delete, limits)
            pipeline.delete(operation.delete, durability=options.durability)
        case "get_entry":
            check_key(operation.get_entry, limits)
            pipeline.get_entry(
                operation.get_entry, consistency=options.consistency, max_staleness=options.max_staleness
            )
        case "exists":
            check_key(operation.exists, limits)
            pipeline.exists(operation.exists, consistency=options.consistency, max_staleness=options.max_staleness)
        case "touch":
            check_key(operation.touch.key, limits)
            pipeline.touch(operation.touch.key, ttl_of(operation.touch))
        case "increment":
            check_key(operation.increment.key, limits)
            pipeline.increment(operation.increment.key, step_of(operation.increment), ttl=ttl_of(operation.increment))
        case "put_if_absent":
            pipeline.put_if_absent(*_row(operation.put_if_absent, limits), ttl=ttl_of(operation.put_if_absent))
        case "compare_and_set":
            swap = operation.compare_and_set
            key, value = _row(swap, limits)
            pipeline.compare_and_set(key, expected_of(swap), value, ttl=ttl_of(swap))
        case "write":
            conditions = [condition_of(condition) for condition in operation.write.conditions]
            operations = [operation_of(each) for each in operation.write.operations]
            check_step(atomic(operations, conditions), limits)
            pipeline.write(operations, when=conditions)
            return conditions
        case _:
            raise InvalidArgument(f"operation {operation.id} of a batch says nothing: none of its kinds is set")
    return None


def result_message(number: int, result: Result | ShoalError, conditions: Sequence[Condition] | None) -> pb.BatchResult:
    """Return the result of operation `number` as the API shows it.

    Args:
        conditions: of a `write`; None: it is another operation.
    """
    if isinstance(result, bytes):
        return pb.BatchResult(id=number, value=result)
    if result is None:
        return pb.BatchResult(id=number, absent=True)
    if isinstance(result, WriteResult):
        if conditions is None:
            return pb.BatchResult(id=number, seq=result.seq)
        return pb.BatchResult(id=number, written=pb.Written(seq=result.seq, results=result.results))
    if isinstance(result, Entry):
        return pb.BatchResult(id=number, entry=entry_message(result))
    if isinstance(result, bool):
        return pb.BatchResult(id=number, done=result)
    if isinstance(result, int):
        return pb.BatchResult(id=number, number=result)
    if isinstance(result, ConditionFailed) and conditions:
        result = Mismatched(result, conditions)
    return pb.BatchResult(id=number, error=error_message(result))


def size_of(result: Result | ShoalError) -> int:
    """Return about how many bytes a result is; those that are small all the same count as none."""
    if isinstance(result, bytes):
        return len(result)
    if isinstance(result, Entry):
        return len(result.value)
    return ERROR_BYTES if isinstance(result, ShoalError) else 0


def _row(message: pb.Put | pb.CompareAndSet, limits: Limits) -> tuple[bytes, bytes]:
    check_key(message.key, limits)
    value = message.value
    if len(value) > limits.max_value_bytes:
        raise TooLarge(f"a value has {len(value)} bytes; at most {limits.max_value_bytes} are accepted: split it")
    return message.key, value

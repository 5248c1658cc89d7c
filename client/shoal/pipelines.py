"""Pipelines: many calls for the price of few. The blocking one is generated from this by tools/generate_blocking.py."""

# ruff: noqa: ASYNC109 - the timeout is the whole pipeline's, retries included
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

from shoal.caller import Caller
from shoal.errors import ShoalError
from shoal.operations import delete as delete_of
from shoal.operations import increment as increment_of
from shoal.operations import put as put_of
from shoal.operations import touch as touch_of
from shoal.protocol.messages import AtomicOperation, Condition
from shoal.results import Consistency, Durability, Duration, Entry, WriteResult
from shoal.steps import (
    Fetch,
    Step,
    all_or_raise,
    atomic,
    exchange,
    first_result,
    held,
    is_there,
    keys_of_step,
    to_write,
    was_there,
)

Result: TypeAlias = WriteResult | bytes | Entry | bool | int | None


class AsyncPipeline:
    """Calls that are queued and then sent together: the way to make many calls at the price of few.

        pipeline = db.pipeline()
        for key in keys:
            pipeline.put(key, value)
        results = await pipeline.execute()

    Not a transaction: each call succeeds or fails alone, and others' writes may come in between. Calls on one key take
    effect in the order they were queued; calls on different keys in any. Arguments are those of the client's methods;
    wrong ones are refused when they are queued.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._steps: list[Step] = []
        self._finish: dict[int, Callable[[object], Result]] = {}

    def __repr__(self) -> str:
        return f"<shoal.AsyncPipeline of {len(self._steps)} calls {self._caller}>"

    def __len__(self) -> int:
        return len(self._steps)

    def put(
        self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None, durability: Durability = "quorum"
    ) -> AsyncPipeline:
        """Queue a `put`; its result will be a `WriteResult`."""
        self._steps.append(to_write(put_of(key, value, ttl), durability))
        return self

    def get(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> AsyncPipeline:
        """Queue a `get`; its result will be the value or None."""
        self._steps.append(self._caller.fetch(key, False, consistency, max_staleness))
        return self

    def get_entry(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> AsyncPipeline:
        """Queue a `get_entry`; its result will be an `Entry` or None."""
        self._steps.append(self._caller.fetch(key, True, consistency, max_staleness))
        return self

    def exists(
        self, key: bytes | str, *, consistency: Consistency | None = None, max_staleness: Duration | None = None
    ) -> AsyncPipeline:
        """Queue an `exists`; its result will be a bool."""
        return self._add(self._caller.fetch(key, False, consistency, max_staleness), is_there)

    def delete(self, key: bytes | str, *, durability: Durability = "quorum") -> AsyncPipeline:
        """Queue a `delete`; its result will be a `WriteResult`."""
        self._steps.append(to_write(delete_of(key), durability))
        return self

    def touch(self, key: bytes | str, ttl: Duration | None = None) -> AsyncPipeline:
        """Queue a `touch`; its result will be a bool."""
        return self._add(touch_of(key, ttl), was_there)

    def increment(self, key: bytes | str, by: int = 1, *, ttl: Duration | None = None) -> AsyncPipeline:
        """Queue an `increment`; its result will be the sum."""
        return self._add(increment_of(key, by, ttl), first_result)

    def put_if_absent(self, key: bytes | str, value: bytes | str, *, ttl: Duration | None = None) -> AsyncPipeline:
        """Queue a `put_if_absent`; its result will be a bool."""
        return self._add(exchange(key, None, value, ttl), held)

    def compare_and_set(
        self, key: bytes | str, expected: bytes | str | None, value: bytes | str, *, ttl: Duration | None = None
    ) -> AsyncPipeline:
        """Queue a `compare_and_set`; its result will be a bool."""
        return self._add(exchange(key, expected, value, ttl), held)

    def write(self, ops: Iterable[AtomicOperation], *, when: Iterable[Condition] = ()) -> AsyncPipeline:
        """Queue a `write`; its result will be a `WriteResult`."""
        self._steps.append(atomic(ops, when))
        return self

    async def execute(
        self, *, timeout: Duration | None = None, raise_on_error: bool = True
    ) -> list[Result | ShoalError]:
        """Send what is queued, return the results in its order, and leave the pipeline empty.

        Args:
            timeout: seconds for the whole pipeline.
            raise_on_error: raise the first error, once all calls are over; otherwise errors stand among the results.

        Raises:
            ShoalError: some calls failed: the error of the first of them, with all their keys in `failed_keys`.
        """
        deadline = self._caller.deadline(timeout)
        steps, self._steps = self._steps, []
        finish, self._finish = self._finish, {}
        results: list[object] = []
        for stage in _stages(steps):
            results += await self._caller.run_all(stage, deadline)
        for at, finished in finish.items():
            try:
                if not isinstance(results[at], ShoalError) or finished is held:
                    results[at] = finished(results[at])
            except ShoalError as error:
                results[at] = error
        if raise_on_error:
            all_or_raise(steps, results)
        return cast("list[Result | ShoalError]", results)

    def _add(self, step: Step, finished: Callable[[object], Result]) -> AsyncPipeline:
        self._finish[len(self._steps)] = finished
        self._steps.append(step)
        return self


def _stages(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Cut steps into runs that may be done in any order: in each, a key that is written is named once."""
    first = 0
    written: set[bytes] = set()
    read: set[bytes] = set()
    for at, step in enumerate(steps):
        if type(step) is Fetch:
            if written and step.key in written:
                yield steps[first:at]
                first = at
                written.clear()
                read.clear()
            read.add(step.key)
            continue
        keys = keys_of_step(step)
        if not (written.isdisjoint(keys) and read.isdisjoint(keys)):
            yield steps[first:at]
            first = at
            written.clear()
            read.clear()
        written.update(keys)
    yield steps[first:]

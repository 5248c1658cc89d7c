"""Is a history of one register linearizable? Wing and Gong's search, kept to what is open at each instant.

Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017), whose
just-in-time order this is: the calls and answers are gone through by time, with the set of configurations that explain
all answers so far; a write is placed no sooner than an answer needs it. A configuration names only the operations that
are open, so that its size follows the concurrency, not the length of the history. An operation whose answer never came
may have taken effect at any time after it was called, or never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from shoal_chaos.checkers.shrinking import shrink

NEVER = float("inf")


class Found(NamedTuple):
    """That the register held `value` (None: absent), or, where not `equal`, that it held something else."""

    value: bytes | None
    equal: bool = True


@dataclass(frozen=True, slots=True)
class RegisterOperation:
    """A write of `value`, or a read that returned it (None: absent). `ended` is NEVER where no answer came.

    `when` is of a comparison: a write that was done because of what it found; or, in place of a read's `value`, what one
    found that therefore wrote nothing.
    """

    client: str
    is_write: bool
    value: bytes | None
    began: float
    ended: float
    when: Found | None = None


def find_violation(history: Sequence[RegisterOperation]) -> list[RegisterOperation] | None:
    """Return None where the history is linearizable, else operations of it that no order explains, as few as were found.

    They are sorted by when they began; some writes of theirs may be cut to what was known of them by then.

    Args:
        history: operations on one register that is absent at first; reads without an answer are left out.
    """
    unexplained = _unexplained_at(history)
    if unexplained is None:
        return None
    known = _up_to(history, unexplained)
    return shrink(known, _values_named, _is_alone, lambda part: _unexplained_at(part) is not None)


def _up_to(history: Sequence[RegisterOperation], end: float) -> list[RegisterOperation]:
    """Return what was known at `end`: what had not ended by then counts as never answered; reads of that kind go."""
    known: list[RegisterOperation] = []
    for operation in history:
        if operation.ended <= end:
            known.append(operation)
        elif operation.is_write and operation.began <= end:
            known.append(replace(operation, ended=NEVER))
    return sorted(known, key=lambda operation: operation.began)


def _values_named(operation: RegisterOperation) -> Iterable[bytes | None]:
    """Yield the values that tie an operation to others: leave all that name a value out, and the rest is as good."""
    if operation.when is None or operation.is_write:
        yield operation.value
    if operation.when is not None:
        yield operation.when.value


def _is_alone(operation: RegisterOperation) -> bool:
    """Whether the history without this operation is linearizable if it is with it: it changed nothing."""
    return not operation.is_write


_Configuration: TypeAlias = tuple[int, int]
"""Which open operations have taken effect, one bit for each place, and the number of the register's value."""

UNSEEN = -1
"""The number of all values that no operation says it found: nobody can tell them apart."""

ABSENT = 0


class _Coded(NamedTuple):
    """An operation with its values as numbers. It fits a value if that `equal`s `needs`, or always if that is None."""

    writes: int | None
    needs: int | None
    equal: bool
    answered: bool

    def fits(self, value: int) -> bool:
        return self.needs is None or (value == self.needs) is self.equal


class _Plan:
    """A history with its values numbered, its calls and answers in order, and until when each value matters."""

    def __init__(self, history: Sequence[RegisterOperation]) -> None:
        compared: dict[bytes | None, int] = {None: ABSENT}
        operations = [operation for operation in history if operation.is_write or operation.ended != NEVER]
        for operation in operations:
            if operation.when is not None:
                compared.setdefault(operation.when.value, len(compared))
            elif not operation.is_write:
                compared.setdefault(operation.value, len(compared))
        self.coded = [_code(operation, compared) for operation in operations]
        # Calls go before answers of the same instant: operations that touch are concurrent.
        calls = [(operation.began, 0, number) for number, operation in enumerate(operations)]
        answers = [(operation.ended, 1, number) for number, operation in enumerate(operations)]
        self.events = sorted([*calls, *(answer for answer in answers if answer[0] != NEVER)])
        writers = Counter(coded.writes for coded in self.coded if coded.writes is not None)
        writers[ABSENT] += 1
        self.needed: dict[int, tuple[int, int]] = {}
        """Of values that are written once: where the last call begins that was answered with it, and where it ends."""
        called_at: dict[int, int] = {}
        self.seen_until: dict[int, int] = {}
        self.told_apart_until = -1
        forever = len(self.events)
        for position, (_, is_answer, number) in enumerate(self.events):
            coded = self.coded[number]
            if coded.needs is None:
                continue
            until = position if coded.answered else forever
            if not coded.equal:
                self.told_apart_until = max(self.told_apart_until, until)
            else:
                self.seen_until[coded.needs] = max(self.seen_until.get(coded.needs, -1), until)
                if not is_answer:
                    called_at[number] = position
                elif writers[coded.needs] <= 1:
                    called, _ = self.needed.get(coded.needs, (-1, -1))
                    self.needed[coded.needs] = (max(called, called_at[number]), position)

    def matters_until(self, written: int) -> int:
        """Return the position of the last event at which it can matter whether `written` was written."""
        return max(self.seen_until.get(written, -1), self.told_apart_until)


def _code(operation: RegisterOperation, compared: dict[bytes | None, int]) -> _Coded:
    writes = compared.get(operation.value, UNSEEN) if operation.is_write else None
    answered = operation.ended != NEVER
    if operation.when is not None:
        return _Coded(writes, compared[operation.when.value], operation.when.equal, answered)
    return _Coded(writes, None if operation.is_write else compared[operation.value], True, answered)


def _unexplained_at(history: Sequence[RegisterOperation]) -> float | None:
    """Return when what was known could not be explained any more; None where all of it can be."""
    return _Search(_Plan(history)).run()


class _Search:
    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._configurations: set[_Configuration] = {(0, ABSENT)}
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._reads: dict[int, _Coded] = {}
        self._writes: dict[int, _Coded] = {}
        self._forgotten: dict[int, list[int]] = {}
        """Writes without an answer, by the position from which on they matter no more."""
        self._position = 0
        self._looked_ahead = 0

    def run(self) -> float | None:
        for position, (_, is_answer, number) in enumerate(self._plan.events):
            self._position = position
            if not is_answer:
                self._call(number)
            elif not self._answer(number):
                return self._plan.events[max(position, self._looked_ahead)][0]
            for unanswered in self._forgotten.pop(position, ()):
                self._forget(unanswered)
        return None

    def _call(self, number: int) -> None:
        coded = self._plan.coded[number]
        if not coded.answered and coded.writes is not None:
            until = self._plan.matters_until(coded.writes)
            if until <= self._position:
                return
            self._forgotten.setdefault(until, []).append(number)
        place = self._places[number] = self._free.pop() if self._free else len(self._places)
        if coded.writes is not None:
            self._writes[place] = coded
            return
        # A read that fits is placed at once: it changes nothing, and binds nobody.
        self._reads[place] = coded
        bit = 1 << place
        self._configurations = {
            (placed | bit if coded.fits(value) else placed, value) for placed, value in self._configurations
        }

    def _answer(self, number: int) -> bool:
        """Keep the configurations in which the operation has taken effect, making it so; return whether any is left."""
        bit = 1 << self._places[number]
        kept: set[_Configuration] = set()
        behind: list[_Configuration] = []
        for configuration in self._configurations:
            if configuration[0] & bit:
                kept.add((configuration[0] ^ bit, configuration[1]))
            else:
                behind.append(configuration)
        seen = set(behind)
        while behind:
            for following in self._successors(*behind.pop()):
                if following[0] & bit:
                    kept.add((following[0] ^ bit, following[1]))
                elif following not in seen:
                    seen.add(following)
                    behind.append(following)
        self._configurations = kept
        self._close(number)
        return bool(kept)

    def _successors(self, placed: int, value: int) -> list[_Configuration]:
        """Return what one more open write makes of a configuration, with the reads that fit then."""
        called, answered = self._plan.needed.get(value, (-1, -1))
        if called > self._position:
            # Somebody who is yet to come finds this value, which nobody writes again.
            self._looked_ahead = max(self._looked_ahead, answered)
            return []
        found: list[_Configuration] = []
        tried: set[_Coded] = set()
        for place, write in self._writes.items():
            if placed >> place & 1 or not write.fits(value):
                continue
            assert write.writes is not None
            if not write.answered:
                # Of those that nobody can tell apart, the first stands for all.
                if write in tried or not self._is_wanted(placed, value, write.writes):
                    continue
                tried.add(write)
            after = placed | 1 << place
            for other, read in self._reads.items():
                if read.fits(write.writes):
                    after |= 1 << other
            found.append((after, write.writes))
        return found

    def _is_wanted(self, placed: int, value: int, written: int) -> bool:
        """Whether an open operation fits `written` that does not fit `value`.

        A write without an answer takes effect right before somebody who can tell, or may as well never.
        """
        return any(
            not placed >> place & 1 and waiting.fits(written) and not waiting.fits(value)
            for waiting_for in (self._reads, self._writes)
            for place, waiting in waiting_for.items()
        )

    def _forget(self, number: int) -> None:
        bit = 1 << self._places[number]
        self._configurations = {(placed & ~bit, value) for placed, value in self._configurations}
        self._close(number)

    def _close(self, number: int) -> None:
        place = self._places.pop(number)
        self._reads.pop(place, None)
        self._writes.pop(place, None)
        self._free.append(place)

"""Rounds in which those who wait take turns by cost: deficit round robin, with whoever asks now and then before the others.

Whose turn it is goes on until it has cost a quantum; who has had more waits for rounds until that is paid. One that comes, and
has had nothing since the others had a round, is new, and comes before those who always wait. But there is always somebody who
is new where many come, ask, and go; so those who are new have together no more than the others have meanwhile, and one that
has been overtaken for a round is new no more. Hence whoever waits and owes nothing is reached after a bounded amount of work
of others, whatever they do: come, go, or ask for much. Where at most W wait at once, and one request costs C at the most, that
is 4 W (quantum + C).

Pure: times are passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

MILLISECOND = 1_000_000
DEBT_MOST_NS = 50 * MILLISECOND
"""Of one that has taken more than its due: the longest piece of work there is is far shorter."""


class Share:
    """What one who takes part has of the rounds: a client, a caller, or a keyspace.

    Attributes:
        quantum: what it may cost each time that its turn comes (ns), unless it is due less.
        deficit: what is left of that; below 0 it has had more.
        listed: it takes part in the rounds. Since `idle_at` it does not (ns).
        is_new: it comes before those who have been waiting; `came_new`: what it is served now it is as one that was.
        in_turn: its turn has begun and is not over, whether it takes part or not.
        new_from: how far the ring has to have gone for it to be new again.
        came_at: what the ring had served when it came, or was last passed (ns).
        plain: how many of its own wait with requests that are no pages.
    """

    __slots__ = (
        "came_at",
        "came_new",
        "deficit",
        "idle_at",
        "in_turn",
        "is_new",
        "listed",
        "new_from",
        "plain",
        "quantum",
    )

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.deficit = 0
        self.idle_at = 0
        self.listed = False
        self.is_new = False
        self.came_new = False
        self.in_turn = False
        self.new_from = 0
        self.came_at = 0
        self.plain = 0

    @property
    def due(self) -> int:
        """What it is given each time that it is passed (ns)."""
        return self.quantum

    def follow(self, other: Share) -> None:
        """Stand where another one stood when it left."""
        self.deficit = other.deficit
        self.idle_at = other.idle_at
        self.in_turn = other.in_turn
        self.new_from = other.new_from


S = TypeVar("S", bound=Share)


class Ring(Generic[S]):
    """Those who take part in the rounds: those who are new, of whom the newest is first, and the others in their order.

    Where hundreds come at once, it is better that some wait for all than that all wait for hundreds.

    Attributes:
        gone: how many have been passed.
    """

    __slots__ = ("_credit", "_credit_most", "_new", "_old", "_served", "_turn", "gone")

    def __init__(self, quantum: int) -> None:
        """
        Args:
            quantum: the largest of anybody who takes part (ns).
        """
        self._new: deque[S] = deque()
        self._old: deque[S] = deque()
        self.gone = 0
        self._served = 0
        self._turn: S | None = None
        """Of the others, whose turn it is, or was when that one left."""
        self._credit = self._credit_most = quantum
        """What those who are new may have before it is the others' turn (ns): what these have had, and a quantum at most."""

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    def __iter__(self) -> Iterator[S]:
        return chain(self._new, self._old)

    def join(self, share: S, now: int, *, idle_at: int, new_from: int) -> None:
        """One takes part from now on.

        It is new where the others have had a round since it was so, and remains so until it has had its due. One whose turn
        was not over when it had nothing left to ask goes on with what was left of it: at once, or, where it is somebody
        else's turn by now, as one that is new. All else comes last. What it owes is forgiven as time passes, of which each
        of those who wait has had a part.

        Args:
            idle_at: since then it had nothing to do with what is served (ns).
            new_from: how far the ring has to have gone for it to be new.
        """
        share.listed = True
        share.came_at = self._served
        goes_on = share.in_turn and self.gone < new_from and share.deficit > 0
        if not goes_on:
            others = len(self._new) + len(self._old)
            share.deficit = min(0, share.deficit + (now - idle_at) // (1 + others))
            share.in_turn = False
        share.is_new = goes_on or (self.gone >= new_from and not share.deficit)
        if not goes_on:
            share.deficit += share.due
        if goes_on and share is self._turn:
            share.is_new = False
            self._old.appendleft(share)
        elif share.is_new:
            share.came_new = True
            self._new.appendleft(share)
        else:
            self._old.append(share)

    def leave(self, share: S, now: int) -> None:
        """One takes part no more; all others come before it is given anything again."""
        (self._new if share.is_new else self._old).remove(share)
        share.listed = False
        share.idle_at = now
        if self.gone >= share.new_from:
            share.new_from = self.gone + len(self._new) + len(self._old)

    def charge(self, share: S, cost: int) -> None:
        """Somebody who takes part, or has just left, has had so much (ns)."""
        left = share.deficit - cost
        share.deficit = left if left > -DEBT_MOST_NS else -DEBT_MOST_NS
        self._served += cost
        if not share.came_new:
            credit = self._credit + cost
            self._credit = credit if credit < self._credit_most else self._credit_most
        elif self._old:
            # Where there are no others, nobody waits for whoever is new.
            self._credit = max(self._credit - cost, -DEBT_MOST_NS)

    def whose_turn(self) -> S:
        """Go round until somebody has something left, and return who that is; there is somebody."""
        new, old = self._new, self._old
        while new and self._served - new[-1].came_at > new[-1].quantum * (len(new) + len(old)):
            self._age(new.pop())
        passed = 0
        while True:
            first = new[0] if new and not (old and self._is_due(old[0])) else old[0]
            if first.deficit > 0:
                if not first.in_turn or first.came_new:
                    self._begin(first)
                return first
            if first.is_new:
                self._age(new.popleft())
            else:
                old.rotate(-1)
            first.in_turn = False
            first.came_at = self._served
            # One that is alone owes nobody anything.
            first.deficit = first.quantum if not new and len(old) == 1 else first.deficit + first.due
            self.gone += 1
            passed += 1
            if passed > len(old):
                self._pay_rounds()
                passed = 0

    def _is_due(self, first: S) -> bool:
        """Say whether it is the turn of the first of the others, who has waited for longer than all who are new."""
        return self._credit <= 0 and first.came_at < self._new[-1].came_at

    def _age(self, share: S) -> None:
        """One that was new is as all others."""
        share.is_new = False
        self._old.append(share)

    def _begin(self, share: S) -> None:
        if not share.is_new:
            self._turn = share
        share.in_turn = True
        share.came_new = share.is_new

    def _pay_rounds(self) -> None:
        """Pass everybody as often as nobody has something left by that: rounds of those who owe much are many."""
        old = self._old
        rounds = min([-share.deficit // share.due for share in old])
        if rounds > 0:
            for share in old:
                share.deficit += rounds * share.due
            self.gone += rounds * len(old)

    def whose_turn_without_pages(self) -> S | None:
        """Likewise, but return the first with something left that has anything but pages; None where there is none."""
        first = self.whose_turn()
        if first.plain:
            return first
        rest = chain(self._new, self._old) if self._credit > 0 else chain(self._old, self._new)
        other = next((share for share in rest if share.plain and share.deficit > 0), None)
        if other is not None:
            self._begin(other)
        return other

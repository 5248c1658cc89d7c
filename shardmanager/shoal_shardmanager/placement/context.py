"""One planning under way: the board, the random numbers, what was spent, why each replica went where it went.

Every change of the board by a search goes through here, so that budgets hold and reasons are kept.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.model import Refusal, Role
from shoal_shardmanager.placement.settings import Budget, Settings

LOOKS_PER_CHECK = 4_096  # how many pairs are looked at between two questions to the caller's clock

LEADS = -2


class Tier(IntEnum):
    """What comes first when not everything can be done at once."""

    LOST = 0
    HARD = 1
    DRAIN = 2
    PREFERENCE = 3
    EVEN = 4


class Context:
    __slots__ = (
        "_next_check", "_numbers", "board", "budget", "bytes", "changed", "latest", "looks", "moves", "reasons", "refusals",
        "refused", "rng", "settings", "stopped", "touched", "uneven",
    )  # fmt: skip

    def __init__(self, board: Board, settings: Settings, budget: Budget, seed: int) -> None:
        self.board = board
        self.settings = settings
        self.budget = budget
        self.rng = Random(seed)
        self.looks = 0
        self.moves = 0
        self.bytes = 0
        self.stopped = ""
        self.changed: dict[int, tuple[Tier, int]] = {}  # shard -> its first change
        self.reasons: dict[tuple[int, int], str] = {}  # (shard, target, or LEADS for its leadership) -> why
        self.latest: dict[int, str] = {}  # shard -> why it was changed last
        self.refusals: list[Refusal] = []
        self.refused = 0
        self.touched = set(range(len(board.count)))  # nodes whose replicas changed since leaders were evened
        self.uneven = set(range(len(board.rules)))  # keyspaces whose replicas changed since they were evened
        self._next_check = LOOKS_PER_CHECK
        self._numbers = 0

    # -- budgets -------------------------------------------------------------------------------------------------

    def look(self, pairs: int) -> None:
        self.looks += pairs
        if self.looks >= self._next_check:
            self._next_check = self.looks + LOOKS_PER_CHECK
            if self.budget.expired():
                self.stopped = self.stopped or "the time budget is used up"
        if self.budget.effort is not None and self.looks >= self.budget.effort:
            self.stopped = self.stopped or "the effort budget is used up"

    def affordable(self, shard: int, source: int, target: int, role: Role) -> bool:
        """Say whether the copies of the plan stay within the budget; what was moved already may go on for free."""
        if self.stopped:
            return False
        more = self._copies(shard, source, target, role)
        if more <= 0:
            return True
        size = self.board.size[shard]
        if self.budget.moves is not None and self.moves + more > self.budget.moves:
            self.stopped = "the budget of moves is used up"
            return False
        # A smaller shard may still fit: refusing this one ends nothing.
        return self.budget.bytes is None or self.bytes + size <= self.budget.bytes

    def _copies(self, shard: int, source: int, target: int, role: Role) -> int:
        """Return how many more replicas (1, 0, or -1) are then where their role was not when planning began."""
        before = self.board.origin[shard][0 if role is Role.VOTER else 1]
        return (target not in before) - (source != NOBODY and source not in before)

    # -- changes -------------------------------------------------------------------------------------------------

    def move(self, shard: int, source: int, target: int, tier: Tier, reason: str) -> None:
        self._spend(shard, source, target, self.board.role_of(shard, source))
        self.board.move(shard, source, target)
        self.touched |= {source, target}
        self.uneven.add(self.board.keyspace[shard])
        self._note(shard, target, tier, reason)

    def add(self, shard: int, target: int, role: Role, tier: Tier, reason: str) -> None:
        self._spend(shard, NOBODY, target, role)
        self.board.add(shard, target, role)
        self._note(shard, target, tier, reason)

    def remove(self, shard: int, source: int, tier: Tier, reason: str) -> None:
        self.board.remove(shard, source)
        self._note(shard, source, tier, reason)

    def transfer(self, shard: int, target: int, tier: Tier, reason: str) -> None:
        self.board.transfer(shard, target)
        self._note(shard, LEADS, tier, reason)

    def _spend(self, shard: int, source: int, target: int, role: Role) -> None:
        copies = self._copies(shard, source, target, role)
        self.moves += copies
        self.bytes += copies * self.board.size[shard]

    def _note(self, shard: int, target: int, tier: Tier, reason: str) -> None:
        self._numbers += 1
        first = self.changed.get(shard)
        if first is None or tier < first[0]:
            self.changed[shard] = (tier, self._numbers)
        self.reasons[shard, target] = self.latest[shard] = reason

    # -- words ---------------------------------------------------------------------------------------------------

    def refuse(self, subject: str, reason: str, remedy: str) -> None:
        """Keep a refusal; beyond `refusals_max` only count it."""
        if len(self.refusals) < self.settings.refusals_max:
            self.refusals.append(Refusal(subject, reason, remedy))
        else:
            self.refused += 1

    def name(self, node: int) -> str:
        return self.board.id_of_node[node]

    def shard_name(self, shard: int) -> str:
        return f"shard {self.board.id_of_shard[shard]}"

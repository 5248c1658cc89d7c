"""What a node holds in memory for others, in accounts with a bound each: pure, and asked before anything is kept.

The bound of the whole node is divided once (`SHARES`), so that what one kind of work holds never keeps another from being
done: clients whose answers wait take nothing from the entries that replicas have to agree on. Whoever is about to keep
something takes its bytes from an account, and gives them back when it is gone. Where there is no room, what would have been
kept is refused (`refusal` has the words) and nothing else happens; long before that, from `TIGHT` on, less is let in.

The first thing of an account always fits, however small its bound is: a node with little memory does everything, one thing at
a time. So an account holds at most its bound and one more thing.

A process may find that it has more memory than it should, whatever the accounts say (fragments, the interpreter's own
overhead). It then has the bounds made smaller for a while: `squeeze`.
"""

from __future__ import annotations

from enum import IntEnum

from shoal_server.invariants import invariant

MIB = 1 << 20
LEAST_BYTES = 128 * MIB
"""Below that there is nothing to divide."""
TIGHT = 0.75
"""From this part of its bound on an account is tight: reading is paused, and caches do not grow."""
SQUEEZED_LEAST = 0.25
"""Of what the bounds would be, so much is left however much memory the process has otherwise."""


class Account(IntEnum):
    """What memory is held for."""

    CONNECTIONS = 0
    """Places, greeted or not: what the process and the system need for each."""
    FRAMES = 1
    """Frames of which a part has arrived."""
    REQUESTS = 2
    """Requests that were received, and not answered yet."""
    ANSWERS = 3
    """Answers that were made, and have not left yet."""
    ENTRIES = 4
    """Log entries proposed here, and not committed yet; what is in them, as it came and decoded, until they are applied."""
    LOG_CACHE = 5
    """Log entries that are kept for peers that lag a little, and those still to be applied."""
    PEERS = 6
    """Messages to peers that have not left yet."""
    SNAPSHOTS = 7
    """Pages of snapshots on their way."""
    RESULTS = 8
    """Sessions, and results of writes, remembered for those who repeat them."""
    CALLS = 9
    """Messages of gRPC's callers, from their first byte until they are answered. The API's own thread alone touches it."""

    @property
    def label(self) -> str:
        """Its name in metrics and in words."""
        return self.name.lower()


SHARES = {
    Account.CONNECTIONS: 100,
    Account.FRAMES: 100,
    Account.REQUESTS: 250,
    Account.ANSWERS: 125,
    Account.ENTRIES: 100,
    Account.LOG_CACHE: 75,
    Account.PEERS: 75,
    Account.SNAPSHOTS: 25,
    Account.RESULTS: 75,
    Account.CALLS: 75,
}
"""Of a thousand parts."""
invariant(set(SHARES) == set(Account) and sum(SHARES.values()) == 1000, "all memory is divided among all accounts")


class MemoryBudget:
    """The accounts of one node. All sizes are in bytes.

    Invariant: nothing is given back that was not taken.

    Attributes:
        total: what is divided.
        refused: by account, how often there was no room.
    """

    __slots__ = ("_bounds", "_used", "refused", "squeezed", "total")

    def __init__(self, total: int) -> None:
        self.total = max(LEAST_BYTES, total)
        self.squeezed = 1.0
        self._used = [0] * len(Account)
        self._bounds = [0] * len(Account)
        self.refused = [0] * len(Account)
        self.squeeze(1.0)

    def take(self, account: Account, size: int) -> bool:
        """Take `size` bytes, or say that there is no room for them, and take none."""
        used = self._used[account]
        if used and used + size > self._bounds[account]:
            self.refused[account] += 1
            return False
        self._used[account] = used + size
        return True

    def has_room(self, account: Account, size: int) -> bool:
        """Say whether there is room for `size` bytes; where there is none, that is counted as refused."""
        used = self._used[account]
        if used and used + size > self._bounds[account]:
            self.refused[account] += 1
            return False
        return True

    def add(self, account: Account, size: int) -> None:
        """Take `size` bytes that are there already, whether there is room or not."""
        self._used[account] += size

    def give_back(self, account: Account, size: int) -> None:
        """Give `size` bytes back."""
        left = self._used[account] - size
        invariant(left >= 0, "no memory is given back that was not taken")
        self._used[account] = left

    def change(self, account: Account, by: int) -> None:
        """Say that what is held has become more, or less, whether there is room or not."""
        if by < 0:
            self.give_back(account, -by)
        else:
            self._used[account] += by

    def used(self, account: Account) -> int:
        """Return how much is taken."""
        return self._used[account]

    def bound(self, account: Account) -> int:
        """Return how much may be taken."""
        return self._bounds[account]

    def pressure(self, account: Account) -> float:
        """Return which part of its bound an account has taken; above 1 where more is there than may be."""
        return self._used[account] / self._bounds[account]

    def is_full(self, account: Account) -> bool:
        """Say whether an account holds all that it may."""
        return self._used[account] >= self._bounds[account]

    def is_tight(self, account: Account) -> bool:
        """Say whether less is to be let in of what this account is for."""
        return self._used[account] > TIGHT * self._bounds[account]

    @property
    def used_total(self) -> int:
        """What all accounts hold together."""
        return sum(self._used)

    def squeeze(self, part: float) -> None:
        """Have every bound be this part of its share, of which `SQUEEZED_LEAST` is always left."""
        self.squeezed = min(1.0, max(SQUEEZED_LEAST, part))
        for account, share in SHARES.items():
            self._bounds[account] = int(self.total * share * self.squeezed) // 1000

    def refusal(self, account: Account) -> str:
        """Say what there was no room for, the bound, and what would be right; for whom it is refused."""
        return (
            f"the node holds {self._used[account]} bytes of {account.label}, of {self._bounds[account]} that it may: try again "
            "later or with less at once, or give nodes more (limits.memory)"
        )

"""What clients may do in a keyspace here: its quotas' buckets of tokens, filled at the rate of this node's shares.

A bucket holds a second's worth at most: of the share, or of what the share would be were it the same for all. So a node that
comes to serve more has something to begin with, and all nodes together let through one quota's second more than the quota,
twice that at the most, after any pause. A request is let through while there is anything in the bucket, and taken off
whole, also below zero: what is larger than the bucket can be had, and what only turns out later (the rows of a scan) is
taken off then. So in the long run no more goes through than the quota, and nothing is too large to go through at all.

Who is refused is told when to come back: after those who were refused before, as if they stood in a queue.

Nobody waits for a manager here: a node takes equal shares before it has heard of any, and keeps the last ones that it has.
Pure: times are passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.bounds import WHOLE
from shoal.protocol.messages import Atomic, Operation
from shoal.protocol.quotas import QuotaUse
from shoal.shardmap import Keyspace
from shoal.write_costs import TOUCH_US, bytes_cost

from shoal_server.node.token_bucket import TokenBucket
from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.costs import COMMAND_US

BURST_SECONDS = 1.0
FULL_RETRY_MS = 5_000
"""A keyspace that is full is counted, told and heard of again within about this."""


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """A request is more than a quota allows now: why, and when to ask again."""

    words: str
    retry_after_ms: int


class KeyspaceQuota:
    """The quotas of one keyspace, as far as they are this node's.

    Attributes:
        full: it has as many bytes as it may; what adds to it is refused.
        refused: requests.
    """

    __slots__ = (
        "_asked_reads",
        "_asked_writes",
        "_equal",
        "_keyspace",
        "_node",
        "_read_share",
        "_reads",
        "_refused_at",
        "_write_share",
        "_writes",
        "full",
        "refused",
    )

    def __init__(self, node: str, keyspace: Keyspace, now: int) -> None:
        self.full = False
        self.refused = 0
        self._node = node
        self._keyspace = keyspace
        self._reads, self._writes = TokenBucket(now), TokenBucket(now)
        self._read_share: int | None = None
        self._write_share: int | None = None
        self._equal = WHOLE
        self._asked_reads = self._asked_writes = 0
        self._refused_at: int | None = None

    def adopt(self, keyspace: Keyspace, nodes: int, now: int) -> None:
        """Follow a newer shard map, by which so many nodes share the quotas."""
        self._keyspace = keyspace
        self._equal = WHOLE // max(1, nodes)
        self.full = self.full and keyspace.max_bytes > 0
        self._set_rates(now)

    def set_shares(self, reads: int, writes: int, *, full: bool, now: int) -> None:
        """Take shares (millionths) that the manager has dealt out."""
        self._read_share, self._write_share = reads, writes
        self.full = full and self._keyspace.max_bytes > 0
        self._set_rates(now)

    @property
    def read_share(self) -> int:
        """Of reads, in millionths."""
        return self._equal if self._read_share is None else self._read_share

    @property
    def write_share(self) -> int:
        """Of writes, in millionths."""
        return self._equal if self._write_share is None else self._write_share

    def _set_rates(self, now: int) -> None:
        keyspace = self._keyspace
        for bucket, quota, share in (
            (self._reads, keyspace.reads_per_second, self.read_share),
            (self._writes, keyspace.writes_per_second, self.write_share),
        ):
            depth = quota * max(share, self._equal) / WHOLE * BURST_SECONDS
            bucket.set_rate(quota * share / WHOLE, max(1.0, depth) if quota else 0.0, now)

    def admit(self, reads: int, writes: int, now: int) -> QuotaRefusal | None:
        """Let through a request that reads so many keys, or does so many operations; or say why not.

        Of a scan, which has yet to show how many rows it reads, 1 is taken; `charge` takes the rest.
        """
        keyspace = self._keyspace
        if reads:
            self._asked_reads += reads
            if keyspace.reads_per_second:
                wait = self._reads.take(reads, now)
                if wait:
                    return self._refuse(keyspace.reads_per_second, "reads", self.read_share, wait, now)
        if writes:
            self._asked_writes += writes
            if keyspace.writes_per_second:
                wait = self._writes.take(writes, now)
                if wait:
                    return self._refuse(keyspace.writes_per_second, "writes", self.write_share, wait, now)
        return None

    def charge(self, reads: int = 0, writes: int = 0) -> None:
        """Take off what a request that was let through has turned out to be more, or, negative, less than it said."""
        self._asked_reads = max(0, self._asked_reads + reads)
        self._asked_writes = max(0, self._asked_writes + writes)
        self._reads.level -= reads
        self._writes.level -= writes

    def admit_bytes(self, now: int) -> QuotaRefusal | None:
        """Let through a write that adds rows or makes them longer, unless the keyspace is full."""
        if not self.full:
            return None
        keyspace = self._keyspace
        self._refused(now)
        return QuotaRefusal(
            f"keyspace {keyspace.name!r} has used up its quota of {keyspace.max_bytes} bytes: what may add to it is "
            "refused, also a shorter value in place of a longer one, and deletes are not; it takes more within seconds to "
            f"minutes after rows have gone, or with a larger quota (`shoal keyspace alter {keyspace.name} --max-bytes SIZE`)",
            FULL_RETRY_MS,
        )

    def _refuse(self, quota: int, kind: str, share: int, wait: int, now: int) -> QuotaRefusal:
        self._refused(now)
        name, here = self._keyspace.name, round(quota * share / WHOLE, 1)
        return QuotaRefusal(
            f"keyspace {name!r} has used up its quota of {quota} {kind} a second, of which {here:g} are "
            f"node {self._node}'s now: ask again in {wait} ms, or for less",
            wait,
        )

    def _refused(self, now: int) -> None:
        self.refused += 1
        self._refused_at = now

    def use(self, now: int) -> QuotaUse:
        """Return how it stands."""
        since = self._refused_at
        return QuotaUse(
            keyspace=self._keyspace.id,
            reads=self.read_share,
            writes=self.write_share,
            full=self.full,
            asked_reads=self._asked_reads,
            asked_writes=self._asked_writes,
            refused=self.refused,
            refused_ms=-1 if since is None else max(0, now - since) // 1_000_000,
        )


def extra_operations_of(command: QueuedCommand) -> int:
    """Return how many operations a write is counted as beyond those that it says to have."""
    return extra_operations(command.operations or [], command.cost - COMMAND_US - bytes_cost(command.size))


def extra_operations(operations: list[Operation], us: int) -> int:
    """Return how many operations a write counts as beyond those that it says to have.

    Those that are within others; or, if that is more, as many touches as would be as much work as the write is, its conditions
    and ranges with it (`us`): no other operation on a single key is as much.
    """
    within = sum(len(each.operations) - 1 for each in operations if isinstance(each, Atomic) and each.operations)
    return max(within, us // TOUCH_US - len(operations))


def give_back(quota: KeyspaceQuota | None, commands: Iterable[QueuedCommand]) -> None:
    """Take note that nothing is done of commands that were let through."""
    if quota is not None:
        quota.charge(writes=-sum([command.taken for command in commands]))

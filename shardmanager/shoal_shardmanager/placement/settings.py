"""What an operator may tune about placement, and how long one planning may take; checked when built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal_shardmanager.placement.model import Load


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each objective counts. Unevenness is squared, in units of one average replica (see objective.py).

    `keyspace` multiplies `replicas` and `leaders` for a keyspace on its own. It must be above 1: else two keyspaces
    uneven in opposite ways look even together and neither would ever be mended by single moves.
    """

    replicas: float = 1.0
    leaders: float = 1.0
    keyspace: float = 2.0
    bytes: float = 0.5
    reads: float = 0.5
    writes: float = 0.5
    cpu: float = 0.5
    region_spread: float = 1.0
    leader_region: float = 2.0
    follower_region: float = 1.0

    def __post_init__(self) -> None:
        if any(getattr(self, name) < 0 for name in self.__slots__):
            raise ValueError("weights are 0 or more")
        if self.keyspace <= 1:
            raise ValueError("weights: keyspace must be above 1")


@dataclass(frozen=True, slots=True)
class Caps:
    """How many copies may be under way at once: per node (in or out), per shard, in the cluster.

    `transfers`: how many leaderships may change hands at once in the cluster (they copy nothing).
    """

    per_node: int = 2
    per_shard: int = 1
    per_cluster: int = 64
    transfers: int = 256

    def __post_init__(self) -> None:
        if min(self.per_node, self.per_shard, self.per_cluster, self.transfers) < 1:
            raise ValueError("caps are 1 or more")


LEADER_SHARE = Load(bytes=1, reads=1.0, writes=1.0, cpu=1.0)
OTHER_SHARE = Load(bytes=1, reads=0.2, writes=1.0, cpu=0.4)


@dataclass(frozen=True, slots=True)
class Settings:
    """`tolerance`: differences of load below this part of the mean are left alone, so that noise moves nothing.

    `move_cost` is what a copy must gain at least, `byte_cost` the same per average replica's bytes, `transfer_cost`
    that of a leadership transfer; a difference of two whole replicas gains 2. `disk_fill_max` is the part of a node's
    bytes that may be used. `leader_share` and `other_share`: the part of a shard's load that falls on the leader and on
    each other replica (bytes are always 1: every replica stores them all).
    """

    weights: Weights = field(default_factory=Weights)
    caps: Caps = field(default_factory=Caps)
    tolerance: float = 0.05
    move_cost: float = 0.5
    byte_cost: float = 0.1
    transfer_cost: float = 0.5
    disk_fill_max: float = 0.9
    leader_share: Load = LEADER_SHARE
    other_share: Load = OTHER_SHARE
    refusals_max: int = 1_000

    def __post_init__(self) -> None:
        if not 0 < self.disk_fill_max <= 1:
            raise ValueError("disk_fill_max is above 0 and at most 1")
        if not 0 <= self.tolerance < 1:
            raise ValueError("tolerance is from 0 up to, not with, 1")
        if min(self.move_cost, self.byte_cost) < 0 or self.move_cost <= 0 or self.transfer_cost <= 0:
            raise ValueError("costs are above 0: else two placements that are equally good would take turns")
        if (self.leader_share.bytes, self.other_share.bytes) != (1, 1):
            raise ValueError("every replica stores all bytes of its shard")
        if self.refusals_max < 1:
            raise ValueError("refusals_max is 1 or more")


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Budget:
    """What one planning may spend; None: no limit.

    `moves` and `bytes` limit what the plan copies, `effort` the number of (replica, node) pairs looked at, and
    `expired` is asked now and then: the caller's clock, if it has one. A plan that ends early is still a valid plan.
    """

    moves: int | None = None
    bytes: int | None = None
    effort: int | None = None
    expired: Callable[[], bool] = never

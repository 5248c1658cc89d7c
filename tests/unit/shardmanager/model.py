"""What the simulated cluster is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.protocol.messages import MicroshardLoad
from shoal.protocol.migration import MigrationEnd, MigrationStatus
from shoal.shardmap import MicroshardRange, NodeAddress, ShardMap


class RequestRefused(Exception):
    """A node says no."""


class Crashed(Exception):
    """The manager ends here; another one takes over."""


@dataclass
class Group:
    """One shard's Raft group, reduced to what its leader knows. `since` is when the last change began (ticks)."""

    voters: list[str]
    followers: list[str]
    leader: str
    term: int = 1
    version: int = 1
    changed_at: int = -10
    ranges: tuple[MicroshardRange, ...] = ()
    match: dict[str, int] = field(default_factory=dict)
    outgoing: MigrationStatus | None = None
    incoming: MigrationStatus | None = None
    ended: dict[int, MigrationEnd] = field(default_factory=dict)
    hot: tuple[MicroshardLoad, ...] = ()
    bytes: int = 0
    children: tuple[int, ...] = ()
    before: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    @property
    def members(self) -> list[str]:
        return self.voters + self.followers


@dataclass
class SimulatedNode:
    """`impostor`: something answers to the manager in its place, which its peers turn away."""

    address: NodeAddress
    map: ShardMap
    replicas: set[int]
    runs: bool = True
    map_derived: bool = False
    incarnation: str = "i"
    impostor: bool = False
    began_ms: int = 0

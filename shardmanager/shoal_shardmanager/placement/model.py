"""What placement reads and what it answers: frozen values, no behaviour beyond look-ups.

Names are those of the cluster: nodes by their text id, keyspaces and shards by number. Loads and capacities are per
metric, in the units of `Load`; a replica's own share of its shard's load is `Settings.leader_share` and `other_share`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class NodeState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"  # serves, receives nothing, is to end empty
    GONE = "gone"  # given up: its replicas are to be replaced


class Role(StrEnum):
    VOTER = "voter"
    FOLLOWER = "follower"


class Mode(StrEnum):
    EMERGENCY = "emergency"  # replace what is lost, restore replica counts, nothing else
    PERIODIC = "periodic"  # that, and drain, spread, preferences, evenness
    LEADERS = "leaders"  # evenness of leaders, and no replica is moved


@dataclass(frozen=True, slots=True)
class Load:
    """A load or a capacity: bytes stored, reads/s, writes/s, and CPU in cores. As a capacity, 0 means not known."""

    bytes: int = 0
    reads: float = 0.0
    writes: float = 0.0
    cpu: float = 0.0


NO_LOAD = Load()

METRICS = ("bytes", "reads", "writes", "cpu")


@dataclass(frozen=True, slots=True)
class Node:
    """`zone` is within `region`; "" means that no zone is known, and the node is a failure domain of its own.

    `weight` is its fair share of replicas and leaders next to other nodes; `replicas_max` 0 means no limit.
    `closed`: why it is to be given neither replicas nor leaderships for now, though it keeps what it has; `not_leading`:
    why it is to be given no leaderships. "": it may be. It hands over itself what it leads.
    """

    id: str
    region: str = ""
    zone: str = ""
    state: NodeState = NodeState.ACTIVE
    capacity: Load = NO_LOAD
    replicas_max: int = 0
    weight: float = 1.0
    closed: str = ""
    not_leading: str = ""


@dataclass(frozen=True, slots=True)
class Keyspace:
    """`required` is how many replicas (voters and followers together) each region must hold at least.

    Preferred regions are in order, the best first; empty: any.
    """

    id: int
    voters: int = 3
    followers: int = 0
    required: dict[str, int] = field(default_factory=dict)
    leader_regions: tuple[str, ...] = ()
    follower_regions: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard where it is now. `leader` "": none known. `load` is the whole shard's; bytes are those of one copy.

    `busy`: an operation is on it, so placement leaves it alone; `incoming` are the nodes that operation is filling,
    which count as holding a copy already.
    """

    id: int
    keyspace: int
    voters: tuple[str, ...]
    followers: tuple[str, ...] = ()
    leader: str = ""
    load: Load = NO_LOAD
    busy: bool = False
    incoming: tuple[str, ...] = ()

    @property
    def replicas(self) -> tuple[str, ...]:
        return self.voters + self.followers


@dataclass(frozen=True, slots=True)
class State:
    nodes: tuple[Node, ...]
    keyspaces: tuple[Keyspace, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class MoveReplica:
    """Fill `target`, then give up `source`. Where `leads`, the leadership goes from source to target on the way.

    `wave`: steps of one wave may run at once, within the caps; a wave begins when the one before has ended.
    """

    shard: int
    role: Role
    source: str
    target: str
    bytes: int
    reason: str
    leads: bool = False
    wave: int = 0


@dataclass(frozen=True, slots=True)
class AddReplica:
    shard: int
    role: Role
    target: str
    bytes: int
    reason: str
    wave: int = 0


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    shard: int
    role: Role
    source: str
    reason: str
    wave: int = 0


@dataclass(frozen=True, slots=True)
class TransferLeader:
    shard: int
    source: str
    target: str
    reason: str
    wave: int = 0


PlannedStep = MoveReplica | AddReplica | RemoveReplica | TransferLeader


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that should be done and is not: about what, why not, and what would make it possible."""

    subject: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Scores:
    """How good a placement is; 0 is perfect everywhere.

    The first seven count broken hard constraints (`over_capacity`: nodes above
    their disk space or replicas_max); `overload` is the load above capacities, in average replicas;
    `preferences` is the weighted sum of preferences not met; the rest are unevenness over active nodes: standard
    deviation of the relative load, divided by its mean. `keyspace_*` is the mean over keyspaces, by size, of the same
    for the keyspace alone. `cost` is what the search makes smaller, per replica.
    """

    missing: int
    surplus: int
    gone: int
    draining: int
    crowded: int
    region_shortage: int
    over_capacity: int
    overload: float
    preferences: float
    replicas: float
    leaders: float
    bytes: float
    reads: float
    writes: float
    cpu: float
    keyspace_replicas: float
    keyspace_leaders: float
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, what was refused, how good the placement was and would be.

    `stopped` says which budget ended the search early; "" when it ended by itself.
    """

    mode: Mode
    steps: tuple[PlannedStep, ...]
    refusals: tuple[Refusal, ...]
    before: Scores
    after: Scores
    stopped: str = ""

    @property
    def waves(self) -> int:
        return 1 + max((step.wave for step in self.steps), default=-1)

    @property
    def moves(self) -> int:
        """How many steps copy data."""
        return sum(isinstance(step, MoveReplica | AddReplica) for step in self.steps)

    @property
    def bytes(self) -> int:
        """How many bytes the plan copies."""
        return sum(step.bytes for step in self.steps if isinstance(step, MoveReplica | AddReplica))

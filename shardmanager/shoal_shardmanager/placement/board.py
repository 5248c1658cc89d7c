"""The placement as the search sees it: numbers instead of names, and every sum kept up to date by each change.

Loads are in units of one average replica (each metric scaled so that they sum to the number of replicas), capacities
are scaled to a mean of 1 over active nodes. So metrics compare, and a node's fair load is `mean` times its capacity.

Invariants: `count`, `lead`, `disk`, `load`, `kept`, `ruled`, `on` and `led` are the sums over `voters`, `followers`,
`extra` and `leader`; no shard has two replicas on a node; a leader is a voter on a node that is not gone.
"""

from __future__ import annotations

from shoal_shardmanager.placement.domains import Domains, KeyspaceRules
from shoal_shardmanager.placement.invariants import invariant
from shoal_shardmanager.placement.model import METRICS, Load, Node, NodeState, Role, Shard, State
from shoal_shardmanager.placement.settings import Settings

NOBODY = -1
UNLIMITED = 1 << 62

Vector = tuple[float, float, float, float]
Six = tuple[float, float, float, float, float, float]  # the metrics, replicas, leaders


class Board:
    """One mutable placement. Nodes and shards are numbered in the order of the state."""

    __slots__ = (
        "active", "caps", "closed", "count", "disk", "domain", "domains", "extra", "followers", "gone", "grad", "id_of_node",
        "id_of_shard", "index", "inv", "kept", "keyspace", "lead", "leader", "leads", "led", "load", "locked", "mean",
        "nodes", "on", "origin", "quad", "region", "room", "ruled", "rules", "seats", "settings", "shard_index", "shards_of",
        "size", "v_lead", "v_other", "voters", "weights",
    )  # fmt: skip

    def __init__(self, state: State, settings: Settings) -> None:
        check_state(state)
        self.settings = settings
        nodes, shards = state.nodes, state.shards
        self.nodes = nodes
        self.id_of_node = [node.id for node in nodes]
        self.index = {node.id: number for number, node in enumerate(nodes)}
        self.id_of_shard = [shard.id for shard in shards]
        self.shard_index = {shard.id: number for number, shard in enumerate(shards)}
        self.active = [node.state is NodeState.ACTIVE for node in nodes]
        self.gone = [node.state is NodeState.GONE for node in nodes]
        self.closed = [bool(node.closed) for node in nodes]
        self.leads = [node.state is NodeState.ACTIVE and not (node.closed or node.not_leading) for node in nodes]
        self.domains = Domains(nodes)
        self.domain, self.region = self.domains.domain, self.domains.region
        numbers = {keyspace.id: number for number, keyspace in enumerate(state.keyspaces)}
        self.rules = [KeyspaceRules(keyspace, self.domains, settings.weights) for keyspace in state.keyspaces]
        self.keyspace = [numbers[shard.keyspace] for shard in shards]
        self.shards_of: list[list[int]] = [[] for _ in self.rules]
        for number, keyspace in enumerate(self.keyspace):
            self.shards_of[keyspace].append(number)
        self.seats = [node.replicas_max or UNLIMITED for node in nodes]
        self.room = [
            int(node.capacity.bytes * settings.disk_fill_max) if node.capacity.bytes else UNLIMITED for node in nodes
        ]
        self.size = [shard.load.bytes for shard in shards]
        self.locked = [shard.busy for shard in shards]
        self._scale(nodes, shards)
        self._place(shards)

    def _scale(self, nodes: tuple[Node, ...], shards: tuple[Shard, ...]) -> None:
        """Bring loads to units of an average replica, and capacities to a mean of 1."""
        leading, other = _shares(self.settings.leader_share), _shares(self.settings.other_share)
        # Replicas still to come count too, so that the scale does not change while they are placed.
        copies_of = [
            max(len(shard.replicas) + len(shard.incoming), self.rules[k].voters + self.rules[k].followers)
            for shard, k in zip(shards, self.keyspace, strict=True)
        ]
        replicas = sum(copies_of)
        totals = [0.0, 0.0, 0.0, 0.0]
        for shard, copies in zip(shards, copies_of, strict=True):
            for metric, amount in enumerate(_shares(shard.load)):
                totals[metric] += amount * (leading[metric] + (copies - 1) * other[metric])
        factor = [replicas / total if total > 0 else 0.0 for total in totals]
        f_lead = [factor[metric] * leading[metric] for metric in range(4)]
        f_other = [factor[metric] * other[metric] for metric in range(4)]
        self.v_lead: list[Vector] = []
        self.v_other: list[Vector] = []
        for shard in shards:
            b, r, w, c = _shares(shard.load)
            self.v_lead.append((b * f_lead[0], r * f_lead[1], w * f_lead[2], c * f_lead[3]))
            self.v_other.append((b * f_other[0], r * f_other[1], w * f_other[2], c * f_other[3]))
        self.mean = replicas / max(1, sum(self.active))
        weights = self.settings.weights
        self.weights: Six = (
            weights.bytes,
            weights.reads,
            weights.writes,
            weights.cpu,
            weights.replicas,
            weights.leaders,
        )
        relative = [_relative([_shares(node.capacity)[metric] for node in nodes], self.active) for metric in range(4)]
        relative.append(_relative([node.weight for node in nodes], self.active))
        # A node that may receive nothing has no price of its own (inv 0), so leaving it always pays.
        self.inv: list[tuple[float, float, float, float, float]] = []
        self.quad: list[Six] = []
        for n, active in enumerate(self.active):
            b, r, w, c, even = (1.0 / column[n] if active else 0.0 for column in relative)
            self.inv.append((b, r, w, c, even))
            wb, wr, ww, wc, wn, wl = self.weights
            # Nor are leaders evened over a node that may not lead: it has none to be compared with.
            self.quad.append((wb * b, wr * r, ww * w, wc * c, wn * even, wl * even if self.leads[n] else 0.0))
        self.caps: list[Vector] = []
        for node in nodes:
            known = _shares(node.capacity)
            limit = [known[m] * factor[m] if known[m] else float("inf") for m in range(4)]
            if node.state is not NodeState.ACTIVE:
                limit = [0.0, 0.0, 0.0, 0.0]
            self.caps.append((limit[0], limit[1], limit[2], limit[3]))

    def _place(self, shards: tuple[Shard, ...]) -> None:
        size = len(self.id_of_node)
        self.count = [0] * size
        self.lead = [0] * size
        self.disk = [0] * size
        self.load = [[0.0, 0.0, 0.0, 0.0] for _ in range(size)]
        self.kept: list[dict[int, int]] = [{} for _ in range(size)]  # keyspace -> replicas on the node
        self.ruled: list[dict[int, int]] = [{} for _ in range(size)]  # keyspace -> leaders on the node
        self.on: list[set[int]] = [set() for _ in range(size)]
        self.led: list[set[int]] = [set() for _ in range(size)]
        self.grad: list[Six] = [(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)] * size
        index = self.index
        self.voters = [[index[name] for name in shard.voters] for shard in shards]
        self.followers = [[index[name] for name in shard.followers] for shard in shards]
        self.extra = [[index[name] for name in shard.incoming] for shard in shards]
        self.leader = [NOBODY] * len(shards)
        for number, shard in enumerate(shards):
            for node in (*self.voters[number], *self.followers[number], *self.extra[number]):
                self._occupy(number, node)
            leader = index.get(shard.leader, NOBODY)
            if leader != NOBODY and not self.gone[leader]:  # the group elects another by itself
                self._crown(number, leader)
        for node in range(size):
            self._reprice(node)
        self.origin = [(tuple(v), tuple(f)) for v, f in zip(self.voters, self.followers, strict=True)]

    # -- changes -------------------------------------------------------------------------------------------------

    def move(self, shard: int, source: int, target: int) -> None:
        """Give the replica on `source` to `target`, with its role, and its leadership if it leads."""
        invariant(target not in self.on_shard(shard), "never two replicas of a shard on a node")
        seats = self.voters[shard] if source in self.voters[shard] else self.followers[shard]
        leads = self.leader[shard] == source
        if leads:
            self._uncrown(shard)
        self._vacate(shard, source)
        seats[seats.index(source)] = target
        self._occupy(shard, target)
        if leads:
            self._crown(shard, target)
        self._reprice(source)
        self._reprice(target)

    def add(self, shard: int, target: int, role: Role) -> None:
        invariant(target not in self.on_shard(shard), "never two replicas of a shard on a node")
        (self.voters if role is Role.VOTER else self.followers)[shard].append(target)
        self._occupy(shard, target)
        self._reprice(target)

    def remove(self, shard: int, source: int) -> None:
        invariant(self.leader[shard] != source, "a leader is not removed: its leadership is moved before")
        (self.voters if source in self.voters[shard] else self.followers)[shard].remove(source)
        self._vacate(shard, source)
        self._reprice(source)

    def transfer(self, shard: int, target: int) -> None:
        """Make `target`, a voter, the leader (from whoever it was)."""
        invariant(target in self.voters[shard], "only a voter leads")
        source = self.leader[shard]
        if source != NOBODY:
            self._uncrown(shard)
            self._reprice(source)
        self._crown(shard, target)
        self._reprice(target)

    def resign(self, shard: int) -> None:
        """Leave the shard without a leader."""
        source = self.leader[shard]
        self._uncrown(shard)
        self._reprice(source)

    def restore(self, shard: int, voters: tuple[int, ...], followers: tuple[int, ...], leader: int) -> None:
        """Put the shard's replicas where they are told to be."""
        if self.leader[shard] != NOBODY:
            self.resign(shard)
        before = self.voters[shard] + self.followers[shard]
        self.voters[shard], self.followers[shard] = list(voters), list(followers)
        after = self.voters[shard] + self.followers[shard]
        for node in before:
            if node not in after:
                self._vacate(shard, node)
                self._reprice(node)
        for node in after:
            if node not in before:
                self._occupy(shard, node)
                self._reprice(node)
        if leader != NOBODY:
            self.transfer(shard, leader)

    # -- look-ups ------------------------------------------------------------------------------------------------

    def on_shard(self, shard: int) -> list[int]:
        """Return every node that holds a copy, those being filled included."""
        return self.voters[shard] + self.followers[shard] + self.extra[shard]

    def role_of(self, shard: int, node: int) -> Role:
        return Role.VOTER if node in self.voters[shard] else Role.FOLLOWER

    def vector(self, shard: int, *, leads: bool) -> Vector:
        return self.v_lead[shard] if leads else self.v_other[shard]

    def active_nodes(self) -> list[int]:
        return [node for node, active in enumerate(self.active) if active]

    def leading_nodes(self) -> list[int]:
        """Return the nodes that may be given leaderships."""
        return [node for node, leads in enumerate(self.leads) if leads]

    def check(self) -> None:
        """Compare every kept sum with a fresh count (costly: for tests)."""
        count, lead, disk = [0] * len(self.count), [0] * len(self.count), [0] * len(self.count)
        for shard in range(len(self.keyspace)):
            members = self.on_shard(shard)
            invariant(len(set(members)) == len(members), "never two replicas of a shard on a node")
            for node in members:
                count[node] += 1
                disk[node] += self.size[shard]
                invariant(shard in self.on[node], "on names every replica")
            if self.leader[shard] != NOBODY:
                lead[self.leader[shard]] += 1
                invariant(self.leader[shard] in self.voters[shard], "a leader is a voter")
        invariant((count, lead, disk) == (self.count, self.lead, self.disk), "sums are those of the replicas")
        invariant(count == [len(shards) for shards in self.on], "on names nothing else")
        invariant(lead == [len(shards) for shards in self.led], "led names every leadership")

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def _occupy(self, shard: int, node: int) -> None:
        self.count[node] += 1
        self.disk[node] += self.size[shard]
        self.on[node].add(shard)
        kept, keyspace = self.kept[node], self.keyspace[shard]
        kept[keyspace] = kept.get(keyspace, 0) + 1
        _shift(self.load[node], self.v_other[shard], 1.0)

    def _vacate(self, shard: int, node: int) -> None:
        self.count[node] -= 1
        self.disk[node] -= self.size[shard]
        self.on[node].remove(shard)
        self.kept[node][self.keyspace[shard]] -= 1
        _shift(self.load[node], self.v_other[shard], -1.0)

    def _crown(self, shard: int, node: int) -> None:
        self.leader[shard] = node
        self.lead[node] += 1
        self.led[node].add(shard)
        ruled, keyspace = self.ruled[node], self.keyspace[shard]
        ruled[keyspace] = ruled.get(keyspace, 0) + 1
        _shift(self.load[node], self.v_lead[shard], 1.0)
        _shift(self.load[node], self.v_other[shard], -1.0)

    def _uncrown(self, shard: int) -> None:
        node = self.leader[shard]
        self.leader[shard] = NOBODY
        self.lead[node] -= 1
        self.led[node].remove(shard)
        self.ruled[node][self.keyspace[shard]] -= 1
        _shift(self.load[node], self.v_other[shard], 1.0)
        _shift(self.load[node], self.v_lead[shard], -1.0)

    def _reprice(self, node: int) -> None:
        """Keep the slope of the objective at the node: what a little more of each metric would cost there."""
        b, r, w, c = self.load[node]
        q = self.quad[node]
        self.grad[node] = (
            2 * q[0] * b, 2 * q[1] * r, 2 * q[2] * w, 2 * q[3] * c, 2 * q[4] * self.count[node],
            2 * q[5] * self.lead[node],
        )  # fmt: skip


def check_state(state: State) -> None:
    """Refuse a state that contradicts itself (`ValueError`): unknown names, twins, a leader that is no voter."""
    nodes = {node.id for node in state.nodes}
    keyspaces = {keyspace.id for keyspace in state.keyspaces}
    if len(nodes) != len(state.nodes):
        raise ValueError("two nodes have the same id")
    if len(keyspaces) != len(state.keyspaces):
        raise ValueError("two keyspaces have the same id")
    if len({shard.id for shard in state.shards}) != len(state.shards):
        raise ValueError("two shards have the same id")
    for node in state.nodes:
        if node.weight <= 0 or node.replicas_max < 0 or min(_shares(node.capacity)) < 0:
            raise ValueError(f"node {node.id}: weight is above 0, limits and capacities are 0 or more")
    for keyspace in state.keyspaces:
        if keyspace.voters < 1 or keyspace.followers < 0:
            raise ValueError(f"keyspace {keyspace.id}: voters are 1 or more, followers 0 or more")
        if sum(keyspace.required.values()) > keyspace.voters + keyspace.followers:
            raise ValueError(f"keyspace {keyspace.id}: more replicas are required in regions than it has")
    for shard in state.shards:
        copies = shard.replicas + shard.incoming
        if shard.keyspace not in keyspaces:
            raise ValueError(f"shard {shard.id}: unknown keyspace {shard.keyspace}")
        if not nodes.issuperset(copies):
            raise ValueError(f"shard {shard.id}: unknown node {min(set(copies) - nodes)}")
        if len(set(copies)) != len(copies):
            raise ValueError(f"shard {shard.id}: two replicas on a node")
        if shard.leader and shard.leader not in shard.voters:
            raise ValueError(f"shard {shard.id}: leader {shard.leader} is not a voter")
        if shard.incoming and not shard.busy:
            raise ValueError(f"shard {shard.id}: incoming replicas, but no operation on it")
        if min(_shares(shard.load)) < 0:
            raise ValueError(f"shard {shard.id}: negative load")


def _shares(load: Load) -> Vector:
    return load.bytes, load.reads, load.writes, load.cpu


def _relative(amounts: list[float], active: list[bool]) -> list[float]:
    """Scale capacities to a mean of 1 over active nodes; a node whose own is not known (0) counts as average."""
    known = [amount for amount, is_active in zip(amounts, active, strict=True) if is_active and amount > 0]
    average = sum(known) / len(known) if known else 1.0
    filled = [amount if amount > 0 else average for amount in amounts]
    usable = [amount for amount, is_active in zip(filled, active, strict=True) if is_active]
    mean = sum(usable) / len(usable) if usable else 1.0
    return [amount / mean for amount in filled]


def _shift(load: list[float], by: Vector, sign: float) -> None:
    load[0] += sign * by[0]
    load[1] += sign * by[1]
    load[2] += sign * by[2]
    load[3] += sign * by[3]


invariant(len(METRICS) == 4, "the vectors here have one place for each metric")

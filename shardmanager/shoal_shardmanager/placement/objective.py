"""The soft objectives: a preference cost for each shard, and one convex cost of unevenness over the nodes.

Unevenness is the sum over nodes and metrics of weight * load^2 / capacity. For a fixed total that is least exactly when
load is in proportion to capacity (Cauchy-Schwarz), and it is separable: the gain of a move is what the source gives
back minus what the target charges, each a few multiplications. Replicas, leaders and either of each keyspace are metrics
like the others, with load 1. Because a change is made only where preferences get better, or stay and the cost falls by
a minimum, no sequence of plans can run in a circle while the loads stand still (hill climbing with a threshold).

Preferences come before evenness: a leader in the preferred region stays there however many leaders that region has.
"""

from __future__ import annotations

from math import sqrt

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.constraints import crowding, overfull, overload, pairs, shortage
from shoal_shardmanager.placement.model import Role, Scores


def charge(board: Board, shard: int, node: int, *, leads: bool) -> float:
    """Return what the cost grows by when `node` takes a replica of the shard (and its leadership)."""
    lb, lr, lw, lc = board.v_lead[shard] if leads else board.v_other[shard]
    gb, gr, gw, gc, gn, gl = board.grad[node]
    qb, qr, qw, qc, qn, ql = board.quad[node]
    keyspace = board.keyspace[shard]
    cost = lb * (gb + lb * qb) + lr * (gr + lr * qr) + lw * (gw + lw * qw) + lc * (gc + lc * qc) + gn + qn
    factor = board.settings.weights.keyspace
    cost += factor * qn * (2 * board.kept[node].get(keyspace, 0) + 1)
    if leads:
        cost += gl + ql + factor * ql * (2 * board.ruled[node].get(keyspace, 0) + 1)
    return cost


def release(board: Board, shard: int, node: int, *, leads: bool) -> float:
    """Return what the cost falls by when `node` gives up its replica (and the leadership); 0 on a node not active."""
    lb, lr, lw, lc = board.v_lead[shard] if leads else board.v_other[shard]
    gb, gr, gw, gc, gn, gl = board.grad[node]
    qb, qr, qw, qc, qn, ql = board.quad[node]
    keyspace = board.keyspace[shard]
    cost = lb * (gb - lb * qb) + lr * (gr - lr * qr) + lw * (gw - lw * qw) + lc * (gc - lc * qc) + gn - qn
    factor = board.settings.weights.keyspace
    cost += factor * qn * (2 * board.kept[node].get(keyspace, 0) - 1)
    if leads:
        cost += gl - ql + factor * ql * (2 * board.ruled[node].get(keyspace, 0) - 1)
    return cost


def move_gain(board: Board, shard: int, source: int, target: int) -> float:
    leads = board.leader[shard] == source
    return release(board, shard, source, leads=leads) - charge(board, shard, target, leads=leads)


def transfer_gain(board: Board, shard: int, target: int) -> float:
    """Return what the cost falls by when `target`, a voter, leads instead of the leader there is (if any)."""
    source, keyspace = board.leader[shard], board.keyspace[shard]
    lead, other = board.v_lead[shard], board.v_other[shard]
    factor = board.settings.weights.keyspace
    grad, quad = board.grad[target], board.quad[target]
    gain = -(grad[5] + quad[5] + factor * quad[5] * (2 * board.ruled[target].get(keyspace, 0) + 1))
    if source != NOBODY:
        from_grad, from_quad = board.grad[source], board.quad[source]
        gain += from_grad[5] - from_quad[5] + factor * from_quad[5] * (2 * board.ruled[source].get(keyspace, 0) - 1)
    for metric in (1, 2, 3):
        more = lead[metric] - other[metric]
        if more:
            gain -= more * (grad[metric] + more * quad[metric])
            if source != NOBODY:
                gain += more * (from_grad[metric] - more * from_quad[metric])
    return gain


def move_price(board: Board, shard: int) -> float:
    """Return what a move of the shard's replica must gain: copies cost, and large ones more."""
    return board.settings.move_cost + board.settings.byte_cost * board.v_other[shard][0]


def noise(board: Board, shard: int, *, leads: bool) -> float:
    """Return the gain that lies within the tolerance: that of evening a difference of so much load and no more."""
    vector, weights = board.vector(shard, leads=leads), board.weights
    weighed = sum(weights[metric] * vector[metric] for metric in range(4))
    return board.settings.tolerance * board.mean * weighed


def preference(board: Board, shard: int) -> float:
    """Return the shard's cost of preferences not met (live replicas only)."""
    return _preference(board, shard, board.voters[shard], board.followers[shard], board.leader[shard])


def preference_after_move(board: Board, shard: int, source: int, target: int) -> float:
    """Return the preference cost if `source` gave its replica to `target` (source NOBODY: an added voter)."""
    voters = [target if node == source else node for node in board.voters[shard]]
    followers = [target if node == source else node for node in board.followers[shard]]
    leader = board.leader[shard]
    return _preference(board, shard, voters, followers, target if leader == source != NOBODY else leader)


def preference_after_add(board: Board, shard: int, target: int, role: Role) -> float:
    voters, followers = board.voters[shard], board.followers[shard]
    if role is Role.VOTER:
        return _preference(board, shard, [*voters, target], followers, board.leader[shard])
    return _preference(board, shard, voters, [*followers, target], board.leader[shard])


def preference_after_transfer(board: Board, shard: int, target: int) -> float:
    return _preference(board, shard, board.voters[shard], board.followers[shard], target)


def _preference(board: Board, shard: int, voters: list[int], followers: list[int], leader: int) -> float:
    rules, region, gone = board.rules[board.keyspace[shard]], board.region, board.gone
    weights = board.settings.weights
    regions = [region[node] for node in voters if not gone[node]]
    cost: float = weights.region_spread * pairs(regions)
    if rules.keyspace.leader_regions and regions:
        rank = rules.leader_rank
        # Half a weight for a voter that could lead there: else no voter would go where the leader should be.
        cost += weights.leader_region * 0.5 * min(rank[place] for place in regions)
        if leader != NOBODY:
            cost += weights.leader_region * rank[region[leader]]
    if rules.keyspace.follower_regions:
        rank = rules.follower_rank
        cost += weights.follower_region * sum(rank[region[node]] for node in followers if not gone[node])
    return cost


def scores(board: Board) -> Scores:
    """Measure the whole placement (every shard once)."""
    missing = surplus = gone = draining = crowded = short = 0
    preferences = 0.0
    for shard in range(len(board.keyspace)):
        rules = board.rules[board.keyspace[shard]]
        for members, wanted in ((board.voters[shard], rules.voters), (board.followers[shard], rules.followers)):
            missing += max(0, wanted - len(members))
            surplus += max(0, len(members) - wanted)
            for node in members:
                if not board.active[node]:
                    gone += board.gone[node]
                    draining += not board.gone[node]
        crowded += crowding(board, shard)
        short += shortage(board, shard)
        preferences += preference(board, shard)
    nodes, leading = board.active_nodes(), board.leading_nodes()
    inv = board.inv

    def uneven(metric: int) -> float:
        return _deviation([board.load[node][metric] * inv[node][metric] for node in nodes])

    return Scores(
        missing=missing,
        surplus=surplus,
        gone=gone,
        draining=draining,
        crowded=crowded,
        region_shortage=short,
        over_capacity=sum(overfull(board, node) for node in nodes),
        overload=sum(overload(board, node) for node in nodes),
        preferences=preferences,
        replicas=_deviation([board.count[node] * inv[node][4] for node in nodes]),
        leaders=_deviation([board.lead[node] * inv[node][4] for node in leading]),
        bytes=uneven(0),
        reads=uneven(1),
        writes=uneven(2),
        cpu=uneven(3),
        keyspace_replicas=_keyspace_deviation(board, nodes, board.kept),
        keyspace_leaders=_keyspace_deviation(board, leading, board.ruled),
        cost=total_cost(board) / max(1, sum(board.count)),
    )


def total_cost(board: Board) -> float:
    """Return the cost of unevenness, in squared average replicas; what `move_gain` is the difference of."""
    factor, cost = board.settings.weights.keyspace, 0.0
    for node in board.active_nodes():
        q, load = board.quad[node], board.load[node]
        cost += sum(q[metric] * load[metric] ** 2 for metric in range(4))
        cost += q[4] * (board.count[node] ** 2 + factor * sum(kept * kept for kept in board.kept[node].values()))
        cost += q[5] * (board.lead[node] ** 2 + factor * sum(ruled * ruled for ruled in board.ruled[node].values()))
    return cost


def _deviation(values: list[float]) -> float:
    """Return the standard deviation over the mean; 0 for nothing at all."""
    mean = sum(values) / len(values) if values else 0.0
    if mean <= 0:
        return 0.0
    return sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean


def _keyspace_deviation(board: Board, nodes: list[int], held: list[dict[int, int]]) -> float:
    """Return the deviation within each keyspace, as a mean weighted by its size (only nodes that hold any are read)."""
    if not nodes:
        return 0.0
    sums: list[float] = [0.0] * len(board.rules)
    squares = [0.0] * len(board.rules)
    for node in nodes:
        share = board.inv[node][4]
        for keyspace, amount in held[node].items():
            sums[keyspace] += amount * share
            squares[keyspace] += (amount * share) ** 2
    total = sum(sums)
    if total <= 0:
        return 0.0
    weighed = 0.0
    for held_in_all, square in zip(sums, squares, strict=True):
        mean = held_in_all / len(nodes)
        if held_in_all > 0:
            weighed += held_in_all * sqrt(max(0.0, square / len(nodes) - mean * mean)) / mean
    return weighed / total

"""The hard constraints: may this replica (or leadership) go there? The first reason against it, or OK.

Each is "no worse than now": a state that already breaks a constraint does not forbid what keeps or lessens the fault.
Room on disk and seats are strict for the target. Capacity in reads, writes and CPU is different, since balancing must
go on when everything is overloaded (tikv 14214): what a change adds above the capacity of the target may not exceed
what it takes off above the capacity of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from shoal_shardmanager.placement.board import NOBODY, Board
from shoal_shardmanager.placement.model import Role


class Obstacle(IntEnum):
    OK = 0
    HOLDS = 1
    NOT_ACTIVE = 2
    SEATS = 3
    ROOM = 4
    DOMAIN = 5
    REGION = 6
    OVERLOAD = 7
    NOT_VOTER = 8
    CLOSED = 9
    NOT_LEADING = 10


WORDS = {
    Obstacle.OK: "nothing against it",
    Obstacle.HOLDS: "holds a replica of the shard already",
    Obstacle.NOT_ACTIVE: "is draining or gone and receives nothing",
    Obstacle.SEATS: "has as many replicas as it may have",
    Obstacle.ROOM: "has no room on disk for it",
    Obstacle.DOMAIN: "would put two replicas into one failure domain",
    Obstacle.REGION: "would leave a required region short",
    Obstacle.OVERLOAD: "would go above its capacity in reads, writes or CPU",
    Obstacle.NOT_VOTER: "is not a voter of the shard",
    Obstacle.CLOSED: "does not answer or takes no writes",
    Obstacle.NOT_LEADING: "takes no leaderships",
}

REMEDIES = {
    Obstacle.OK: "plan again",
    Obstacle.HOLDS: "add nodes: each replica needs its own",
    Obstacle.NOT_ACTIVE: "add nodes, or undrain one",
    Obstacle.SEATS: "add nodes, or raise replicas_max",
    Obstacle.ROOM: "add nodes or disk space",
    Obstacle.DOMAIN: "add a node in a zone that has no replica of it",
    Obstacle.REGION: "add a node in the required region",
    Obstacle.OVERLOAD: "add nodes: those there are have no capacity left",
    Obstacle.NOT_VOTER: "move a voter there first",
    Obstacle.CLOSED: "see `shoal nodes` for what is wrong with them, and mend it",
    Obstacle.NOT_LEADING: "see `shoal nodes` for why they take no leaderships",
}

SLACK = 1e-6  # loads are sums of floats: below this many average replicas they are equal


def to_place(
    board: Board, shard: int, target: int, role: Role, source: int = NOBODY, *, leaving: tuple[int, int] = (0, 0)
) -> Obstacle:
    """Say what forbids `target` to take a replica from `source` (NOBODY: an added one).

    `leaving`: replicas and bytes still on the target but no longer in the board's sums (copies on their way out).
    """
    if target in board.voters[shard] or target in board.followers[shard] or target in board.extra[shard]:
        return Obstacle.HOLDS
    if not board.active[target]:
        return Obstacle.NOT_ACTIVE
    if board.closed[target]:
        return Obstacle.CLOSED
    leads = source != NOBODY and board.leader[shard] == source
    if leads and not board.leads[target]:
        return Obstacle.NOT_LEADING  # the leadership would go along
    if board.count[target] + leaving[0] >= board.seats[target]:
        return Obstacle.SEATS
    if board.disk[target] + leaving[1] + board.size[shard] > board.room[target]:
        return Obstacle.ROOM
    alike = source != NOBODY and not board.gone[source]
    if not (alike and board.domain[source] == board.domain[target]) and not _domains_kept(
        board, shard, target, role, source
    ):
        return Obstacle.DOMAIN
    if not (alike and board.region[source] == board.region[target]) and not _regions_kept(board, shard, target, source):
        return Obstacle.REGION
    if source != NOBODY:
        vector = board.vector(shard, leads=leads)
        if _overloads(board, target, source, vector):
            return Obstacle.OVERLOAD
    return Obstacle.OK


def to_lead(board: Board, shard: int, target: int) -> Obstacle:
    """Say what forbids `target` to take the leadership of the shard."""
    if target not in board.voters[shard]:
        return Obstacle.NOT_VOTER
    if not board.active[target]:
        return Obstacle.NOT_ACTIVE
    if not board.leads[target]:
        return Obstacle.CLOSED if board.closed[target] else Obstacle.NOT_LEADING
    source = board.leader[shard]
    if source != NOBODY:
        lead, other = board.v_lead[shard], board.v_other[shard]
        more = (lead[0] - other[0], lead[1] - other[1], lead[2] - other[2], lead[3] - other[3])
        if _overloads(board, target, source, more):
            return Obstacle.OVERLOAD
    return Obstacle.OK


def crowding(board: Board, shard: int) -> int:
    """Return the pairs of live replicas in one domain beyond what the active nodes force, of all and of voters."""
    rules, domain, gone = board.rules[board.keyspace[shard]], board.domain, board.gone
    voters = [domain[node] for node in board.voters[shard] if not gone[node]]
    everyone = voters + [domain[node] for node in board.followers[shard] if not gone[node]]
    if len(set(everyone)) == len(everyone):
        return 0
    return max(0, pairs(voters) - rules.voter_pairs_min) + max(0, pairs(everyone) - rules.all_pairs_min)


def shortage(board: Board, shard: int) -> int:
    """Return how many live replicas the required regions lack."""
    required = board.rules[board.keyspace[shard]].required
    if not required:
        return 0
    regions = live_regions(board, shard)
    return sum(max(0, need - regions.count(region)) for region, need in required.items())


def faults_after(board: Board, shard: int, source: int, target: int, role: Role) -> int:
    """Return crowding and shortage together if the shard gave up `source` (or NOBODY) and got `target` (or NOBODY)."""
    rules, domain, region, gone = board.rules[board.keyspace[shard]], board.domain, board.region, board.gone
    voters = [node for node in board.voters[shard] if node != source and not gone[node]]
    followers = [node for node in board.followers[shard] if node != source and not gone[node]]
    if target != NOBODY:
        (voters if role is Role.VOTER else followers).append(target)
    voter_domains = [domain[node] for node in voters]
    faults = max(0, pairs(voter_domains) - rules.voter_pairs_min)
    faults += max(0, pairs(voter_domains + [domain[node] for node in followers]) - rules.all_pairs_min)
    if rules.required:
        regions = [region[node] for node in voters + followers]
        faults += sum(max(0, need - regions.count(place)) for place, need in rules.required.items())
    return faults


def live_regions(board: Board, shard: int) -> list[int]:
    return [board.region[node] for node in (*board.voters[shard], *board.followers[shard]) if not board.gone[node]]


def pairs(groups: Sequence[int]) -> int:
    """Return how many pairs of equal items there are."""
    if len(set(groups)) == len(groups):
        return 0
    return sum(groups.count(group) - 1 for group in groups) // 2


def overfull(board: Board, node: int) -> bool:
    """Say whether a node is above its disk space or its seats."""
    return board.disk[node] > board.room[node] or board.count[node] > board.seats[node]


def overload(board: Board, node: int) -> float:
    """Return how much reads, writes and CPU are above the node's capacity together, in average replicas."""
    load, cap = board.load[node], board.caps[node]
    return sum(max(0.0, load[metric] - cap[metric]) for metric in (1, 2, 3))


def _domains_kept(board: Board, shard: int, target: int, role: Role, source: int) -> bool:
    rules, domain, gone = board.rules[board.keyspace[shard]], board.domain, board.gone
    here = domain[target]
    left = domain[source] if source != NOBODY and not gone[source] else NOBODY
    voters = [domain[node] for node in board.voters[shard] if node != source and not gone[node]]
    followers = [domain[node] for node in board.followers[shard] if node != source and not gone[node]]
    if role is Role.VOTER and not _spread_kept(voters, here, left, rules.voter_pairs_min):
        return False
    return _spread_kept(voters + followers, here, left, rules.all_pairs_min)


def _spread_kept(others: list[int], here: int, left: int, pairs_min: int) -> bool:
    """Compare the pairs after with those before, or else with the fewest there can be."""
    after = others.count(here)
    return after == 0 or after <= others.count(left) or pairs(others) + after <= pairs_min


def _regions_kept(board: Board, shard: int, target: int, source: int) -> bool:
    required = board.rules[board.keyspace[shard]].required
    if not required or source == NOBODY or board.gone[source]:
        return True
    left, here = board.region[source], board.region[target]
    if left not in required:
        return True
    regions = live_regions(board, shard)
    loses = regions.count(left) <= required[left]
    gains = here in required and regions.count(here) < required[here]
    return gains or not loses


def _overloads(board: Board, target: int, source: int, more: Sequence[float]) -> bool:
    load, cap = board.load[target], board.caps[target]
    for metric in (1, 2, 3):
        excess = load[metric] + more[metric] - cap[metric]
        if excess > SLACK:
            added = min(excess, more[metric])
            relief = min(more[metric], max(0.0, board.load[source][metric] - board.caps[source][metric]))
            if added > relief + SLACK:
                return True
    return False

"""Failure domains and what a keyspace can at best have of them.

A *domain* is what fails at once: a zone of a region, or a single node where no zone is known. A *pool* is a set of
nodes that are alike to the constraints (a zone, or the nodes without zone of a region): where the search looks for
targets. "As far as there are any" is a number here: the fewest pairs of replicas in one domain (or region) that the
active nodes allow; only what is above it is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from shoal_shardmanager.placement.model import Keyspace, Node, NodeState
from shoal_shardmanager.placement.settings import Weights


class Domains:
    """Numbers for regions, domains and pools, and how many active nodes each domain has."""

    __slots__ = ("domain", "names", "pool", "pools", "region", "region_names", "slots")

    def __init__(self, nodes: Sequence[Node]) -> None:
        regions: dict[str, int] = {}
        domains: dict[tuple[str, str, str], int] = {}
        pools: dict[tuple[str, str], int] = {}
        self.region: list[int] = []
        self.domain: list[int] = []
        self.pool: list[int] = []
        self.names: list[str] = []  # of domains
        self.pools: list[list[int]] = []  # the active nodes of each
        self.slots: dict[int, dict[int, int]] = {}  # region -> domain -> active nodes
        for number, node in enumerate(nodes):
            region = regions.setdefault(node.region, len(regions))
            key = (node.region, node.zone, "" if node.zone else node.id)
            domain = domains.setdefault(key, len(domains))
            if domain == len(self.names):
                self.names.append(_name(node))
            pool = pools.setdefault((node.region, node.zone), len(pools))
            if pool == len(self.pools):
                self.pools.append([])
            self.region.append(region)
            self.domain.append(domain)
            self.pool.append(pool)
            if node.state is NodeState.ACTIVE:
                self.pools[pool].append(number)
                slots = self.slots.setdefault(region, {})
                slots[domain] = slots.get(domain, 0) + 1
        self.region_names = list(regions)


class KeyspaceRules:
    """A keyspace's settings by number, with the best that the nodes allow it."""

    __slots__ = (
        "all_pairs_min", "follower_rank", "followers", "keyspace", "leader_rank", "preference_min", "required",
        "voter_pairs_min", "voters",
    )  # fmt: skip

    def __init__(self, keyspace: Keyspace, domains: Domains, weights: Weights) -> None:
        self.keyspace = keyspace
        self.voters, self.followers = keyspace.voters, keyspace.followers
        numbers = {name: number for number, name in enumerate(domains.region_names)}
        # A region nobody lives in gets a number of its own, so that its shortage is seen.
        self.required = {
            numbers.get(name, -1 - place): need
            for place, (name, need) in enumerate(sorted(keyspace.required.items()))
            if need > 0
        }
        self.leader_rank = _ranks(keyspace.leader_regions, domains.region_names)
        self.follower_rank = _ranks(keyspace.follower_regions, domains.region_names)
        copies = keyspace.voters + keyspace.followers
        self.all_pairs_min = fewest_pairs(copies, domains.slots, self.required)
        # Followers may fill what regions require, so voters alone are held to the domains only.
        needs = self.required if not keyspace.followers else {}
        self.voter_pairs_min = fewest_pairs(keyspace.voters, domains.slots, needs)
        region_slots = {0: {region: sum(slots.values()) for region, slots in domains.slots.items()}}
        usable = list(domains.slots)
        best_leader = min((self.leader_rank[region] for region in usable), default=0.0)
        best_follower = min((self.follower_rank[region] for region in usable), default=0.0)
        self.preference_min = (
            weights.region_spread * fewest_pairs(keyspace.voters, region_slots, {})
            + 1.5 * weights.leader_region * best_leader
            + weights.follower_region * best_follower * keyspace.followers
        )


def fewest_pairs(copies: int, slots: Mapping[int, Mapping[int, int]], required: Mapping[int, int]) -> int:
    """Return the fewest pairs within one domain when `copies` replicas go on distinct nodes.

    `slots`: group -> domain -> nodes; `required`: group -> copies it must have. Filling the emptiest domain first is
    optimal, since the price of one more in a domain (those already there) only grows: first what is required, then the
    rest. Copies that find no node are left out.
    """
    used: dict[int, int] = {}
    left, pairs = copies, 0
    for group, need in required.items():
        placed, cost = _fill(min(need, left), slots.get(group, {}), used)
        left, pairs = left - placed, pairs + cost
    everywhere = {domain: nodes for domains in slots.values() for domain, nodes in domains.items()}
    return pairs + _fill(left, everywhere, used)[1]


def _fill(copies: int, slots: Mapping[int, int], used: dict[int, int]) -> tuple[int, int]:
    heap = [(used.get(domain, 0), domain) for domain in slots]
    heapify(heap)
    placed = pairs = 0
    while heap and placed < copies:
        here, domain = heappop(heap)
        if here >= slots[domain]:
            continue
        placed, pairs = placed + 1, pairs + here
        used[domain] = here + 1
        heappush(heap, (here + 1, domain))
    return placed, pairs


def _ranks(preferred: tuple[str, ...], regions: list[str]) -> list[float]:
    """Return region -> 0 for the best up to 1 for those not named; all 0 where nothing is preferred."""
    if not preferred:
        return [0.0] * len(regions)
    places = {name: place / len(preferred) for place, name in enumerate(preferred)}
    return [places.get(name, 1.0) for name in regions]


def _name(node: Node) -> str:
    if not node.zone:
        return f"node {node.id}"
    return f"zone {node.region}/{node.zone}" if node.region else f"zone {node.zone}"

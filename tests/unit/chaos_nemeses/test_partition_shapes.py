"""Which links a partition cuts."""

from __future__ import annotations

import pytest
from shoal_chaos.clusters.links import CLIENTS
from shoal_chaos.nemeses.partitions import (
    SHAPES,
    Cut,
    bridge,
    halves,
    isolated,
    isolated_from_all,
    one_way_in,
    one_way_out,
    ring,
)

FIVE = ["n1", "n2", "n3", "n4", "n5"]


def heard_by(cut: Cut, node: str, nodes: list[str]) -> set[str]:
    """Return the nodes that `node` is in touch with both ways, itself among them."""
    gone = set(cut(nodes))
    return {other for other in nodes if (node, other) not in gone and (other, node) not in gone}


@pytest.mark.parametrize("cut", list(SHAPES))
@pytest.mark.parametrize("count", [3, 5])
def test_no_link_of_a_node_to_itself_is_cut_and_none_twice(cut: Cut, count: int) -> None:
    links = cut(FIVE[:count])
    assert len(links) == len(set(links))
    assert all(source != target for source, target in links)


def test_an_isolated_node_is_alone_and_the_others_are_together() -> None:
    assert heard_by(isolated, "n1", FIVE) == {"n1"}
    assert heard_by(isolated, "n2", FIVE) == {"n2", "n3", "n4", "n5"}
    assert all(CLIENTS not in link for link in isolated(FIVE))


def test_a_node_cut_off_from_all_hears_no_clients_either() -> None:
    assert {(CLIENTS, "n1"), ("n1", CLIENTS)} <= set(isolated_from_all(FIVE))


def test_halves_leave_the_first_in_the_minority() -> None:
    assert heard_by(halves, "n1", FIVE) == {"n1", "n2"}
    assert heard_by(halves, "n3", FIVE) == {"n3", "n4", "n5"}


def test_only_the_bridge_is_in_touch_with_all() -> None:
    assert heard_by(bridge, "n1", FIVE) == set(FIVE)
    assert heard_by(bridge, "n2", FIVE) == {"n1", "n2", "n3"}
    assert heard_by(bridge, "n4", FIVE) == {"n1", "n4", "n5"}


def test_in_a_ring_everybody_sees_a_majority_and_each_another_one() -> None:
    seen = [frozenset(heard_by(ring, node, FIVE)) for node in FIVE]
    assert all(len(majority) == 3 for majority in seen)
    assert len(set(seen)) == 5


def test_one_way_cuts_are_opposites() -> None:
    assert {(target, source) for source, target in one_way_out(FIVE)} == set(one_way_in(FIVE))
    assert ("n1", "n2") in one_way_out(FIVE)

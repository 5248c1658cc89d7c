"""The attacks there are: one of each kind, by names that are unique."""

from __future__ import annotations

import pytest
from shoal_chaos.attackers.base import Family
from shoal_chaos.attackers.catalogue import ALL, BY_NAME, of


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ALL)


@pytest.mark.parametrize("family", Family)
def test_every_family_has_attacks(family: Family) -> None:
    assert of(family)
    assert all(attack.family is family for attack in of(family))


def test_no_attack_is_of_no_family() -> None:
    assert sum(len(of(family)) for family in Family) == len(ALL)

"""All attacks, by name."""

from __future__ import annotations

from shoal_chaos.attackers import (
    expensive_requests,
    giant_values,
    greedy_client,
    heavy_writes,
    idle_connections,
    slow_link,
    slow_reader,
    tiny_deadlines,
)
from shoal_chaos.attackers.base import Attack, Family

ALL: tuple[Attack, ...] = (
    *greedy_client.ATTACKS,
    *giant_values.ATTACKS,
    *slow_reader.ATTACKS,
    *slow_link.ATTACKS,
    *tiny_deadlines.ATTACKS,
    *expensive_requests.ATTACKS,
    *heavy_writes.ATTACKS,
    *idle_connections.ATTACKS,
)

BY_NAME = {attack.name: attack for attack in ALL}


def of(family: Family) -> tuple[Attack, ...]:
    """Return the attacks of a family."""
    return tuple(attack for attack in ALL if attack.family is family)

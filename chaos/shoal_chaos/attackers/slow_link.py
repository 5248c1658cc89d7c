"""Valid clients behind links that are much too narrow for what they ask for: they need long, and are to get it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shoal_chaos.attackers.base import Assault, Attack, Family
from shoal_chaos.attackers.detours import narrow_links
from shoal_chaos.attackers.giant_values import fill, key

MANY = 8
NARROW, LESS_NARROW = 800_000, 4_000_000
"""Bytes a second."""

PATIENCE_SECONDS = 20.0


def _behind(bytes_per_second: float, keys: int) -> Callable[[Assault], Awaitable[None]]:
    async def run(assault: Assault) -> None:
        wanted = [key(number) for number in range(keys)]
        with narrow_links(assault.ground.addresses, bytes_per_second):
            async with assault.client(PATIENCE_SECONDS) as db:
                await assault.again_and_again(lambda: db.get_many(wanted) if keys > 1 else db.get(wanted[0]))

    return run


ATTACKS = (
    Attack(
        "narrow-link",
        Family.SLOW_LINK,
        "a client at 0.8 MB/s that reads values of 1 MiB",
        _behind(NARROW, 1),
        fill,
        valid=True,
    ),
    Attack(
        "narrow-link-get-many",
        Family.SLOW_LINK,
        f"a client at 4 MB/s that reads {MANY} values of 1 MiB in a call",
        _behind(LESS_NARROW, MANY),
        fill,
        valid=True,
    ),
)

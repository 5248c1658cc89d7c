"""How a quota is dealt out to the nodes that share it: by demand, with something for the idle, and never more than the whole.

Pure arithmetic, in millionths (`WHOLE` is all of the quota).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shoal.bounds import WHOLE

FOR_IDLE = WHOLE // 10
"""Divided equally, whatever anybody asks for: with this a node begins that nothing was asked of so far."""


def shares_for(quota: int, demand: Mapping[str, float]) -> dict[str, int]:
    """Return what each node is to have.

    Each has a part of `FOR_IDLE`. Of the rest it gets what it needs beyond that, where there is enough; else those who need
    least get it, and the others as much as each other (max-min fairness). What nobody needs is divided equally.

    Args:
        quota: operations a second.
        demand: by node, how many a second clients ask of it, refused ones too.
    """
    if not demand:
        return {}
    floor = FOR_IDLE // len(demand)
    left = WHOLE - floor * len(demand)
    needs = {node: max(0, _millionths(asked, quota) - floor) for node, asked in demand.items()}
    shares: dict[str, int] = {}
    # Who needs least comes first: what he leaves is for the others.
    for place, node in enumerate(sorted(needs, key=lambda node: (needs[node], node))):
        given = min(needs[node], left // (len(needs) - place))
        left -= given
        shares[node] = floor + given
    return {node: share + left // len(shares) for node, share in shares.items()}


def _millionths(asked: float, quota: int) -> int:
    return min(WHOLE, int(asked * WHOLE / quota) + 1) if asked > 0 else 0


def next_shares(
    targets: Mapping[str, int], held: Mapping[str, int], silent: Collection[str], *, may_raise: bool = True
) -> dict[str, int]:
    """Return what to ask of each node now, on the way to `targets`: nobody is given what another may still have.

    So whatever message is lost or late, the shares in force are never more than the whole together, if they were not before.

    Args:
        held: the most that each may have in force: by its last report, or by what it has been asked to take since.
        silent: those that do not answer; they keep what they have.
        may_raise: whether anybody may be given more just now.
    """
    free = max(0, WHOLE - sum(held.values())) if may_raise else 0
    shares = dict(held)
    for node, known in sorted(held.items()):
        target = known if node in silent else targets.get(node, 0)
        if target > known:
            given = min(target - known, free)
            free -= given
            target = known + given
        shares[node] = target
    return shares

"""Sentences about obstacles, for refusals and explanations."""

from __future__ import annotations

from collections.abc import Sequence

from shoal_shardmanager.placement.constraints import REMEDIES, Obstacle
from shoal_shardmanager.placement.model import Refusal

LISTED = 3
"""So many subjects are named for a reason, and so many reasons are given."""

COUNTED = {
    Obstacle.OK: "would take it",
    Obstacle.HOLDS: "already hold a replica of it",
    Obstacle.NOT_ACTIVE: "are draining or drained",
    Obstacle.SEATS: "have as many replicas as they may have",
    Obstacle.ROOM: "have no room on disk",
    Obstacle.DOMAIN: "would put two replicas into one failure domain",
    Obstacle.REGION: "would leave a required region short",
    Obstacle.OVERLOAD: "would go above their capacity",
    Obstacle.NOT_VOTER: "are not voters of it",
    Obstacle.CLOSED: "do not answer or take no writes",
    Obstacle.NOT_LEADING: "take no leaderships",
}


def counted(obstacles: dict[Obstacle, int]) -> str:
    """Say how many nodes are refused for what: "3 already hold a replica of it, 2 are draining or drained"."""
    return ", ".join(f"{nodes} {COUNTED[obstacle]}" for obstacle, nodes in sorted(obstacles.items()))


def against(obstacles: dict[Obstacle, int]) -> str:
    """Say of how many nodes how many are refused for what."""
    if not obstacles:
        return "there is no other node"
    return f"of {sum(obstacles.values())} other nodes {counted(obstacles)}"


def described(refusals: Sequence[Refusal]) -> str:
    """Say what was refused, and what would help; subjects that are refused for the same are named together."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for refusal in refusals:
        subjects.setdefault((refusal.reason, refusal.remedy), []).append(refusal.subject)
    lines = []
    for (reason, remedy_of_it), named in list(subjects.items())[:LISTED]:
        more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
        lines.append(f"{', '.join(named[:LISTED])}{more}: {reason} ({remedy_of_it})")
    return "; ".join(lines)


def remedy(obstacles: dict[Obstacle, int]) -> str:
    """Say what would lift the obstacle of the most nodes."""
    liftable = {
        obstacle: nodes
        for obstacle, nodes in obstacles.items()
        if obstacle not in (Obstacle.HOLDS, Obstacle.NOT_ACTIVE)
    }
    if Obstacle.NOT_ACTIVE in obstacles and not liftable:
        return REMEDIES[Obstacle.NOT_ACTIVE]
    chosen = liftable or obstacles
    if not chosen:
        return "add nodes"
    return REMEDIES[max(chosen, key=lambda obstacle: (chosen[obstacle], -obstacle))]

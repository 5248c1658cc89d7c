"""Sentences about obstacles, for refusals and explanations."""

from __future__ import annotations

from shoal_shardmanager.placement.constraints import REMEDIES, Obstacle

COUNTED = {
    Obstacle.OK: "would take it",
    Obstacle.HOLDS: "already hold a replica of it",
    Obstacle.NOT_ACTIVE: "are draining",
    Obstacle.SEATS: "have as many replicas as they may have",
    Obstacle.ROOM: "have no room on disk",
    Obstacle.DOMAIN: "would put two replicas into one failure domain",
    Obstacle.REGION: "would leave a required region short",
    Obstacle.OVERLOAD: "would go above their capacity",
    Obstacle.NOT_VOTER: "are not voters of it",
}


def against(obstacles: dict[Obstacle, int]) -> str:
    """Say how many nodes are refused for what: "of 5 nodes 3 already hold a replica of it, 2 are draining"."""
    parts = [f"{nodes} {COUNTED[obstacle]}" for obstacle, nodes in sorted(obstacles.items())]
    if not parts:
        return "there is no other node"
    return f"of {sum(obstacles.values())} other nodes " + ", ".join(parts)


def remedy(obstacles: dict[Obstacle, int]) -> str:
    """Say what would lift the obstacle of the most nodes."""
    liftable = {
        obstacle: nodes
        for obstacle, nodes in obstacles.items()
        if obstacle not in (Obstacle.HOLDS, Obstacle.NOT_ACTIVE)
    }
    chosen = liftable or obstacles
    if not chosen:
        return "add nodes"
    return REMEDIES[max(chosen, key=lambda obstacle: (chosen[obstacle], -obstacle))]

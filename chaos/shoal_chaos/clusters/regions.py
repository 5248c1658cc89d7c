"""The configuration of a cluster with a region for each node, and followers beside the voters."""

from __future__ import annotations

from collections.abc import Sequence

from shoal_server.local.layout import LOOPBACK

SHARDS = 6
VOTERS = 3


def regions_of(nodes: int) -> list[str]:
    """Return the region of each node."""
    return [f"r{number}" for number in range(1, nodes + 1)]


def regional_config(ports: Sequence[int]) -> str:
    """Return the text of a `cluster.yaml` for one node on loopback at each port."""
    lines = ["cluster: regional", "nodes:"]
    lines += [
        f"  - {{id: n{number}, region: r{number}, zone: z, address: {LOOPBACK}:{port}, data: ./n{number}}}"
        for number, port in enumerate(ports, start=1)
    ]
    followers = len(ports) - VOTERS
    settings = f"shards: {SHARDS}, voters: {VOTERS}, followers: {followers}, max_staleness: 5s"
    lines += ["keyspaces:", f"  default: {{microshards: 1024, delimiter: /, {settings}}}"]
    return "\n".join(lines) + "\n"

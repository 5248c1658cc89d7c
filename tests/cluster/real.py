"""What clusters of real processes are made of in tests, besides the configuration that `shoal up` makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shoal_chaos.clusters.configuration import Configuration
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_server.local.layout import free_ports, generated_config


def real_nodes(
    folder: Path, extra: str = "", nodes: int = 3, layout: Callable[[Sequence[int]], str] | None = None
) -> ProcessCluster:
    """Return a cluster without managers, which is to be started.

    Args:
        extra: further lines of its configuration, which ends with keyspaces.
        layout: makes the configuration out of the nodes' ports; None: as `shoal up` does.
    """
    ports = free_ports(nodes)
    text = generated_config(nodes, ports) if layout is None else layout(ports)
    return ProcessCluster(folder, Configuration(text + extra))

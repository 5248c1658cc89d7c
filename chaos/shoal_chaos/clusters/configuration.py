"""What clusters of processes on this machine are configured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal_server.local.layout import LOOPBACK, free_ports


@dataclass(frozen=True, slots=True)
class Configuration:
    """The text of a `cluster.yaml`.

    Attributes:
        founding: the text that those begin with who found the cluster, where others are to join it; "": all found it.
        ports: by node, at which port others look for it, and at which it listens; empty: at one and the same.
    """

    text: str
    founding: str = ""
    ports: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def loopback(
    *,
    founders: int = 3,
    joiners: int = 0,
    managers: int = 0,
    keyspace: str,
    timing: str = "",
    fronted: bool = False,
    hosts: Mapping[str, str] | None = None,
    all_ports: bool = False,
) -> Configuration:
    """Return a cluster at free ports.

    Args:
        joiners: further nodes, which the founders do not know.
        keyspace: the settings of the keyspace `default`, such as "shards: 8".
        timing: settings of the section `timing`, such as "support: 2s"; "": the defaults.
        fronted: nodes listen elsewhere than where others look for them.
        hosts: by node or manager, the address that it listens at, where that is not loopback.
        all_ports: nodes have pages and serve gRPC.
    """
    nodes = founders + joiners
    found = free_ports(2 * nodes + 2 * managers + 2 * nodes * all_ports)
    fronts, backs, found = found[:nodes], found[nodes : 2 * nodes], found[2 * nodes :]
    manager_ports, found = found[: 2 * managers], found[2 * managers :]
    ports = {
        f"n{number}": (front, back if fronted else front)
        for number, (front, back) in enumerate(zip(fronts, backs, strict=True), start=1)
    }
    manager_names = [f"m{number}" for number in range(1, managers + 1)]
    host = {name: (hosts or {}).get(name, LOOPBACK) for name in (*ports, *manager_names)}
    further = [
        f"admin: '{LOOPBACK}:{grpc}', metrics: '{LOOPBACK}:{pages}', "
        for grpc, pages in zip(found[::2], found[1::2], strict=True)
    ]
    node_lines = [
        f"  - {{id: {name}, region: local, zone: z{name[1:]}, address: {host[name]}:{front}, "
        f"listen: '{host[name]}:{back}', {more}data: ./{name}}}"
        for (name, (front, back)), more in zip(ports.items(), further or [""] * nodes, strict=True)
    ]
    manager_lines = [
        f"  - {{id: {name}, address: {host[name]}:{port}, admin: '{host[name]}:{admin}', data: ./{name}}}"
        for name, port, admin in zip(manager_names, manager_ports[::2], manager_ports[1::2], strict=True)
    ]
    # Others on this machine may have clusters, too: should one get a port of ours, it must not be taken for one of us.
    begins = [f"cluster: managed-{fronts[0]}", "nodes:"]
    rest = ["managers:", *manager_lines, f"timing: {{{timing}}}", "keyspaces:", f"  default: {{{keyspace}}}"]
    return Configuration(
        "\n".join([*begins, *node_lines, *rest]) + "\n",
        "\n".join([*begins, *node_lines[:founders], *rest]) + "\n" if joiners else "",
        ports,
    )

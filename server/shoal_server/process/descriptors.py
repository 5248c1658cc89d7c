"""How many files and connections a node's process may have open, and who gets how many: counted before it begins.

One that cannot be opened is worst for RocksDB, which gives up for good then: so what it needs, and what the node's own work
needs, is set aside first. Connections of clients get what is left.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from shoal_server.places import UNFINISHED_MAX, reserved_places

if TYPE_CHECKING:
    from shoal_server.config import ClusterConfig

log = structlog.get_logger("shoal.node")

WANTED = 1 << 20
"""A limit above that changes nothing."""
OWN = 96
"""Standard streams, event loops, listening sockets, logs, threads, files that RocksDB has open besides its tables, and what is
open for a moment: certificates, the configuration, connections that were refused and may still read why."""
PAGES = 96
"""Connections of the pages (see pages.py)."""
TABLES_MAX, TABLES_MIN = 512, 64
"""Files with tables that RocksDB keeps open."""
CALLERS_MAX, CALLERS_MIN = 1024, 16
"""Connections to the gRPC API, where there is one."""
OF_CALLER = 3
"""Descriptors of such a connection: its own, and both ends of the one by which it goes on to gRPC."""
UNFINISHED_MIN = 32
OF_PEER = 3
"""Connections of a peer: the one it has dialled, the one that it is dialled by, and one that is just being ended."""
PEERS_MIN = 16
"""As many nodes may have joined the cluster by the time when nobody thinks of descriptors any more."""
CLIENTS_MIN = 16
PART = 8
"""Of few descriptors, RocksDB and the API get one in so many each, connections without a greeting half as many."""


class TooFewDescriptors(OSError):
    """The process may not even open what the smallest node needs."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How a process's descriptors are shared out.

    Attributes:
        limit: how many there are.
        clients: places for clients, besides those reserved for the cluster's own machines.
        unfinished: for connections that have not said who they are.
        tables: for RocksDB; callers: for connections to the gRPC API.
    """

    limit: int
    clients: int
    unfinished: int
    tables: int
    callers: int


def raise_limit() -> int:
    """Raise the process's own limit as far as it may; return how many descriptors it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY:
        return WANTED
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)


def share_out(limit: int, clients: int, peers: int, *, tls: bool, api: bool) -> Descriptors:
    """Share out `limit` descriptors.

    Args:
        clients: for how many there is to be a place, if they all fit.
        peers: how many nodes the cluster has besides this one.
        tls: whether connections are; a handshake takes two descriptors.
        api: whether the node serves gRPC.

    Raises:
        TooFewDescriptors: fewer than `CLIENTS_MIN` clients would have one.
    """
    tables = min(TABLES_MAX, max(TABLES_MIN, limit // PART))
    callers = min(CALLERS_MAX, max(CALLERS_MIN, limit // (OF_CALLER * PART))) if api else 0
    unfinished = min(UNFINISHED_MAX, max(UNFINISHED_MIN, limit // (2 * PART)))
    others = (
        OWN + PAGES + tables + OF_CALLER * callers + unfinished * (2 if tls else 1) + OF_PEER * max(PEERS_MIN, peers)
    )
    left = limit - others
    fitting = min(clients, left - reserved_places(clients))
    if fitting < clients:
        fitting = left - reserved_places(max(0, left))
    if fitting < min(CLIENTS_MIN, clients):
        raise TooFewDescriptors(
            f"the process may open {limit} files and connections, and a node needs {others + CLIENTS_MIN + reserved_places(0)} "
            "at the least: raise the limit (ulimit -n, LimitNOFILE)"
        )
    return Descriptors(limit, fitting, unfinished, tables, callers)


def enough_for(clients: int, peers: int, *, tls: bool, api: bool) -> int:
    """Return how many descriptors would do for all of them, as a power of two; see `share_out`."""
    limit = 1024
    while True:
        try:
            if share_out(limit, clients, peers, tls=tls, api=api).clients == clients:
                return limit
        except TooFewDescriptors:
            pass
        limit *= 2


def descriptors_of(node: str, config: ClusterConfig, *, tls: bool, api: bool) -> Descriptors:
    """Share out what this process can have; say so where there is less than is configured.

    Raises:
        TooFewDescriptors: not even the smallest node could run.
    """
    wanted, peers = config.limits.max_clients, len(config.nodes) - 1
    found = share_out(raise_limit(), wanted, peers, tls=tls, api=api)
    if found.clients < wanted:
        enough = enough_for(wanted, peers, tls=tls, api=api)
        log.warning(
            "descriptors_scarce",
            node=node,
            limit=found.limit,
            clients=found.clients,
            wanted=wanted,
            reason=f"the process may open {found.limit} files and connections: {found.clients} clients find a place, not the "
            f"{wanted} of limits.max_clients; with {enough} all do (ulimit -n, LimitNOFILE)",
        )
    return found

"""How many files and connections a node's process may have open, and who gets how many: counted before it begins.

One that cannot be opened is worst for RocksDB, which gives up for good then: so what it needs, and what the node's own work
needs, is set aside first. Connections of clients get what is left.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from shoal_server.invariants import invariant
from shoal_server.observe.page_connections import OPEN_MAX
from shoal_server.places import UNFINISHED_MAX, reserved_places
from shoal_server.secure_listener import SAYING_MAX

if TYPE_CHECKING:
    from shoal_server.config import ClusterConfig

log = structlog.get_logger("shoal.node")

WANTED = 1 << 20
"""A limit above that changes nothing."""
OWN = 96
"""Standard streams, event loops, listening sockets, logs, threads, files that RocksDB has open besides its tables, and what is
open for a moment: certificates, the configuration, and one connection at each port that is being closed."""
PAGES = OPEN_MAX
"""Connections of the pages (see page_connections.py)."""
LINGERING = 16
"""Connections that were refused and may still read why; of those that have a place none is taken for it."""
TABLES_MAX, TABLES_MIN = 512, 64
"""Files with tables that RocksDB keeps open."""
CALLERS_MAX, CALLERS_MIN = 1024, 8
"""Connections to the gRPC API, where there is one."""
OF_CALLER = 4
"""Descriptors of such a connection: its own, both ends of the one by which it goes on to gRPC, and one for another that was
refused and may still read why."""
WAYS_MAX, WAYS_MIN = 64, 2
"""Clients by which the API does its calls, each of which is connected to every node, and has a place there."""
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
        tables: for RocksDB; callers: for connections to the gRPC API; ways: clients of that.
        connections: that may be open at the data port at once, with those that are to go.
    """

    limit: int
    clients: int
    unfinished: int
    tables: int
    callers: int
    ways: int
    connections: int


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
    nodes = max(PEERS_MIN, peers)
    callers = min(CALLERS_MAX, max(CALLERS_MIN, limit // (OF_CALLER * PART))) if api else 0
    ways = min(WAYS_MAX, max(WAYS_MIN, limit // (PART * 4 * (peers + 1)))) if api else 0
    unfinished = min(UNFINISHED_MAX, max(UNFINISHED_MIN, limit // (2 * PART)))
    # Of each port: connections in their handshake, which have two, until they have one like all others.
    handshakes = sum(2 * (most + SAYING_MAX) for most in ((unfinished, min(UNFINISHED_MAX, callers)) if tls else ()))
    others = (
        OWN
        + PAGES
        + tables
        + OF_CALLER * callers
        + ways * (peers + 1)
        + unfinished
        + LINGERING
        + handshakes
        + OF_PEER * nodes
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
    # Of a peer's connections this node has dialled one itself.
    connections = unfinished + LINGERING + fitting + reserved_places(fitting) + (OF_PEER - 1) * nodes
    together = others - unfinished - LINGERING - (OF_PEER - 1) * nodes + connections
    invariant(together <= limit, f"{together} descriptors are given away, and there are {limit}")
    return Descriptors(limit, fitting, unfinished, tables, callers, ways, connections)


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

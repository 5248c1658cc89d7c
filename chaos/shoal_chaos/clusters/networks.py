"""What lies between the processes of a cluster: proxies of bytes or a network of packets, which obey `Links`, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import Protocol

from shoal_server.local.layout import LOOPBACK

from shoal_chaos.clusters.links import Links, NoSuchRule
from shoal_chaos.clusters.packet_network import PacketNetwork
from shoal_chaos.clusters.proxy import NodeProxy


class Medium(StrEnum):
    """By what links fail."""

    PROXIES = "proxies"
    """Anywhere: bytes are held, late or cut in a proxy that each node stands behind."""

    PACKETS = "packets"
    """Packets are dropped between network namespaces: see `packet_network`."""

    LATE_PACKETS = "late packets"
    """As well, and they are late, out of order and duplicated, for which Linux needs `netem`."""

    NOTHING = "nothing"
    """Links do not fail, and nobody's bytes take a detour through this process."""

    @property
    def needs(self) -> str:
        """What the machine has to have for it, in words; "": nothing."""
        match self:
            case Medium.PROXIES | Medium.NOTHING:
                return ""
            case Medium.PACKETS:
                return "Linux, root, iproute2"
            case Medium.LATE_PACKETS:
                return "Linux with netem, root, iproute2"


class Network(Protocol):
    """One of them."""

    hosts: Mapping[str, str]
    """By node or manager: the address that it listens at, where that is not loopback."""

    wrappers: Mapping[str, Sequence[str]]
    """By node: what its command is begun with."""

    fronted: bool
    """Whether nodes listen elsewhere than where others look for them."""

    async def start(self, ports: Mapping[str, tuple[int, int]]) -> None:
        """Be there, before the nodes.

        Args:
            ports: by node, where others look for it, and where it listens.
        """
        ...

    async def stop(self) -> None:
        """Be gone, after the nodes; also where it was only half begun."""
        ...


class ProxyNetwork:
    """Implements `Network`: a proxy before each node, all on loopback."""

    hosts: Mapping[str, str] = {}
    wrappers: Mapping[str, Sequence[str]] = {}
    fronted = True

    def __init__(self, nodes: Sequence[str], links: Links, random: Random) -> None:
        self._links = links
        self._randoms = {node: Random(random.getrandbits(64)) for node in nodes}
        self._proxies: dict[str, NodeProxy] = {}

    async def start(self, ports: Mapping[str, tuple[int, int]]) -> None:
        self._proxies = {
            node: NodeProxy(node, LOOPBACK, *ports[node], self._links, random) for node, random in self._randoms.items()
        }
        self._links.watch(self._check)
        for proxy in self._proxies.values():
            await proxy.start()

    async def stop(self) -> None:
        await asyncio.gather(*(proxy.stop() for proxy in self._proxies.values()))

    def proxy(self, node: str) -> NodeProxy:
        """Return what stands before a node."""
        return self._proxies[node]

    def _check(self) -> None:
        if any(rule.duplicates for rule in self._links.in_force.values()):
            raise NoSuchRule("TCP hides duplicates of packets from proxies")


class NoNetwork:
    """Implements `Network`: all on loopback, and callers reach nodes themselves."""

    hosts: Mapping[str, str] = {}
    wrappers: Mapping[str, Sequence[str]] = {}
    fronted = False

    def __init__(self, links: Links) -> None:
        self._links = links

    async def start(self, ports: Mapping[str, tuple[int, int]]) -> None:  # noqa: ARG002 - nobody is to be there
        self._links.watch(self._check)

    async def stop(self) -> None:
        """Nothing was begun."""

    def _check(self) -> None:
        if self._links.in_force:
            raise NoSuchRule("there is nothing between these nodes that could break their links")


def network(medium: Medium, nodes: Sequence[str], managers: Sequence[str], links: Links, random: Random) -> Network:
    """Return a network that is not started.

    Raises:
        NamespacesMissing: this machine has no such medium.
    """
    if medium is Medium.PROXIES:
        return ProxyNetwork(nodes, links, random)
    if medium is Medium.NOTHING:
        return NoNetwork(links)
    return PacketNetwork(nodes, managers, links, netem=medium is Medium.LATE_PACKETS)

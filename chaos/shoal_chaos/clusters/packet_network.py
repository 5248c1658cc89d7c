"""A network of packets between the processes of a cluster: each node in a namespace of its own, one bridge between them.

Rules of links become packet filters at the bridge, before the port of whoever is to receive. What they drop is gone without
a word to either side: TCP sends again and backs off, connects wait for an answer, and connections stay half open until
somebody counts the silence. Nothing outside of these namespaces is touched, and every such network has the same addresses:
this process's thread, and so the load and the managers, moves into the clients' namespace while the network is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

from shoal_chaos.clusters import namespaces
from shoal_chaos.clusters.links import CLIENTS, Links
from shoal_chaos.clusters.namespaces import NamespacesMissing, Owner, ToolFailed, use
from shoal_chaos.clusters.packet_filters import PASS, RETURN, bytecode, checked, filter_program, lateness

FIRST_ADDRESS = IPv4Address("10.77.0.1")
PREFIX_BITS = 24
ENDS_MAX = 60
HUB, BRIDGE, INTERFACE = "hub", "bridge0", "eth0"
PROBE = "probe"

OPEN = bytecode([(RETURN, 0, 0, PASS)])


def require(*, netem: bool) -> None:
    """Try on this machine, in a namespace that is removed at once, all that a network of packets is made of.

    Args:
        netem: packets are to be late, too.

    Raises:
        NamespacesMissing: it cannot be had here.
    """
    namespaces.require_tools()
    name = Owner.this_process().namespace(PROBE)
    try:
        use("ip", "netns", "add", name)
        try:
            use("ip", "-netns", name, "-batch", "-", lines=[_bridge(), _cable("n1", ""), _plug("n1")])
            use("tc", "-netns", name, "-batch", "-", lines=[_gate("n1"), _filter("n1", OPEN)])
            if netem:
                _require_netem(name)
        finally:
            use("ip", "netns", "delete", name)
    except ToolFailed as error:
        raise NamespacesMissing(
            f"packet filters need network namespaces, veth, a bridge and cls_bpf, and this machine says to {error}"
        ) from error


def _require_netem(name: str) -> None:
    try:
        use("tc", "-netns", name, "-batch", "-", lines=[_late("n1", "delay 1ms 1ms duplicate 1%")])
    except ToolFailed as error:
        raise NamespacesMissing(f"late packets need sch_netem, and this machine says to {error}") from error


class PacketNetwork:
    """Implements `networks.Network`."""

    fronted = False

    def __init__(self, nodes: Sequence[str], managers: Sequence[str], links: Links, *, netem: bool = False) -> None:
        """Make nothing yet.

        Args:
            netem: packets may be late, too.

        Raises:
            NamespacesMissing: see `require`.
        """
        require(netem=netem)
        ends = [*nodes, CLIENTS]
        if len(ends) > ENDS_MAX:
            raise ValueError(f"{len(ends)} ends are more than {ENDS_MAX}")
        self._owner = Owner.this_process()
        self._addresses = {end: FIRST_ADDRESS + number for number, end in enumerate(ends)}
        self._links = links
        self._in_force: dict[str, tuple[str, str]] = dict.fromkeys(ends, (OPEN, ""))
        self._stay = ExitStack()
        self.hosts: Mapping[str, str] = {
            **{node: str(self._addresses[node]) for node in nodes},
            **{manager: str(self._addresses[CLIENTS]) for manager in managers},
        }
        self.wrappers: Mapping[str, Sequence[str]] = {
            node: namespaces.inside(self._owner.namespace(node)) for node in nodes
        }

    async def start(self, ports: Mapping[str, tuple[int, int]]) -> None:  # noqa: ARG002 - proxies need them
        """Remove what killed runs have left, make the namespaces, and enter that of the clients."""
        namespaces.remove_leftovers()
        hub = self._owner.namespace(HUB)
        cables: list[str] = []
        for end in self._addresses:
            name = self._owner.namespace(end)
            use("ip", "netns", "add", name)
            cables += [_cable(end, name), _plug(end)]
        use("ip", "netns", "add", hub)
        use("ip", "-netns", hub, "-batch", "-", lines=[_bridge(), *cables])
        gates = [line for end in self._addresses for line in (_gate(end), _filter(end, OPEN))]
        use("tc", "-netns", hub, "-batch", "-", lines=gates)
        for end, address in self._addresses.items():
            name = self._owner.namespace(end)
            use("ip", "-netns", name, "-batch", "-", lines=[
                f"address add {address}/{PREFIX_BITS} dev {INTERFACE}", f"link set {INTERFACE} up", "link set lo up",
            ])  # fmt: skip
        self._links.watch(self._changed)
        self._stay.enter_context(namespaces.entered(self._owner.namespace(CLIENTS)))

    async def stop(self) -> None:
        """Leave the clients' namespace, and remove all that there is of ours; also where not all of it was made."""
        self._stay.close()
        for name in namespaces.names():
            if namespaces.owner_of(name) == self._owner:
                use("ip", "netns", "delete", name)

    def namespace(self, end: str) -> str:
        """Return the name of the namespace that a node, or `CLIENTS`, is in."""
        return self._owner.namespace(end)

    def _changed(self) -> None:
        """Put in force what the rules say now.

        Raises:
            NoSuchRule: packets cannot do that; all stays as it was.
        """
        wanted = {end: self._wanted(end) for end in self._addresses}
        lines: list[str] = []
        for end, (program, late) in wanted.items():
            old_program, old_late = self._in_force[end]
            if program != old_program:
                lines.append(_filter(end, program))
            if late != old_late:
                lines.append(_late(end, late) if late else f"qdisc delete dev {end} root")
        if lines:
            use("tc", "-netns", self._owner.namespace(HUB), "-batch", "-", lines=lines)
        self._in_force = wanted

    def _wanted(self, target: str) -> tuple[str, str]:
        rules = {
            address: checked(self._links.rule(source, target))
            for source, address in self._addresses.items()
            if source != target
        }
        return bytecode(filter_program(rules)), lateness(rules)


# Lines for `ip -batch` and `tc -batch`; a port of the bridge has the name of the end that is behind it.


def _bridge() -> str:
    return f"link add name {BRIDGE} up type bridge"


def _cable(end: str, namespace: str) -> str:
    there = f" netns {namespace}" if namespace else ""
    return f"link add name {end} type veth peer name {INTERFACE}{there}"


def _plug(end: str) -> str:
    return f"link set {end} master {BRIDGE} up"


def _gate(end: str) -> str:
    return f"qdisc add dev {end} clsact"


def _filter(end: str, program: str) -> str:
    return f'filter replace dev {end} egress pref 1 handle 1 bpf direct-action bytecode "{program}"'


def _late(end: str, arguments: str) -> str:
    return f"qdisc replace dev {end} root netem {arguments}"

"""Namespaces with packet filters between them, in the kernel; skipped, with the reason, where this machine has none."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from shoal_chaos.clusters import namespaces
from shoal_chaos.clusters.links import CLIENTS, HELD, LinkRule, Links, NoSuchRule
from shoal_chaos.clusters.namespaces import FOLDER, NamespacesMissing, Owner, ToolFailed
from shoal_chaos.clusters.packet_network import PacketNetwork, require

LONG = 20.0
SHORT = 0.2
PORT = 7400
DATAGRAMS = 200

KILLED_RUN = """
import asyncio, os, signal, subprocess
from shoal_chaos.clusters.links import Links
from shoal_chaos.clusters.packet_network import PacketNetwork
network = PacketNetwork(["n1"], [], Links())
asyncio.run(network.start({}))
node = subprocess.Popen([*network.wrappers["n1"], "sleep", "600"], stdout=subprocess.DEVNULL)
print(network.namespace("n1"), node.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Network:
    """Nodes n1 and n2, and the clients, each with sockets of this process."""

    def __init__(self, links: Links, network: PacketNetwork) -> None:
        self.links = links
        self.network = network
        self._sockets: list[socket.socket] = []

    def listen(self, end: str) -> socket.socket:
        with namespaces.entered(self.network.namespace(end)):
            return self._kept(socket.create_server((self.network.hosts[end], PORT)))

    def dial(self, source: str, target: str, seconds: float = LONG) -> socket.socket:
        with namespaces.entered(self.network.namespace(source)):
            return self._kept(socket.create_connection((self.network.hosts[target], PORT), seconds))

    def connected(self, source: str, target: str) -> tuple[socket.socket, socket.socket]:
        listener = self.listen(target)
        dialled = self.dial(source, target)
        accepted, _ = listener.accept()
        return dialled, self._kept(accepted)

    def datagrams(self, end: str) -> socket.socket:
        with namespaces.entered(self.network.namespace(end)):
            found = self._kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            found.bind((self.network.hosts[end], PORT))
            return found

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def _kept(self, one: socket.socket) -> socket.socket:
        one.settimeout(LONG)
        self._sockets.append(one)
        return one


@pytest.fixture(autouse=True)
def _possible() -> None:
    try:
        require(netem=False)
    except NamespacesMissing as missing:
        pytest.skip(str(missing))


@asynccontextmanager
async def started() -> AsyncIterator[Network]:
    links = Links()
    network = PacketNetwork(["n1", "n2"], ["m1"], links)
    found = Network(links, network)
    try:
        await network.start({})
        yield found
    finally:
        found.close()
        await network.stop()


def is_silent(one: socket.socket) -> bool:
    """Whether nothing comes for a moment, not even an end."""
    one.settimeout(SHORT)
    try:
        one.recv(1)
    except TimeoutError:
        return True
    finally:
        one.settimeout(LONG)
    return False


def is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def here() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def ours() -> list[str]:
    return [name for name in namespaces.names() if namespaces.owner_of(name) == Owner.this_process()]


async def test_all_ends_reach_each_other_and_this_thread_is_a_client() -> None:
    home = here()
    async with started() as found:
        for source, target in (("n1", "n2"), ("n2", "n1")):
            one, other = found.connected(source, target)
            one.sendall(b"there")
            assert other.recv(5) == b"there"
        socket.create_connection((found.network.hosts["n1"], PORT), LONG).close()
        assert here() != home
        assert found.network.hosts["m1"] not in {found.network.hosts["n1"], found.network.hosts["n2"]}
        assert len(ours()) == 4
    assert here() == home
    assert ours() == []


async def test_one_direction_is_cut_and_the_other_goes_on() -> None:
    async with started() as found:
        one, other = found.connected("n1", "n2")
        found.links.set({("n1", "n2"): HELD})
        one.sendall(b"late")
        other.sendall(b"soon")
        assert one.recv(4) == b"soon"
        assert is_silent(other)
        found.links.clear([("n1", "n2")])
        assert other.recv(4) == b"late"


async def test_a_cut_connection_stays_half_open_and_a_new_one_is_neither_made_nor_refused() -> None:
    async with started() as found:
        one, other = found.connected("n1", "n2")
        found.links.set({("n1", "n2"): HELD, ("n2", "n1"): HELD})
        other.close()
        assert is_silent(one)
        with pytest.raises(TimeoutError):
            found.dial("n1", "n2", SHORT)
        found.links.clear([("n1", "n2"), ("n2", "n1")])
        assert one.recv(1) == b""


async def test_a_rule_is_for_whom_it_names_alone() -> None:
    async with started() as found:
        found.listen("n2")
        found.links.set({("n1", "n2"): HELD})
        found.dial(CLIENTS, "n2")
        with pytest.raises(TimeoutError):
            found.dial("n1", "n2", SHORT)
        found.links.set({(CLIENTS, "n2"): HELD})
        with pytest.raises(TimeoutError):
            found.dial(CLIENTS, "n2", SHORT)


async def test_about_the_share_of_packets_that_was_asked_for_is_lost() -> None:
    async with started() as found:
        one, other = found.datagrams("n1"), found.datagrams("n2")
        found.links.set({("n1", "n2"): LinkRule(loss=0.5)})
        address = (found.network.hosts["n2"], PORT)
        for _ in range(DATAGRAMS):
            one.sendto(b"x", address)
        found.links.clear([("n1", "n2")])
        one.sendto(b"last", address)
        came = 0
        while other.recv(10) != b"last":
            came += 1
        assert 0.2 * DATAGRAMS < came < 0.8 * DATAGRAMS


async def test_a_rule_that_packets_cannot_follow_leaves_all_as_it_was() -> None:
    async with started() as found:
        one, other = found.connected("n1", "n2")
        with pytest.raises(NoSuchRule):
            found.links.set({("n1", "n2"): HELD, ("n2", "n1"): LinkRule(reset=True)})
        one.sendall(b"there")
        assert other.recv(5) == b"there"


async def test_a_start_that_fails_half_way_leaves_nothing_behind() -> None:
    home = here()
    network = PacketNetwork(["n1", "name-longer-than-an-interface"], [], Links())
    with pytest.raises(ToolFailed):
        await network.start({})
    assert ours() != []
    await network.stop()
    assert ours() == []
    assert here() == home


async def test_what_a_killed_run_has_left_is_removed_by_the_next_one_and_nothing_else() -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_RUN, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await killed.communicate()
    left, pid = out.decode().split()
    stranger = f"test-{os.getpid()}"
    namespaces.use("ip", "netns", "add", stranger)
    try:
        async with started() as found:
            there = namespaces.names()
            assert left not in there
            assert {stranger, found.network.namespace("n1")} <= set(there)
            async with asyncio.timeout(LONG):
                while not is_over(int(pid)):
                    await asyncio.sleep(0)
    finally:
        namespaces.use("ip", "netns", "delete", stranger)
    assert not (FOLDER / left).exists()

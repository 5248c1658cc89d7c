"""All links of a node to its peers, kept in step with its shard map."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from ssl import SSLContext

from shoal.protocol.messages import Hello, Welcome

from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.outbox import PeerMessage
from shoal_server.process.peers import PeerLink
from shoal_server.process.silence import Signs
from shoal_server.raft.liveness import Liveness


class PeerLinks:
    """One `PeerLink` a peer, with the task that keeps it connected."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        *,
        max_frame_bytes: int,
        check: Callable[[str, Welcome], str],
        connected: Callable[[str], None],
        lost: Callable[[str], None],
        failed: Callable[[asyncio.Task[None]], None],
        liveness: Liveness,
        clock: Callable[[], int],
        support_ns: int,
        memory: MemoryBudget,
        tls: SSLContext | None = None,
    ) -> None:
        """
        Args:
            check: says "" where the node that answered is the peer expected there, else why not.
            failed: called with the task of a link that ended by itself, which it never should.
            liveness: knows what has come of peers.
            clock, support_ns, memory, tls: see `PeerLink`.
        """
        self._hello = hello
        self._max_frame_bytes = max_frame_bytes
        self._check = check
        self._connected = connected
        self._lost = lost
        self._failed = failed
        self._liveness = liveness
        self._received: dict[str, int] = {}
        self._clock = clock
        self._support_ns = support_ns
        self._memory = memory
        self._tls = tls
        self._links: dict[str, tuple[str, PeerLink, asyncio.Task[None]]] = {}

    def update(self, addresses: Mapping[str, str]) -> None:
        """Link to exactly these peers (id -> `host:port`); links that stay are left alone."""
        for peer, (address, _, _) in list(self._links.items()):
            if addresses.get(peer) != address:
                self._end(peer)
        for peer, address in addresses.items():
            if peer not in self._links:
                self._begin(peer, address)

    def _begin(self, peer: str, address: str) -> None:
        link = PeerLink(
            peer,
            address,
            self._hello,
            max_frame_bytes=self._max_frame_bytes,
            check=lambda welcome: self._check(peer, welcome),
            connected=self._connected,
            lost=self._lost,
            signs_of=self._signs_of,
            clock=self._clock,
            support_ns=self._support_ns,
            memory=self._memory,
            tls=self._tls,
        )
        task = asyncio.create_task(link.run())
        task.add_done_callback(self._failed)
        self._links[peer] = (address, link, task)

    def _end(self, peer: str) -> asyncio.Task[None]:
        _, _, task = self._links.pop(peer)
        task.remove_done_callback(self._failed)
        task.cancel()
        return task

    def received(self, peer: str, size: int) -> None:
        """So many bytes have come of a peer."""
        self._received[peer] = self._received.get(peer, 0) + size

    def _signs_of(self, peer: str) -> Signs:
        liveness = self._liveness
        return Signs(liveness.answers_of(peer), liveness.heartbeats_of(peer), self._received.get(peer, 0))

    def send(self, to_peers: Mapping[str, list[PeerMessage]]) -> None:
        """Send a turn's messages; those to a peer without a link are dropped.

        Where connections hold more together than they may, the one that holds most is ended.
        """
        for peer, messages in to_peers.items():
            found = self._links.get(peer)
            if found is not None:
                found[1].send(messages)
        memory = self._memory
        if memory.pressure(Account.PEERS) > 1:
            links = [link for _, link, _ in self._links.values()]
            for link in links:
                link.account()
            if memory.pressure(Account.PEERS) > 1:
                memory.refused[Account.PEERS] += 1
                max(links, key=lambda link: link.unsent_bytes).cut_off()

    def unsent_bytes(self) -> dict[str, int]:
        """Return by peer what its connection has not taken yet."""
        return {peer: link.unsent_bytes for peer, (_, link, _) in self._links.items()}

    def is_there(self, peer: str) -> None:
        """A peer has connected here: dial it now, where its link waits to be dialled again."""
        found = self._links.get(peer)
        if found is not None:
            found[1].is_there()

    def greet_again(self, peer: str) -> None:
        """Part with a peer that is connected, and dial it again: it may have more to say of itself by now."""
        found = self._links.get(peer)
        if found is not None:
            found[1].greet_again()

    async def close(self) -> None:
        """End every link."""
        tasks: Iterable[asyncio.Task[None]] = [self._end(peer) for peer in list(self._links)]
        await asyncio.gather(*tasks, return_exceptions=True)

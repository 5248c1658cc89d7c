"""The addresses of the cluster's own machines, of nodes and managers: looked up now and then, since names may move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from shoal_server.certificates import host_of

LOOK_UP_SECONDS = 60.0


class KnownHosts:
    """See the module's first line."""

    def __init__(
        self,
        addresses: Callable[[], Iterable[str]],
        found: Callable[[frozenset[str]], None],
        getaddrinfo: Callable[[str, None], Awaitable[Sequence[Any]]],
    ) -> None:
        """
        Args:
            addresses: says where all of them are, as `host:port`.
            found: told the addresses of these hosts, in the form in which connections come from them.
            getaddrinfo: the event loop's.
        """
        self._getaddrinfo = getaddrinfo
        self._addresses = addresses
        self._found = found
        self._of_host: dict[str, frozenset[str]] = {}

    async def follow(self) -> None:
        """Look them up until cancelled."""
        while True:
            await self.look_up()
            await asyncio.sleep(LOOK_UP_SECONDS)

    async def look_up(self) -> None:
        """Look all of them up; one that cannot be found keeps the addresses that it had."""
        hosts = {host_of(address) for address in self._addresses()}
        self._of_host = {host: found for host, found in self._of_host.items() if host in hosts}
        for host in sorted(hosts):
            try:
                found = await self._getaddrinfo(host, None)
            except OSError:
                continue
            self._of_host[host] = frozenset(str(address[0]) for _, _, _, _, address in found)
        self._found(frozenset().union(*self._of_host.values()))

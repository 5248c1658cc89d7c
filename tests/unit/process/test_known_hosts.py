"""The cluster's own machines, by the addresses that connections come from."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from shoal_server.process.known_hosts import KnownHosts


async def test_names_are_looked_up_and_one_that_is_not_found_keeps_what_it_was():
    answers: dict[str, list[str]] = {"n1": ["10.0.0.1", "fd00::1"], "10.0.0.2": ["10.0.0.2"]}
    asked = ["n1:7400", "10.0.0.2:7400", "nowhere:7400"]
    told: list[frozenset[str]] = []

    async def look_up(host: str, port: Any) -> list[Any]:
        if host not in answers:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, 0)) for address in answers[host]]

    hosts = KnownHosts(lambda: asked, told.append, look_up)
    await hosts.look_up()
    assert told[-1] == {"10.0.0.1", "fd00::1", "10.0.0.2"}
    del answers["n1"]
    asked.remove("10.0.0.2:7400")
    await hosts.look_up()
    assert told[-1] == {"10.0.0.1", "fd00::1"}


async def test_addresses_are_as_connections_have_them():
    told: list[frozenset[str]] = []
    hosts = KnownHosts(lambda: ["127.0.0.1:1", "[::1]:2"], told.append, asyncio.get_running_loop().getaddrinfo)
    await hosts.look_up()
    assert "127.0.0.1" in told[-1]

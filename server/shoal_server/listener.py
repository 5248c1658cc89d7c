"""Listens at one address, and accepts no more connections than there is room for: the others wait in the system.

The loops' own servers accept whatever has come, a thousand at once, and each takes a descriptor before anybody can say no.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

BACKLOG = 1024
AT_ONCE = 16
"""Connections that are accepted one after the other before anything else is done."""
ROOM_SECONDS = 0.002
"""After so long it is looked whether there is room again."""
ACCEPT_PAUSE_SECONDS = 0.5
"""What is waited where the system has no room for another connection."""


class Listener:
    """See the module's first lines. For one event loop, in which `start` is called."""

    def __init__(
        self,
        made: Callable[[], asyncio.Protocol],
        refused: Callable[[str, str], None],
        failed: Callable[[asyncio.Task[None]], None],
        has_room: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """
        Args:
            made: makes the protocol of a connection.
            refused: told the address of whom no connection came about with, and why.
            failed: called with the task that accepts, if it has ended by itself, which it never should.
            has_room: says whether there is room for one more besides so many that are just beginning; it is asked again.
        """
        self._made = made
        self._refused = refused
        self._failed = failed
        self._has_room = has_room
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._beginning: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen, at every address that `host` has; return the port, which the system chooses for 0.

        Raises:
            OSError: that is not possible.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            # As asyncio does: an IPv6 address is for IPv6 alone, and others may have the IPv4 one.
            listening = socket.create_server((address[0], port), family=family, backlog=BACKLOG)
            listening.setblocking(False)
            self._sockets.append(listening)
            task = asyncio.create_task(self._accept(listening))
            task.add_done_callback(self._failed)
            self._accepting.append(task)
            port = listening.getsockname()[1]
        return port

    async def close(self) -> None:
        """Accept no more, and give up what is just beginning."""
        for task in self._accepting:
            task.remove_done_callback(self._failed)
        tasks = [*self._accepting, *self._beginning]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(AT_ONCE):
                if not self._has_room(len(self._beginning)):
                    await asyncio.sleep(ROOM_SECONDS)
                    break
                try:
                    accepted, address = await loop.sock_accept(listening)
                except OSError as error:
                    self._refused("", f"a connection could not be accepted: {error}")
                    await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                    break
                task = asyncio.create_task(self._begin(accepted, address[0], address[1]))
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)
            await asyncio.sleep(0)

    async def _begin(self, accepted: socket.socket, host: str, port: int) -> None:
        """Make a connection of what was accepted."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._made, accepted)
        except OSError as error:
            accepted.close()
            self._refused(f"{host}:{port}", f"a connection could not be accepted: {error}")

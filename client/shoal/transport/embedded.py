"""A connection to a database in this process (`embedded://`): what `Connection` is to a node, without a network.

The database is the server's code (shoal_server/embedded.py). It is loaded by name, and only when such a URL is used: the
client works where no server is installed.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from ssl import SSLContext
from typing import Protocol, cast

from shoal.embedded_url import EMBEDDED_ADDRESS, EmbeddedOptions
from shoal.errors import ErrorCode, InvalidArgument, ShoalError
from shoal.protocol.messages import Answer, Request, TracedRequest, Welcome
from shoal.routing.overload import NO_OVERLOAD, Overload

DATABASE_MODULE = "shoal_server.embedded"


class EmbeddedHost(Protocol):
    """What an embedded connection tells whom it belongs to."""

    def connection_up(self, connection: EmbeddedConnection, welcome: Welcome) -> None: ...
    def connection_down(
        self, connection: EmbeddedConnection, reason: str, refusal: ErrorCode | None, overload: Overload
    ) -> None: ...
    def answered(self, connection: EmbeddedConnection, answers: list[Answer]) -> None: ...
    def turn_away(self, error: ShoalError) -> None:
        """Tell those who wait for the first connection that it does not come about."""
        ...


class Database(Protocol):
    """An open database. `close` is called after `stop`, and in another thread."""

    def attach(self, answered: Callable[[list[Answer]], None], lost: Callable[[str], None]) -> Welcome: ...
    def detach(self) -> None: ...
    def receive(self, requests: list[Request]) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class OpenDatabase(Protocol):
    """Opens a database for an event loop, or raises a `ShoalError`."""

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        folder: str,
        keyspace: str,
        microshards: int | None,
        delimiter: bytes | None,
    ) -> Database: ...


class EmbeddedConnection:
    """One per client: it may be ended and connected again, which leaves the database open; `close` closes that, too."""

    def __init__(self, host: EmbeddedHost, options: EmbeddedOptions, keyspace: str) -> None:
        """
        Raises:
            InvalidArgument: the server's part is not installed.
        """
        self.address = EMBEDDED_ADDRESS
        self._host = host
        self._options = options
        self._keyspace = keyspace
        self._open = _load()
        self._database: Database | None = None
        self._connected = False

    async def connect(self, tls: SSLContext | None) -> None:  # noqa: ARG002 - as a network's connection
        """Open the database, unless it is open already; a failure is told to the host, not raised."""
        options = self._options
        try:
            if self._database is None:
                loop = asyncio.get_running_loop()
                self._database = self._open(
                    loop, options.folder, self._keyspace, options.microshards, options.delimiter
                )
            welcome = self._database.attach(self._answered, self.end)
        except ShoalError as error:
            self._host.connection_down(self, str(error), None, NO_OVERLOAD)
            self._host.turn_away(error)
            return
        self._connected = True
        self._host.connection_up(self, welcome)

    def send(self, requests: list[TracedRequest], max_frame_bytes: int) -> None:  # noqa: ARG002 - there are no frames here
        """Hand requests to the database, which answers in a later turn of the event loop."""
        if self._connected and self._database is not None:
            # It asks for no traces in its welcome, so there are none among them.
            self._database.receive(cast(list[Request], requests))

    @property
    def is_open(self) -> bool:
        """Whether there is a database, connected or not."""
        return self._database is not None

    def forked(self) -> None:
        """In a child: nobody is to be told of what the parent's database does."""
        self._connected = False

    def progressed(self) -> bool:
        """Nothing sent is ever on its way."""
        return False

    def end(self, reason: str, refusal: ErrorCode | None = None, overload: Overload = NO_OVERLOAD) -> None:
        """End the connection, and tell the host why; later calls do nothing."""
        if not self._connected:
            return
        self._connected = False
        if self._database is not None:
            self._database.detach()
        self._host.connection_down(self, reason, refusal, overload)

    async def close(self) -> None:
        """Close the database, in a thread: it brings to the disk what is not there yet.

        Raises:
            Internal: the disk failed.
        """
        database, self._database = self._database, None
        if database is None:
            return
        database.stop()
        try:
            closing = asyncio.get_running_loop().run_in_executor(None, database.close)
        except RuntimeError:
            # The interpreter is ending and begins no threads any more; nobody minds that the loop stands still.
            database.close()
            return
        await closing

    def _answered(self, answers: list[Answer]) -> None:
        self._host.answered(self, answers)


def _load() -> OpenDatabase:
    try:
        module = importlib.import_module(DATABASE_MODULE)
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"an embedded:// database runs in this process, which needs more than the client ({error}): "
            "pip install 'shoal[server]'"
        ) from error
    return cast(OpenDatabase, module.open_database)

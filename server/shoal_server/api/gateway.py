"""The way from the API into the cluster: clients of each keyspace, priority and lane, by which a node answers for any key."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import quote, urlencode

import shoal
from shoal.bounds import MAX_NAME
from shoal.errors import Closed, DeadlineExceeded, InvalidArgument
from shoal.options import DEFAULT_KEYSPACE, DEFAULT_TIMEOUT_SECONDS
from shoal.priorities import Priority

from shoal_server.api.call_priority import PRIORITY
from shoal_server.grpc_places import lane_of_call

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

IN_FLIGHT_MAX = 8_192
"""The most operations of one client that are under way at once; further ones wait."""
CLIENTS_MAX = 64
"""With so many, further keyspaces and priorities have one client each, which all their callers share."""
Way: TypeAlias = tuple[str, Priority, int]
"""A keyspace, a priority, and a lane: who takes different ones waits for nobody in the other."""
SHOWN = 64
"""Characters of a name that an error quotes."""


class InSession(Protocol):
    """A request that may belong to a session."""

    keyspace: str
    session: str

    def HasField(self, field_name: str) -> bool: ...  # noqa: N802 - protobuf's


class Gateway:
    """Finds the client for a request. Belongs to the event loop it is first used in.

    A client that is found at once knows its keyspace. A keyspace that no client knows is looked for with a new
    one: it begins with the newest shard map, where those that are there may never have heard of the keyspace.
    """

    def __init__(
        self,
        address: str,
        region: str,
        tls: SSLContext | None = None,
        spans: TracerProvider | None = None,
        ways: int = CLIENTS_MAX,
    ) -> None:
        """
        Args:
            address: a node's, where the cluster is found.
            region: of whose replicas weak reads are served by preference.
            tls: None: nodes are reached by plain connections.
            spans: makes those of calls; None: there are none.
            ways: with so many clients, further keyspaces and priorities have one each.
        """
        self._ways = ways
        self._spans = spans
        self._address = address
        self._tls = tls
        self._query: dict[str, object] = {"max_in_flight": IN_FLIGHT_MAX} | ({"region": region} if region else {})
        self._clients: dict[Way, shoal.AsyncClient] = {}
        self._finding = asyncio.Lock()
        self._closed = False

    async def client(self, request: InSession, seconds: float | None) -> shoal.AsyncClient:
        """Return the client to do a request with, of the call's priority: a session of its own, where the request has one.

        Args:
            seconds: that this may take.

        Raises:
            KeyspaceNotFound: there is no such keyspace.
            InvalidArgument: the session's token is none, or of another keyspace; or the keyspace's name can be none.
            ShoalError: the cluster was not found.
        """
        name = request.keyspace or DEFAULT_KEYSPACE
        if "/" in name or len(name) > MAX_NAME:
            raise InvalidArgument(
                f"a keyspace's name has at most {MAX_NAME} characters, and no '/', so there is none that is called "
                f"{name[:SHOWN]!r}"
            )
        wanted = name, PRIORITY.get(), lane_of_call()
        client = self._clients.get(wanted)
        if client is None and wanted[2] and len(self._clients) >= self._ways:
            wanted = *wanted[:2], 0
            client = self._clients.get(wanted)
        if client is None:
            client = await self._find(wanted, DEFAULT_TIMEOUT_SECONDS if seconds is None else seconds)
        return client.session(request.session or None) if request.HasField("session") else client

    async def _find(self, wanted: Way, seconds: float) -> shoal.AsyncClient:
        try:
            async with asyncio.timeout(seconds), self._finding:
                if wanted not in self._clients:
                    self._clients[wanted] = await self._open(*wanted[:2])
                return self._clients[wanted]
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"keyspace {wanted[0]!r} was not found within {seconds:g} s; nothing was done"
            ) from error

    async def _open(self, name: str, priority: Priority) -> shoal.AsyncClient:
        if self._closed:
            raise Closed("this node is stopping; ask another")
        scheme = "shoal" if self._tls is None else "shoals"
        query = urlencode(self._query | {"priority": priority.value})
        url = f"{scheme}://{self._address}/{quote(name, safe='')}?{query}"
        client = shoal.AsyncClient(url, ssl=self._tls, tracing=self._spans or False)
        try:
            return await client.__aenter__()
        except BaseException:
            await client.close()
            raise

    async def close(self) -> None:
        """Close all clients: what they still do ends with `Closed`."""
        self._closed = True
        for client in self._clients.values():
            await client.close()


def token_of(request: InSession, client: shoal.AsyncClient) -> str | None:
    """Return the token of a request's session for the answer; None where it has no session."""
    return client.token() if request.HasField("session") else None

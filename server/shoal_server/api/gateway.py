"""The way from the API into the cluster: clients of each keyspace, priority and lane, by which a node answers for any key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import shoal
from shoal.bounds import MAX_NAME
from shoal.errors import Closed, DeadlineExceeded, InvalidArgument, KeyspaceNotFound
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
ABSENT_SECONDS = 1.0
"""For so long it is remembered that there is no keyspace of a name."""
ABSENT_MAX = 1_024
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
    one: it begins with the newest shard map, where those that are there may never have heard of the keyspace. That is work,
    which names that nobody has heard of wait for, one after the other; whoever asks for a keyspace that is known waits for
    none of them.
    """

    def __init__(
        self,
        address: str,
        region: str,
        tls: SSLContext | None = None,
        spans: TracerProvider | None = None,
        ways: int = CLIENTS_MAX,
        knows: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            address: a node's, where the cluster is found.
            region: of whose replicas weak reads are served by preference.
            tls: None: nodes are reached by plain connections.
            spans: makes those of calls; None: there are none.
            ways: with so many clients, further keyspaces and priorities have one each.
            knows: says whether the node has heard of a keyspace of that name.
        """
        self._ways = ways
        self._spans = spans
        self._knows = knows
        self._address = address
        self._tls = tls
        self._query: dict[str, object] = {"max_in_flight": IN_FLIGHT_MAX} | ({"region": region} if region else {})
        self._clients: dict[Way, shoal.AsyncClient] = {}
        self._finding: WeakValueDictionary[Way, asyncio.Lock] = WeakValueDictionary()
        """Of keyspaces that are known."""
        self._looking = asyncio.Lock()
        """For one that is not."""
        self._absent: dict[str, tuple[float, KeyspaceNotFound]] = {}
        """What was said of names that there are none of, until when: those first that were looked for first."""
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
        if client is None and wanted[2] and len(self._clients) + len(self._finding) >= self._ways:
            wanted = *wanted[:2], 0
            client = self._clients.get(wanted)
        if client is None:
            client = await self._find(wanted, DEFAULT_TIMEOUT_SECONDS if seconds is None else seconds)
        return client.session(request.session or None) if request.HasField("session") else client

    async def _find(self, wanted: Way, seconds: float) -> shoal.AsyncClient:
        name = wanted[0]
        is_known = self._knows(name) or any(found == name for found, _, _ in self._clients)
        lock = self._finding.setdefault(wanted, asyncio.Lock()) if is_known else self._looking
        try:
            async with asyncio.timeout(seconds), lock:
                if wanted in self._clients:
                    return self._clients[wanted]
                if not is_known:
                    self._refuse_absent(name)
                client = await self._open(*wanted[:2])
                first = self._clients.setdefault(wanted, client)
                if first is not client:
                    # It became known while somebody looked for it.
                    await client.close()
                return first
        except TimeoutError as error:
            raise DeadlineExceeded(f"keyspace {name!r} was not found within {seconds:g} s; nothing was done") from error
        except KeyspaceNotFound as error:
            self._absent.setdefault(name, (asyncio.get_running_loop().time() + ABSENT_SECONDS, error))
            if len(self._absent) > ABSENT_MAX:
                del self._absent[next(iter(self._absent))]
            raise

    def _refuse_absent(self, name: str) -> None:
        """Raise again what was raised of a keyspace just now."""
        until, error = self._absent.get(name, (0.0, None))
        if error is not None:
            if asyncio.get_running_loop().time() < until:
                raise KeyspaceNotFound(str(error))
            del self._absent[name]

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

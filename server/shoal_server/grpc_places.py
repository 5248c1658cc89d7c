"""Who may have calls under way at a gRPC server, and which of them give way: in front of all services that it has.

gRPC itself bounds calls of all kinds together, and keeps each for as long as its caller likes. So a thousand streams that say
nothing used a server up, and so did calls whose request never came. Here every call has a place of a kind:

- **coming**: its request has not arrived. There the oldest gives way, and none waits for longer than `REQUEST_SECONDS`;
- **streams**: one that is idle gives way where there are too many, and ends after `IDLE_SECONDS`; no address has all;
- **watches** of the health service, which say nothing by their nature: the oldest gives way, of the address that has the most.

Calls with one request and one answer have no place once the request is there: the service bounds them, and no stream takes
anything from them. Whoever gives way is told so, by a status with words.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import grpc
import grpc.aio
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.priorities import OverloadReason

from shoal_server.places import IdleGoes, OldestGoes

COMING_MAX = 1024
STREAMS_MAX = 512
WATCHES_MAX = 1024
"""A gRPC client that follows the health of its nodes keeps one a connection."""
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 300.0
UNREAD_SECONDS = 2.0
LOOK_SECONDS = 1.0
RETRY_SECONDS = 1.0
HANDSHAKE_MS = 5_000
"""A connection on which gRPC has not begun by then is closed."""
UNUSED_MS = 60_000
"""Likewise, one that has had no call for so long: its caller connects again with the next."""
CALLS_BESIDES = 512
"""Calls of other services than the data API, on which nobody waits for anybody."""
WATCH = "/grpc.health.v1.Health/Watch"


def server_options(callers: int | None = None) -> tuple[tuple[str, int], ...]:
    """Return the options of a server that has `callers` connections at the most; None: somebody else sees to that."""
    bound = () if callers is None else (("grpc.max_allowed_incoming_connections", callers),)
    return (
        ("grpc.so_reuseport", 0),
        *bound,
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", UNUSED_MS),
    )


def calls_max(unary: int) -> int:
    """Return how many calls of all kinds a server may have at once, of which so many are taken with one request: gRPC's own
    bound, which turns away whoever comes, is above all others together."""
    return unary + COMING_MAX + STREAMS_MAX + WATCHES_MAX + CALLS_BESIDES


Tell = Callable[[Any, ShoalError], Awaitable[None]]
"""Ends the call of a context with the status of an error."""


class Caller(NamedTuple):
    """Who has made a call.

    Attributes:
        host_address: where it is.
        lane: by which its calls go on.
        answered: told that a message of the call, of so many bytes, is held no more.
    """

    host_address: str
    lane: int
    answered: Callable[[int], None]


def caller_of_peer(context: Any) -> Caller:
    """Return who has made a call, as gRPC says it."""
    return Caller(context.peer().rpartition(":")[0], 0, lambda _: None)


class Call:
    """A call that has a place.

    Attributes:
        caller: who has made it; host_address: where that is.
        sizes: of the messages that have come and are not answered (bytes).
        moved: how often a message has come or gone; asked: whether one has come.
        ended: why it has to end, if it has to.
        unread_since: since when its caller has not taken an answer, if one waits for that.
        answers_itself: it says when a message is answered; otherwise that is when the next one is asked for.
    """

    __slots__ = (
        "_task",
        "_told",
        "answers_itself",
        "asked",
        "began",
        "caller",
        "ended",
        "host_address",
        "moved",
        "sizes",
        "unread_since",
    )

    def __init__(self, caller: Caller, task: asyncio.Task[Any], began: float) -> None:
        self.caller = caller
        self.host_address = caller.host_address
        self.sizes: deque[int] = deque()
        self.answers_itself = False
        self.unread_since: float | None = None
        self.began = began
        self.moved = 0
        self.asked = False
        self.ended: ShoalError | None = None
        self._task = task
        self._told: asyncio.Future[None] | None = None

    def waits_with(self, told: asyncio.Future[None] | None) -> None:
        """Have `told` done where the call has to end, instead of being cancelled: it waits for it, and ends by itself then."""
        self._told = told
        if told is not None and self.ended is not None:
            told.set_result(None)

    def answered(self) -> None:
        """Of its messages the one that came first is held no more."""
        if self.sizes:
            self.caller.answered(self.sizes.popleft())

    def all_answered(self) -> None:
        """None of its messages is held any more."""
        while self.sizes:
            self.answered()

    def end(self, reason: ShoalError, *, at_once: bool = False) -> None:
        """Have the call end; once is enough.

        Args:
            at_once: it waits for its caller to read, and so does not look whether it has to end.
        """
        if self.ended is not None:
            return
        self.ended = reason
        if not at_once and self._told is not None and not self._told.done():
            self._told.set_result(None)
        else:
            self._task.cancel()


CALL: ContextVar[Call | None] = ContextVar("call", default=None)
"""The call that a task belongs to, if it has a place."""


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who has made the call that a task belongs to."""


def lane_of_call() -> int:
    """Return the lane of the call that a task belongs to."""
    caller = CALLER.get()
    return 0 if caller is None else caller.lane


class CallPlaces(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """See the module's first lines. For one event loop."""

    def __init__(
        self, tell: Tell, clock: Callable[[], float], caller_of: Callable[[Any], Caller] = caller_of_peer
    ) -> None:
        """
        Args:
            tell: ends a call with an error.
            clock: seconds, monotonic.
            caller_of: says who has made the call of a context.
        """
        self._caller_of = caller_of
        self.coming: OldestGoes[Call] = OldestGoes(COMING_MAX)
        self.watches: OldestGoes[Call] = OldestGoes(WATCHES_MAX)
        self.streams: IdleGoes[Call] = IdleGoes(
            STREAMS_MAX, self._is_idle, called="streams are open", advice="or ask another node"
        )
        self._tell = tell
        self._clock = clock
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self._waiting: dict[Call, None] = {}
        self._open: dict[Call, None] = {}
        self._seen: dict[Call, tuple[int, float]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a method, with a place in front of it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._with_place(method, handler)
        return known[1]

    # -- time

    def begin(self) -> None:
        """Look at all calls from now on, in the running loop."""
        self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Look at them no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """End those that wait for too long, and see which streams are idle."""
        now = self._clock()
        for call in list(self._waiting):
            if now - call.began < REQUEST_SECONDS:
                break
            call.end(DeadlineExceeded(f"no request within {REQUEST_SECONDS:g} s; nothing was done"))
        before, self._seen = self._seen, {}
        idle: list[tuple[Call, float, bool]] = []
        for call in list(self._open):
            moved, since = before.get(call, (call.moved, now))
            if moved != call.moved:
                moved, since = call.moved, now
            self._seen[call] = moved, since
            if call.ended is not None or now - since >= IDLE_SECONDS:
                call.end(
                    Unavailable(f"nothing has gone over this stream for {IDLE_SECONDS:g} s: open another when needed")
                )
            else:
                idle.append((call, now - since, call.asked))
        self.streams.set_idle(idle)

    def make_room(self) -> None:
        """Have the stream end whose caller has not read for longest, of those whose messages are held for that."""
        least = self._clock() - UNREAD_SECONDS
        longest: Call | None = None
        for call in self._open:
            if call.sizes and call.ended is None and call.unread_since is not None and call.unread_since < least:
                longest, least = call, call.unread_since
        if longest is not None:
            words = "others wait for room, and of all callers this one has read no answer for longest"
            longest.end(_overloaded(words), at_once=True)

    def _is_idle(self, call: Call) -> bool:
        return call.moved == self._seen.get(call, (-1, 0.0))[0] and call.ended is None

    # -- calls

    def _with_place(self, method: str, handler: Any) -> Any:
        if handler.request_streaming:
            serve = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            serve = handler.unary_stream if handler.response_streaming else handler.unary_unary
        begin = self._serve_watch if method == WATCH else self._serve_stream
        is_stream = handler.request_streaming or handler.response_streaming

        async def call(requests: AsyncIterator[Any], context: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None, "a call is a task"
            caller = self._caller_of(context)
            CALLER.set(caller)
            call = Call(caller, task, self._clock())
            try:
                request = _Noted(call, requests) if handler.request_streaming else await self._request(call, requests)
                if not is_stream:
                    return await serve(request, context)
                return await begin(call, serve, request, context)
            except asyncio.CancelledError:
                if call.ended is None:
                    raise
                task.uncancel()
                call.all_answered()
                return await self._tell(context, call.ended)
            except ShoalError as error:
                call.all_answered()
                return await self._tell(context, error)
            finally:
                call.all_answered()
                # Whoever does not read its answers does not hear that it has to give way, and is here until it goes: with its
                # place, and nothing else.
                self._left(call)

        # All of them take streams of requests here: what waits for a single one has to be seen, too.
        kind = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return kind(call, _sized(handler.request_deserializer), handler.response_serializer)

    async def _request(self, call: Call, requests: AsyncIterator[Any]) -> Any:
        """Wait for the one request of a call."""
        victim = self.coming.arrive(call, call.host_address)
        self._waiting[call] = None
        if victim is not None:
            victim.end(
                _overloaded("others have come, and of all calls this one's request has been on its way for longest")
            )
        try:
            request, size = await anext(requests)
            call.sizes.append(size)
            return request
        except StopAsyncIteration:
            raise InvalidArgument("the call ends before its request") from None
        finally:
            self.coming.leave(call)
            del self._waiting[call]

    async def _serve_stream(self, call: Call, serve: Any, request: Any, context: Any) -> Any:
        problem, victim = self.streams.arrive(call, call.host_address)
        if victim is not None:
            victim.end(_overloaded("all places for streams are taken, and of all this one has been idle for longest"))
        if problem:
            raise _overloaded(problem)
        self._open[call] = None
        CALL.set(call)
        return await _served(serve, request, context)

    async def _serve_watch(self, call: Call, serve: Any, request: Any, context: Any) -> Any:
        victim = self.watches.arrive(call, call.host_address)
        if victim is not None:
            victim.end(_overloaded(f"{WATCHES_MAX} callers watch this server's health, and this one does for longest"))
        return await _served(serve, request, context)

    def _left(self, call: Call) -> None:
        self.streams.leave(call)
        self.watches.leave(call)
        self._open.pop(call, None)


def _overloaded(words: str) -> Overloaded:
    return Overloaded(
        f"{words}; nothing more was done: try again later",
        retry_after=RETRY_SECONDS,
        reason=OverloadReason.CONNECTION.value,
    )


async def _served(serve: Any, request: Any, context: Any) -> Any:
    """Have a method answer, be it by writing to the context or by yielding."""
    answering = serve(request, context)
    if not inspect.isasyncgen(answering):
        return await answering
    call = CALL.get()
    async for answer in answering:
        await context.write(answer)
        if call is not None:
            call.moved += 1
    return None


def _sized(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], tuple[Any, int]]:
    """Return a deserializer that says besides how long a message was."""

    def decode(data: bytes) -> tuple[Any, int]:
        return deserialize(data), len(data)

    return decode


class _Noted:
    """The requests of a stream, each of which is noted."""

    def __init__(self, call: Call, requests: AsyncIterator[Any]) -> None:
        self._call = call
        self._requests = requests

    def __aiter__(self) -> _Noted:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        if not call.answers_itself:
            call.all_answered()
        request, size = await anext(self._requests)
        call.sizes.append(size)
        call.moved += 1
        call.asked = True
        return request

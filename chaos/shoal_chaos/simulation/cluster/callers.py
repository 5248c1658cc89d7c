"""What a simulated node's process knows of who calls it: whose frames it holds back, what it owes them, who has hung up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.protocol.frames import request_decoder
from shoal.protocol.messages import Answer, Freshness, Ping, Read, Request, Traces

from shoal_chaos.simulation.invariants import Violation

HELD_FRAMES = 64
"""Of a caller that is not read from: it could not send more, over a socket."""

PING_TURNS = 3
"""What a node says by itself waits for no client: it is said in one of so many turns."""

LIGHT_TURNS = 3
"""Nor does what takes no time to say: a read of one row, however stale."""

GONE_TURNS = 2
"""In so many turns after its end a caller may still be answered: what was under way then."""

ANY = Freshness(strong=False)
"""What any replica can answer at once."""

Receive = Callable[[int, list[Request], int], bool]


@dataclass(slots=True)
class _Caller:
    """One of them.

    Attributes:
        held: frames that have arrived since it is not read from; None: it is.
        owed: requests that were received and not answered; due: of those that are to be soon, by which turn, by number.
        gone_at: the turn in which it hung up; -1: it has not.
    """

    held: deque[bytes] | None = None
    owed: int = 0
    due: dict[int, int] = field(default_factory=dict)
    gone_at: int = -1


class Callers:
    """Those of one life of a process. What is to hold of them: see `check`.

    `answers_at_once`: says whether no replica has a reason of its own to have a read wait that any may answer.
    """

    def __init__(self, name: str) -> None:
        self.answers_at_once: Callable[[Read], bool] = lambda _: False
        self._name = name
        self._turns = 0
        self._longest_frame = 0
        self._callers: dict[int, _Caller] = {}

    def receive(self, number: int, body: bytes, take: Receive) -> bool:
        """Take in a frame, or hold it back; return whether anything of it has been given to the node."""
        caller = self._callers.setdefault(number, _Caller())
        caller.gone_at = -1
        if caller.held is not None:
            if len(caller.held) < HELD_FRAMES:
                caller.held.append(body)
            return False
        self._give(number, caller, body, take)
        return True

    def resumed(self, numbers: Iterable[int], take: Receive) -> bool:
        """Give the node what was held back of callers that may go on; return whether there was any."""
        given = False
        for number in numbers:
            caller = self._callers.get(number)
            if caller is None or caller.held is None:
                continue
            held, caller.held = caller.held, None
            while held and caller.held is None:
                self._give(number, caller, held.popleft(), take)
                given = True
            if caller.held is not None:
                caller.held.extend(held)
        return given

    def hang_up(self, number: int) -> None:
        """A caller has ended its connection; with its next frame it has another one."""
        self._callers[number] = _Caller(gone_at=self._turns)

    def answered(self, answers: Mapping[int, Sequence[Answer]]) -> None:
        """A turn has ended that gave these answers.

        Raises:
            Violation: one is for somebody who is not there any more.
        """
        self._turns += 1
        for number, given in answers.items():
            caller = self._callers.get(number)
            if caller is None:
                continue
            if 0 <= caller.gone_at < self._turns - GONE_TURNS:
                raise Violation(
                    f"{self._name} still works for client {number}, who hung up {self._turns - caller.gone_at} turns ago"
                )
            for answer in given:
                number_of = getattr(answer, "request", None)
                if number_of is not None:
                    caller.owed = max(0, caller.owed - 1)
                    caller.due.pop(number_of, None)

    def check(self, requests_most: int) -> None:
        """See that a caller cannot have much waiting here, and that nobody waits for others who asks for little.

        Args:
            requests_most: of one caller, before it is read from no more: with them there may be one more frame.

        Raises:
            Violation: it is otherwise.
        """
        owed_most = requests_most + self._longest_frame
        for number, caller in self._callers.items():
            if caller.owed > owed_most:
                raise Violation(
                    f"{self._name} holds {caller.owed} requests of client {number}; {owed_most} are allowed"
                )
            late = [request for request, turn in caller.due.items() if turn < self._turns]
            if late:
                raise Violation(f"{self._name} has let client {number} wait, who asks for little, with requests {late}")

    def _give(self, number: int, caller: _Caller, body: bytes, take: Receive) -> None:
        requests = request_decoder.decode(body)
        caller.owed += sum(not isinstance(request, Traces) for request in requests)
        self._longest_frame = max(self._longest_frame, len(requests))
        if len(requests) == 1:
            [request] = requests
            if isinstance(request, Ping):
                caller.due[request.request] = self._turns + PING_TURNS
            elif isinstance(request, Read) and _is_light(request) and self.answers_at_once(request):
                caller.due[request.request] = self._turns + LIGHT_TURNS
        if not take(number, requests, len(body)):
            caller.held = deque()


def _is_light(read: Read) -> bool:
    return read.freshness == ANY and len(read.keys) == 1

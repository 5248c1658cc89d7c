"""Clients that ask for more than simulated nodes can do, and the bugs that they are there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from shoal.protocol.messages import Request
from shoal_chaos.simulation.mixes import FLOODS, FLOODS_ALONE
from shoal_server.node import client_input, serving, turn_length
from shoal_server.node.client_input import ClientInput
from shoal_server.node.client_queue import ClientQueue
from shoal_server.node.core import Node
from shoal_server.node.fair_queue import FairQueue
from shoal_server.node.fair_shares import Flow, Waiting
from shoal_server.node.outbox import Outbox

from .conftest import MustBeFound

SEEDS = 12
SHORT_FLOODS, SHORT_FLOODS_ALONE = replace(FLOODS, seconds=4), replace(FLOODS_ALONE, seconds=4)


@pytest.mark.timeout(300)
def test_whoever_asks_for_little_goes_on_beside_a_flood() -> None:
    SHORT_FLOODS_ALONE(1)


@pytest.mark.timeout(300)
def test_a_flood_beside_other_faults_is_recovered_from() -> None:
    SHORT_FLOODS(4)


def take_all_that_has_arrived(patch: pytest.MonkeyPatch) -> None:
    """A turn has no bounds."""
    patch.setattr(turn_length, "TURN_NS", 1 << 50)
    patch.setattr(turn_length, "PAGES_NS", 1 << 50)
    patch.setattr(serving, "SERVE_NS", 1 << 50)


def answer_pings_when_nothing_else_waits(patch: pytest.MonkeyPatch) -> None:
    """What a node says by itself waits with the rest."""
    original = ClientInput._take_control

    def take(self: ClientInput, now: int, outbox: Outbox) -> None:
        if not self.queue.data.ready:
            original(self, now, outbox)

    patch.setattr(ClientInput, "_take_control", take)


def serve_in_the_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks first for much is served first."""

    def take(self: FairQueue, now: int, *, pages: bool = True) -> tuple[Flow, Waiting] | None:
        listed = [flow for flows in self._by_client.values() for flow in flows.values() if flow.listed]
        if not listed:
            return None
        flow = min(listed, key=lambda each: next(iter(each.waiting.values() or each.paused)).arrived)
        waiting = flow.take()
        if not flow.has_turns:
            self._unlist(flow, now)
        if waiting is None:
            return None
        self._removed(waiting)
        return flow, waiting

    patch.setattr(FairQueue, "take", take)


def work_on_for_who_is_gone(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a client has gone."""
    patch.setattr(Node, "client_gone", lambda self, client: None)


def read_from_everybody(patch: pytest.MonkeyPatch) -> None:
    """Clients may send whatever they like."""
    original = ClientQueue.receive

    def receive(self: ClientQueue, number: int, requests: list[Request], size: int, now: int) -> bool:
        original(self, number, requests, size, now)
        return True

    patch.setattr(ClientQueue, "receive", receive)
    patch.setattr(client_input, "MAX_TURNED_AWAY", 1 << 30)


BUGS: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    take_all_that_has_arrived: 2,
    answer_pings_when_nothing_else_waits: 0,
    serve_in_the_order_of_arrival: 6,
    work_on_for_who_is_gone: 0,
    read_from_everybody: 12,
}
"""Each with a seed that finds it."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: MustBeFound,
) -> None:
    bug(monkeypatch)
    must_be_found(SHORT_FLOODS_ALONE, range(BUGS[bug], BUGS[bug] + SEEDS))

"""The mix of stalled links does what it says, and no seed of it breaks an invariant or fails to recover."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from shoal_chaos.simulation.faults import stalled_links
from shoal_chaos.simulation.faults.stalled_links import StalledLinks
from shoal_chaos.simulation.many_seeds import run_seeds
from shoal_chaos.simulation.mixes import STALLED_LINKS
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND, Events
from shoal_chaos.simulation.world.network import Network
from shoal_server.node.snapshot_transfers import SnapshotTransfers

FEW, MANY = range(6), range(6, 30)


class Link:
    """A link from a to b, and when what arrived on it (ns)."""

    def __init__(self) -> None:
        self.events = Events()
        self.arrived: list[tuple[int, bytes]] = []
        self.network = Network(self.events, Random(1), lambda _from, _to, body: self.arrive(body))

    def arrive(self, body: bytes) -> None:
        self.arrived.append((self.events.now, body[-1:]))

    def send(self, letter: str) -> None:
        self.network.send("a", "b", [letter])

    def run(self) -> str:
        while self.events.pending:
            self.events.step()
        return b"".join(letter for _, letter in self.arrived).decode()


def test_a_stalled_link_delivers_in_order_when_the_stall_is_over() -> None:
    link = Link()
    link.network.stall("a", "b", SECOND)
    for letter in "xyz":
        link.send(letter)
    assert link.network.is_stalled("a", "b")
    assert not link.network.is_stalled("b", "a")
    assert link.run() == "xyz"
    assert {at for at, _ in link.arrived} == {SECOND}


def test_a_link_that_breaks_loses_what_is_in_it_and_is_sent_before_it_is_mended() -> None:
    link = Link()
    link.network.stall("a", "b", SECOND)
    link.send("x")
    link.network.break_off("a", "b")
    link.send("y")
    link.network.mend("a", "b")
    link.send("z")
    assert link.run() == "z"
    assert link.arrived[0][0] < 10 * MILLISECOND


@pytest.mark.timeout(300)
def test_snapshots_stall_changes_lose_power_and_support_becomes_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    class Counted(StalledLinks):
        def _change_and_lose_power(self) -> None:
            super()._change_and_lose_power()
            if any(node.sync_delay == stalled_links.SLOWER_THAN_POWER for node in self._cluster.nodes.values()):
                seen.add("lost power")

        def _restart_with_other_support(self) -> None:
            seen.add("shorter support")
            super()._restart_with_other_support()

        def _stall(self, sender: str, receiver: str, *, lost: bool = True) -> None:
            seen.add("stalled")
            super()._stall(sender, receiver, lost=lost)

    adopt = SnapshotTransfers._adopt

    def adopted(*arguments: Any) -> str:
        seen.add("snapshot")
        return adopt(*arguments)

    monkeypatch.setattr(SnapshotTransfers, "_adopt", adopted)
    for seed in range(8):
        replace(STALLED_LINKS, seconds=5, faults=Counted)(seed)
        if seen == {"lost power", "shorter support", "stalled", "snapshot"}:
            return
    pytest.fail(f"8 seeds do no more than this: {seen}")


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(FEW, marks=pytest.mark.timeout(600)),
        pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_no_seed_breaks_an_invariant_or_fails_to_recover(seeds: range) -> None:
    failures = [ended.failure for ended in run_seeds(STALLED_LINKS, seeds, mix="stalled-links") if ended.failure]
    assert not failures, "\n".join(failures)

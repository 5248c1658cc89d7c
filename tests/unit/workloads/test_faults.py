"""What faults do to processes, and that all of it is undone."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from shoal_chaos.workloads import faults
from shoal_chaos.workloads.faults import ProcessFault, inflict, schedule


class Recorder:
    """Nodes of which the first leads the first half of the shards, the second the other."""

    def __init__(self) -> None:
        self.names = ["n1", "n2", "n3"]
        self.done: list[str] = []

    async def leader(self, place: float) -> str:
        return "n1" if place < 0.5 else "n2"

    async def kill(self, name: str) -> None:
        self.done.append(f"kill {name}")

    def start(self, name: str) -> None:
        self.done.append(f"start {name}")

    def pause(self, name: str) -> None:
        self.done.append(f"pause {name}")

    def resume(self, name: str) -> None:
        self.done.append(f"resume {name}")

    async def ready(self) -> None:
        self.done.append("ready")


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (ProcessFault("kill", 0, 0.9), ["kill n2", "start n2"]),
        (ProcessFault("pause", 0, 0.1), ["pause n1", "resume n1"]),
        (ProcessFault("both", 0, 0.1, 0.9), ["pause n1", "kill n3", "start n3", "resume n1"]),
        (ProcessFault("alone", 0, 0.1), ["pause n2", "pause n3", "kill n1", "resume n3", "resume n2", "start n1"]),
    ],
)
async def test_a_fault_is_done_and_undone(
    fault: ProcessFault, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "ALONE_SECONDS", 0)
    nodes = Recorder()
    await inflict(fault, nodes)
    assert nodes.done == [*done, "ready"]


async def test_nodes_go_on_after_a_kill_that_failed() -> None:
    class Stubborn(Recorder):
        async def kill(self, name: str) -> None:
            raise RuntimeError(name)

    nodes = Stubborn()
    with pytest.raises(RuntimeError):
        await inflict(ProcessFault("both", 0, 0.1, 0.9), nodes)
    assert nodes.done == ["pause n1", "resume n1"]


def test_equal_seeds_give_equal_faults_of_every_kind() -> None:
    planned = list(islice(schedule(Random(4)), 8))
    assert planned == list(islice(schedule(Random(4)), 8))
    assert {fault.kind for fault in planned} == {"kill", "pause", "both", "alone"}

"""Applications on a simulated cluster: mistakes are found, told and had again, and faults do what they say."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import shoal
from shoal_chaos.application_simulation import (
    BadNetwork,
    ClockJump,
    Crash,
    Fault,
    LeaderMove,
    OneWayCut,
    Partition,
    Pause,
    ShoalSimulation,
    Simulation,
    SlowDisk,
    TookTooLong,
)
from shoal_chaos.application_simulation.run import run_once
from shoal_chaos.application_simulation.shape import Shape
from shoal_chaos.application_simulation.shrinking import shrink

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing-your-application.md"
ADDED = 10
FIRST_SEED, SEEDS_TRIED = 20, 100
"""Of these several find what only faults bring about."""


async def add_again_after_errors(sim: Simulation) -> None:
    """The mistake: what raised may have been done."""
    async with sim.client(timeout="1s") as db:
        for _ in range(ADDED):
            while True:
                try:
                    await db.increment("sum")
                except shoal.ShoalError:
                    continue
                break
        total = int(await db.get("sum", timeout=60) or 0)
    assert total == ADDED, f"added {ADDED}, and the sum is {total}"


def example() -> str:
    """Return the document's complete example."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]


def test_the_documented_example_is_caught_and_its_repair_passes(tmp_path: Path) -> None:
    (tmp_path / "test_views.py").write_text(example())
    # By name, whether or not the package's entry point is installed.
    plugins = ["-p", "no:shoal", "-p", "no:cacheprovider", "-p", "shoal_chaos.pytest_plugin"]
    arguments = ["-q", "--color=no", f"--rootdir={tmp_path}", "--shoal-seeds=2", "test_views.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    for seed in range(2):
        assert f"FAILED test_views.py::test_views_wrongly_counted[seed{seed}]" in done.stdout
        replay = f'pytest "test_views.py::test_views_wrongly_counted[seed{seed}]" --shoal-seed {seed}'
        assert f"The same again: {replay}" in done.stdout


def failure_under_drawn_faults() -> tuple[int, AssertionError]:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS_TRIED):
        try:
            ShoalSimulation(seed).run(add_again_after_errors)
        except AssertionError as failure:
            return seed, failure
    raise AssertionError(f"none of {SEEDS_TRIED} seeds has found the mistake")


def test_what_fails_only_under_faults_is_told_with_a_plan_that_is_enough_and_none_of_it_too_much() -> None:
    seed, failure = failure_under_drawn_faults()
    told = "\n".join(failure.__notes__)
    assert f"seed {seed}" in told
    plan: list[Fault] = eval(re.search(r"faults=(\[.*?^\])", told, re.DOTALL | re.MULTILINE)[1])  # type: ignore[index]
    assert plan
    with pytest.raises(AssertionError, match=re.escape(str(failure))):
        ShoalSimulation(seed).run(add_again_after_errors, faults=plan)
    for fault in plan:
        ShoalSimulation(seed).run(add_again_after_errors, faults=[other for other in plan if other is not fault])


def test_shrinking_keeps_what_is_needed_and_makes_it_short() -> None:
    needed = Crash(name="n1", at=1, seconds=4)
    plan = [Pause(name="n2"), needed, Partition(side=("n3",)), ClockJump(name="n1", ms=1)]
    left, runs = shrink(plan, lambda faults: any(isinstance(f, Crash) and f.seconds >= 1 for f in faults))
    assert left == [Crash(name="n1", at=1, seconds=1)]
    assert 0 < runs < 20


def test_an_application_that_differs_from_run_to_run_is_told_so() -> None:
    calls = 0

    async def application(sim: Simulation) -> None:
        nonlocal calls
        calls += 1
        async with sim.client() as db:
            await db.put("calls", "x" * calls)
        assert calls == 1

    with pytest.raises(AssertionError) as failed:
        ShoalSimulation(1).run(application)
    assert "keeps something between runs" in failed.value.__notes__[0]


# -- determinism


async def work_under_chance(sim: Simulation) -> list[float]:
    """Use what could differ between runs: retries, several tasks, sets of them, sessions, the module `random`."""
    seen: list[float] = []
    async with sim.client(timeout="1s") as db:

        async def one(number: int) -> None:
            await asyncio.sleep(random.random() / 10)
            try:
                await db.run(lambda tx: add_in(tx, f"sum{number % 2}"))
                await db.get("sum0", consistency="eventual")
            except shoal.ShoalError:
                seen.append(-1.0)
            seen.append(asyncio.get_running_loop().time())

        async def until_cancelled(number: int) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                seen.append(number)

        await asyncio.gather(*(one(number) for number in range(10)))
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(until_cancelled(number))
                await asyncio.sleep(0.01)
                raise InterruptedError  # so the group cancels its tasks, which it keeps in a set
    return seen


async def add_in(tx: shoal.AsyncTransaction, key: str) -> None:
    tx.put(key, str(int(await tx.get(key) or 0) + 1))


def trace_of_a_run() -> str:
    faults = [Crash(name="n1", at=0.05), BadNetwork(at=0.02, loss=0.1), OneWayCut(sender="app", receiver="n2", at=0.01)]
    outcome = run_once(work_under_chance, 7, faults, Shape(), 60)
    assert outcome.failure is None
    return f"{outcome.trace} {outcome.seconds}"


def test_equal_seeds_give_equal_runs_whatever_the_hash_seed_is() -> None:
    before = random.getstate()
    here = trace_of_a_run()
    assert trace_of_a_run() == here
    assert random.getstate() == before
    program = f"import gc, runpy; gc.set_threshold(50, 2, 2); print(runpy.run_path({__file__!r})['trace_of_a_run']())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.split("\n")[0] == here


# -- processes


def run(application: Callable[[Simulation], Awaitable[object]], *faults: Fault, **shape: object) -> object:
    return ShoalSimulation(1).run(application, faults=faults, **shape)  # type: ignore[arg-type]


def test_a_killed_process_stops_at_once_and_what_it_wrote_stays() -> None:
    async def application(sim: Simulation) -> int:
        async def write() -> None:
            async with sim.client() as db:
                while True:
                    await db.increment("written")

        worker = sim.process("worker", write)
        await asyncio.sleep(1)
        worker.kill()
        assert await worker.wait() is None
        async with sim.client() as db:
            await asyncio.sleep(1)
            first = int(await db.get("written") or 0)
            await asyncio.sleep(5)
            assert int(await db.get("written") or 0) == first
        return first

    assert run(application) > 10


def test_who_waits_for_a_process_gets_what_it_returned_or_raised() -> None:
    async def application(sim: Simulation) -> object:
        async def fail() -> None:
            raise KeyError("lost")

        async def answer() -> int:
            await asyncio.sleep(2)
            return 42

        with pytest.raises(KeyError, match="lost"):
            await sim.process("failing", fail).wait()
        return await sim.process("answering", answer).wait()

    assert run(application) == 42


def test_a_process_that_fails_unwatched_fails_the_run() -> None:
    async def application(sim: Simulation) -> None:
        async def fail() -> None:
            raise KeyError("lost")

        sim.process("failing", fail)
        await asyncio.sleep(1)

    with pytest.raises(KeyError, match="lost"):
        run(application)


def test_an_application_that_does_not_end_has_failed() -> None:
    async def application(sim: Simulation) -> None:
        await asyncio.sleep(1000)

    with pytest.raises(TookTooLong, match="20 simulated seconds"):
        ShoalSimulation(1).run(application, seconds_max=20)


def test_outcomes_of_pytest_reach_it() -> None:
    async def application(sim: Simulation) -> None:
        pytest.fail("as the application says")

    with pytest.raises(pytest.fail.Exception, match="as the application says"):
        run(application)


# -- the cluster


def test_keyspaces_and_their_defaults_are_as_asked_for() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client("carts") as carts, sim.client("users") as users:
            await carts.put("a", "of carts")
            assert await users.get("a") is None
            await asyncio.sleep(31)
            assert await carts.get("a") is None

    run(application, keyspaces=("users", "carts"), default_ttl=30)


def test_what_cannot_be_is_refused() -> None:
    async def application(sim: Simulation) -> None:
        sim.inject(Partition(side=("n1", "n9")))

    with pytest.raises(ValueError, match="no 'n9'"):
        run(application)
    with pytest.raises(ValueError, match="no 'm1' that this can happen to"):
        run(application, SlowDisk(name="m1"))
    with pytest.raises(ValueError, match="at least 3 nodes"):
        run(application, nodes=2)


# -- faults: each changes what an application sees

PATIENCE = 60


async def seconds_of_a_write(sim: Simulation, db: shoal.AsyncClient) -> float:
    before = sim.now
    await db.put("key", "value", timeout=PATIENCE)
    return sim.now - before


def slows_writes_down(fault_at: Callable[[str], Fault]) -> None:
    """Check that writes take long under a fault at the key's leader, and are quick when it is healed."""

    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            assert await seconds_of_a_write(sim, db) < 0.1
            leader = sim.leader_of("key")
            assert leader is not None
            sim.inject(fault_at(leader))
            await asyncio.sleep(0.001)
            assert max([await seconds_of_a_write(sim, db) for _ in range(5)]) > 0.1
            sim.heal()
            await asyncio.sleep(10)
            assert await seconds_of_a_write(sim, db) < 0.1

    run(application)


@pytest.mark.parametrize(
    "fault_at",
    [
        lambda leader: Crash(name=leader, seconds=60),
        lambda leader: Pause(name=leader, seconds=60),
        lambda leader: Partition(side=(leader,), seconds=60),
        lambda leader: Partition(side=("app",), seconds=2),
        lambda leader: OneWayCut(sender=leader, receiver="app", seconds=3),
        lambda _: BadNetwork(delay_ms=500, seconds=60),
    ],
    ids=["crash", "pause", "partition", "client cut off", "one way", "network"],
)
def test_a_fault_slows_writes_down_until_it_is_healed(fault_at: Callable[[str], Fault]) -> None:
    slows_writes_down(fault_at)


def test_writes_are_as_slow_as_the_disks_of_a_majority() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await asyncio.sleep(5)
            await db.put("key", "first")
            sim.inject(SlowDisk(name="n1", sync_ms=1500, seconds=60))
            await asyncio.sleep(0.001)
            assert max([await seconds_of_a_write(sim, db) for _ in range(5)]) < 0.1
            sim.inject(SlowDisk(name="n2", sync_ms=1500, seconds=60), SlowDisk(name="n3", sync_ms=1500, seconds=60))
            await asyncio.sleep(0.001)
            assert max([await seconds_of_a_write(sim, db) for _ in range(5)]) > 0.1

    run(application)


def test_a_moved_leader_is_another_node() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await db.put("key", "value")
            other = next(name for name in sim.nodes if name != sim.leader_of("key"))
            sim.inject(LeaderMove(name=other))
            await asyncio.sleep(2)
            assert sim.leader_of("key") == other
            assert await db.get("key") == b"value"

    run(application)


def test_one_clock_that_jumps_makes_no_row_expire_too_soon_or_too_late() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await db.put("key", "value", ttl=300)
            sim.inject(ClockJump(name=sim.leader_of("key"), ms=600_000, seconds=60))
            await asyncio.sleep(5)
            assert await db.get("key") == b"value"
            await asyncio.sleep(293)
            assert await db.get("key") == b"value"
            await asyncio.sleep(4)
            assert await db.get("key") is None

    run(application)


def test_clocks_that_all_jump_make_rows_expire_too_soon() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await db.put("key", "value", ttl=300)
            for name in sim.nodes:
                sim.inject(ClockJump(name=name, ms=600_000, seconds=60))
            await asyncio.sleep(5)
            assert await db.get("key") is None

    run(application)


def test_data_is_served_while_the_manager_is_down() -> None:
    async def application(sim: Simulation) -> None:
        async with sim.client() as db:
            await asyncio.sleep(5)
            await db.put("key", "value")

    run(application, Crash(name="m1", seconds=60))

"""What is wrong with an application, and would otherwise hang, pass, or leave the simulation, fails its test and is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from functools import partial

import pytest
import shoal
from shoal_chaos.application_simulation import (
    NotSimulated,
    ShoalSimulation,
    Simulation,
    TimeStoodStill,
    TookTooLong,
    process_loop,
)

SECONDS_MAX = 600


def run(application: Callable[[Simulation], Awaitable[object]]) -> object:
    return ShoalSimulation(1).run(application, faults=(), seconds_max=SECONDS_MAX)  # type: ignore[arg-type]


# -- steps without end


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_loop, "STEPS_MAX", 20_000)


async def poll(pause: float) -> None:
    while True:
        await asyncio.sleep(pause)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pause", [0, 1e-9], ids=["no pause", "a nanosecond's"])
def test_an_application_that_looks_again_and_again_without_waiting_is_told_where(pause: float) -> None:
    async def application(sim: Simulation) -> None:
        await asyncio.sleep(2)
        await poll(pause)

    with pytest.raises(
        TimeStoodStill, match=r"'app' took 20,000 steps .* until 2\.\d+ s.* wait for what is to happen"
    ) as failed:
        run(application)
    assert "in poll\n    await asyncio.sleep(pause)" in failed.value.__notes__[0]


@pytest.mark.usefixtures("impatient")
def test_a_task_that_cannot_be_cancelled_does_not_keep_the_test_from_ending() -> None:
    async def application(sim: Simulation) -> None:
        while True:
            try:
                await poll(0)
            except asyncio.CancelledError:
                continue

    with pytest.raises(TimeStoodStill):
        run(application)


@pytest.mark.usefixtures("impatient")
def test_a_process_of_the_application_that_never_waits_is_named() -> None:
    async def application(sim: Simulation) -> None:
        sim.process("poller", partial(poll, 0))
        await asyncio.sleep(1)

    with pytest.raises(TimeStoodStill, match="the process 'poller' took"):
        run(application)


@pytest.mark.usefixtures("impatient")
def test_many_steps_are_no_mistake_while_time_goes_on() -> None:
    async def application(sim: Simulation) -> int:
        steps = 0
        for _ in range(10):
            for _ in range(6_000):
                await asyncio.sleep(0)
                steps += 1
            await asyncio.sleep(0.001)
        return steps

    assert run(application) == 60_000


# -- what is no coroutine


def test_a_plain_function_is_refused() -> None:
    def application(sim: Simulation) -> None: ...

    with pytest.raises(
        TypeError, match=r"application is a plain function, and returned None: should it be `async def`"
    ):
        run(application)  # type: ignore[arg-type]


def test_a_plain_function_that_raises_is_told_that_it_is_one() -> None:
    def application(sim: Simulation) -> None:
        with sim.client() as db:  # type: ignore[attr-defined]
            db.put("key", "value")

    with pytest.raises(TypeError) as failed:
        run(application)  # type: ignore[arg-type]
    assert "application is a plain function, so its call runs it" in failed.value.__notes__[0]


def test_a_generator_and_what_cannot_be_called_are_refused() -> None:
    async def generator(sim: Simulation):  # type: ignore[no-untyped-def]
        yield 1

    async def application(sim: Simulation) -> None: ...

    with pytest.raises(TypeError, match="has a `yield`"):
        run(generator)
    with pytest.raises(TypeError, match="give it `application` without the brackets"):
        run(application(None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not None"):
        run(None)  # type: ignore[arg-type]


def test_a_process_that_is_no_coroutine_is_refused() -> None:
    async def application(sim: Simulation) -> None:
        sim.process("worker", lambda: None)  # type: ignore[arg-type, return-value]

    with pytest.raises(TypeError, match="<lambda> is a plain function, and returned None"):
        run(application)


def test_whatever_returns_a_coroutine_is_run() -> None:
    class Application:
        async def __call__(self, sim: Simulation) -> int:
            return 1

        async def method(self, offset: int, sim: Simulation) -> int:
            return offset + 1

    assert run(Application()) == 1
    assert run(partial(Application().method, 1)) == 2
    assert run(lambda sim: Application().method(2, sim)) == 3


# -- failures that nobody waits for


async def lose() -> None:
    raise KeyError("lost")


def test_a_background_task_that_fails_unseen_fails_the_test_with_its_traceback() -> None:
    async def application(sim: Simulation) -> None:
        asyncio.create_task(lose(), name="refresher")  # noqa: RUF006 - nobody keeps it: that is the mistake
        await asyncio.sleep(1)

    with pytest.raises(KeyError, match="lost") as failed:
        run(application)
    assert failed.traceback[-1].name == "lose"
    assert any("Nobody waits for what raised this" in note and "'refresher'" in note for note in failed.value.__notes__)


def test_a_failed_task_that_is_kept_and_never_looked_at_fails_the_test() -> None:
    kept: list[asyncio.Task[None]] = []

    async def application(sim: Simulation) -> None:
        kept.append(asyncio.create_task(lose()))
        await asyncio.sleep(1)

    with pytest.raises(KeyError, match="lost"):
        run(application)


def test_a_callback_that_fails_fails_the_test() -> None:
    async def application(sim: Simulation) -> None:
        asyncio.get_running_loop().call_later(0.5, lambda: [][1])
        await asyncio.sleep(1)

    with pytest.raises(IndexError):
        run(application)


def test_an_application_that_waits_for_ever_after_a_failure_is_told_that_as_the_cause() -> None:
    async def application(sim: Simulation) -> None:
        done = asyncio.Event()
        asyncio.create_task(lose())  # noqa: RUF006 - nobody keeps it: that is the mistake
        await done.wait()

    with pytest.raises(TookTooLong) as failed:
        run(application)
    assert isinstance(failed.value.__cause__, KeyError)


def test_what_the_application_itself_raises_goes_before_what_failed_in_the_background() -> None:
    async def application(sim: Simulation) -> None:
        asyncio.create_task(lose())  # noqa: RUF006 - nobody keeps it: that is the mistake
        await asyncio.sleep(1)
        raise ValueError("found out")

    with pytest.raises(ValueError, match="found out") as failed:
        run(application)
    assert any("KeyError('lost')" in note for note in failed.value.__notes__)


def test_failures_that_somebody_sees_are_none() -> None:
    async def application(sim: Simulation) -> None:
        waited, looked_at = asyncio.create_task(lose()), asyncio.create_task(lose())
        with pytest.raises(KeyError):
            await waited
        looked_at.add_done_callback(lambda task: task.exception())
        await asyncio.gather(lose(), lose(), return_exceptions=True)
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(lose())
        seen_when_cancelled = asyncio.create_task(lose())

        async def supervise() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.gather(seen_when_cancelled, return_exceptions=True)

        supervisor = asyncio.create_task(supervise())
        await asyncio.sleep(1)
        assert not supervisor.done()

    run(application)


def test_tasks_that_still_run_at_the_end_are_cancelled_and_that_is_no_failure() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(name)
            raise ConnectionError("no time left to say goodbye") from None

    async def application(sim: Simulation) -> None:
        tasks = [asyncio.create_task(work("task")) for _ in range(2)]
        sim.process("worker", lambda: work("process"))
        await asyncio.sleep(1)
        assert not any(task.done() for task in tasks)

    run(application)
    assert sorted(ended) == ["process", "task", "task"]


# -- leaving the simulation


@pytest.fixture
def real_node() -> Iterator[socket.socket]:
    """What listens in the real world, and is not to be visited."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def real_url(server: socket.socket) -> str:
    return f"shoal://127.0.0.1:{server.getsockname()[1]}/default"


def was_visited(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_a_blocking_client_is_refused_before_it_connects(real_node: socket.socket) -> None:
    async def application(sim: Simulation) -> None:
        with shoal.Client(real_url(real_node), timeout=1) as db:
            db.put("key", "value")

    with pytest.raises(NotSimulated, match=r"shoal\.Client .*sim\.client\(\)"):
        run(application)
    assert not was_visited(real_node)


def test_a_blocking_client_that_was_made_before_is_refused_in_whatever_thread(real_node: socket.socket) -> None:
    with closing(shoal.Client(real_url(real_node), timeout=0.1)) as db:

        async def in_the_loop(sim: Simulation) -> None:
            try:
                db.put("key", "value")
            except Exception:  # as applications do that try again later
                await asyncio.sleep(3600)

        async def in_an_executor(sim: Simulation) -> None:
            await asyncio.to_thread(db.put, "key", "value")

        async def in_a_thread(sim: Simulation) -> None:
            refused: list[BaseException] = []

            def put() -> None:
                with pytest.raises(NotSimulated) as failed:
                    db.put("key", "value")
                refused.append(failed.value)

            thread = threading.Thread(target=put)
            thread.start()
            thread.join()
            raise refused[0]

        for application in (in_the_loop, in_an_executor, in_a_thread):
            with pytest.raises(NotSimulated, match=r"sim\.client\(\)"):
                run(application)
        assert not was_visited(real_node)
        with pytest.raises(shoal.ShoalError):  # as before: what listens there does not answer
            db.put("key", "value")


def test_a_client_of_a_real_url_ends_the_run_at_once_and_is_told_what_to_use(real_node: socket.socket) -> None:
    async def application(sim: Simulation) -> None:
        try:
            async with shoal.AsyncClient(real_url(real_node)) as db:
                await db.put("key", "value")
        except shoal.ShoalError:
            raise AssertionError("it went on") from None

    with pytest.raises(NotSimulated, match=r"connect to 127\.0\.0\.1:\d+.*sim\.client\(\)"):
        run(application)
    assert not was_visited(real_node)


def test_a_connection_of_another_kind_is_refused_where_it_is_made(real_node: socket.socket) -> None:
    async def application(sim: Simulation) -> None:
        await asyncio.open_connection(*real_node.getsockname())

    with pytest.raises(NotSimulated, match="code of its own") as failed:
        run(application)
    assert any(entry.name == "application" for entry in failed.traceback)
    assert not was_visited(real_node)


def test_a_connection_over_a_socket_of_the_applications_own_is_refused_though_it_catches_that() -> None:
    async def application(sim: Simulation) -> None:
        with socket.socket() as made, suppress(NotSimulated):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=made)

    with pytest.raises(NotSimulated):
        run(application)


def test_a_client_with_the_simulations_url_is_one_of_it() -> None:
    async def application(sim: Simulation) -> bytes | None:
        async with shoal.AsyncClient(sim.url(timeout="2s")) as db:
            await db.put("key", "value")
            return await db.get("key")

    assert run(application) == b"value"

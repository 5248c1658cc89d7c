"""The client in programs that fork, end, are interrupted, or lose their standard streams: each a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from textwrap import dedent

import pytest

from .conftest import Database

SECONDS = 60
"""By then a program has ended, or hangs."""


@dataclass
class Ended:
    code: int
    out: str
    err: str


def run(program: str, url: str, *options: str, shell: str = "") -> Ended:
    """Run a program with `sys.argv[1]` as the URL; `shell`: what a shell does with its streams."""
    command = [sys.executable, *options, "-c", dedent(program), url]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def quietly(program: str, url: str, *options: str, shell: str = "") -> str:
    """Run a program that has to end well, without a word of complaint; return what it printed."""
    ended = run(program, url, *options, shell=shell)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


# -- forks -----------------------------------------------------------------------------------------------------------------


def test_a_client_that_was_never_used_before_a_fork_works_in_the_children(cluster_database: Database) -> None:
    out = quietly(
        """
        import os, sys, shoal
        db = shoal.Client(sys.argv[1])
        children = []
        for number in range(3):
            child = os.fork()
            if not child:
                db.put(f"unused/{number}", str(number))
                os._exit(0)
            children.append(child)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
        print(db.get_many([f"unused/{number}" for number in range(3)]))
        db.close()
        """,
        cluster_database.url,
    )
    assert out.splitlines() == ["[0, 0, 0]", "[b'0', b'1', b'2']"]


def test_parent_and_children_write_at_once_and_nothing_is_lost_or_done_twice(cluster_database: Database) -> None:
    # Were a session shared, writes of one process would be taken for repetitions of another's.
    out = quietly(
        """
        import os, sys, threading, shoal
        with shoal.Client(sys.argv[1]) as db:
            db.delete("together")
            session = db.session()
            busy = [threading.Thread(target=lambda: [db.increment("together") for _ in range(50)]) for _ in range(4)]
            for thread in busy:
                thread.start()
            session.put("seen", "before the fork")
            children = []
            for _ in range(4):
                child = os.fork()
                if not child:
                    assert session.get("seen") == b"before the fork"
                    for _ in range(50):
                        db.increment("together")
                    os._exit(0)
                children.append(child)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            for thread in busy:
                thread.join()
            print(codes, db.get("together"))
        """,
        cluster_database.url,
    )
    assert out == "[0, 0, 0, 0] b'400'\n"


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_use_a_client_of_their_module(
    cluster_database: Database, start: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = tmp_path_factory.mktemp("program") / "work.py"
    script.write_text(
        dedent(
            """
            import multiprocessing, sys, shoal
            db = shoal.Client(sys.argv[1])

            def work(number):
                db.put(f"worker/{number}", str(number))
                return db.get(f"worker/{number}")

            if __name__ == "__main__":
                db.put("before", "x")
                with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
                    print(pool.map(work, range(6)))
                assert db.get("before") == b"x"
                db.close()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), cluster_database.url, start],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[b'0', b'1', b'2', b'3', b'4', b'5']\n"


def test_an_asyncio_client_works_in_a_child_with_a_loop_of_its_own(cluster_database: Database) -> None:
    out = quietly(
        """
        import asyncio, os, sys, shoal

        async def main(db, key):
            await db.put(key, "v")
            return await db.get(key)

        db = shoal.AsyncClient(sys.argv[1])

        async def parent():
            print(await main(db, "parent"), flush=True)
            child = os.fork()
            if not child:
                print(asyncio.run(main(db, "child")), flush=True)
                os._exit(0)
            code = await asyncio.to_thread(lambda: os.waitpid(child, 0)[1])
            print(code, await db.get("child"))
            await db.close()

        asyncio.run(parent())
        """,
        cluster_database.url,
    )
    assert out.splitlines() == ["b'v'", "b'v'", "0 b'v'"]


def test_a_child_leaves_its_parents_connections_to_the_parent(cluster_database: Database) -> None:
    # Whom the parent leaves must see it, whatever children there still are.
    out = quietly(
        """
        import os, sys, shoal

        def sockets():
            files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
            return {os.readlink(file) for file in files if os.path.exists(file) and "socket" in os.readlink(file)}

        before = sockets()
        with shoal.Client(sys.argv[1]) as db:
            db.put_many({f"spread/{number}": "" for number in range(64)})
            connections = sockets() - before
            child = os.fork()
            if not child:
                # The loop's own pair of sockets is not the client's to close.
                print(len(connections & sockets()) - len(before & sockets()), db.get("spread/1"), flush=True)
                os._exit(0)
            print(os.waitpid(child, 0)[1], db.get("spread/2"), len(connections))
        """,
        cluster_database.url,
    )
    assert out.splitlines() == ["0 b''", "0 b'' 3"]


def test_an_embedded_database_is_the_parents_and_a_child_is_told_so(embedded_database: Database) -> None:
    for leave in ("os._exit(0)", "sys.exit(0)"):
        out = quietly(
            f"""
            import os, sys, shoal
            db = shoal.Client(sys.argv[1])
            db.put("k", "v")
            child = os.fork()
            if not child:
                try:
                    db.get("k")
                except shoal.Closed as error:
                    print(error, flush=True)
                    db.close()
                    {leave}
                os._exit(9)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), db.get("k"))
            db.close()
            """,
            embedded_database.url,
        )
        assert "belongs to the process that opened it" in out.splitlines()[0]
        assert out.splitlines()[1] == "0 b'v'"


# -- the end ---------------------------------------------------------------------------------------------------------------

WRAPPER = """
    import sys, shoal

    class Store:
        def __init__(self, url):
            self.db = shoal.Client(url)

        def __del__(self):
            self.db.close()

    store = Store(sys.argv[1])
    store.db.put("k", "v")
    sys.modules["keeps it to the end"] = store
"""

GENERATOR = """
    import sys, shoal

    def rows(url):
        with shoal.Client(url) as db:
            db.put("k", "v")
            for row in db.scan():
                yield row

    left_half_way = rows(sys.argv[1])
    next(left_half_way)
    sys.modules["keeps it to the end"] = left_half_way
"""

ASYNC_GENERATOR = """
    import asyncio, sys, shoal

    async def rows(url):
        async with shoal.AsyncClient(url) as db:
            await db.put("k", "v")
            async for row in db.scan():
                yield row

    async def main():
        async for row in rows(sys.argv[1]):
            break

    asyncio.run(main())
"""

LAST_CALLS = """
    import atexit, sys, shoal

    class Late:
        def __del__(self):
            try:
                db.put("later", "v")
            except shoal.Closed as error:
                sys.__stdout__.write(f"{error}\\n")
                sys.__stdout__.flush()

    db = shoal.Client(sys.argv[1])
    db.put("k", "v")
    sys.modules["keeps it to the end"] = Late()
"""

FIRST_AT_EXIT = """
    import atexit, sys, shoal

    @atexit.register
    def last():
        db = shoal.Client(sys.argv[1])
        db.put("at exit", "v")
        print(db.get("at exit"))
        db.close()
"""


@pytest.mark.parametrize("program", [WRAPPER, GENERATOR, ASYNC_GENERATOR], ids=["wrapper", "generator", "async"])
def test_programs_that_leave_the_client_to_the_interpreter_end(database: Database, program: str) -> None:
    quietly(program, database.url)


def test_calls_of_finalizers_at_the_very_end_are_refused_and_wait_for_nothing(database: Database) -> None:
    out = quietly(LAST_CALLS, database.url)
    assert "nothing is sent any more" in out


def test_a_client_may_be_made_when_the_interpreter_is_about_to_end(database: Database) -> None:
    assert quietly(FIRST_AT_EXIT, database.url) == "b'v'\n"


def test_a_client_that_is_dropped_unclosed_warns_and_leaves_nothing_behind(cluster_database: Database) -> None:
    ended = run(
        """
        import gc, os, sys, threading, time, shoal
        with shoal.Client(sys.argv[1]) as db:
            db.put("k", "v")
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            shoal.Client(sys.argv[1]).get("k")
            next(shoal.Client(sys.argv[1]).scan())
            shoal.Client(sys.argv[1]).session().keyspace("orders").get("k")
        gc.collect()
        until = time.monotonic() + 20
        while threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > files:
            assert time.monotonic() < until, (threading.active_count(), len(os.listdir("/proc/self/fd")), threads, files)
            time.sleep(0.01)
        """,
        cluster_database.url,
        "-W",
        "always::ResourceWarning",
    )
    assert ended.code == 0, ended
    assert ended.err.count("ResourceWarning: unclosed shoal.Client: close it, or use it by `with`") == 60


def test_an_asyncio_client_that_is_dropped_unclosed_warns_and_leaves_nothing_behind(cluster_database: Database) -> None:
    ended = run(
        """
        import asyncio, gc, os, sys, shoal

        async def main():
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                assert await shoal.AsyncClient(sys.argv[1]).session().get("nobody") is None
            gc.collect()
            async with asyncio.timeout(20):
                while len(os.listdir("/proc/self/fd")) > files:
                    await asyncio.sleep(0.01)

        asyncio.run(main())
        """,
        cluster_database.url,
        "-W",
        "always::ResourceWarning",
    )
    assert ended.code == 0, ended
    assert ended.err.count("ResourceWarning: unclosed shoal.AsyncClient: close it, or use it by `async with`") == 20


def test_a_client_that_outlives_its_event_loop_says_so_and_ends(database: Database) -> None:
    quietly(
        """
        import asyncio, sys, shoal
        db = shoal.AsyncClient(sys.argv[1])
        asyncio.run(db.put("k", "v"))
        try:
            asyncio.run(db.put("k", "v"))
        except RuntimeError as error:
            assert "belongs to the event loop" in str(error), error
        else:
            raise SystemExit("two loops")
        """,
        database.url,
    )


# -- between any two steps -------------------------------------------------------------------------------------------------


def test_signal_handlers_may_call_the_client_in_the_midst_of_its_calls(database: Database) -> None:
    out = quietly(
        """
        import signal, sys, time, shoal
        db = shoal.Client(sys.argv[1])
        db.put("calls", "0")
        handled, handling = 0, False

        def on_alarm(*_):
            global handled, handling
            if not handling:
                handling = True
                handled += 1
                db.put(f"alarm/{handled}", "v")
                handling = False

        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        until = time.monotonic() + 1
        while time.monotonic() < until or not handled:
            db.increment("calls")
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert db.get(f"alarm/{handled}") == b"v"
        db.close()
        print("done")
        """,
        database.url,
    )
    assert out == "done\n"


def test_finalizers_on_the_clients_own_thread_are_told_that_it_cannot_wait_for_itself(database: Database) -> None:
    out = quietly(
        """
        import gc, sys, threading, shoal
        gc.disable()
        db = shoal.Client(sys.argv[1])
        db.put("k", "v")

        class Finalized:
            def __init__(self):
                self.itself = self

            def __del__(self):
                where = threading.current_thread().name
                try:
                    print(where, db.get("k"))
                except shoal.InvalidArgument as error:
                    print(where, error)

        class Wrapper:
            def __init__(self):
                self.itself, self.db = self, db

            def __del__(self):
                self.db.close()

        Finalized(), Wrapper()
        db._portal.run(gc.collect)
        try:
            while True:
                db.get("k")
        except shoal.Closed:
            print("closed")
        """,
        database.url,
    )
    assert "shoal-client a blocking call on the client's own thread" in out
    assert out.endswith("closed\n")


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(
    database: Database, streams: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = tmp_path_factory.mktemp("told") / "told"
    program = f"""
        import asyncio, pathlib, sys, shoal

        async def main():
            async with shoal.AsyncClient(sys.argv[1]) as db:
                return await db.get("k")

        with shoal.Client(sys.argv[1]) as db:
            db.put("k", "v")
        if sys.stderr:
            sys.stderr.flush()
        pathlib.Path({str(told)!r}).write_text(repr(asyncio.run(main())))
        """
    ended = run(program, database.url, shell=streams)
    assert ended.code == 0, ended
    assert told.read_text() == "b'v'"


def test_a_notebook_with_a_running_loop_may_use_both_clients(database: Database) -> None:
    out = quietly(
        """
        import asyncio, sys, shoal

        async def cells():
            with shoal.Client(sys.argv[1]) as db:
                db.put("k", "v")
                print(db.get("k"))
            db = shoal.AsyncClient(sys.argv[1])
            print(await db.get("k"))
            await db.close()

        asyncio.run(cells())
        """,
        database.url,
    )
    assert out == "b'v'\nb'v'\n"


def test_eighty_thousand_calls_gathered_at_once_leave_the_loop_alive(cluster_database: Database) -> None:
    out = quietly(
        """
        import asyncio, sys, shoal

        async def main():
            async with shoal.AsyncClient(sys.argv[1], timeout=120) as db:
                calls = asyncio.gather(*(db.put(f"many/{number % 1000}", "v") for number in range(80_000)))
                while not calls.done():
                    await asyncio.sleep(0)
                await calls
            print("done")

        asyncio.run(main())
        """,
        cluster_database.url,
    )
    assert out == "done\n"

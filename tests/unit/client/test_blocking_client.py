"""The blocking client: the same calls from any thread, generated from the asyncio one."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.protocol.messages import Write

GENERATOR = Path(__file__).resolve().parents[3] / "tools" / "generate_blocking.py"


def test_the_generated_file_is_what_the_asyncio_client_asks_for() -> None:
    done = subprocess.run([sys.executable, str(GENERATOR), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("asynchronous", "blocking"),
    [
        (shoal.AsyncClient, shoal.Client),
        (shoal.AsyncPipeline, shoal.Pipeline),
        (shoal.AsyncTransaction, shoal.Transaction),
    ],
)
def test_both_clients_have_the_same_methods_and_parameters(asynchronous: type[Any], blocking: type[Any]) -> None:
    def public(kind: type[Any]) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(asynchronous) == public(blocking) | ({"aclose": ["self"]} if blocking is shoal.Client else {})


def test_calls_return_what_the_asyncio_client_returns(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        assert isinstance(db.put("k", "v"), shoal.WriteResult)
        assert db.get("k") == b"v"
        assert db.exists("k") is True
        entry = db.get_entry("k")
        assert entry is not None
        assert entry.value == b"v"
        db.put_many({"a": "1", "b": "2"})
        assert db.get_many(["a", "b", "c"]) == [b"1", b"2", None]
        db.delete("k")
        db.delete_many(["a", "b"])
        assert db.keyspace("default").get_many(["k", "a", "b"]) == [None, None, None]


def test_a_pipeline_sends_its_calls_together_and_keeps_their_order(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        db.put_many({f"warm{i}": "" for i in range(10)})
        threaded_cluster.frames.clear()
        pipeline = db.pipeline()
        for i in range(100):
            pipeline.put(f"k{i}", str(i))
        assert len(pipeline) == 100
        assert all(isinstance(result, shoal.WriteResult) for result in pipeline.execute())
        assert len(threaded_cluster.frames) == 2  # one a node
        assert db.pipeline().get("k7").put("k7", "new").get("k7").execute()[::2] == [b"7", b"new"]


def test_conditional_writes_and_results_are_the_asyncio_clients(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        assert db.increment("n", 2) == 2
        assert db.put_if_absent("n", "x") is False
        assert db.compare_and_set("n", "2", "3") is True
        assert db.touch("n", 5) is True
        assert db.write([shoal.increment("n")], when=[shoal.key_present("n")]).results == (4,)
        with pytest.raises(shoal.ConditionFailed) as caught:
            db.write([shoal.delete("n")], when=[shoal.value_equals("n", "9")])
        assert caught.value.found == b"4"
        assert db.delete_prefix("n") == 16
        assert db.pipeline().increment("n").touch("n").execute() == [1, True]


def test_scans_iterate_and_go_on_from_their_cursor(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        db.put_many({f"k{i:02}": "" for i in range(30)})
        rows = db.scan("k", page_rows=4)
        assert [next(rows)[0] for _ in range(10)] == [b"k%02d" % i for i in range(10)]
        keys = [key for key, _ in db.scan(cursor=rows.cursor)]
        assert keys == [b"k%02d" % i for i in range(10, 30)]
        assert list(db.scan("k", limit=3, reverse=True, keys_only=True)) == [b"k29", b"k28", b"k27"]
        assert list(rows)[-1][0] == b"k29"
        assert list(db.scan(cursor=rows.cursor)) == []


def test_transactions_run_in_the_callers_thread(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        with db.transaction() as tx:
            tx.put("a/1", "x")
            assert tx.get("a/1") == b"x"
            assert list(tx.scan("a/")) == [(b"a/1", b"x")]
        assert tx.result is not None
        with pytest.raises(RuntimeError), db.transaction() as tx:
            tx.put("a/1", "y")
            raise RuntimeError

        def add(tx: shoal.Transaction) -> int:
            assert threading.current_thread() is not db._portal._thread
            count = int(tx.get("a/n") or 0) + 1
            tx.put("a/n", str(count))
            return count

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(lambda _: db.run(add), range(20))) == list(range(1, 21))
        assert db.get_many(["a/1", "a/n"]) == [b"x", b"20"]


def test_sessions_hand_on_what_they_have_seen(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        session = db.session()
        session.put("k", "v")
        token = session.token()
        assert db.session(token).token() == token
        other = db.session()
        other.merge(token)
        assert other.get("k") == b"v"
        with pytest.raises(shoal.InvalidArgument):
            db.token()


def test_many_threads_share_one_client_and_get_their_own_answers(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: db.put(f"k{i}", f"v{i}"), range(200)))
        assert list(pool.map(lambda i: db.get(f"k{i}"), range(200))) == [b"v%d" % i for i in range(200)]


def test_errors_are_raised_in_the_calling_thread(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        with pytest.raises(shoal.InvalidArgument):
            db.put("", "v")
        threaded_cluster.script = lambda _node, request: (
            None if isinstance(request, Write) else threaded_cluster.serve(_node, request)
        )
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            db.put("k", "v", timeout=0.05)
        assert caught.value.maybe_applied


def test_a_closed_client_refuses_calls_and_its_thread_has_ended(threaded_cluster: Any) -> None:
    before = threading.active_count()
    db = shoal.Client(threaded_cluster.url())
    db.put("k", "v")
    assert threading.active_count() == before + 1
    db.close()
    db.close()
    assert threading.active_count() == before
    with pytest.raises(shoal.Closed):
        db.get("k")


def test_a_client_that_finds_no_cluster_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(shoal.Unavailable), shoal.Client("shoal://127.0.0.1:1", timeout=0.1):
        raise AssertionError("nobody listens on port 1")
    assert threading.active_count() == before


def test_a_client_works_in_a_forked_child_and_in_its_parent(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url()) as db:
        db.put("k", "v")
        child = os.fork()
        if child == 0:
            os._exit(0 if db.get("k") == b"v" and db.put("of-the-child", "v") else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert db.get_many(["k", "of-the-child"]) == [b"v", b"v"]

"""Sessions, weak reads and keyspaces."""

from __future__ import annotations

import threading
import time

import pytest
import shoal

from .conftest import Database


@pytest.mark.parametrize("consistency", ["read_your_writes", "eventual"])
def test_weak_answers_say_who_gave_them_and_how_stale_they_are(
    database: Database, ns: str, consistency: shoal.Consistency
) -> None:
    db = database.db
    db.put_many({f"{ns}-{number}": "v" for number in range(60)})
    time.sleep(0.5)
    servers = set()
    for number in range(60):
        entry = db.get_entry(f"{ns}-{number}", consistency=consistency, max_staleness=0.4)
        assert entry is not None
        assert entry.value == b"v"
        assert 0 <= entry.staleness <= 0.4
        servers.add(entry.served_by)
    assert servers == ({"n1"} if database.embedded else {"n1", "n2", "n3"})


def test_strong_answers_are_never_stale(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-k", "v")
    entry = db.get_entry(f"{ns}-k", consistency="strong")
    assert entry is not None
    assert entry.staleness == 0


def test_an_eventual_read_misses_nothing_older_than_its_bound(db: shoal.Client, ns: str) -> None:
    for number in range(10):
        db.put(f"{ns}/k", str(number))
        time.sleep(0.06)
        values = [db.get(f"{ns}/k", consistency="eventual", max_staleness=0.05) for _ in range(6)]
        assert values == [b"%d" % number] * 6


def test_the_tightest_bound_is_kept_or_the_leader_answers(db: shoal.Client, ns: str) -> None:
    for number in range(20):
        db.put(f"{ns}/k", str(number))
        time.sleep(0.002)
        entry = db.get_entry(f"{ns}/k", consistency="eventual", max_staleness=0.001)
        assert entry is not None
        assert entry.value == b"%d" % number
        assert entry.staleness <= 0.001


def test_a_client_may_be_weak_by_its_url(database: Database, ns: str) -> None:
    with shoal.Client(f"{database.url}{'&' if database.embedded else '?'}consistency=eventual&max_staleness=30s") as db:
        db.put(f"{ns}/k", "v")
        entry = db.get_entry(f"{ns}/k", consistency="strong")
        assert entry is not None
        assert entry.value == b"v"
        weak = db.get_entry(f"{ns}/k", max_staleness=20)
        assert weak is None or weak.staleness <= 20


def test_a_session_reads_its_writes(db: shoal.Client, ns: str) -> None:
    session = db.session()
    for number in range(60):
        key = f"{ns}-{number % 20}"
        session.put(key, str(number))
        assert session.get(key) == b"%d" % number
    session.delete(f"{ns}-1")
    assert not session.exists(f"{ns}-1")
    assert session.increment(f"{ns}-2") == 43
    assert session.get(f"{ns}-2") == b"43"
    with session.transaction() as tx:
        tx.put(f"{ns}-3", "tx")
    assert session.get(f"{ns}-3") == b"tx"
    session.delete_prefix(f"{ns}-")
    assert list(session.scan(f"{ns}-")) == []
    assert session.get_many([f"{ns}-2", f"{ns}-3"]) == [None, None]


def test_a_sessions_reads_never_go_back(db: shoal.Client, ns: str) -> None:
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            db.increment(f"{ns}/n")

    db.increment(f"{ns}/n")
    counting = threading.Thread(target=count)
    counting.start()
    try:
        session = db.session(consistency="eventual")
        seen = [int(session.get(f"{ns}/n", consistency="read_your_writes") or 0) for _ in range(150)]
    finally:
        done.set()
        counting.join()
    assert seen == sorted(seen)


def test_a_token_carries_a_session_into_another_client(database: Database, ns: str) -> None:
    with shoal.Client(database.url) as first:
        session = first.session()
        session.put_many({f"{ns}-{number}": str(number) for number in range(20)})
        token = session.token()
    with shoal.Client(database.url) as second:
        session = second.session(token)
        assert [session.get(f"{ns}-{number}") for number in range(20)] == [b"%d" % number for number in range(20)]
        session.put(f"{ns}-0", "more")
        merged = second.session()
        merged.merge(token)
        merged.merge(session.token())
        assert merged.get(f"{ns}-0") == b"more"


def test_what_one_session_has_read_another_sees_by_its_token(db: shoal.Client, ns: str) -> None:
    for number in range(20):
        db.put(f"{ns}/k", str(number))
        reader = db.session()
        assert reader.get(f"{ns}/k", consistency="strong") == b"%d" % number
        assert db.session(reader.token()).get(f"{ns}/k") == b"%d" % number


def test_a_token_that_is_none_is_refused(db: shoal.Client, ns: str) -> None:
    session = db.session()
    session.put(f"{ns}-k", "v")
    token = session.token()
    for wrong in ("", "garbage", token[:-1], token[:9], token[1:], token.swapcase(), token + "AAAA", "ключ"):
        with pytest.raises(shoal.InvalidArgument, match="no session token"):
            db.session(wrong)
        with pytest.raises(shoal.InvalidArgument, match="no session token"):
            session.merge(wrong)
    assert session.get(f"{ns}-k") == b"v"


def test_a_foreign_token_is_refused(cluster_database: Database, embedded_database: Database, ns: str) -> None:
    for here, there in ((cluster_database, embedded_database), (embedded_database, cluster_database)):
        session = there.db.session()
        session.put(f"{ns}-k", "v")
        with pytest.raises(shoal.InvalidArgument, match="of the cluster"):
            here.db.session(session.token())
        with pytest.raises(shoal.InvalidArgument, match="of keyspace"):
            there.db.keyspace("orders").session(session.token())


def test_a_foreign_token_is_refused_once_the_cluster_is_known(
    cluster_database: Database, embedded_database: Database, ns: str
) -> None:
    session = embedded_database.db.session()
    session.put(f"{ns}-k", "v")
    other = shoal.Client(cluster_database.url)
    continued = other.session(session.token())  # it is not connected yet
    with pytest.raises(shoal.InvalidArgument, match="of the cluster"):
        continued.get(f"{ns}-k")
    other.close()


def test_a_client_that_is_no_session_has_no_token(db: shoal.Client) -> None:
    with pytest.raises(shoal.InvalidArgument, match="no session"):
        db.token()
    with pytest.raises(shoal.InvalidArgument, match="no session"):
        db.merge("x")


def test_keyspaces_are_apart(database: Database, ns: str) -> None:
    db, orders = database.db, database.db.keyspace("orders")
    db.put(f"{ns}-k", "default's")
    orders.put(f"{ns}-k", "orders'")
    assert (db.get(f"{ns}-k"), orders.get(f"{ns}-k")) == (b"default's", b"orders'")
    assert list(orders.scan(ns)) == [(f"{ns}-k".encode(), b"orders'")]
    orders.delete(f"{ns}-k")
    assert db.get(f"{ns}-k") == b"default's"
    with shoal.Client(database.orders_url) as directly:
        directly.put(f"{ns}-other", "v")
        assert directly.keyspace("orders").get(f"{ns}-other") == b"v"


def test_a_session_on_another_keyspace_is_another_session(database: Database, ns: str) -> None:
    session = database.db.session()
    session.put(f"{ns}-k", "v")
    orders = session.keyspace("orders")
    orders.put(f"{ns}-k", "w")
    assert (session.get(f"{ns}-k"), orders.get(f"{ns}-k")) == (b"v", b"w")
    assert database.db.keyspace("orders").session(orders.token()).get(f"{ns}-k") == b"w"


@pytest.mark.parametrize("name", ["nosuch", "", "Default", "default/"])
def test_an_unknown_keyspace_is_told_with_those_there_are(db: shoal.Client, name: str) -> None:
    with pytest.raises(shoal.KeyspaceNotFound, match=r"there are: .*default"):
        db.keyspace(name).get("k")

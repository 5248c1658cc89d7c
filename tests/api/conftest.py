"""The same tests on both kinds of database: a cluster of three processes, and an embedded one in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import pytest
import shoal

FURTHER_KEYSPACES = """\
  orders: {microshards: 16, shards: 2, delimiter: "/", voters: 3}
  brief: {microshards: 4, shards: 1, delimiter: "/", voters: 3, default_ttl: 300ms}
"""


@dataclass
class Database:
    """Where the tests' data goes: one client that all tests share, and how to make others.

    An embedded folder is one client's at a time, so those that are opened here, one after another, have a second one.
    """

    kind: str
    shards: int
    microshards: int
    db: shoal.Client
    url: str
    orders_url: str

    @property
    def embedded(self) -> bool:
        return self.kind == "embedded"


def _cluster_helpers() -> ModuleType:
    path = Path(__file__).parents[1] / "cluster" / "real.py"
    spec = importlib.util.spec_from_file_location("shoal_tests_real_cluster", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _running_cluster(folder: Path) -> Iterator[str]:
    """Run three nodes; yield the URL of the keyspace "default". Their event loop has a thread of its own."""
    helpers = _cluster_helpers()
    cluster = helpers.real_nodes(folder, FURTHER_KEYSPACES)
    with ThreadPoolExecutor(1) as thread:
        loop = thread.submit(asyncio.Runner).result()
        try:
            thread.submit(cluster.start_all).result()
            thread.submit(loop.run, cluster.ready()).result()
            yield cluster.url
        finally:
            thread.submit(loop.run, cluster.kill_all()).result()
            thread.submit(loop.close).result()


@pytest.fixture(scope="session")
def cluster_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with _running_cluster(tmp_path_factory.mktemp("api-cluster")) as url, shoal.Client(url, timeout=20) as db:
        # Orders has shards of its own, which may be without a leader for a moment longer.
        db.keyspace("orders").put_many({f"ready-{number}": "" for number in range(16)})
        yield Database("cluster", 8, 1024, db, url, url.replace("/default", "/orders"))


@pytest.fixture(scope="session")
def embedded_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    shared, others = (f"embedded://{quote(str(tmp_path_factory.mktemp(name)))}" for name in ("shared", "others"))
    with shoal.Client(f"{shared}?keyspace=orders&microshards=16") as db:
        db.put("ready", "")
    with shoal.Client(f"{shared}?microshards=16", timeout=20) as db:
        yield Database("embedded", 1, 16, db, f"{others}?microshards=16", f"{others}?keyspace=orders&microshards=16")


@pytest.fixture(scope="session", params=["cluster", "embedded"])
def database(request: pytest.FixtureRequest) -> Database:
    found = request.getfixturevalue(f"{request.param}_database")
    assert isinstance(found, Database)
    return found


@pytest.fixture
def db(database: Database) -> shoal.Client:
    return database.db


_numbers = itertools.count(1)


@pytest.fixture
def ns() -> str:
    """What this test's keys begin with: `{ns}/` is one partition, `{ns}-` all over the shards."""
    return f"t{next(_numbers):04}"

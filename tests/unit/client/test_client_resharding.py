"""Every public method while shards change at every moment: what was acknowledged is so, errors are the public ones."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import shoal
from shoal.protocol.messages import Read, Scan, Write
from shoal.shardmap import MicroshardRange

SEEDS = 12
KEYS = [f"{letter}/{number}" for letter in "abcd" for number in range(5)]
MICROSHARDS = 16


class Resharding:
    """A script of a fake cluster: microshards change their shards again and again, at requests that are about to be served."""

    def __init__(self, cluster: Any, random: Random, chance: float) -> None:
        self.cluster = cluster
        self.random = random
        self.chance = chance

    def __call__(self, node: Any, request: Any) -> Any:
        if isinstance(request, Write | Read | Scan) and self.random.random() < self.chance:
            self.reshard()
        return self.cluster.serve(node, request)

    def reshard(self) -> None:
        """Divide the microshards anew; the shards are as many, and may all have as many as before."""
        cluster, random = self.cluster, self.random
        shards = list(range(1, cluster.shard_count + 1))
        owners = [random.choice(shards) for _ in range(MICROSHARDS)]
        if random.random() < 0.5:
            # Equal numbers, others each time.
            owners = [shards[place % len(shards)] for place in random.sample(range(MICROSHARDS), MICROSHARDS)]
        for shard in shards:
            cluster.ranges[shard] = tuple(
                MicroshardRange(microshard, microshard + 1) for microshard, owner in enumerate(owners) if owner == shard
            )
        cluster.version += 1


async def _transaction(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.get("a/1")
        await tx.get_entry("a/2")
        [row async for row in tx.scan("a/")]
        tx.put("a/1", "2")
        tx.delete("a/3")


async def _whole_transaction(db: Any) -> None:
    async with db.transaction() as tx:
        [row async for row in tx.scan(page_rows=3)]
        [row async for row in tx.scan(reverse=True, limit=4)]
        tx.put("a/1", "2")


async def _run(db: Any) -> None:
    async def do(tx: Any) -> None:
        [row async for row in tx.scan("b/")]
        tx.put("b/1", "1")

    await db.run(do)


async def _scan(db: Any, **how: Any) -> None:
    rows = [row async for row in db.scan(page_rows=3, **how)]
    keys = [row if isinstance(row, bytes) else row[0] for row in rows]
    assert len(keys) == len(set(keys))


async def _pipeline(db: Any) -> None:
    for result in (
        await db.pipeline().get("a/1").put("b/1", "1").increment("n/1").delete("c/1").execute(raise_on_error=False)
    ):
        if isinstance(result, BaseException):
            raise result


CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "put": lambda db: db.put("a/1", "1"),
    "get": lambda db: db.get("a/1"),
    "get_entry": lambda db: db.get_entry("a/1", consistency="eventual"),
    "exists": lambda db: db.exists("a/1"),
    "ttl": lambda db: db.ttl("a/1"),
    "touch": lambda db: db.touch("a/1", 5),
    "delete": lambda db: db.delete("a/1", durability="fast"),
    "get_many": lambda db: db.get_many(KEYS),
    "put_many": lambda db: db.put_many(dict.fromkeys(KEYS, "1")),
    "delete_many": lambda db: db.delete_many(KEYS),
    "write": lambda db: db.write([shoal.put("a/1", "1"), shoal.increment("a/n")], when=[shoal.key_absent("a/2")]),
    "put_if_absent": lambda db: db.put_if_absent("a/1", "1"),
    "compare_and_set": lambda db: db.compare_and_set("a/1", "1", "2"),
    "increment": lambda db: db.increment("n/1"),
    "scan": lambda db: _scan(db),
    "scan of keys": lambda db: _scan(db, keys_only=True, reverse=True),
    "scan, weak": lambda db: _scan(db, consistency="eventual"),
    "scan of a partition": lambda db: _scan(db, prefix="a/"),
    "delete_prefix": lambda db: db.delete_prefix("a"),
    "delete_prefix of a partition": lambda db: db.delete_prefix("a/"),
    "delete_range": lambda db: db.delete_range("a", "c"),
    "transaction": _transaction,
    "transaction over all": _whole_transaction,
    "run": _run,
    "pipeline": _pipeline,
    "session": lambda db: _scan(db.session(), consistency="read_your_writes"),
    "keyspace": lambda db: db.keyspace("default").get("a/1"),
}
NO_CALLS = {"aclose", "close", "collect", "merge", "token"}


def test_every_public_method_is_among_the_calls() -> None:
    public = {name for name, _ in inspect.getmembers(shoal.AsyncClient) if not name.startswith("_")}
    assert public - NO_CALLS <= {name.split(",")[0].split(" ")[0] for name in CALLS}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_ends_with_its_result_or_a_public_error(start_cluster: Any, call: str) -> None:
    public = {kind for kind in vars(shoal).values() if isinstance(kind, type) and issubclass(kind, shoal.ShoalError)}
    for seed in range(SEEDS):
        random = Random(seed)
        cluster = await start_cluster(nodes=2, shards=random.choice([1, 2, 4]))
        async with shoal.AsyncClient(cluster.url(query="?timeout=3s")) as db:
            await db.put_many(dict.fromkeys(KEYS, "1"))
            cluster.script = Resharding(cluster, random, random.choice([0.1, 0.3]))
            try:
                await CALLS[call](db)
            except shoal.ShoalError as error:
                assert type(error) in public, f"{error!r} is for the client's own use"
        await cluster.stop()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_no_row_is_missing_or_doubled_or_left_behind(start_cluster: Any, seed: int) -> None:
    random = Random(seed)
    cluster = await start_cluster(nodes=2, shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        rows = {f"k{number:03}".encode(): b"v" for number in range(120)}
        await db.put_many(dict(rows))
        cluster.script = Resharding(cluster, random, 0.1)
        for reverse in (False, True):
            found = [row async for row in db.scan(page_rows=7, reverse=reverse)]
            assert found == sorted(rows.items(), reverse=reverse)
        assert await db.delete_range("k", "k060") == MICROSHARDS
        assert sorted(cluster.rows) == sorted(key for key in rows if key >= b"k060")


@pytest.mark.parametrize("how", ["split", "moved"])
async def test_a_row_that_comes_to_a_range_after_a_split_is_never_overlooked(start_cluster: Any, how: str) -> None:
    """A transaction over all microshards, which are those of one shard when it begins, and of two when it ends."""
    cluster = await start_cluster(nodes=1, shards=1)
    async with shoal.AsyncClient(cluster.url()) as db, shoal.AsyncClient(cluster.url()) as other:
        await db.get("x")
        elsewhere = next(f"job-{n}" for n in range(99) if cluster.keyspace.microshard_of(b"job-%d" % n) >= 8)
        here = next(f"job-{n}" for n in range(99) if cluster.keyspace.microshard_of(b"job-%d" % n) < 8)
        with pytest.raises(shoal.CrossShard) as caught:
            async with db.transaction() as tx:
                assert [row async for row in tx.scan("job-")] == []
                tx.put(here, "mine")
                cluster.leaders[2], cluster.shard_count, cluster.version = "n1", 2, 2
                if how == "moved":
                    cluster.ranges = {1: (MicroshardRange(0, 4), MicroshardRange(12, 16)), 2: (MicroshardRange(4, 12),)}
                await other.put(elsewhere, "theirs")
        assert not caught.value.maybe_applied
    assert sorted(cluster.rows) == [elsewhere.encode()]

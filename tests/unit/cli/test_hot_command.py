"""`shoal hot`: what all nodes say together, in a table and for programs."""

from __future__ import annotations

import json

from shoal.admin.hot_keys import merged
from shoal.protocol.hot_keys import GetHotKeys, HotKey, HotKeys, HotShard


def told(node, *keys, shard=1, rate=1000):
    return HotKeys(0, node, (HotShard(shard, 1, rate, tuple(keys)),))


def test_keys_are_added_up_over_the_nodes(fake):
    views = merged(
        [
            told("n1", HotKey(b"a", 100, 300, 0), HotKey(b"b", 10, 0, 6), rate=900),
            told("n2", HotKey(b"a", 50, 0, 4), HotKey(b"\xff", 20, 0, 0), rate=100),
            told("n3", HotKey(b"a", 500, 0, 0), shard=2, rate=400),
        ],
        fake.routes.map,
    )
    assert [(view.key, view.shard, view.reads, view.writes, view.error, view.share) for view in views] == [
        (b"a", 2, 500, 0, 0, 1.0),
        (b"a", 1, 150, 300, 4, 0.45),
        (b"\xff", 1, 20, 0, 0, 0.02),
        (b"b", 1, 10, 0, 6, 0.01),
    ]


def test_hot_lists_the_busiest_keys(fake, shoal):
    fake.script.hot = {
        "n1": told("n1", HotKey(b"user:1", 900, 50, 3), HotKey(b"k" * 200, 10, 0, 0)),
        "n2": told("n2", HotKey(b"user:1", 100, 0, 0)),
    }
    rows = json.loads(shoal("hot", "--json").stdout)
    assert rows[0] == {
        "key": "user:1",
        "keyspace": "default",
        "shard": 1,
        "reads": 1000,
        "writes": 50,
        "error": 3,
        "share": 0.525,
    }
    assert len(rows) == 2
    assert len(json.loads(shoal("hot", "--json", "--limit", "1").stdout)) == 1
    text = shoal("hot").stdout
    assert "user:1" in text
    assert "52 %" in text
    assert "k" * 57 + "..." in text
    assert json.loads(shoal("hot", "--json", "--keyspace", "default").stdout) == rows
    shoal("hot", "--shard", "2")
    assert {request.shard for request in fake.requests if isinstance(request, GetHotKeys)} == {0, 2}


def test_what_there_is_not_is_not_found(shoal):
    assert "no shard 9" in shoal("hot", "--shard", "9", code=3).stderr
    assert "there are default" in shoal("hot", "--keyspace", "nope", code=3).stderr
    shoal("hot", "--shard", "0", code=2)


def test_nodes_that_do_not_answer_are_named(fake, shoal):
    fake.script.hot = {"n1": told("n1", HotKey(b"a", 1, 0, 0))}
    fake.take_down("n2")
    done = shoal("hot")
    assert "without what is asked of node n2" in done.stderr
    assert "a" in done.stdout

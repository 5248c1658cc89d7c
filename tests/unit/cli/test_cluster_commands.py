"""`status`, `nodes`, `shards`, `keyspaces`, `locate`, `transfer-leader` against a fake cluster."""

from __future__ import annotations

import json

import msgspec
import pytest
from shoal.protocol.messages import Failure, GetStatus, TransferLeader


def test_status_of_a_well_cluster_ends_with_0(shoal):
    status = json.loads(shoal("status", "--json").stdout)
    assert status["healthy"] is True
    assert (status["nodes_reachable"], status["shards_with_leader"], status["replicas_in_step"]) == (3, 4, 12)
    assert status["problems"] == []
    assert "cluster fake: well" in shoal("status").stdout


def test_status_goes_by_the_newest_map_whichever_node_answers_first(fake, shoal):
    fake.script.old_maps.add("n1")
    status = json.loads(shoal("status", "--json", "--url", f"shoal://{fake.addresses['n1']}").stdout)
    assert status["shards_with_leader"] == 4


def test_status_names_a_shard_without_leader(fake, shoal):
    fake.script.leaders[2] = None
    result = shoal("status", "--json", code=5)
    status = json.loads(result.stdout)
    assert status["shards_with_leader"] == 3
    assert [(problem["kind"], problem["shard"]) for problem in status["problems"]] == [("shard_without_leader", 2)]
    assert result.stderr.strip() == "shoal: cluster fake is not well: shard 2 has no leader"


def test_status_names_an_unreachable_node_once(fake, shoal):
    fake.take_down("n3")
    fake.script.leaders.update(dict.fromkeys(fake.shards, "n1"))
    status = json.loads(shoal("status", "--json", code=5).stdout)
    assert [(problem["kind"], problem["node"]) for problem in status["problems"]] == [("node_unreachable", "n3")]
    assert status["replicas_in_step"] == 8


def test_status_names_a_replica_that_stays_behind(fake, shoal):
    fake.script.lags[1, "n3"] = 7
    result = shoal("status", code=5)
    assert "shard 1 on node n3: 7 log entries behind (replicate)" in result.stdout


def test_status_names_a_replica_that_its_leader_does_not_hear(fake, shoal):
    fake.script.deaf.add((1, "n3"))
    (problem,) = json.loads(shoal("status", "--json", code=5).stdout)["problems"]
    assert (problem["kind"], problem["shard"], problem["node"]) == ("replica_disconnected", 1, "n3")


def test_status_names_a_node_that_takes_no_writes(fake, shoal):
    fake.script.not_writable["n2"] = "the disk is full"
    assert "node n2 takes no writes: the disk is full" in shoal("status", code=5).stderr


@pytest.mark.parametrize("command", ["status", "nodes"])
def test_a_node_that_leads_nothing_is_not_well_whoever_is_asked(fake, shoal, command: str):
    fake.script.not_leading["n2"] = "its wall clock is 2.0 s ahead"
    assert "its wall clock is 2.0 s ahead" in shoal(command, code=5).stderr


def test_status_refuses_a_wrong_duration_as_wrong_usage(shoal):
    assert "soon" in shoal("status", "--wait", "soon", code=2).stderr


def test_status_where_nobody_listens_says_whom_it_asked(shoal):
    result = shoal("status", "--url", "shoal://127.0.0.1:1", code=5)
    assert "127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_status_of_silent_nodes_says_that_they_do_not_answer(fake, shoal):
    fake.script.silent.add(GetStatus)
    result = shoal("status", "--url", fake.url.replace("2s", "200ms"), code=5)
    assert "0 of 3 reachable" in result.stdout
    assert "node n1 is unreachable" in result.stdout


def test_a_wrong_url_is_wrong_usage(shoal):
    assert "shoal://" in shoal("status", "--url", "http://127.0.0.1", code=2).stderr


def test_a_url_over_tls_is_taken(shoal):
    assert "Connection refused" in shoal("status", "--url", "shoals://127.0.0.1:1", code=5).stderr


def test_the_files_of_tls_come_from_options_and_are_read_first(shoal, tmp_path):
    said = shoal("--cafile", str(tmp_path / "nowhere.pem"), "status", "--url", "shoals://127.0.0.1:1", code=2).stderr
    assert "cannot be read" in " ".join(said.split())


def test_nodes_lists_each_with_what_it_leads(fake, shoal):
    listed = json.loads(shoal("nodes", "--json").stdout)
    assert [(node["id"], node["address"], node["state"], node["leads"], node["replicas"]) for node in listed] == [
        ("n1", fake.addresses["n1"], "ok", 1, 4),
        ("n2", fake.addresses["n2"], "ok", 2, 4),
        ("n3", fake.addresses["n3"], "ok", 1, 4),
    ]
    table = shoal("nodes").stdout
    assert "5.0 GiB" in table
    assert "1 min" in table


def test_nodes_shows_one_that_is_gone_and_ends_with_5(fake, shoal):
    fake.take_down("n2")
    listed = json.loads(shoal("nodes", "--json", code=5).stdout)
    assert [node["state"] for node in listed] == ["ok", "unreachable", "ok"]


def test_shards_lists_leaders_and_ranges(shoal):
    listed = json.loads(shoal("shards", "--json").stdout)
    assert [(shard["id"], shard["leader"], shard["microshards"], shard["state"]) for shard in listed] == [
        (1, "n2", "0-3", "ok"),
        (2, "n3", "4-7", "ok"),
        (3, "n1", "8-11", "ok"),
        (4, "n2", "12-15", "ok"),
    ]
    assert "12-15" in shoal("shards").stdout


def test_shards_with_an_id_shows_its_replicas(fake, shoal):
    fake.script.lags[1, "n3"] = 7
    shard = json.loads(shoal("shards", "1", "--json", code=5).stdout)
    assert {replica["node"]: (replica["state"], replica["match_index"]) for replica in shard["replicas"]} == {
        "n1": ("replicate", 100),
        "n2": ("leads", 100),
        "n3": ("replicate", 93),
    }
    assert "2 of 3 in step" in shoal("shards", "1", code=5).stdout


def test_a_shard_that_is_well_ends_with_0_though_another_is_not(fake, shoal):
    fake.script.leaders[2] = None
    shoal("shards", "1")
    shoal("shards", "2", code=5)


def test_an_unknown_shard_is_not_found(shoal):
    assert "no shard 9; the shards are 1 to 4" in shoal("shards", "9", code=3).stderr
    shoal("transfer-leader", "9", "n1", code=3)


def test_keyspaces_lists_their_settings(shoal):
    (keyspace,) = json.loads(shoal("keyspaces", "--json").stdout)
    assert keyspace == {
        "name": "default",
        "id": 1,
        "microshards": 16,
        "shards": 4,
        "voters": 3,
        "followers": 0,
        "max_staleness_ms": 5000,
        "delimiter": "/",
    }
    assert "default" in shoal("keyspaces").stdout


def test_keyspaces_shows_quotas_where_there_are_some(fake, shoal):
    assert "none" in shoal("keyspaces").stdout
    fake.keyspace = msgspec.structs.replace(fake.keyspace, reads_per_second=1000, max_bytes=3 << 30)
    (keyspace,) = json.loads(shoal("keyspaces", "--json").stdout)
    assert (keyspace["reads_per_second"], keyspace["max_bytes"]) == (1000, 3 << 30)
    assert "writes_per_second" not in keyspace
    assert "1000 reads/s, 3.0 GiB" in " ".join(shoal("keyspaces").stdout.split())


def test_locate_says_where_a_key_is(fake, shoal):
    location = json.loads(shoal("locate", "user:42/name", "--json").stdout)
    shard = fake.routes.shard_of(fake.keyspace, b"user:42/name")
    assert location["shard"] == shard
    assert location["leader"] == fake.script.leaders[shard]
    assert location["microshard"] == fake.keyspace.microshard_of(b"user:42/cart")
    assert "partition   user:42/" in shoal("locate", "user:42/name").stdout


def test_locate_in_an_unknown_keyspace_is_not_found(fake, shoal):
    url = fake.url.replace("/default", "/nosuch")
    assert "it has default" in shoal("locate", "k", "--url", url, code=3).stderr


def test_transfer_leader_asks_the_leader_and_says_what_changed(fake, shoal):
    assert "led by n1, no longer by n2" in shoal("transfer-leader", "1", "n1").stdout
    assert fake.script.leaders[1] == "n1"
    assert "already leads" in shoal("transfer-leader", "1", "n1").stdout


def test_transfer_leader_to_a_node_without_a_voter_is_refused_and_to_an_unknown_one_not_found(fake, shoal):
    fake.shards[1] = msgspec.structs.replace(fake.shards[1], voters=("n1", "n2"))
    assert "its voters are n1, n2" in shoal("transfer-leader", "1", "n3", code=1).stderr
    assert "no node 'n7'; there are n1, n2, n3" in shoal("transfer-leader", "1", "n7", code=3).stderr
    assert not any(isinstance(request, TransferLeader) for request in fake.requests)


def test_transfer_leader_without_a_leader_is_unavailable(fake, shoal):
    fake.script.leaders[1] = None
    assert "has no leader" in shoal("transfer-leader", "1", "n1", code=5).stderr


def test_transfer_leader_passes_on_why_the_leader_refuses(fake, shoal):
    fake.script.failures[TransferLeader] = Failure(0, "invalid_argument", "n1 is too far behind")
    assert "n1 is too far behind" in shoal("transfer-leader", "1", "n1", code=1).stderr


def test_transfer_leader_without_an_answer_is_of_unknown_outcome(fake, shoal):
    fake.script.silent.add(TransferLeader)
    shoal("transfer-leader", "1", "n1", "--url", fake.url.replace("2s", "300ms"), code=7)


def test_tables_in_a_pipe_are_not_cut(fake, shoal):
    for line in shoal("nodes").stdout.splitlines():
        assert "…" not in line
    assert fake.addresses["n1"] in shoal("nodes").stdout

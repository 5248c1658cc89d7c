"""`import` and `export`: nothing is lost silently, whatever is in the file and whatever happens to the cluster."""

from __future__ import annotations

import json
import time
from random import Random

import pytest
from shoal.protocol.messages import Failure, ReadPage, Write

from .conftest import NOW_MS


def lines(*rows: dict[str, str]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_import_then_export_gives_the_same_rows(shoal, tmp_path):
    rows = {f"user:{number}/name": f"näme {number}" for number in range(50)}
    file = tmp_path / "rows.jsonl"
    file.write_text(lines(*({"key": key, "value": value} for key, value in rows.items())))
    result = shoal("import", str(file), "--json")
    assert json.loads(result.stdout) == {"imported": 50, "skipped": 0, "expired": 0, "through_line": 50}
    exported = shoal("export")
    assert exported.stderr == "exported 50 rows\n"
    found = [json.loads(line) for line in exported.stdout.splitlines()]
    assert {row["key"]: row["value"] for row in found} == rows
    assert len(found) == 50


def test_import_reads_csv_and_stdin(fake, shoal, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("key,value\na,1\nb,2\n")
    assert "imported 2 rows, up to line 3" in shoal("import", str(file)).stdout
    shoal("import", "-", "--format", "jsonl", stdin=b'{"key_base64":"/w==","value":"3"}\n')
    assert [fake.value(key) for key in (b"a", b"b", b"\xff")] == [b"1", b"2", b"3"]


def test_imported_rows_may_expire(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}, {"key": "k" * 5000, "value": "2"}, {"key": "b", "value": "3"}))
    shoal("import", str(file), "--ttl", "30s", "--on-error", "skip", code=1)
    assert (fake.expiries[b"a"], fake.expiries[b"b"]) == (NOW_MS + 30_000, NOW_MS + 30_000)
    shoal("import", str(file), "--ttl", "never", code=2)


def test_rows_keep_their_lives_through_export_and_import(fake, shoal, tmp_path):
    soon, year = int(time.time() * 1000) + 60_000, 365 * 86_400_000
    shoal("put", "session", "s")
    shoal("put", "for ever", "f")
    fake.expiries[b"session"] = soon
    file = tmp_path / "rows.jsonl"
    shoal("export", "--output", str(file))
    rows = {row["key"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert rows["session"] == {"key": "session", "value": "s", "expires_at": soon / 1000}
    assert rows["for ever"] == {"key": "for ever", "value": "f"}
    fake.expiries.clear()
    shoal("import", str(file))
    left = fake.expiries[b"session"] - NOW_MS
    assert 0 < left <= 60_000
    assert fake.expiries[b"for ever"] == 0
    shoal("import", str(file), "--ttl", "365d")
    assert (fake.expiries[b"session"] - NOW_MS <= 60_000, fake.expiries[b"for ever"]) == (True, NOW_MS + year)


def test_a_row_that_has_expired_meanwhile_is_not_brought_back_and_counted(fake, shoal, tmp_path):
    gone, later = time.time() - 1, time.time() + 3600
    file = tmp_path / "rows.jsonl"
    file.write_text(
        lines(
            {"key": "gone", "value": "1", "expires_at": gone},
            {"key": "there", "value": "2", "expires_at": later},
            {"key": "k" * 5000, "value": "3"},
        )
    )
    result = shoal("import", str(file), "--json", "--on-error", "skip", code=1)
    assert json.loads(result.stdout) == {"imported": 1, "skipped": 1, "expired": 1, "through_line": 3}
    assert fake.value(b"gone") is None
    assert fake.value(b"there") == b"2"
    file.write_text(lines({"key": "gone", "value": "1", "expires_at": gone}))
    assert shoal("import", str(file)).stdout == "imported 0 rows, up to line 1; 1 had expired and were left out\n"


def test_rows_of_a_file_may_say_how_long_they_live(fake, shoal, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("key,value,ttl\na,1,30\nb,2,10m\nc,3,0\nd,4,\n")
    shoal("import", str(file), "--ttl", "5s")
    assert [fake.expiries[key] for key in (b"a", b"b", b"c", b"d")] == [
        NOW_MS + 30_000,
        NOW_MS + 600_000,
        0,
        NOW_MS + 5000,
    ]


def test_of_two_rows_with_one_key_the_later_stays(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}, {"key": "a", "value": "2"}))
    shoal("import", str(file))
    assert fake.value(b"a") == b"2"


def test_a_bad_line_stops_the_import_and_all_before_it_is_in(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}) + "nonsense\n" + lines({"key": "b", "value": "2"}))
    result = shoal("import", str(file), "--json", code=1)
    assert json.loads(result.stdout) == {"imported": 1, "skipped": 0, "expired": 0, "through_line": 1}
    assert result.stderr.startswith("shoal: line 2: not JSON")
    assert fake.value(b"a") == b"1"
    assert fake.value(b"b") is None


def test_an_empty_csv_file_lacks_its_header(fake, shoal, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("")
    assert "no header" in shoal("import", str(file), code=1).stderr


def test_bad_lines_can_be_skipped_and_are_told_of(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}) + "nonsense\n" + lines({"key": "b", "value": "2"}))
    result = shoal("import", str(file), "--on-error", "skip", "--json", code=1)
    assert json.loads(result.stdout) == {"imported": 2, "skipped": 1, "expired": 0, "through_line": 3}
    assert "skipped line 2" in result.stderr
    assert fake.value(b"b") == b"2"


def test_a_row_that_the_database_refuses_is_named_by_its_line(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    long_key = "k" * 5000
    file.write_text(lines({"key": "a", "value": "1"}, {"key": long_key, "value": "2"}, {"key": "b", "value": "3"}))
    stopped = shoal("import", str(file), "--json", code=1)
    assert "line 2" in stopped.stderr
    assert json.loads(stopped.stdout)["through_line"] == 1
    skipped = shoal("import", str(file), "--json", "--on-error", "skip", code=1)
    assert json.loads(skipped.stdout) == {"imported": 2, "skipped": 1, "expired": 0, "through_line": 3}
    assert fake.value(b"b") == b"3"


def test_a_cluster_that_refuses_ends_the_import_and_names_the_lines_in_doubt(fake, shoal, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}, {"key": "b", "value": "2"}))
    fake.script.failures[Write] = Failure(0, "permission_denied", "not for you")
    result = shoal("import", str(file), "--json", code=1)
    assert "lines 1 to 2: not known to be imported" in result.stderr
    assert json.loads(result.stdout)["imported"] == 0


def test_import_of_an_unknown_suffix_asks_for_the_format(shoal, tmp_path):
    assert "--format" in shoal("import", str(tmp_path / "rows.txt"), code=2).stderr


def test_import_of_a_missing_file_says_so(shoal, tmp_path):
    assert "No such file" in shoal("import", str(tmp_path / "rows.csv"), code=1).stderr


def test_export_follows_a_leader_that_changes_between_pages(fake, shoal):
    keys = {f"k{number}".encode() for number in range(60)}
    for key in keys:
        fake.put(key, b"v")

    def move_on(request: ReadPage) -> None:
        following = {"n1": "n2", "n2": "n3", "n3": "n1"}
        fake.script.leaders[request.shard] = following[fake.script.leaders[request.shard]]

    fake.script.on_page = move_on
    found = [json.loads(line)["key"].encode() for line in shoal("export").stdout.splitlines()]
    assert len(found) == 60
    assert set(found) == keys


@pytest.mark.parametrize("seed", range(12))
def test_export_has_every_row_once_while_shards_split_merge_and_move(fake, shoal, seed):
    random = Random(seed)
    keys = [f"k{number}" for number in range(80)]
    for key in keys:
        fake.put(key.encode(), b"v")

    def reshard(request: ReadPage) -> None:
        if random.random() < 0.5:
            shards = random.choice([[1, 2, 3, 4], [2, 3], [1]])
            fake.reshard([random.choice(shards) for _ in range(16)])

    fake.script.before_page = reshard
    result = shoal("export")
    found = [json.loads(line)["key"] for line in result.stdout.splitlines()]
    assert sorted(found) == sorted(keys)
    assert fake.version > 2


def test_export_to_a_file_that_fails_leaves_no_file(fake, shoal, tmp_path):
    fake.put(b"k", b"v")
    fake.script.leaders[fake.routes.shard_of(fake.keyspace, b"k")] = None
    output = tmp_path / "rows.jsonl"
    shoal("export", "--output", str(output), "--url", fake.url.replace("2s", "300ms"), code=5)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_skips_what_is_unavailable_has_the_rest_and_names_what_is_missing(fake, shoal, tmp_path):
    keys = [f"k{number}" for number in range(80)]
    for key in keys:
        fake.put(key.encode(), b"v")
    lost = fake.routes.shard_of(fake.keyspace, b"k0")
    fake.script.leaders[lost] = None
    url, output = fake.url.replace("2s", "300ms"), tmp_path / "rows.jsonl"
    said = shoal("export", "--skip-unavailable", "--output", str(output), "--url", url, code=8).stderr.splitlines()
    found = [json.loads(line)["key"] for line in output.read_text().splitlines()]
    assert found
    assert sorted(found) == sorted(key for key in keys if fake.routes.shard_of(fake.keyspace, key.encode()) != lost)
    [span] = fake.shards[lost].ranges
    assert said[0].startswith(f"not exported: microshards {span.first}-{span.end - 1} (shard {lost}): ")
    assert said[1] == f"shoal: exported {len(found)} rows to {output}; rows of 4 of 16 microshards are missing"
    assert len(said) == 2


def test_an_export_that_loses_a_shard_half_way_names_the_last_key_that_it_has(fake, shoal):
    lost = fake.routes.shard_of(fake.keyspace, b"k0")
    for number in range(80):
        fake.put(f"k{number}".encode(), b"v")

    def lose(request: ReadPage) -> None:
        if request.shard == lost:
            fake.script.leaders[lost] = None

    fake.script.on_page = lose
    result = shoal("export", "--skip-unavailable", "--url", fake.url.replace("2s", "300ms"), code=8)
    exported = [json.loads(line)["key"].encode() for line in result.stdout.splitlines()]
    of_lost = [key for key in exported if fake.routes.shard_of(fake.keyspace, key) == lost]
    last, end = of_lost[-1], fake.shards[lost].ranges[0].end
    microshard = fake.keyspace.microshard_of(last)
    assert len(of_lost) == fake.script.page_rows
    begun = f'microshard {microshard} behind the key {{"key":"{last.decode()}"}}'
    assert result.stderr.startswith(
        f"not exported: {begun} and microshards {microshard + 1}-{end - 1} (shard {lost}): "
    )
    left = [key for position, key in fake.rows[lost] if (position, key) > (microshard, last)]
    assert len(exported) + len(left) == 80


def test_an_export_goes_without_the_microshards_that_nobody_serves_and_has_the_others_of_their_shard(fake, shoal):
    for number in range(80):
        fake.put(f"k{number}".encode(), b"v")
    shard = fake.routes.shard_of(fake.keyspace, b"k0")
    first = fake.shards[shard].ranges[0].first
    fake.script.unserved[shard] = {first + 1, first + 2}
    result = shoal("export", "--skip-unavailable", "--url", fake.url.replace("2s", "300ms"), code=8)
    exported = {json.loads(line)["key"].encode() for line in result.stdout.splitlines()}
    lost = {key for position, key in fake.rows[shard] if position in (first + 1, first + 2)}
    assert lost
    assert exported == {f"k{number}".encode() for number in range(80)} - lost
    assert result.stderr.startswith(f"not exported: microshards {first + 1}-{first + 2} (shard {shard}): ")
    assert "rows of 2 of 16 microshards are missing" in result.stderr


def test_an_export_that_may_skip_and_need_not_ends_as_any_other(fake, shoal):
    fake.put(b"k", b"v")
    assert shoal("export", "--skip-unavailable").stderr == "exported 1 rows\n"


def test_export_to_a_file_says_where(fake, shoal, tmp_path):
    fake.put(b"k", b"v")
    output = tmp_path / "rows.jsonl"
    assert str(output) in shoal("export", "--output", str(output)).stderr
    assert output.read_bytes() == b'{"key":"k","value":"v"}\n'


def test_export_of_an_unknown_keyspace_is_not_found(fake, shoal):
    shoal("export", "--url", fake.url.replace("/default", "/nosuch"), code=3)


def test_export_refuses_a_page_that_does_not_get_it_on(fake, shoal):
    fake.put(b"k", b"v")
    fake.script.page_rows = 0
    assert "does not say where to go on" in shoal("export", code=1).stderr


def test_long_work_gives_way_to_whoever_waits_for_an_answer(fake, shoal, tmp_path):
    """Unless it is told to do otherwise: by an option, or by the URL."""
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"key": "a", "value": "1"}))
    for command in (["import", str(file)], ["export"]):
        for how, priority in (
            ([], "batch"),
            (["--url", f"{fake.url}&priority=background"], "background"),
            (["--url", f"{fake.url}&priority=background", "--priority", "interactive"], "interactive"),
        ):
            fake.priorities.clear()
            shoal(*command, *how)
            data = [said for said in fake.priorities if said != "interactive" or priority == "interactive"]
            assert set(data) == {priority}, "an export looks for the map before, as every command does"
    fake.priorities.clear()
    shoal("get", "a")
    assert set(fake.priorities) == {"interactive"}

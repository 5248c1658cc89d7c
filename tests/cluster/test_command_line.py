"""The `shoal` command as people run it: real processes, real signals, the shell's exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shoal_server.local.layout import ClusterFolder
from shoal_server.local.processes import find_nodes

COMMAND = (sys.executable, "-m", "shoal.cli")
SECONDS = 60.0


class Shell:
    """Runs `shoal` in a folder; ends every node that was started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "cluster"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}

    def run(
        self, *arguments: str, stdin: bytes = b"", code: int | tuple[int, ...] = 0
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.environment,
            timeout=SECONDS,
            check=False,
        )
        expected = (code,) if isinstance(code, int) else code
        assert done.returncode in expected, (done.returncode, done.stdout, done.stderr)
        return done

    def up_detached(self) -> dict[str, int]:
        """Start a cluster; return its nodes' process numbers."""
        arguments = () if ClusterFolder(self.data).config_file.exists() else ("--port", "0")
        started = json.loads(self.run("up", "--data", str(self.data), *arguments, "--detach", "--json").stdout)
        self.environment["SHOAL_URL"] = started["url"]
        return {node["id"]: node["pid"] for node in started["nodes"]}

    def down(self) -> subprocess.CompletedProcess[bytes]:
        return self.run("down", "--data", str(self.data))

    def end(self) -> None:
        for node in find_nodes(ClusterFolder(self.data)):
            node.signal(signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a process runs: one that has ended may still have a number, until somebody reaps it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A cluster that several tests share, none of which harms it."""
    shell = Shell(tmp_path_factory.mktemp("served"))
    shell.up_detached()
    yield shell
    shell.end()


def test_values_go_through_the_shell_unharmed(served: Shell):
    value = bytes(range(256))
    served.run("put", "binary", "-", stdin=value)
    assert served.run("get", "binary").stdout == value
    served.run("delete", "binary")
    served.run("get", "binary", code=3)


def test_a_cluster_that_was_just_started_is_well(served: Shell):
    status = json.loads(served.run("status", "--json").stdout)
    assert status["healthy"]
    assert (status["nodes"], status["shards"], status["replicas_in_step"]) == (3, 8, 24)


def test_what_is_imported_is_exported(served: Shell, tmp_path: Path):
    rows = {f"row:{number}/text": f"text {number}" for number in range(3000)}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in rows.items()))
    assert json.loads(served.run("import", str(file), "--json").stdout)["imported"] == len(rows)
    exported = [json.loads(line) for line in served.run("export").stdout.splitlines()]
    assert {row["key"]: row["value"] for row in exported if row["key"].startswith("row:")} == rows


def test_rows_expire_are_counted_scanned_and_deleted_from_the_shell(served: Shell):
    served.run("put", "cart:1/item", "fish", "--ttl", "60m")
    served.run("put", "cart:1/note", "", "--ttl", "300ms", "--durability", "fast")
    assert b"b'fish'" in served.run("put", "cart:1/item", "crab", "--if-absent", code=4).stderr
    assert 3000 < float(served.run("ttl", "cart:1/item").stdout) <= 3600
    served.run("touch", "cart:1/item", "0")
    entry = json.loads(
        served.run("get", "cart:1/item", "--json", "--consistency", "eventual", "--max-staleness", "100ms").stdout
    )
    assert (entry["value"], entry["staleness"] <= 0.1, entry["served_by"][0]) == ("fish", True, "n")
    assert json.loads(served.run("get", "cart:1/item", "--json").stdout)["expires_at"] is None
    assert [served.run("increment", "cart:1/count", by).stdout for by in ("5", "-2")] == [b"5\n", b"3\n"]
    served.run("touch", "cart:1/note", "1s", code=3)
    assert served.run("scan", "cart:").stdout == b"cart:1/count\t3\ncart:1/item\tfish\n"
    assert served.run("scan", "cart:1/", "--reverse", "--limit", "1", "--json", "--keys-only").stdout == (
        b'{"key":"cart:1/item"}\n'
    )
    served.run("delete", "--prefix", "cart:1/")
    assert served.run("scan", "cart:").stdout == b""


def test_leadership_goes_where_it_is_sent(served: Shell):
    before = json.loads(served.run("shards", "1", "--json").stdout)
    target = next(node for node in before["voters"] if node != before["leader"])
    served.run("transfer-leader", "1", target)
    assert json.loads(served.run("shards", "1", "--json").stdout)["leader"] == target
    located = json.loads(served.run("locate", "row:1/text", "--json").stdout)
    assert located["shard"] in range(1, 9)


def test_a_cluster_refuses_to_be_started_twice(served: Shell):
    refused = served.run("up", "--data", str(served.data), code=1)
    assert b"runs already" in refused.stderr
    served.run("status")


def test_a_cluster_that_was_ended_and_started_again_has_its_data(shell: Shell):
    processes = shell.up_detached()
    shell.run("put", "k", "v")
    ended = shell.down()
    assert ended.stdout.decode().splitlines() == [f"{name} ended" for name in ("m1", "n1", "n2", "n3")]
    assert not any(runs(pid) for pid in processes.values())
    shell.run("get", "k", "--url", shell.environment["SHOAL_URL"] + "?timeout=300ms", code=5)
    shell.up_detached()
    assert shell.run("get", "k").stdout == b"v"
    shell.down()
    assert b"nothing is running" in shell.down().stdout


def test_one_node_is_ended_and_started_again_while_the_others_go_on(shell: Shell):
    processes = shell.up_detached()
    shell.run("put", "k", "v")
    assert b"'n9' does not run" in shell.run("down", "n9", "--data", str(shell.data), code=3).stderr
    assert shell.run("down", "n2", "--data", str(shell.data)).stdout == b"n2 ended\n"
    assert not runs(processes["n2"])
    assert b"or start n2 with --detach" in shell.run("up", "--data", str(shell.data), code=1).stderr
    assert shell.run("get", "k").stdout == b"v"
    again = shell.up_detached()
    assert list(again) == ["n2"]
    shell.run("status")
    assert all(runs(pid) for pid in (processes | again).values())


def test_a_killed_node_is_reported_and_the_others_serve(shell: Shell):
    processes = shell.up_detached()
    shell.run("put", "k", "v")
    psutil.Process(processes["n2"]).kill()
    shell.run("put", "k", "w")
    assert shell.run("get", "k").stdout == b"w"
    unwell = shell.run("status", "--json", code=5)
    assert "node_unreachable" in {problem["kind"] for problem in json.loads(unwell.stdout)["problems"]}
    assert unwell.stderr.count(b"\n") == 1
    shell.run("nodes", code=5)


def test_without_a_majority_a_write_is_refused_in_time_and_was_not_done(shell: Shell):
    processes = shell.up_detached()
    shell.run("put", "k", "v")
    shard = json.loads(shell.run("locate", "k", "--json").stdout)
    for node in set(shard["voters"]) - {shard["leader"]}:
        psutil.Process(processes[node]).kill()
    url = shell.environment["SHOAL_URL"] + "?timeout=500ms"
    # Unavailable or out of time, as the leader has or has not noticed yet; either says that nothing was written.
    refused = shell.run("put", "k", "w", "--url", url, code=(5, 6))
    assert refused.stdout == b""
    shell.down()
    shell.up_detached()
    assert shell.run("get", "k").stdout == b"v"


def test_up_stays_until_it_is_interrupted_and_ends_its_nodes(shell: Shell):
    with subprocess.Popen(
        [*COMMAND, "up", "--data", str(shell.data), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    ) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        started = b""
        while not started.endswith(b"\n}\n"):
            line = up.stdout.readline()
            assert line, up.stderr.read()
            started += line
        processes = {node["id"]: node["pid"] for node in json.loads(started)["nodes"]}
        psutil.Process(processes["n3"]).kill()
        for line in up.stderr:
            if b"node n3 has ended (by signal SIGKILL)" in line:
                break
        else:
            pytest.fail("the death of a node was not told")
        assert runs(processes["n1"])
        up.send_signal(signal.SIGINT)
        assert up.wait(SECONDS) == 0
    assert not any(runs(pid) for pid in processes.values())
    assert list((shell.data / "run").iterdir()) == []


def test_up_ends_in_peace_when_its_nodes_are_ended_from_elsewhere(shell: Shell):
    with subprocess.Popen(
        [*COMMAND, "up", "--data", str(shell.data), "--port", "0", "--nodes", "1"],
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    ) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if b"Ctrl-C" in line:
                break
        shell.down()
        assert b"ended from elsewhere" in up.stderr.read()
        assert up.wait(SECONDS) == 0


def test_a_port_in_use_is_told_before_anything_is_started_or_written(shell: Shell):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = shell.run("up", "--data", str(shell.data), "--port", port, "--nodes", "1", code=1)
    assert f"127.0.0.1:{port}".encode() in refused.stderr
    assert not shell.data.exists()


def test_a_folder_keeps_its_shape(shell: Shell):
    shell.data.mkdir()
    ClusterFolder(shell.data).config_file.write_text(
        "cluster: c\nnodes:\n  - {id: n1, address: 127.0.0.1:1, data: ./n1}\n"
        "keyspaces:\n  default: {shards: 1, voters: 1}\n"
    )
    assert b"leave out --nodes" in shell.run("up", "--data", str(shell.data), "--nodes", "3", code=1).stderr
    assert b"leave out --port" in shell.run("up", "--data", str(shell.data), "--port", "7999", code=1).stderr


def test_every_mistake_in_a_configuration_is_told_at_once(shell: Shell):
    config = shell.folder / "cluster.yaml"
    config.write_text("cluster: c\nnodes:\n  - {id: n1, adress: 127.0.0.1:1, data: ./n1}\nkeyspace: {}\n")
    of_one = ("--config", "cluster.yaml")
    for arguments in (
        ("up", *of_one),
        ("node", *of_one, "--id", "n1"),
        ("doctor", *of_one, "--managers", "127.0.0.1:1"),
    ):
        told = shell.run(*arguments, code=2).stderr
        assert b"did you mean 'address'" in told
        assert b"did you mean 'keyspaces'" in told


def test_an_unknown_node_is_wrong_usage(shell: Shell):
    config = shell.folder / "cluster.yaml"
    config.write_text(
        "cluster: c\nnodes:\n  - {id: n1, address: 127.0.0.1:1, data: ./n1}\nkeyspaces:\n  default: {shards: 1, voters: 1}\n"
    )
    assert b"it has n1" in shell.run("node", "--config", "cluster.yaml", "--id", "n7", code=2).stderr


def test_ending_what_was_never_started_is_not_found(shell: Shell):
    shell.run("down", "--data", "nowhere", code=3)

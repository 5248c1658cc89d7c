"""The control plane's commands: what they ask of the managers, and what they refuse before they ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal.bounds import MAX_QUOTA_RATE
from shoal.cli.main import app
from shoal_shardmanager.cli import commands, options, restart, settings
from shoal_shardmanager.control.requests import SETTINGS, with_settings
from shoal_shardmanager.control.rows import SettingsRow
from shoal_shardmanager.rpc.convert import settings_message
from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from typer.testing import CliRunner, Result


class Managers:
    """In place of `ManagersClient`: keeps what is asked, and answers what a test has put there."""

    def __init__(self) -> None:
        self.started: list[pb.StartRequest] = []
        self.running: list[pb.Operation] = []
        self.course: list[pb.Operation] = [pb.Operation(id=1, kind="x", state="done", reason="it is done")]
        self.row = SettingsRow()
        self.silent_because: dict[str, str] = {}

    def start(self, request: pb.StartRequest) -> pb.StartReply:
        self.started.append(request)
        if request.plan_only:
            return pb.StartReply(steps=["one", "two"], bytes=7, map_version=3)
        return pb.StartReply(operation=pb.Operation(id=1, kind="x", state="running"))

    def operations(self, *, running_only: bool) -> list[pb.Operation]:
        assert running_only
        return self.running

    def cluster(self) -> pb.Cluster:
        nodes = [pb.Node(id=node, silent_because=reason) for node, reason in self.silent_because.items()]
        return pb.Cluster(nodes=nodes)

    def watch(self, number: int) -> Iterator[pb.Operation]:
        yield from self.course

    def settings(self) -> pb.Settings:
        return settings_message(self.row)

    def change_settings(self, request: pb.ChangeSettingsRequest) -> pb.Settings:
        after = with_settings(self.row, dict(request.values), request.if_version)
        if not request.plan_only:
            self.row = after
        return settings_message(after)


@pytest.fixture
def managers(monkeypatch: pytest.MonkeyPatch) -> Managers:
    # All that have it must be loaded by now: one that is loaded later would keep what stands in for it.
    found = Managers()
    for module in (commands, options, restart, settings):
        monkeypatch.setattr(module, "client_of", lambda *_: found)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_split_names_its_point_only_where_it_is_given(managers: Managers) -> None:
    assert run("split", "3").exit_code == 0
    assert run("split", "3", "--at", "0", "--if-version", "9").exit_code == 0
    first, second = managers.started
    assert not first.split.HasField("at")
    assert second.split.HasField("at")
    assert second.if_version == 9


def test_a_merge_names_the_shard_that_stays_first(managers: Managers) -> None:
    assert run("merge", "1", "2").exit_code == 0
    assert (managers.started[0].merge.target, managers.started[0].merge.source) == (1, 2)


def test_microshards_are_a_list_of_numbers_and_ranges(managers: Managers) -> None:
    result = run("move-microshards", "--from", "1", "--to", "2", "--microshards", "10-19, 30")
    assert result.exit_code == 0
    spans = [(span.first, span.end) for span in managers.started[0].move_microshards.ranges]
    assert spans == [(10, 20), (30, 31)]


@pytest.mark.parametrize("text", ["", "1-", "-1", "a", "5-4", "1,,2", "1-2-3", "99999999999", "٣"])
def test_what_is_no_list_of_microshards_is_wrong_usage(managers: Managers, text: str) -> None:
    result = run("move-microshards", "--from", "1", "--to", "2", "--microshards", text)
    assert result.exit_code == 2
    assert "--microshards" in result.stderr
    assert not managers.started


@pytest.mark.parametrize("command", [["split", "1"], ["merge", "1", "2"], ["rolling-restart", "n1"]])
def test_a_plan_begins_nothing(managers: Managers, command: list[str]) -> None:
    result = run(*command, "--plan")
    assert result.exit_code == 0
    assert "nothing was done" in result.stdout
    assert [request.plan_only for request in managers.started] == [True]


def restarting(node: str, step: str = "restart") -> pb.Operation:
    return pb.Operation(id=4, kind="rolling-restart", state="running", step=step, node=node)


def test_each_node_is_restarted_once_when_it_is_its_turn(managers: Managers, tmp_path: Path) -> None:
    managers.course = [
        restarting("n1", "evacuate"),
        restarting("n1"),
        restarting("n1"),
        restarting("n1", "settle"),
        restarting("n2"),
        pb.Operation(id=4, kind="rolling-restart", state="done"),
    ]
    asked = tmp_path / "asked"
    assert run("rolling-restart", "--command", f"echo {{node}} >> {asked}").exit_code == 0
    assert asked.read_text().split() == ["n1", "n2"]


def test_without_a_command_it_says_which_node_is_to_be_restarted(managers: Managers) -> None:
    managers.course = [restarting("n1"), pb.Operation(id=4, kind="rolling-restart", state="done")]
    result = run("rolling-restart")
    assert result.exit_code == 0
    assert "restart node n1 now" in result.stderr


@pytest.mark.parametrize("away", [False, True])
def test_gone_on_with_it_restarts_a_node_again_unless_it_is_away(
    managers: Managers, tmp_path: Path, away: bool
) -> None:
    managers.running = [restarting("n2")]
    managers.course = [restarting("n2"), restarting("n3"), pb.Operation(id=4, kind="rolling-restart", state="done")]
    managers.silent_because = {"n2": "the connection was refused" if away else "", "n3": ""}
    asked = tmp_path / "asked"
    result = run("rolling-restart", "--command", f"echo {{node}} >> {asked}")
    assert result.exit_code == 0
    assert asked.read_text().split() == (["n3"] if away else ["n2", "n3"])
    assert ("node n2 is away" in result.stderr) == away


def test_a_rolling_restart_that_is_under_way_is_gone_on_with(managers: Managers) -> None:
    managers.running = [restarting("n2")]
    managers.course = [pb.Operation(id=4, kind="rolling-restart", state="done")]
    result = run("rolling-restart")
    assert result.exit_code == 0
    assert "going on with operation 4" in result.stderr
    assert not managers.started
    assert run("rolling-restart", "n1").exit_code == 4


def test_a_command_that_fails_leaves_the_operation_waiting(managers: Managers) -> None:
    managers.course = [restarting("n1"), restarting("n2")]
    result = run("rolling-restart", "--command", "exit 3 # {node}")
    assert result.exit_code == 1
    assert "the command for node n1 ended with 3" in result.stderr
    assert "operation 4 waits" in result.stderr


def test_a_command_that_names_no_node_is_wrong_usage(managers: Managers) -> None:
    assert run("rolling-restart", "--command", "reboot").exit_code == 2
    assert not managers.started


def test_settings_are_shown_and_changed(managers: Managers) -> None:
    shown = run("settings", "--json")
    assert shown.exit_code == 0
    assert all(setting.name in shown.stdout for setting in SETTINGS)
    assert run("settings", "--set", "gone_after=1m", "--set", "history=300").exit_code == 0
    assert (managers.row.gone_after_ms, managers.row.history, managers.row.version) == (60_000, 300, 2)
    planned = run("settings", "--set", "history=400", "--plan")
    assert "which was not written" in planned.stderr
    assert managers.row.history == 300


@pytest.mark.parametrize("text", ["history", "=3", "history=1 --set history=2"])
def test_what_is_no_setting_is_wrong_usage(managers: Managers, text: str) -> None:
    arguments = text.split(" ")
    assert run("settings", "--set", *arguments).exit_code == 2
    assert managers.row.version == 1


def test_a_keyspace_is_altered_in_something(managers: Managers) -> None:
    result = run("keyspace", "alter", "default")
    assert result.exit_code == 2
    assert "say what is to change of keyspace default" in result.stderr
    assert not managers.started


@pytest.mark.parametrize(("text", "milliseconds"), [("0", 0), ("30m", 1_800_000)])
def test_rows_of_a_keyspace_get_a_time_to_live_and_with_zero_none(
    managers: Managers, text: str, milliseconds: int
) -> None:
    for verb in ("create", "alter"):
        assert run("keyspace", verb, "carts", "--default-ttl", text).exit_code == 0
    created, altered = managers.started
    for asked in (created.create_keyspace, altered.alter_keyspace):
        assert asked.HasField("default_ttl_ms")
        assert asked.default_ttl_ms == milliseconds


def test_quotas_of_a_keyspace_are_set_and_lifted(managers: Managers) -> None:
    quotas = ("--reads-per-second", "5000", "--writes-per-second", "100", "--max-bytes", "2GiB")
    assert run("keyspace", "create", "carts", *quotas).exit_code == 0
    assert run("keyspace", "alter", "carts", "--reads-per-second", "none", "--max-bytes", "NONE").exit_code == 0
    created, altered = managers.started[0].create_keyspace, managers.started[1].alter_keyspace
    assert (created.reads_per_second, created.writes_per_second, created.max_bytes) == (5000, 100, 2 << 30)
    assert [altered.HasField(name) for name in ("reads_per_second", "writes_per_second", "max_bytes")] == [
        True, False, True,
    ]  # fmt: skip
    assert (altered.reads_per_second, altered.max_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--reads-per-second", "0", "from 1 to"),
        ("--writes-per-second", "-3", "from 1 to"),
        ("--writes-per-second", "1.5", "not a whole number"),
        ("--writes-per-second", str(MAX_QUOTA_RATE + 1), "from 1 to"),
        ("--max-bytes", "10 elephants", "not a size"),
        ("--max-bytes", "2000000GiB", "from 1 to"),
    ],
)
def test_what_is_no_quota_is_wrong_usage(managers: Managers, option: str, value: str, words: str) -> None:
    result = run("keyspace", "alter", "carts", option, value)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not managers.started


def test_a_time_that_is_left_is_shown_as_a_time_and_no_reason_as_nothing(managers: Managers) -> None:
    managers.course = [
        pb.Operation(id=4, kind="merge", state="running", step="copy", left=-1),
        pb.Operation(id=4, kind="merge", state="running", step="linger", left=29_000, unit="ms", rate=1000.0),
        pb.Operation(id=4, kind="merge", state="done", reason="it is done"),
    ]
    result = run("merge", "1", "2")
    assert "operation 1: copy\n" in result.stderr
    assert "operation 1: linger, 29 s left\n" in result.stderr

"""Node processes: started, recorded, recognised, ended. A stand-in takes the place of the node."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from shoal.admin.survey import Examination, Problem, ProblemKind, Survey
from shoal.shardmap import ShardMap
from shoal_server.local.cluster import LocalCluster, prepare_folder
from shoal_server.local.layout import ClusterFolder, free_ports, port_in_use
from shoal_server.local.processes import ProcessRecord, find_nodes, log_tail, start_node, stop_nodes

OBEDIENT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ClusterFolder]:
    folder = ClusterFolder(tmp_path)
    (tmp_path / "run").mkdir()
    yield folder
    for node in find_nodes(folder):
        node.signal(signal.SIGKILL)


async def start(folder: ClusterFolder, node: str, program: str) -> object:
    """Start a stand-in and return once it has printed that it is up."""
    child = start_node(folder, node, [sys.executable, "-c", program, "--id", node], folder.root)
    while not log_tail(folder.log_file(node), 1):
        assert not child.ended()
        await asyncio.sleep(0.01)
    return child


async def test_a_started_node_is_found_again_and_ends_when_asked(folder):
    child = await start(folder, "n1", OBEDIENT)
    (found,) = find_nodes(folder)
    assert (found.node, found.pid) == ("n1", child.pid)
    assert await stop_nodes([found]) == []
    assert child.exit_code() == -signal.SIGTERM
    assert find_nodes(folder) == []
    assert folder.process_files() == []


async def test_a_node_that_ignores_the_request_is_killed_after_the_patience(folder):
    child = await start(folder, "n1", STUBBORN)
    assert await stop_nodes([child], patience_seconds=0.1) == ["n1"]
    assert child.exit_code() == -signal.SIGKILL


async def test_hurry_cuts_the_patience_short(folder):
    child = await start(folder, "n1", STUBBORN)
    hurry = asyncio.Event()
    hurry.set()
    assert await stop_nodes([child], patience_seconds=3600, hurry=hurry) == ["n1"]


async def test_a_process_that_only_has_the_recorded_number_is_left_alone(folder):
    stranger = await start(folder, "n1", OBEDIENT)
    file = folder.process_file("n1")
    record = msgspec.json.decode(file.read_bytes(), type=ProcessRecord)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, started=record.started - 60)))
    assert find_nodes(folder) == []
    assert not stranger.ended()
    await stop_nodes([stranger])


async def test_a_process_with_another_command_is_left_alone(folder):
    record = ProcessRecord("n1", os.getpid(), psutil.Process().create_time())
    folder.process_file("n1").write_bytes(msgspec.json.encode(record))
    assert find_nodes(folder) == []


async def test_a_record_that_cannot_be_read_counts_as_no_process(folder):
    folder.process_file("n1").write_bytes(b"{")
    assert find_nodes(folder) == []


async def test_a_process_that_has_died_unreaped_counts_as_ended(folder):
    child = await start(folder, "n1", OBEDIENT)
    (found,) = find_nodes(folder)
    os.kill(child.pid, signal.SIGKILL)
    assert await stop_nodes([found]) == []  # waits; nobody has reaped it, so that its number still exists
    assert find_nodes(folder) == []
    assert child.exit_code() == -signal.SIGKILL


async def test_signals_to_a_process_that_is_gone_do_nothing(folder):
    child = await start(folder, "n1", OBEDIENT)
    (found,) = find_nodes(folder)
    await stop_nodes([child])
    found.signal(signal.SIGTERM)
    child.signal(signal.SIGTERM)


async def test_the_terminals_ctrl_c_does_not_reach_a_node(folder):
    child = await start(folder, "n1", OBEDIENT)
    assert os.getpgid(child.pid) != os.getpgrp()
    await stop_nodes([child])


def test_the_log_tail_is_its_last_lines(folder):
    log = folder.log_file("n1")
    assert log_tail(log, 2) == []
    log.parent.mkdir()
    log.write_text("x" * 10_000 + "\none\ntwo\n")
    assert log_tail(log, 2) == ["one", "two"]


def test_a_port_that_somebody_listens_on_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert port_in_use(f"127.0.0.1:{listener.getsockname()[1]}")
    (free,) = free_ports(1)
    assert not port_in_use(f"127.0.0.1:{free}")


def test_an_address_of_another_machine_is_no_matter_of_use():
    with pytest.raises(OSError, match="Cannot assign"):
        port_in_use("192.0.2.1:7400")


async def test_what_is_in_the_way_of_serving_is_said_in_words(tmp_path, monkeypatch):
    ports = free_ports(1)
    made = prepare_folder(tmp_path / "cluster", nodes=1, port=ports[0], managers=0)
    cluster = LocalCluster(made, made.config_file)

    async def examined() -> Examination:
        survey = Survey(ShardMap(1, "c", (), (), ()), [])
        problem = Problem(ProblemKind.SHARD_WITHOUT_LEADER, "shard 1 has no leader", shard=1)
        lost = Problem(ProblemKind.NODE_UNREACHABLE, "another answers as node n9", "n9")
        return Examination(survey, (problem, lost), {})

    monkeypatch.setattr(cluster, "examine", examined)
    assert await cluster.not_ready() == ["shard 1 has no leader"], "nodes that were not started are no matter of ours"
    assert not await cluster.is_ready()

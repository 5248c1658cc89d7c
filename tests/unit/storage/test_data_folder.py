"""A data folder is one node's: whatever else is opened is refused with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from shoal_server.storage.engine import DataFolderRefused, Engine
from shoal_server.storage.folder import open_data_folder
from shoal_server.storage.memory import MemoryEngine
from shoal_server.storage.node_rows import (
    FIRST_EPOCH_UNIX_SECONDS,
    begin_epoch,
    begin_promising,
    forget_longer_promises,
    load_peer_incarnation,
    save_peer_incarnation,
)


def refusal(path: Path, cluster: str = "demo", node: str = "n1") -> str:
    with pytest.raises(DataFolderRefused) as caught:
        open_data_folder(path, cluster, node)
    return str(caught.value)


def test_a_new_folder_is_made_and_keeps_its_incarnation(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "n1"
    folder = open_data_folder(path, "demo", "n1")
    incarnation = folder.incarnation
    folder.close()
    again = open_data_folder(path, "demo", "n1")
    assert again.incarnation == incarnation
    assert again.database.is_dir()
    again.close()


def test_another_clusters_or_nodes_folder_is_refused(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "demo", "n1").close()
    assert "belongs to cluster 'demo', not 'other'" in refusal(tmp_path, cluster="other")
    assert "belongs to node 'n1', not 'n2'" in refusal(tmp_path, node="n2")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path, "demo", "n1")
    assert f"in use by process {os.getpid()} (this one)" in refusal(tmp_path)
    folder.close()
    open_data_folder(tmp_path, "demo", "n1").close()


def test_an_older_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "local", "n1").close()
    file = tmp_path / "shoal.json"
    older = json.dumps({**json.loads(file.read_text()), "format": 1})
    file.write_text(older)
    assert "written by an older Shoal (format 1); this one reads format 4: export the rows" in refusal(tmp_path)
    assert file.read_text() == older


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "demo", "n1").close()
    file = tmp_path / "shoal.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    assert "written by a newer Shoal (format 99)" in refusal(tmp_path)


def test_a_folder_with_somebody_elses_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and not Shoal's" in refusal(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_identity_is_refused(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "demo", "n1").close()
    (tmp_path / "shoal.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)


def test_a_database_without_its_identity_is_refused(tmp_path: Path) -> None:
    open_data_folder(tmp_path, "demo", "n1").close()
    (tmp_path / "shoal.json").unlink()
    assert "restore the file" in refusal(tmp_path)


def test_a_folder_whose_making_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "shoal.json.new").write_text("{")
    open_data_folder(tmp_path, "demo", "n1").close()


def test_every_life_has_a_larger_epoch_and_peers_are_remembered(engine: Engine) -> None:
    assert [begin_epoch(engine, 0) for _ in range(3)] == [1, 2, 3]
    assert load_peer_incarnation(engine, "n2") is None
    save_peer_incarnation(engine, "n2", "abc")
    assert load_peer_incarnation(engine, "n2") == "abc"


def test_a_life_whose_number_the_disk_has_lost_is_told_from_the_next_one_by_the_clock() -> None:
    now = FIRST_EPOCH_UNIX_SECONDS + 1000.5
    before, after_the_loss = MemoryEngine(), MemoryEngine()
    assert begin_epoch(before, now) == 1000
    assert begin_epoch(after_the_loss, now + 3) == 1003
    assert begin_epoch(after_the_loss, now - 500) == 1004, "a clock that goes back begins no life anew"


def test_the_longest_support_that_was_ever_promised_is_remembered_until_it_is_over(engine: Engine) -> None:
    assert begin_promising(engine, 5) == 5
    assert begin_promising(engine, 3) == 5
    assert begin_promising(engine, 7) == 7
    assert begin_promising(engine, 3) == 7
    forget_longer_promises(engine, 3)
    assert begin_promising(engine, 3) == 3

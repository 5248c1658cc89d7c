"""A copy of a data folder becomes a cluster of its own, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing
from msgspec.structs import replace
from shoal.cli.main import app
from shoal.shardmap import Keyspace, ShardMap
from shoal_server.process.copies import rename_stored_cluster
from shoal_server.storage.engine import DataFolderInUse, DataFolderRefused, StorageFailed
from shoal_server.storage.folder import open_data_folder
from shoal_server.storage.node_rows import load_shard_map, save_shard_map
from shoal_server.storage.rocks import RocksEngine

MIB = 1 << 20
MAP = ShardMap(7, "test", (), (), (), "first")
OTHER = "0123456789abcdef" * 2


def opened(database: Path) -> RocksEngine:
    return RocksEngine(database, block_cache_bytes=MIB, write_buffer_bytes=MIB)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folder of a node that does not run."""
    folder = open_data_folder(tmp_path / "n1", "test", "n1")
    engine = opened(folder.database)
    save_shard_map(engine, MAP)
    engine.close()
    folder.close()
    return folder.path


def map_in(path: Path) -> ShardMap | None:
    engine = opened(path / "database")
    found = load_shard_map(engine)
    engine.close()
    return found


def test_it_has_the_other_id_and_the_same_map(copy: Path) -> None:
    rename_stored_cluster([copy], OTHER)
    assert map_in(copy) == replace(MAP, cluster_id=OTHER)


def test_the_command_gives_all_folders_one_id_and_prints_it(copy: Path, tmp_path: Path) -> None:
    run = typer.testing.CliRunner().invoke
    drawn = run(app, ["new-cluster-id", str(copy)])
    assert drawn.exit_code == 0
    assert map_in(copy) == replace(MAP, cluster_id=drawn.stdout.strip())
    assert run(app, ["new-cluster-id", str(copy), "--id", OTHER]).stdout.strip() == OTHER
    assert map_in(copy) == replace(MAP, cluster_id=OTHER)
    for wrong in ("", "x", OTHER[1:], OTHER.upper(), OTHER + "0"):
        assert run(app, ["new-cluster-id", str(copy), "--id", wrong]).exit_code == 2
    missing = run(app, ["new-cluster-id", str(tmp_path / "none")])
    assert missing.exit_code == 1
    assert "no data folder" in missing.stderr


def test_a_node_that_runs_is_left_alone(copy: Path) -> None:
    running = open_data_folder(copy, "test", "n1")
    with pytest.raises(DataFolderInUse):
        rename_stored_cluster([copy], OTHER)
    running.close()
    rename_stored_cluster([copy], OTHER)


def test_what_is_no_nodes_folder_or_has_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFolderRefused, match="no data folder"):
        rename_stored_cluster([tmp_path / "empty"], OTHER)
    open_data_folder(tmp_path / "n2", "test", "n2").close()
    with pytest.raises(StorageFailed, match="no shard map"):
        rename_stored_cluster([tmp_path / "n2"], OTHER)


def test_no_folder_is_changed_where_one_of_them_cannot_be_taken(copy: Path, tmp_path: Path) -> None:
    refused = typer.testing.CliRunner().invoke(app, ["new-cluster-id", str(copy), str(tmp_path / "none")])
    assert refused.exit_code == 1
    assert refused.stderr.count(str(tmp_path / "none")) == 1
    assert "have the id" not in refused.stderr
    assert map_in(copy) == MAP
    rename_stored_cluster([copy, copy.parent / "." / copy.name], OTHER)
    assert map_in(copy) == replace(MAP, cluster_id=OTHER)


def test_a_managers_folder_is_refused(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path / "m1", "test.managers", "m1")
    engine = opened(folder.database)
    save_shard_map(engine, replace(MAP, cluster="test.managers", keyspaces=(Keyspace(1, "system", 1, b""),)))
    engine.close()
    folder.close()
    with pytest.raises(DataFolderRefused, match="manager m1"):
        rename_stored_cluster([folder.path], OTHER)

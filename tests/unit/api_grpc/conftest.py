"""One node process, and a client that learns its API by reflection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from shoal_server.local.layout import free_ports, generated_config

SMALL = "storage: {block_cache: 1MiB, write_buffer: 4MiB}\n"


class OneNode:
    """A node process that is a cluster by itself."""

    def __init__(self, folder: Path) -> None:
        self.port, self.admin_port = free_ports(2)
        self.config = folder / "cluster.yaml"
        self.config.write_text(generated_config(1, [self.port], admin_ports=[self.admin_port]) + SMALL)
        self._log = folder / "n1.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal.cli", "node", "--config", str(self.config), "--id", "n1"],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self.admin_port}"

    @property
    def memory_bytes(self) -> int:
        """What the process has in memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="session")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    node = OneNode(tmp_path_factory.mktemp("one-node"))
    yield node
    node.process.kill()
    node.process.wait()


@pytest.fixture
def api(one_node: OneNode, reflected_api: Callable[[str], Any]) -> Any:
    """Return the API of the node."""
    api = reflected_api(one_node.admin)
    api.wait_until_serving()
    return api

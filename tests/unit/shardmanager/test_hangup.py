"""A signal that asks for certificates to be read again does no harm to a manager that has none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from shoal_server.local.layout import free_ports, generated_config

WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.02


class ManagerProcess:
    """A manager, and what it logs."""

    def __init__(self, folder: Path) -> None:
        node, manager, admin = free_ports(3)
        config = folder / "cluster.yaml"
        small = "storage: {block_cache: 1MiB, write_buffer: 4MiB}\n"
        config.write_text(generated_config(1, [node], managers=[(manager, admin)]) + small)
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal.cli", "manager", "--config", str(config), "--id", "m1"],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip

    def events(self) -> list[str]:
        """What was logged so far; the last line may not be whole yet."""
        return [json.loads(line)["event"] for line in self._log.read_text().split("\n")[:-1]]

    def wait_for(self, event: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while event not in self.events():
            assert self.process.poll() is None, f"it has ended with {self.process.returncode}: {self._log.read_text()}"
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(LOOK_SECONDS)


def test_without_tls_a_manager_that_is_told_to_reload_says_that_there_is_nothing_and_ends_in_good_order_later(tmp_path):
    manager = ManagerProcess(tmp_path)
    try:
        manager.wait_for("node_started")
        manager.process.send_signal(signal.SIGHUP)
        manager.wait_for("nothing_to_reload")
        manager.process.send_signal(signal.SIGTERM)
        assert manager.process.wait(WAIT_SECONDS) == 0
        assert manager.events()[-1] == "node_stopped"
    finally:
        manager.process.kill()
        manager.process.wait()

"""What a thousand idle Raft groups on three nodes cost: processor and memory of each node, over some seconds."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psutil
import typer
from rivals import processes
from shoal_server.local.layout import free_ports

MIB = 1 << 20


def main(groups: int = 1000, settle: float = 20.0, seconds: float = 20.0) -> None:
    """Start three nodes with `groups` shards, let them settle, and measure."""
    with tempfile.TemporaryDirectory(prefix="shoal-idle-") as name:
        folder = Path(name)
        nodes = "\n".join(
            f"  - {{id: n{n}, zone: z{n}, address: 127.0.0.1:{port}, data: ./n{n}}}"
            for n, port in enumerate(free_ports(3), start=1)
        )
        config = folder / "cluster.yaml"
        config.write_text(
            f"cluster: idle\nnodes:\n{nodes}\nkeyspaces:\n  default: {{microshards: {groups}, shards: {groups}}}\n"
        )
        commands = [
            [sys.executable, "-m", "shoal.cli", "node", "--config", str(config), "--id", f"n{n}"] for n in (1, 2, 3)
        ]
        with processes(commands, folder):
            children = psutil.Process().children()
            time.sleep(settle)
            before = [sum(child.cpu_times()[:2]) for child in children]
            time.sleep(seconds)
            for number, (child, start) in enumerate(zip(children, before, strict=True), start=1):
                used = (sum(child.cpu_times()[:2]) - start) / seconds
                memory = child.memory_info().rss / MIB
                print(f"n{number}: {used:.1%} of a core, {memory:.0f} MiB, with {groups} idle groups")


if __name__ == "__main__":
    typer.run(main)

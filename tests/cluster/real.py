"""Real clusters: processes, sockets and RocksDB in a folder, without managers."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import shoal
from shoal.admin.survey import survey
from shoal_server.local.layout import free_ports, generated_config

READY_SECONDS = 20.0


class RealCluster:
    """Node processes, three unless said otherwise. Only processes that it started are ever signalled."""

    def __init__(
        self, folder: Path, extra: str = "", nodes: int = 3, layout: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        """
        Args:
            layout: makes the configuration out of the ports; None: as `shoal up` does.
        """
        self.folder = folder
        self.ports = free_ports(nodes)
        self.config = folder / "cluster.yaml"
        self.config.write_text((generated_config(nodes, self.ports) if layout is None else layout(self.ports)) + extra)
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def url(self) -> str:
        return "shoal://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + "/default"

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    async def start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shoal.cli", "node", "--config", str(self.config), "--id", name, *options,
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    async def start_all(self) -> None:
        await asyncio.gather(*(self.start(name) for name in self.names))

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].send_signal(signal.SIGCONT)

    async def leader(self, place: float) -> str:
        """Return the node that leads the shard at `place`, from 0 to 1, among all that have a leader."""
        found = await survey([f"127.0.0.1:{port}" for port in self.ports])
        leaders = [found.leader(shard.id) for shard in found.shard_map.shards]
        nodes = [leader.node for leader in leaders if leader is not None]
        return nodes[int(place * len(nodes))]

    async def stop(self, name: str) -> int:
        """SIGTERM, and wait for the end; return the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return await asyncio.wait_for(process.wait(), 15)

    async def stop_all(self) -> None:
        for name, process in list(self.processes.items()):
            if process.returncode is None:
                process.kill()
            await process.wait()
            del self.processes[name]

    async def ready(self) -> None:
        """Wait until every shard answers a write."""
        async with shoal.AsyncClient(self.url, timeout=READY_SECONDS) as db:
            await db.put_many({f"ready-{number}": "yes" for number in range(200)})

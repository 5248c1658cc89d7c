"""Real clusters with shard managers, whose requests are given by the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal_server.local.layout import free_ports

COMMAND = (sys.executable, "-m", "shoal.cli")
PATIENCE_SECONDS = 40.0


class ManagedCluster:
    """Nodes and managers as processes; only these are ever signalled."""

    def __init__(self, folder: Path, *, nodes: int, managers: int, first_nodes: int) -> None:
        self.folder = folder
        ports = free_ports(nodes + 2 * managers)
        self.ports = ports[:nodes]
        self.admin = [f"127.0.0.1:{port}" for port in ports[nodes + managers :]]
        node_lines = [
            f"  - {{id: n{number}, region: eu, zone: z{number}, address: 127.0.0.1:{port}, data: ./n{number}}}"
            for number, port in enumerate(self.ports, start=1)
        ]
        manager_lines = [
            f"  - {{id: m{number}, address: 127.0.0.1:{port}, admin: '{admin}', data: ./m{number}}}"
            for number, (port, admin) in enumerate(zip(ports[nodes:], self.admin, strict=False), start=1)
        ]
        rest = ["managers:", *manager_lines, "keyspaces:", "  default: {microshards: 16, shards: 4}"]
        self.config = folder / "cluster.yaml"
        self.config.write_text("\n".join(["cluster: test", "nodes:", *node_lines, *rest]) + "\n")
        self.first = folder / "first.yaml"
        self.first.write_text("\n".join(["cluster: test", "nodes:", *node_lines[:first_nodes], *rest]) + "\n")
        self.first_nodes = first_nodes
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def url(self) -> str:
        return "shoal://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + "/default"

    async def start(self, name: str) -> None:
        """Start a node or a manager; a node beyond the first ones joins."""
        kind = "manager" if name.startswith("m") else "node"
        joins = kind == "node" and int(name[1:]) > self.first_nodes
        config = self.config if joins or kind == "manager" else self.first
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *COMMAND, kind, "--config", str(config), "--id", name, *(["--join"] if joins else []),
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    async def join(self, name: str) -> None:
        """Start a node that the cluster does not know, and wait until it is in."""
        await self.start(name)

        async def is_in() -> bool:
            code, text = await self.run("nodes", "--json", "--url", self.url)
            return code == 0 and any(node["id"] == name for node in json.loads(text))

        await self.wait_for(is_in)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def stop(self, name: str) -> int:
        """SIGTERM, and wait for the end; return the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return await process.wait()

    async def stop_all(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Run `shoal ...`; return its exit code and what it printed, on stderr where it failed."""
        code, out, error = await self._run(arguments)
        return code, out if code == 0 else error

    async def run_printing(self, *arguments: str) -> tuple[int, str]:
        """Run `shoal ...`; return its exit code and what it printed on stdout in any case."""
        code, out, _ = await self._run(arguments)
        return code, out

    async def _run(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        environment = dict(os.environ, SHOAL_MANAGERS=",".join(self.admin), SHOAL_URL=self.url)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
        )
        out, error = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        return process.returncode or 0, out.decode(), error.decode()

    async def done(self, *arguments: str) -> dict[str, Any]:
        """Run a request to its end; return the operation."""
        code, text = await self.run(*arguments, "--json")
        assert code == 0, text
        operation: dict[str, Any] = json.loads(text)
        assert operation["state"] == "done"
        return operation

    async def shards(self) -> dict[int, dict[str, Any]]:
        code, text = await self.run("shards", "--json")
        assert code == 0, text
        return {shard["id"]: shard for shard in json.loads(text)}

    async def healed(self, node: str) -> bool:
        """Say whether the node's replicas have been replaced."""
        code, text = await self.run("operations", "--json")
        return code == 0 and any(
            (operation["kind"], operation["node"], operation["state"]) == ("heal", node, "done")
            for operation in json.loads(text)
        )

    async def all_well(self) -> bool:
        return (await self.run("status"))[0] == 0

    async def wait_for(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.1)

    async def controller(self) -> str:
        """Return the manager that runs the controller."""
        found = ""

        async def known() -> bool:
            nonlocal found
            for name, log in [(name, self.folder / f"{name}.log") for name in self.processes if name[0] == "m"]:
                begun = log.read_text().count('"controller_began"') - log.read_text().count('"controller_ended"')
                if begun > 0:
                    found = name
            return bool(found)

        await self.wait_for(known)
        return found

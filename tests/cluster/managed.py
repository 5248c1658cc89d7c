"""Real clusters with shard managers, whose requests are given by the command line."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from shoal_chaos.clusters.commands import run_command
from shoal_chaos.clusters.process_cluster import ProcessCluster

PATIENCE_SECONDS = 40.0
LIVES_OF_A_CONTROLLER = {
    "manager_started",
    "controller_began",
    "controller_ended",
    "controller_not_begun",
    "controller_refused",
    "controller_failed",
}
"""What a manager logs, the last of which says whether it runs the controller."""


class OperatedCluster(ProcessCluster):
    """A cluster of processes, and what tests ask of it as operators do."""

    async def shoal(self, *arguments: str) -> tuple[int, str]:
        """Run `shoal ...`; return its exit code and what it printed, on stderr where it failed."""
        code, out, error = await self._shoal(arguments)
        return code, out if code == 0 else error

    async def run_printing(self, *arguments: str) -> tuple[int, str]:
        """Run `shoal ...`; return its exit code and what it printed on stdout in any case."""
        code, out, _ = await self._shoal(arguments)
        return code, out

    async def _shoal(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        code, out, error = await run_command(arguments, self.environment)
        return code, out.decode(), error.decode()

    async def done(self, *arguments: str) -> dict[str, Any]:
        """Run a request to its end; return the operation."""
        code, text = await self.shoal(*arguments, "--json")
        assert code == 0, text
        operation: dict[str, Any] = json.loads(text)
        assert operation["state"] == "done"
        return operation

    async def shards(self) -> dict[int, dict[str, Any]]:
        code, text = await self.shoal("shards", "--json")
        assert code == 0, text
        return {shard["id"]: shard for shard in json.loads(text)}

    async def healed(self, node: str) -> bool:
        """Say whether the node's replicas have been replaced."""
        code, text = await self.shoal("operations", "--json")
        return code == 0 and any(
            (operation["kind"], operation["node"], operation["state"]) == ("heal", node, "done")
            for operation in json.loads(text)
        )

    async def all_well(self) -> bool:
        return (await self.shoal("status"))[0] == 0

    async def wait_for(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.1)

    async def controller(self) -> str:
        """Return the manager that runs the controller, by the last that each of those that run has said of it."""
        found = ""

        async def known() -> bool:
            nonlocal found
            for name in self.managers:
                log = self.log_of(name) if name in self.running else ""
                said = [event for event in re.findall(r'"event": ?"(\w+)"', log) if event in LIVES_OF_A_CONTROLLER]
                if said and said[-1] == "controller_began":
                    found = name
            return bool(found)

        await self.wait_for(known)
        return found

"""The shard manager on real processes: nodes join, replicas move under load, managers die in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import shoal
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
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
        """Run `shoal ...`; return its exit code and what it printed."""
        environment = dict(os.environ, SHOAL_MANAGERS=",".join(self.admin), SHOAL_URL=self.url)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
        )
        out, error = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        return process.returncode or 0, (out if process.returncode == 0 else error).decode()

    async def done(self, *arguments: str) -> dict[str, Any]:
        """Run an order to its end; return the operation."""
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


@pytest.fixture
def managed_cluster(tmp_path: Path) -> Callable[..., Any]:
    """Return a context manager that runs a cluster with managers."""

    @asynccontextmanager
    async def run(*, nodes: int, managers: int, first_nodes: int = 3) -> AsyncIterator[ManagedCluster]:
        cluster = ManagedCluster(tmp_path, nodes=nodes, managers=managers, first_nodes=first_nodes)
        try:
            for number in range(1, first_nodes + 1):
                await cluster.start(f"n{number}")
            for number in range(1, managers + 1):
                await cluster.start(f"m{number}")
            async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
                await db.put_many({f"key-{number}": f"value-{number}" for number in range(200)})
            yield cluster
        finally:
            await cluster.stop_all()

    return run


async def test_nodes_join_and_shards_move_with_one_command_each(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=4, managers=1) as cluster:
        await cluster.join("n4")
        code, text = await cluster.run("move", "1", "--from", "n1", "--to", "n4", "--plan")
        assert code == 0
        assert "promote n4 to a voter" in text
        assert sorted((await cluster.shards())[1]["voters"]) == ["n1", "n2", "n3"]

        await cluster.done("move", "1", "--from", "n1", "--to", "n4")
        assert sorted((await cluster.shards())[1]["voters"]) == ["n2", "n3", "n4"]
        await cluster.done("drain", "n2")
        assert all("n2" not in shard["voters"] for shard in (await cluster.shards()).values())
        code, text = await cluster.run("drain", "n3")
        assert code == 1
        assert "nowhere to go" in text
        await cluster.done("undrain", "n2")
        await cluster.done("failover", "n4")
        assert all(shard["leader"] != "n4" for shard in (await cluster.shards()).values())

        await cluster.done("keyspace", "create", "other", "--shards", "2", "--microshards", "8")
        async with shoal.AsyncClient(cluster.url).keyspace("other") as other:
            await other.put("key", "value")
            assert await other.get("key") == b"value"
        await cluster.done("keyspace", "drop", "other", "--yes")
        assert len(await cluster.shards()) == 4
        async with shoal.AsyncClient(cluster.url) as db:
            for number in range(200):
                assert await db.get(f"key-{number}") == f"value-{number}".encode()

        for arguments, expected in (
            (("move", "99", "--from", "n1", "--to", "n4"), 3),
            (("move", "1", "--from", "n1", "--to", "n9"), 3),
            (("undrain", "n2"), 4),
            (("remove-node", "n3"), 1),
            (("cancel", "77"), 3),
            (("rebalance", "--if-version", "1"), 4),
            (("split", "1", "--at", "99"), 1),
            (("merge", "1", "1"), 2),
            (("settings", "--set", "bytes=1"), 3),
            (("rolling-restart", "n1", "--if-version", "1"), 4),
            (("operations", "--managers", "127.0.0.1:1", "--timeout", "1s"), 5),
        ):
            assert (await cluster.run(*arguments))[0] == expected, arguments
        code, text = await cluster.run("why", "1")
        assert code == 0
        assert "shard 1" in text
        await asyncio.to_thread(check_reflection_and_health, cluster.admin[0])


def check_reflection_and_health(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        names = [
            service.name
            for answer in stub.ServerReflectionInfo(iter([request]))
            for service in answer.list_services_response.service
        ]
        assert "shoal.admin.v1.Admin" in names


async def test_operations_outlive_the_managers_that_run_them(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=5, managers=3) as cluster:
        await cluster.controller()
        await cluster.join("n4")
        await cluster.join("n5")
        stop = asyncio.Event()
        load = asyncio.create_task(write_until(cluster.url, stop))
        for node in ("n1", "n2"):
            ordered = asyncio.create_task(cluster.done("drain", node))
            await asyncio.sleep(1.0)
            leader = await cluster.controller()
            await cluster.kill(leader)
            await ordered
            assert all(node not in shard["voters"] for shard in (await cluster.shards()).values())
            await cluster.start(leader)
            await cluster.done("undrain", node)
            await cluster.done("rebalance")
        for name in ("m1", "m2", "m3"):
            await cluster.kill(name)
        await cluster.kill("n5")
        await cluster.start("n5")
        await asyncio.sleep(3.0)
        stop.set()
        written, failures = await load
        assert written > 100
        assert not failures


async def write_until(url: str, stop: asyncio.Event) -> tuple[int, list[str]]:
    """Write and read back until told to stop; return how many writes there were, and what went wrong."""
    failures: list[str] = []
    written = 0
    async with shoal.AsyncClient(url, timeout=10.0) as db:
        while not stop.is_set():
            key, value = f"load-{written % 100}", str(written).encode()
            try:
                await db.put(key, value)
                found = await db.get(key)
            except shoal.ShoalError as error:
                failures.append(f"{key}: {error!r}")
            else:
                if found != value:
                    failures.append(f"{key}: {found!r} instead of {value!r}")
            written += 1
            await asyncio.sleep(0.005)
    return written, failures


async def test_replicas_of_dead_and_wiped_nodes_are_replaced_and_nodes_restart_in_turn(
    managed_cluster: Callable[..., Any],
) -> None:
    async with managed_cluster(nodes=4, managers=1) as cluster:
        await cluster.join("n4")
        assert (await cluster.run("settings", "--set", "gone_after=3s"))[0] == 0
        await cluster.kill("n1")
        await cluster.wait_for(lambda: cluster.healed("n1"))
        await cluster.start("n1")
        await cluster.wait_for(cluster.all_well)
        assert all("n1" not in shard["voters"] for shard in (await cluster.shards()).values())

        await cluster.kill("n2")
        shutil.rmtree(cluster.folder / "n2")
        await cluster.start("n2")
        await cluster.wait_for(lambda: cluster.healed("n2"))
        assert all("n2" not in shard["voters"] for shard in (await cluster.shards()).values())
        assert (await cluster.run("remove-node", "n2"))[0] == 0
        await cluster.kill("n2")

        stop = asyncio.Event()
        load = asyncio.create_task(write_until(cluster.url, stop))
        await cluster.wait_for(cluster.all_well)
        asked = cluster.folder / "asked"
        command = f"echo {{node}} >> {asked}"
        restart = asyncio.create_task(cluster.done("rolling-restart", "n1", "n3", "--command", command))
        for position, node in enumerate(("n1", "n3")):

            async def is_asked(lines: int = position + 1) -> bool:
                return asked.exists() and len(asked.read_text().split()) == lines

            await cluster.wait_for(is_asked)
            assert asked.read_text().split()[-1] == node
            assert all(shard["leader"] != node for shard in (await cluster.shards()).values())
            await cluster.kill(node)
            await cluster.start(node)
        await restart
        stop.set()
        written, failures = await load
        assert written > 50
        assert not failures


async def test_shards_split_and_merge_and_microshards_move_under_load(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=4, managers=1) as cluster:
        await cluster.join("n4")
        code, text = await cluster.run("settings", "--set", "merge_linger=2s", "--set", "gone_after=20s", "--json")
        assert code == 0
        assert json.loads(text)["version"] == 2
        stop = asyncio.Event()
        load = asyncio.create_task(write_until(cluster.url, stop))

        code, text = await cluster.run("split", "1", "--plan", "--json")
        assert code == 0
        assert "no row moves" in json.loads(text)["steps"][2]
        await cluster.done("split", "1")
        shards = await cluster.shards()
        assert len(shards) == 5
        leaving = shards[5]["voters"][0]
        first, _, _ = shards[5]["microshards"].partition("-")
        await cluster.done("move", "5", "--from", leaving, "--to", "n4")
        moved = await asyncio.gather(
            cluster.done("move-microshards", "--from", "5", "--to", "2", "--microshards", first),
            restart_manager(cluster),
        )
        assert moved[0]["kind"] == "move-microshards"
        await cluster.done("merge", "2", "5")
        assert sorted(await cluster.shards()) == [1, 2, 3, 4]
        assert await cluster.stop("n4") == 0, "a node that has joined ends as well as any other"

        stop.set()
        written, failures = await load
        assert written > 100
        assert not failures
        async with shoal.AsyncClient(cluster.url) as db:
            for number in range(200):
                assert await db.get(f"key-{number}") == f"value-{number}".encode()


async def restart_manager(cluster: ManagedCluster) -> None:
    await asyncio.sleep(0.5)
    await cluster.kill("m1")
    await cluster.start("m1")

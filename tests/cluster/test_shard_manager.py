"""The shard manager on real processes: nodes join, replicas move under load, managers die in the middle."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from typing import Any

import grpc
import shoal
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from .managed import OperatedCluster


async def test_nodes_join_and_shards_move_with_one_command_each(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=4, managers=1) as cluster:
        await cluster.join("n4")
        code, text = await cluster.shoal("move", "1", "--from", "n1", "--to", "n4", "--plan")
        assert code == 0
        assert "promote n4 to a voter" in text
        assert sorted((await cluster.shards())[1]["voters"]) == ["n1", "n2", "n3"]

        await cluster.done("move", "1", "--from", "n1", "--to", "n4")
        assert sorted((await cluster.shards())[1]["voters"]) == ["n2", "n3", "n4"]
        await cluster.done("drain", "n2")
        assert all("n2" not in shard["voters"] for shard in (await cluster.shards()).values())
        code, text = await cluster.shoal("drain", "n3")
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
            assert (await cluster.shoal(*arguments))[0] == expected, arguments
        code, text = await cluster.shoal("why", "1")
        assert code == 0
        assert "shard 1" in text
        await asyncio.to_thread(check_reflection_and_health, cluster.environment["SHOAL_MANAGERS"].split(",")[0])


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
            requested = asyncio.create_task(cluster.done("drain", node))
            await asyncio.sleep(1.0)
            leader = await cluster.controller()
            await cluster.kill(leader)
            await requested
            assert all(node not in shard["voters"] for shard in (await cluster.shards()).values())
            cluster.start(leader)
            await cluster.done("undrain", node)
            await cluster.done("rebalance")
        for name in ("m1", "m2", "m3"):
            await cluster.kill(name)
        await cluster.kill("n5")
        cluster.start("n5")
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
        assert (await cluster.shoal("settings", "--set", "gone_after=3s"))[0] == 0
        await cluster.kill("n1")
        await cluster.wait_for(lambda: cluster.healed("n1"))
        cluster.start("n1")
        await cluster.wait_for(cluster.all_well)
        assert all("n1" not in shard["voters"] for shard in (await cluster.shards()).values())

        await cluster.kill("n2")
        shutil.rmtree(cluster.root / "n2")
        cluster.start("n2")
        await cluster.wait_for(lambda: cluster.healed("n2"))
        assert all("n2" not in shard["voters"] for shard in (await cluster.shards()).values())
        assert (await cluster.shoal("remove-node", "n2"))[0] == 0
        await cluster.kill("n2")

        stop = asyncio.Event()
        load = asyncio.create_task(write_until(cluster.url, stop))
        await cluster.wait_for(cluster.all_well)
        asked = cluster.root / "asked"
        command = f"echo {{node}} >> {asked}"
        restart = asyncio.create_task(cluster.done("rolling-restart", "n1", "n3", "--command", command))
        for position, node in enumerate(("n1", "n3")):

            async def is_asked(lines: int = position + 1) -> bool:
                return asked.exists() and len(asked.read_text().split()) == lines

            await cluster.wait_for(is_asked)
            assert asked.read_text().split()[-1] == node
            assert all(shard["leader"] != node for shard in (await cluster.shards()).values())
            await cluster.kill(node)
            cluster.start(node)
        await restart
        stop.set()
        written, failures = await load
        assert written > 50
        assert not failures


async def test_shards_split_and_merge_and_microshards_move_under_load(managed_cluster: Callable[..., Any]) -> None:
    async with managed_cluster(nodes=4, managers=1) as cluster:
        await cluster.join("n4")
        code, text = await cluster.shoal("settings", "--set", "merge_linger=2s", "--set", "gone_after=20s", "--json")
        assert code == 0
        assert json.loads(text)["version"] == 2
        stop = asyncio.Event()
        load = asyncio.create_task(write_until(cluster.url, stop))

        code, text = await cluster.shoal("split", "1", "--plan", "--json")
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


async def restart_manager(cluster: OperatedCluster) -> None:
    await asyncio.sleep(0.5)
    await cluster.kill("m1")
    cluster.start("m1")

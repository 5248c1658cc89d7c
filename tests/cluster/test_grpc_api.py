"""The public gRPC API on real clusters: `shoal up` serves it, any node answers for any key, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from shoal_server.local.layout import ClusterFolder, free_ports, generated_config
from shoal_server.local.processes import find_nodes

COMMAND = (sys.executable, "-m", "shoal.cli")
SECONDS = 60.0


@pytest.fixture
def admin_ports() -> list[int]:
    return free_ports(3)


@pytest.fixture
def with_api(admin_ports: list[int]) -> Callable[[Sequence[int]], str]:
    """Return a layout for `real_cluster`: three nodes that serve gRPC."""
    return lambda ports: generated_config(3, ports, admin_ports=admin_ports)


@pytest.fixture
def apis(admin_ports: list[int], reflected_api: Callable[[str], Any]) -> list[Any]:
    """The API of each node."""
    return [reflected_api(f"127.0.0.1:{port}") for port in admin_ports]


async def test_any_node_answers_for_any_key(real_cluster, with_api, apis):
    def check() -> None:
        for api in apis:
            api.wait_until_serving()
        keys = [b"any-%d" % number for number in range(60)]
        for number, key in enumerate(keys):
            apis[number % 3].call("Put", key=key, value=b"%d" % number)
        for api in apis:
            values = [value.value for value in api.call("GetMany", keys=keys).values]
            assert values == [b"%d" % number for number in range(60)]
            rows = [row.key for page in api.call("Scan", prefix=b"any-") for row in page.rows]
            assert rows == sorted(keys)
        token = apis[0].call("Put", key=b"any-0", value=b"new", session="").session
        assert apis[1].call("Get", key=b"any-0", session=token).entry.value == b"new"

    async with real_cluster(layout=with_api):
        await asyncio.to_thread(check)


class Writer:
    """Writes in a batch stream, so many messages ahead of their answers, until told to stop or cut off."""

    def __init__(self, api: Any, prefix: bytes) -> None:
        self._api = api
        self._prefix = prefix
        self._places: queue.Queue[bool] = queue.Queue()
        self.acknowledged: list[bytes] = []
        self.failed: list[Any] = []

    def requests(self) -> Iterator[Any]:
        number = 0
        while self._places.get():
            operations = [
                {"id": each, "put": {"key": self._prefix + b"%d" % each, "value": b"v"}}
                for each in range(number, number + 50)
            ]
            number += 50
            yield self._api.message("BatchRequest", operations=operations)

    def run(self, until: Callable[[], bool]) -> grpc.StatusCode:
        """Write until `until`, asked after each answer; return how the stream ended."""
        for _ in range(4):
            self._places.put(True)
        going = True
        try:
            for answer in self._api.method("Batch")(self.requests(), timeout=SECONDS):
                for result in answer.results:
                    if result.WhichOneof("result") == "seq":
                        self.acknowledged.append(self._prefix + b"%d" % result.id)
                    else:
                        self.failed.append(result.error)
                going = going and not until()
                self._places.put(going)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        finally:
            self._places.put(False)
        return grpc.StatusCode.OK


def missing(api: Any, keys: list[bytes]) -> list[bytes]:
    found: list[bytes] = []
    for first in range(0, len(keys), 5000):
        part = keys[first : first + 5000]
        values = api.call("GetMany", keys=part).values
        found += [key for key, value in zip(part, values, strict=True) if not value.HasField("value")]
    return found


async def test_a_node_that_is_stopped_answers_what_it_has_begun(real_cluster, with_api, apis):
    async with real_cluster(layout=with_api) as cluster:
        for api in apis:
            await asyncio.to_thread(api.wait_until_serving)
        writer = Writer(apis[0], b"stop-")
        writing = asyncio.create_task(asyncio.to_thread(writer.run, lambda: False))
        while len(writer.acknowledged) < 1000:
            await asyncio.sleep(0.01)
        assert await cluster.stop("n1") == 0
        assert await writing is grpc.StatusCode.UNAVAILABLE
        assert writer.failed == []
        assert await asyncio.to_thread(missing, apis[1], writer.acknowledged) == []


async def test_a_stream_goes_on_when_another_node_is_killed(real_cluster, with_api, apis):
    async with real_cluster(layout=with_api) as cluster:
        for api in apis:
            await asyncio.to_thread(api.wait_until_serving)
        writer = Writer(apis[0], b"kill-")
        enough = 1000
        writing = asyncio.create_task(asyncio.to_thread(writer.run, lambda: len(writer.acknowledged) >= enough))
        while len(writer.acknowledged) < 200:
            await asyncio.sleep(0.01)
        await cluster.kill("n2")
        enough = len(writer.acknowledged) + 5000
        assert await writing is grpc.StatusCode.OK
        assert writer.failed == []
        assert await asyncio.to_thread(missing, apis[2], writer.acknowledged) == []


def test_shoal_up_serves_grpc_and_knows_keyspaces_that_are_made_later(tmp_path: Path, reflected_api):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}

    def run(*arguments: str) -> bytes:
        command = [*COMMAND, *arguments]
        return subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS, check=True).stdout

    folder = tmp_path / "cluster"
    try:
        started = json.loads(
            run("up", "--data", str(folder), "--nodes", "1", "--managers", "1", "--port", "0", "--detach", "--json")
        )
        api = reflected_api(started["nodes"][0]["grpc"])
        api.wait_until_serving()
        api.call("Put", key=b"a", value=b"1")
        assert api.refusal("Get", key=b"a", keyspace="later")[0] is grpc.StatusCode.NOT_FOUND
        manager = started["managers"][0]["grpc"]
        run("keyspace", "create", "later", "--shards", "2", "--voters", "1", "--managers", manager)
        api.call("Put", key=b"a", value=b"2", keyspace="later")
        assert api.call("Get", key=b"a", keyspace="later").entry.value == b"2"
        assert api.call("Get", key=b"a").entry.value == b"1"
    finally:
        for node in find_nodes(ClusterFolder(folder)):
            node.signal(signal.SIGKILL)

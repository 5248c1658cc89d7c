"""Whatever arrives on a node's socket gets one clear line, and the others are still served."""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any

import msgspec
import pytest
import shoal
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import HEADER_BYTES, answer_decoder, encode_frame, encode_operations, greeting_decoder
from shoal.protocol.messages import (
    Failure,
    Hello,
    OpenSession,
    Put,
    Read,
    Refused,
    SessionOpened,
    Welcome,
    Working,
    Write,
)
from shoal.shardmap import Routes, Shard


class Wire:
    """A bare connection to a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def frame(self) -> bytes:
        header = await self.reader.readexactly(HEADER_BYTES)
        return await self.reader.readexactly(struct.unpack(">II", header)[0])

    async def refused(self) -> str:
        """Return why the node refuses, which must be the last thing that it says."""
        (refused,) = greeting_decoder.decode(await self.frame())
        assert isinstance(refused, Refused)
        assert await self.reader.read() == b""
        return refused.message

    async def greet(self, **fields: Any) -> None:
        self.writer.write(encode_frame([Hello(**{"role": "client", "oldest": 1, "newest": 1, **fields})]))

    async def welcome(self) -> Welcome:
        await self.greet()
        (welcome,) = greeting_decoder.decode(await self.frame())
        assert isinstance(welcome, Welcome)
        return welcome

    async def ask(self, *requests: Any) -> list[Any]:
        self.writer.write(encode_frame(list(requests)))
        answers: list[Any] = []
        while len(answers) < len(requests):
            answers += [each for each in answer_decoder.decode(await self.frame()) if not isinstance(each, Working)]
        return answers


async def open_to_a_leader(cluster: Any) -> tuple[Wire, Routes, Shard]:
    """Connect to a node that leads a shard; return the connection, the map, and that shard."""
    routes = Routes((await (await Wire.open(cluster.ports[0])).welcome()).shard_map)
    led = next(shard for shard in routes.map.shards if shard.leader)
    wire = await Wire.open(cluster.ports[int(led.leader.removeprefix("n")) - 1])
    await wire.welcome()
    return wire, routes, led


@pytest.mark.timeout(120)
async def test_every_kind_of_garbage_is_refused_with_a_reason_and_others_are_still_served(real_cluster: Any) -> None:
    async with real_cluster() as cluster, shoal.AsyncClient(cluster.url) as db:
        port = cluster.ports[0]

        async def reason(sent: bytes | dict[str, Any]) -> str:
            wire = await Wire.open(port)
            if isinstance(sent, bytes):
                wire.writer.write(sent)
            else:
                await wire.greet(**sent)
            return await wire.refused()

        assert "from 1 to 65536" in await reason(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "from 1 to 65536" in await reason(struct.pack(">II", 0xFFFFFFFF, 0))
        assert "a frame of 0 bytes" in await reason(struct.pack(">II", 0, 0))
        assert "could not be decoded" in await reason(
            struct.pack(">II", 4, checksum(b"\xc1\xc1\xc1\xc1")) + b"\xc1\xc1\xc1\xc1"
        )
        assert "arrived damaged" in await reason(struct.pack(">II", 4, 0) + b"\xc1\xc1\xc1\xc1")
        assert "first frame must hold one Hello" in await reason(encode_frame([]))
        assert "protocol versions 7 to 9" in await reason({"oldest": 7, "newest": 9})
        assert "unknown role 'nobody'" in await reason({"role": "nobody"})
        assert "not 'elsewhere'" in await reason({"cluster": "elsewhere"})
        assert "'elsewhere' is not this node's" in await reason({"role": "peer", "cluster": "elsewhere", "node": "n2"})
        assert "no node 'n9'" in await reason({"role": "peer", "cluster": "local", "node": "n9"})
        assert "another data folder" in await reason(
            {"role": "peer", "cluster": "local", "node": "n2", "incarnation": "0000"}
        )
        assert (await db.put("still", "served")).seq > 0


@pytest.mark.timeout(120)
async def test_wrong_requests_fail_alone(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        wire, routes, mine = await open_to_a_leader(cluster)
        other = next(shard for shard in routes.map.shards if shard.leader not in ("", mine.leader))
        keyspace = routes.keyspaces[mine.keyspace]
        here = next(key for key in (f"k{n}".encode() for n in range(999)) if routes.shard_of(keyspace, key) == mine.id)
        there = next(key for key in (f"k{n}".encode() for n in range(999)) if routes.shard_of(keyspace, key) != mine.id)
        (opened,) = await wire.ask(OpenSession(1, mine.id))
        assert isinstance(opened, SessionOpened)

        def write(request: int, *operations: Put, number: int = 1, session: bytes = opened.session) -> Write:
            return Write(request, mine.id, keyspace.id, session, number, 1000, encode_operations(list(operations)))

        answers = await wire.ask(
            write(10),
            write(11, Put(b"", b"v")),
            write(12, Put(here + b"x" * 5000, b"v")),
            write(13, Put(here, b"v" * (2 << 20))),
            write(14, Put(there, b"v")),
            write(15, Put(here, b"v"), number=0),
            Write(16, mine.id, keyspace.id, opened.session, 1, 1000, msgspec.Raw(msgspec.msgpack.encode([[99, b"k"]]))),
            write(17, Put(here, b"v"), session=bytes(16)),
            Read(18, other.id, keyspace.id, 1000, [there]),
            Read(19, 4711, keyspace.id, 1000, [here]),
            Read(20, mine.id, 4711, 1000, [here]),
            write(21, Put(here, b"right")),
        )
        found = {answer.request: answer for answer in answers}
        codes = {request: found[request].code for request in range(10, 21)}
        assert codes == {
            10: "invalid_argument",
            11: "invalid_argument",
            12: "too_large",
            13: "too_large",
            14: "wrong_shard",
            15: "invalid_argument",
            16: "invalid_argument",
            17: "session_expired",
            18: "not_leader",
            19: "wrong_shard",
            20: "wrong_shard",
        }
        failure = found[18]
        assert isinstance(failure, Failure)
        assert failure.route is not None
        assert failure.route.leader == other.leader
        assert not any(found[request].maybe_applied for request in range(10, 21))
        assert found[21].seq > 0


@pytest.mark.timeout(120)
async def test_a_client_that_does_not_read_its_answers_is_cut_off_and_others_are_served(real_cluster: Any) -> None:
    extra = "limits: {client_stall: 2s}\n"
    async with real_cluster(extra) as cluster, shoal.AsyncClient(cluster.url) as db:
        wire, routes, mine = await open_to_a_leader(cluster)
        keyspace = routes.keyspaces[mine.keyspace]
        key = next(key for key in (f"k{n}".encode() for n in range(999)) if routes.shard_of(keyspace, key) == mine.id)
        await db.put(key, b"v" * 900_000)
        wire.writer.write(encode_frame([Read(n, mine.id, keyspace.id, 1000, [key]) for n in range(200)]))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(20):
                while "client_cut_off" not in cluster.log_of(mine.leader):
                    await db.put("others", "are served")
                while True:
                    await wire.reader.readexactly(1 << 16)
        assert await db.get("others") == b"are served"


@pytest.mark.timeout(60)
async def test_a_second_process_on_a_data_folder_in_use_is_refused(real_cluster: Any) -> None:
    async with real_cluster() as cluster:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.cli", "node", "--config", str(cluster.folder.config_file), "--id", "n1",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cluster.root,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode != 0
        assert f"in use by process {cluster.running['n1'].pid}".encode() in output

"""A node's connections, on real sockets: what is too much is refused in words, and costs the others nothing."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
import shoal
import structlog
from shoal.admin.connection import AdminConnection
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason, Priority
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import (
    LONG_FRAME_BYTES,
    MAX_FRAME_REQUESTS,
    Done,
    GetShardMap,
    Hello,
    Ping,
    Read,
    Rows,
)
from shoal.protocol.version import NEWEST, OLDEST
from shoal_server import places
from shoal_server.node import request_frames
from shoal_server.node.fair_shares import CONTROL
from shoal_server.node.memory import Account
from shoal_server.node.settings import Limits
from shoal_server.process import connections
from shoal_server.process.giving_way import RETRY_MS
from shoal_server.process.reception import PLACE_BYTES

from .server import serving

MIB = 1 << 20
FEW = Limits(clients=3)


def rows(request: int, size: int = MIB) -> Rows:
    return Rows(request, 1, "n1", [bytes(size)], [1])


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# -- places


async def test_idle_connections_that_never_greet_keep_nobody_out(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        monkeypatch.setattr(server.reception.unfinished, "most", 8)
        silent = [await server.connect() for _ in range(40)]
        newcomer = await server.client()
        assert await newcomer.is_served()
        refused = await silent[0].refusal()
        assert refused.code == ErrorCode.OVERLOADED.value
        assert "greet at once" in refused.message
        assert len(server.reception.unfinished) <= 8
        assert server.reception.gave_way == 37


async def test_who_does_not_greet_in_time_is_told_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "GREETING_SECONDS", 0.05)
    async with serving() as server:
        half = await server.connect()
        half.writer.write(encode_frame([Hello("client", OLDEST, NEWEST)])[:-1])
        assert "no Hello within" in (await half.refusal()).message
        await until(lambda: not server.node.memory.used(Account.CONNECTIONS))


async def test_a_full_node_refuses_in_words_that_clients_try_again_at():
    async with serving(FEW) as server:
        there = [await server.client() for _ in range(3)]
        refused = await server.turned_away(await server.connect())
        assert refused.code == ErrorCode.OVERLOADED.value
        assert "3 clients are connected, the most this node takes" in refused.message
        assert refused.retry_after_ms == RETRY_MS
        with pytest.raises(shoal.Overloaded, match="3 clients are connected") as caught:
            await AdminConnection.open(f"127.0.0.1:{server.port}", 20)
        assert (caught.value.retry_after, caught.value.reason) == (RETRY_MS / 1000, OverloadReason.CONNECTION)
        assert all([await client.is_served() for client in there])
        assert server.node.overload.shed[OverloadReason.CONNECTION, Priority.INTERACTIVE, CONTROL] == 2


async def test_clients_that_ask_nothing_give_way_to_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "NEWCOMER_IDLE_SECONDS", 0.0)
    async with serving(FEW) as server:
        idle = await server.client()
        asking = [await server.client() for _ in range(2)]
        assert all([await client.is_served() for client in asking])
        server.reception.watch.look()
        newcomer = await server.client()
        assert await newcomer.is_served()
        refused = await idle.refusal()
        assert "has asked nothing for longest" in refused.message
        assert refused.retry_after_ms == 0, "it may come again whenever it has something to ask"
        assert all([await client.is_served() for client in asking])


async def test_a_client_that_asks_in_time_keeps_its_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "NEWCOMER_IDLE_SECONDS", 0.0)
    async with serving(FEW) as server:
        clients = [await server.client() for _ in range(3)]
        server.reception.watch.look()
        assert all([await client.is_served() for client in clients])
        refused = await server.turned_away(await server.connect())
        assert refused.code == ErrorCode.OVERLOADED.value


async def test_connections_that_memory_has_no_room_for_are_told_so():
    async with serving() as server:
        memory = server.node.memory
        assert memory.take(Account.CONNECTIONS, memory.bound(Account.CONNECTIONS) - PLACE_BYTES)
        there = await server.client()
        refused = await (await server.connect()).refusal()
        assert refused.code == ErrorCode.OVERLOADED.value
        assert "limits.memory" in refused.message
        assert refused.retry_after_ms == RETRY_MS
        assert await there.is_served()


# -- frames


async def test_a_frame_of_too_many_requests_is_refused_before_any_is_decoded():
    async with serving() as server:
        beside, client = await server.client(), await server.client()
        # Were it decoded, it would be said to be no request.
        body = b"\xdd" + (MAX_FRAME_REQUESTS + 1).to_bytes(4, "big") + b"\xc1"
        client.writer.write(struct.pack(">II", len(body), checksum(body)) + body)
        refused = await client.refusal()
        assert refused.code == ErrorCode.TOO_LARGE.value
        assert f"{MAX_FRAME_REQUESTS + 1} requests" in refused.message
        assert f"at most {MAX_FRAME_REQUESTS}" in refused.message
        assert await beside.is_served()


async def test_as_many_requests_as_a_frame_may_have_are_served():
    async with serving(Limits(client_requests=MAX_FRAME_REQUESTS)) as server:
        client = await server.client()
        client.ask(*(Ping(number) for number in range(MAX_FRAME_REQUESTS)))
        answered = 0
        while answered < MAX_FRAME_REQUESTS:
            answers = await client.answers()
            assert all(isinstance(answer, Done) for answer in answers)
            answered += len(answers)


async def test_a_long_frame_holds_one_request():
    async with serving() as server:
        client = await server.client()
        client.ask(*(Read(number, 1, 1, 1000, [bytes(3000)] * 500) for number in range(3)))
        refused = await client.refusal()
        assert "at most 2" in refused.message
        alone = await server.client()
        alone.ask(Read(1, 1, 1, 1000, [bytes(3000)] * (LONG_FRAME_BYTES // 2000)))
        assert (await alone.answers())[0].request == 1


async def test_half_frames_are_counted_and_given_back():
    async with serving() as server:
        client = await server.client()
        memory = server.node.memory
        frame = encode_frame([Read(1, 1, 1, 1000, [bytes(4000)] * 500)])
        client.writer.write(frame[:-1])
        await until(lambda: memory.used(Account.FRAMES) > len(frame) - 40_000)
        client.writer.write(frame[-1:])
        await client.answers()
        assert memory.used(Account.FRAMES) == 0
        client.writer.write(frame[:-1])
        await until(lambda: memory.used(Account.FRAMES))
        client.writer.transport.abort()
        await until(lambda: not memory.used(Account.FRAMES))


async def test_half_frames_of_many_give_way_to_those_that_come_whole():
    async with serving() as server:
        memory = server.node.memory
        half = struct.pack(">II", 8 * MIB, 0) + bytes(4 * MIB)
        holders = [await server.client() for _ in range(40)]
        for client in holders:
            client.writer.write(half)
        await until(lambda: memory.used(Account.FRAMES) > memory.bound(Account.FRAMES) - 9 * MIB)
        await asyncio.sleep(1.1)
        quick = await server.client()
        for _ in range(5):
            quick.ask(Read(1, 1, 1, 1000, [bytes(4000)] * 700))
            assert len((await quick.answers())[0].values) == 700
        assert memory.used(Account.FRAMES) <= memory.bound(Account.FRAMES)
        refusals = [asyncio.create_task(client.refusal()) for client in holders]
        for ended in asyncio.as_completed(refusals, timeout=20):
            refused = await ended
            assert refused.code == ErrorCode.OVERLOADED.value
            assert refused.retry_after_ms == RETRY_MS
            if "a frame comes too slowly" in refused.message:
                break
        for task in refusals:
            task.cancel()


async def test_half_frames_of_one_address_keep_no_slower_client_of_another_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "SLOW_SECONDS", 1e-9)
    async with serving() as server:
        memory = server.node.memory
        slow = await server.client()
        frame = encode_frame([Read(1, 1, 1, 20_000, [bytes(4000)] * 500)])
        slow.writer.write(frame[:100_000])
        await until(lambda: memory.used(Account.FRAMES))
        crowd = [await server.client(local_addr=("127.0.0.2", 0)) for _ in range(40)]
        for client in crowd:
            client.writer.write(struct.pack(">II", 8 * MIB, 0) + bytes(4 * MIB))
        refusals = [asyncio.create_task(client.refusal()) for client in crowd]
        done, _ = await asyncio.wait(refusals, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert "of all that are slow most is of this address" in done.pop().result().message
        slow.writer.write(frame[100_000:])
        assert len((await slow.answers())[0].values) == 500
        for task in refusals:
            task.cancel()


async def test_a_frame_that_stops_coming_is_given_up_in_words(monkeypatch: pytest.MonkeyPatch):
    async with serving(Limits(client_stall_ns=3_000_000_000)) as server:
        now = 0.0
        monkeypatch.setattr(server.reception.watch, "_clock", lambda: now)
        stopped, moving = await server.client(), await server.client()
        frame = encode_frame([Read(1, 1, 1, 1000, [bytes(1000)] * 5)])
        for client in (stopped, moving):
            client.writer.write(frame[:-10])
        await until(lambda: all(client.held for client in server.reception.clients.values()))
        server.reception.watch.look()
        now = 2.0
        moving.writer.write(frame[-10:-5])
        await until(lambda: server.reception.clients[2].heard == 3)
        server.reception.watch.look()
        now = 3.5
        server.reception.watch.look()
        refused = await stopped.refusal()
        assert "nothing more of a frame has come for 3 s" in refused.message
        moving.writer.write(frame[-5:])
        assert (await moving.answers())[0].request == 1


# -- answers


async def test_an_answer_that_fits_no_frame_is_refused_alone(monkeypatch: pytest.MonkeyPatch):
    async with serving(Limits(max_frame_bytes=256 * 1024)) as server:
        client, beside = await server.client(), await server.client()
        long = [rows(1, 300 * 1024), Done(2), rows(3, 200 * 1024), rows(4, 100 * 1024)]
        server.reception.send({1: long, 2: [Done(7)]})
        answers = [*await client.answers(), *await client.answers()]
        failure = answers[0]
        assert (failure.request, failure.code) == (1, ErrorCode.TOO_LARGE.value)
        assert not failure.maybe_applied
        assert "limits.max_frame" in failure.message
        assert [answer.request for answer in answers] == [1, 2, 3, 4]
        assert await beside.answers() == [Done(7)]
        assert server.node.counters.failures[ErrorCode.TOO_LARGE] == 1


async def test_a_client_of_which_the_node_has_enough_is_not_read_from(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        client = await server.client()
        received = 0

        def receive(number: int, requests: list[Any], size: int = 0) -> bool:
            nonlocal received
            received += size
            return False

        monkeypatch.setattr(server.node, "receive_client", receive)
        frame = encode_frame([Read(1, 1, 1, 1000, [bytes(4000)] * 100)])
        for _ in range(200):
            client.writer.write(frame)
        await until(lambda: received)
        await asyncio.sleep(0.1)
        # What one look at the socket has brought is taken whole.
        assert received <= 2 * len(frame)
        assert client.writer.transport.get_write_buffer_size() > 0
        monkeypatch.undo()
        server.reception.resume([1])
        assert (await client.answers())[0].request == 1


async def test_a_client_that_reads_nothing_is_said_to_be_behind_and_cut_off_after_a_time_only(
    monkeypatch: pytest.MonkeyPatch,
):
    async with serving(Limits(client_stall_ns=5_000_000_000)) as server:
        now = 0.0
        monkeypatch.setattr(server.reception.watch, "_clock", lambda: now)
        behind: list[tuple[int, bool]] = []
        monkeypatch.setattr(
            server.node, "client_is_behind", lambda client, is_behind: behind.append((client, is_behind))
        )
        deaf = await server.connect(limit=4096)
        await deaf.greet()
        answer = rows(1)
        server.reception.send({1: [answer] * 12})
        assert behind == [(1, True)]
        assert server.node.memory.used(Account.ANSWERS) > 4 * MIB
        with structlog.testing.capture_logs() as logs:
            for second in range(1, 6):
                now = float(second)
                server.reception.watch.look()
                await asyncio.sleep(0)
            assert not any(entry["event"] == "client_cut_off" for entry in logs)
            now = 6.5
            server.reception.watch.look()
        (cut_off,) = [entry for entry in logs if entry["event"] == "client_cut_off"]
        assert cut_off["client"] == 1
        assert "it has taken none of its answers for 5 s" in cut_off["reason"]
        await until(lambda: not server.reception.clients)
        assert server.node.memory.used(Account.ANSWERS) == 0


async def test_a_slow_reader_is_not_cut_off(monkeypatch: pytest.MonkeyPatch):
    async with serving(Limits(client_stall_ns=5_000_000_000)) as server:
        now = 0.0
        monkeypatch.setattr(server.reception.watch, "_clock", lambda: now)
        slow = await server.connect(limit=4096)
        await slow.greet()
        server.reception.send({1: [rows(1)] * 16})
        for second in range(1, 12):
            now = 4.0 * second
            await slow.reader.readexactly(MIB)
            await asyncio.sleep(0.02)
            server.reception.watch.look()
        assert list(server.reception.clients) == [1]


async def test_where_answers_fill_the_memory_the_slowest_readers_go(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        now = 0.0
        monkeypatch.setattr(server.reception.watch, "_clock", lambda: now)
        memory = server.node.memory
        deaf, slow = await server.connect(limit=4096), await server.connect(limit=4096)
        for client in (deaf, slow):
            await client.greet()
        each = memory.bound(Account.ANSWERS) // (2 * MIB)
        server.reception.send({number: [rows(1)] * each for number in (1, 2)})
        assert memory.is_tight(Account.ANSWERS)
        server.reception.watch.look()
        for second in range(1, 4):
            now = float(second)
            await slow.reader.readexactly(4 * MIB)
            await asyncio.sleep(0.02)
            server.reception.watch.look()
        assert list(server.reception.clients) == [2]
        assert not memory.is_tight(Account.ANSWERS)


async def test_answers_for_many_connections_of_one_address_cut_off_no_slower_reader(monkeypatch: pytest.MonkeyPatch):
    async with serving() as server:
        now = 0.0
        monkeypatch.setattr(server.reception.watch, "_clock", lambda: now)
        memory = server.node.memory
        slow = await server.connect(limit=4096)
        crowd = [await server.connect(limit=4096, local_addr=("127.0.0.2", 0)) for _ in range(6)]
        for client in (slow, *crowd):
            await client.greet()
        each = memory.bound(Account.ANSWERS) // (6 * MIB)
        server.reception.send({1: [rows(1)] * 8, **{number: [rows(1)] * each for number in range(2, 8)}})
        assert memory.is_tight(Account.ANSWERS)
        server.reception.watch.look()
        with structlog.testing.capture_logs() as logs:
            for second in range(1, 4):
                now = float(second)
                await slow.reader.readexactly(4096)
                for client in crowd:
                    await client.reader.readexactly(256 * 1024)
                await asyncio.sleep(0.02)
                server.reception.watch.look()
        assert 1 in server.reception.clients
        assert len(server.reception.clients) < 7
        assert not memory.is_tight(Account.ANSWERS)
        assert any("most is of this address" in entry.get("reason", "") for entry in logs)


async def test_refused_connections_that_read_nothing_are_closed_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.05)
    async with serving() as server:
        deaf = await server.connect(limit=4096)
        await deaf.greet()
        server.reception.send({1: [rows(1)] * 16})
        server.reception.clients[1].refuse(ErrorCode.UNAVAILABLE, "for a test")
        await until(lambda: not server.reception.clients)


async def test_words_are_read_by_who_is_still_sending():
    async with serving() as server:
        client = await server.client()
        client.writer.write(encode_frame([GetShardMap(number) for number in range(MAX_FRAME_REQUESTS + 1)]))
        client.writer.write(struct.pack(">II", 8 * MIB, 0) + bytes(4 * MIB))
        assert "requests" in (await client.refusal()).message


async def test_who_sends_what_there_is_no_memory_for_is_told_so_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
):
    def decode(_: bytes) -> None:
        raise MemoryError

    async with serving() as server:
        greedy, other = await server.client(), await server.client()
        with monkeypatch.context() as patched:
            patched.setattr(request_frames.request_decoder, "_decode", decode)
            greedy.writer.write(encode_frame([Ping(1)]))
            refused = await greedy.refusal()
        assert refused.code == ErrorCode.OVERLOADED.value
        assert refused.reason == OverloadReason.MEMORY.value
        assert "no memory for a frame of" in refused.message
        assert await other.is_served()

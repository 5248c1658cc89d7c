"""The pages of a process: health through its life, samples, and whatever else is sent to the port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families
from shoal.metrics import gauge
from shoal_server.local.layout import free_ports
from shoal_server.observe import page_connections
from shoal_server.observe import pages as pages_module
from shoal_server.observe.pages import Pages, serving
from shoal_server.observe.readiness import STOPPING, Readiness


class Web:
    """The pages, and one who asks for them by bytes."""

    def __init__(self, pages: Pages, port: int) -> None:
        self.pages = pages
        self.port = port

    async def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes; return the status, the headers and the body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split(" ")[1]), headers, body

    async def get(self, path: str, *headers: str) -> tuple[int, str]:
        head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: here", *headers, "", ""])
        status, _, body = await self.send(head.encode())
        return status, body.decode()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    (port,) = free_ports(1)
    async with serving(f"127.0.0.1:{port}") as pages:
        yield Web(pages, port)


async def test_a_process_that_starts_is_alive_and_not_ready(web: Web):
    assert await web.get("/healthz") == (200, "alive\n")
    status, reason = await web.get("/readyz")
    assert status == 503
    assert reason.startswith("starting")
    status, samples = await web.get("/metrics")
    assert status == 200
    assert "process_cpu_seconds_total" in samples


async def test_readiness_is_what_the_process_said_last(web: Web):
    web.pages.beat(Readiness())
    assert await web.get("/readyz") == (200, "ready\n")
    web.pages.beat(STOPPING)
    assert (await web.get("/readyz"))[0] == 503
    assert (await web.get("/healthz"))[0] == 200


async def test_a_process_that_failed_is_not_alive(web: Web):
    web.pages.beat(Readiness("failed: the disk", failed=True))
    assert await web.get("/healthz") == (503, "failed: the disk\n")


async def test_a_process_that_says_nothing_any_more_hangs(web: Web, monkeypatch: pytest.MonkeyPatch):
    web.pages.beat(Readiness())
    assert (await web.get("/healthz"))[0] == 200
    monkeypatch.setattr(pages_module, "HUNG_SECONDS", -1.0)
    status, reason = await web.get("/healthz")
    assert status == 503
    assert "hangs" in reason


async def test_the_pages_answer_while_the_event_loop_does_not_run(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages_module, "GATHER_SECONDS", 0.05)
    web.pages.serve_metrics(list)

    def ask(path: str) -> bytes:
        # Blocking: the loop that samples are gathered in is this thread's, and does not run meanwhile.
        with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            return connection.makefile("rb").read()

    answer = ask("/metrics")
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"has not run" in answer
    assert ask("/healthz").startswith(b"HTTP/1.1 200")


async def test_samples_are_gathered_in_the_event_loop_and_once_for_scrapes_that_come_together(
    web: Web, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages_module, "FRESH_SECONDS", 3600.0)
    web.pages._gathered_at = -3600.0
    loop, asked = asyncio.get_running_loop(), 0

    def gather() -> list:
        nonlocal asked
        assert asyncio.get_running_loop() is loop
        asked += 1
        return [gauge("shoal_test_things", "How many", 7)]

    web.pages.serve_metrics(gather)
    answers = await asyncio.gather(*(web.get("/metrics") for _ in range(5)))
    assert asked == 1
    for status, samples in answers:
        assert status == 200
        families = {family.name: family for family in text_string_to_metric_families(samples)}
        assert families["shoal_test_things"].samples[0].value == 7


async def test_what_is_gathered_no_more_is_not_asked_for(web: Web):
    web.pages.serve_metrics(lambda: [gauge("shoal_test_things", "How many", 7)])
    web.pages.serve_metrics(None)
    status, samples = await web.get("/metrics")
    assert status == 200
    assert "shoal_test_things" not in samples


async def test_open_metrics_are_given_to_those_who_ask_for_them(web: Web):
    status, samples = await web.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert samples.endswith("# EOF\n")


async def test_head_gives_the_length_and_no_body(web: Web):
    status, headers, body = await web.send(b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /secrets HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5_000, 431),
    ],
)
async def test_bad_requests_are_told_so_and_leave_the_pages_as_they_are(web: Web, request_bytes: bytes, status: int):
    assert (await web.send(request_bytes))[0] == status
    assert (await web.get("/healthz"))[0] == 200


async def test_a_caller_that_never_ends_its_request_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_connections, "HEAD_SECONDS", 0.05)
    assert (await web.send(b"GET /metrics HT"))[0] == 408


async def opened(web: Web, number: int, sent: bytes = b"") -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    connections = [await asyncio.open_connection("127.0.0.1", web.port, limit=4096) for _ in range(number)]
    for _, writer in connections:
        writer.write(sent)
    return connections


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nX: "], ids=["idle", "slow heads"])
async def test_probes_are_answered_however_many_others_do_not_ask(
    web: Web, monkeypatch: pytest.MonkeyPatch, sent: bytes
):
    monkeypatch.setattr(page_connections, "HEAD_SECONDS", 3600.0)
    held = await opened(web, 200, sent)
    for path in ("/healthz", "/metrics"):
        assert (await web.get(path))[0] == 200
    async with asyncio.timeout(20):
        given_way = await held[0][0].read()
    assert given_way.startswith(b"HTTP/1.1 503")
    assert b"on its way for longest" in given_way
    assert len(web.pages._places.heads) <= page_connections.HEADS_MAX // 2
    for _, writer in held:
        writer.close()


async def test_probes_are_answered_however_many_do_not_read(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_connections, "WRITE_SECONDS", 3600.0)
    web.pages.serve_metrics(lambda: [gauge("shoal_test_things", "x" * (8 << 20), 7)])
    held = await opened(web, 60, b"GET /metrics HTTP/1.1\r\n\r\n")
    for _ in range(5):
        assert (await web.get("/healthz"))[0] == 200
    async with asyncio.timeout(20):
        while len(web.pages._places._open) > page_connections.ANSWERED_MAX // 2 + 1:
            await asyncio.sleep(0.01)
    for _, writer in held:
        writer.transport.abort()


async def test_scrapes_that_wait_are_bounded_and_probes_do_not_wait_for_them(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages_module, "SCRAPES_MAX", 3)
    monkeypatch.setattr(pages_module, "GATHER_SECONDS", 3600.0)
    gather = asyncio.Event()

    async def slow() -> list:
        await gather.wait()
        return []

    monkeypatch.setattr(web.pages, "_gathered_there", lambda: asyncio.wrap_future(wait_here(slow)))
    loop = asyncio.get_running_loop()

    def wait_here(work):
        return asyncio.run_coroutine_threadsafe(work(), loop)

    waiting = await opened(web, 3, b"GET /metrics HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(20):
        while web.pages._waiting_scrapes < 3:
            await asyncio.sleep(0.01)
    status, reason = await web.get("/metrics")
    assert status == 503
    assert "3 scrapes wait" in reason
    assert (await web.get("/healthz"))[0] == 200
    gather.set()
    for reader, _ in waiting:
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")


async def test_samples_that_cannot_be_gathered_end_the_connection_and_no_others(web: Web):
    def gather() -> list:
        raise ValueError("for a test")

    web.pages.serve_metrics(gather)
    with pytest.raises((ConnectionError, IndexError)):
        await web.get("/metrics")
    assert (await web.get("/healthz"))[0] == 200


async def test_a_taken_address_is_an_error_at_the_start(web: Web):
    with pytest.raises(OSError, match=r"address already in use|in use"):
        async with serving(f"127.0.0.1:{web.port}"):
            pass


async def test_without_an_address_nothing_listens_and_all_else_goes_on():
    async with serving(None) as pages:
        pages.beat(Readiness())
        assert pages.readiness.ready


async def test_the_end_does_not_wait_for_those_who_say_nothing_and_says_nothing_of_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(page_connections, "HEAD_SECONDS", 3600.0)
    (port,) = free_ports(1)
    async with asyncio.timeout(20):
        async with serving(f"127.0.0.1:{port}") as pages:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /met")
            await writer.drain()
            assert await Web(pages, port).get("/healthz") == (200, "alive\n")  # it is accepted, and waited for
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    assert [each.message for each in caplog.records if each.name == "asyncio" and each.levelname == "ERROR"] == []

"""URLs: what they mean, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from ssl import create_default_context
from typing import Any

import pytest
from shoal import AsyncClient
from shoal.errors import InvalidArgument
from shoal.options import Options, parse_duration, parse_url, split_address
from shoal.priorities import Priority
from shoal.tls import TlsFiles


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("shoal://h:1", Options(("h:1",))),
        ("shoal://h", Options(("h:7400",))),
        ("shoal://h/", Options(("h:7400",))),
        ("shoal://a:1,b:2/orders", Options(("a:1", "b:2"), "orders")),
        ("shoal://a:1,a:1", Options(("a:1",))),
        ("shoal://[::1]:7400/k", Options(("[::1]:7400",), "k")),
        ("shoal://[::1]", Options(("[::1]:7400",))),
        ("shoal://h/k%20k?timeout=250ms&max_in_flight=7", Options(("h:7400",), "k k", 0.25, 7)),
        (
            "shoal://h/k?consistency=eventual&max_staleness=2s&region=eu",
            Options(("h:7400",), "k", consistency="eventual", max_staleness=2.0, region="eu"),
        ),
        ("shoal://h?priority=batch", Options(("h:7400",), priority=Priority.BATCH)),
        ("shoals://h:1/k", Options(("h:1",), "k", tls=True)),
        (
            "shoals://h:1?cafile=/a%20b/ca.pem&certfile=me.crt&keyfile=me.key",
            Options(("h:1",), tls=True, tls_files=TlsFiles("/a b/ca.pem", "me.crt", "me.key")),
        ),
    ],
)
def test_a_url_means(url: str, options: Options) -> None:
    assert parse_url(url) == options


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h", "begins with shoal://"),
        ("h:7400", "begins with shoal://"),
        ("shoal://", "names no host"),
        ("shoal://a:1,,b:2", "names no host"),
        ("shoal://h:port", "'port'.*is not a port"),
        ("shoal://h:0", "is not a port"),
        ("shoal://h:65536", "is not a port"),
        ("shoal://::1", "brackets"),
        ("shoal://[::1", "Invalid IPv6"),
        ("shoal://[::1]x:1", "is not an address"),
        ("shoal://user@h", "no user"),
        ("shoal://h#x", "no fragment"),
        ("shoal://h/a/b", "one keyspace's name"),
        ("shoal://h?timeot=2s", "did you mean 'timeout'"),
        ("shoal://h?zzz=1", "known are timeout, max_in_flight"),
        ("shoal://h?cafile=ca.pem", "is for TLS: begin it with shoals://"),
        ("shoals://h?cafil=ca.pem", "did you mean 'cafile'"),
        ("shoal://h?timeout=soon", "written like 2s"),
        ("shoal://h?timeout=0s", "longer than zero"),
        ("shoal://h?timeout=-1s", "written like 2s"),
        ("shoal://h?consistency=weak", "one of strong, read_your_writes, eventual"),
        ("shoal://h?max_staleness=0s", "longer than zero"),
        ("shoal://h?regoin=eu", "did you mean 'region'"),
        ("shoal://h?priorty=batch", "did you mean 'priority'"),
        (
            "shoal://h?priority=backgroud",
            "one of interactive, batch, background, not 'backgroud': did you mean 'background'",
        ),
        ("shoal://h?priority=high", "one of interactive, batch, background, not 'high'$"),
        ("shoal://h?max_in_flight=0", "whole number from 1"),
        ("shoal://h?max_in_flight=many", "whole number from 1"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_url(url)


def test_files_of_tls_that_cannot_be_used_are_named_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"nowhere.pem' cannot be read: No such file"):
        AsyncClient(f"shoals://h?cafile={tmp_path}/nowhere.pem")
    with pytest.raises(InvalidArgument, match="a key without its certificate"):
        AsyncClient("shoals://h?keyfile=me.key")


def test_a_context_for_tls_with_a_url_without_it_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="nothing would be encrypted"):
        AsyncClient("shoal://h", ssl=create_default_context())


@pytest.mark.parametrize("priority", ["hihg", "Batch", "", 1, None, b"batch"])
def test_a_wrong_priority_is_refused(priority: Any) -> None:
    if priority is None:
        assert AsyncClient("shoal://h", priority=priority)
        return
    with pytest.raises(InvalidArgument, match="priority is one of interactive, batch, background"):
        AsyncClient("shoal://h", priority=priority)


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2), ("500ms", 0.5), ("1m", 60), ("1.5", 1.5), (" 3s ", 3)])
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_an_address_is_split_at_its_last_colon() -> None:
    assert split_address("h:1") == ("h", 1)
    assert split_address("[::1]:2") == ("::1", 2)

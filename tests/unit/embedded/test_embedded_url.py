"""`embedded://` URLs: what they mean, how wrong ones are refused, and what is said where no server is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import shoal
from shoal.cli.options import admin_options
from shoal.embedded_url import EmbeddedOptions
from shoal.errors import InvalidArgument
from shoal.options import parse_url


@pytest.mark.parametrize(
    ("url", "keyspace", "embedded"),
    [
        ("embedded://", "default", EmbeddedOptions("")),
        ("embedded://?timeout=1s", "default", EmbeddedOptions("")),
        ("embedded:///data/db", "default", EmbeddedOptions("/data/db")),
        ("embedded:///my%20data/%23%3F", "default", EmbeddedOptions("/my data/#?")),
        ("embedded:///d?keyspace=k&microshards=8", "k", EmbeddedOptions("/d", 8)),
        ("embedded:///d?delimiter=:", "default", EmbeddedOptions("/d", None, b":")),
        ("embedded:///d?delimiter=", "default", EmbeddedOptions("/d", None, b"")),
    ],
)
def test_a_url_means(url: str, keyspace: str, embedded: EmbeddedOptions) -> None:
    options = parse_url(url)
    assert (options.keyspace, options.embedded, options.tls) == (keyspace, embedded, False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("embedded://data", "three slashes"),
        ("embedded://./data", "three slashes"),
        ("embedded:/data", "three slashes"),
        ("embedded:data", "three slashes"),
        ("embedded:///", "names no folder"),
        ("embedded:///data#1", "no fragment"),
        ("embedded:///data?microshards=0", "whole number from 1"),
        ("embedded:///data?keyspce=k", "did you mean 'keyspace'"),
        ("shoal://h?keyspace=k", "unknown setting 'keyspace'"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_url(url)


def test_commands_that_ask_nodes_say_that_there_are_none() -> None:
    with pytest.raises(InvalidArgument, match="an embedded:// database has none"):
        admin_options("embedded:///data")


@pytest.mark.parametrize("missing", ["shoal_server", "rocksdict"])
def test_without_the_servers_part_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("shoal_server", "rocksdict"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InvalidArgument, match="pip install 'shoal\\[server\\]'"):
        shoal.AsyncClient("embedded://")


def test_other_urls_load_nothing_of_the_server() -> None:
    script = (
        "import sys, shoal\n"
        "shoal.AsyncClient('shoal://localhost')\n"
        "print([name for name in sys.modules if name.startswith(('shoal_server', 'rocksdict'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

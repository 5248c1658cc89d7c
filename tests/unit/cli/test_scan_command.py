"""`shoal scan`: rows in key order, as lines for people and as JSON Lines for programs."""

from __future__ import annotations

import json

import pytest
from shoal.protocol.messages import Scan

KEYS = [f"{name}/{number}" for name in ("ann", "bob", "eve") for number in range(9)]


@pytest.fixture(autouse=True)
def rows(fake):
    for number, key in enumerate(KEYS):
        fake.put(key.encode(), str(number).encode())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), KEYS),
        (("bob/",), KEYS[9:18]),
        (("b",), KEYS[9:18]),
        (("none/",), []),
        (("--start", "ann/5"), KEYS[5:]),
        (("--end", "ann/5"), KEYS[:5]),
        (("ann/", "--start", "ann/2", "--end", "ann/5"), KEYS[2:5]),
        (("--limit", "7"), KEYS[:7]),
        (("--limit", "0"), []),
        (("--reverse",), KEYS[::-1]),
        (("e", "--reverse", "--limit", "2"), KEYS[:-3:-1]),
    ],
)
def test_the_keys_asked_for_are_printed_in_order(shoal, arguments, expected):
    assert shoal("scan", "--keys-only", *arguments).stdout.splitlines() == expected
    found = [json.loads(line) for line in shoal("scan", "--json", *arguments).stdout.splitlines()]
    assert found == [{"key": key, "value": str(KEYS.index(key))} for key in expected]


def test_a_line_has_a_key_and_a_value_and_no_bytes_that_would_break_it(fake, shoal):
    assert shoal("scan", "ann/", "--limit", "2").stdout == "ann/0\t0\nann/1\t1\n"
    fake.put(b"x/\xff\n", b"\t\x00")
    assert shoal("scan", "x/").stdout_bytes == b"x/\\xff\\n\t\\t\\x00\n"
    (row,) = [json.loads(line) for line in shoal("scan", "x/", "--json").stdout.splitlines()]
    assert row == {"key_base64": "eC//Cg==", "value": "\t\x00"}
    (key,) = [json.loads(line) for line in shoal("scan", "x/", "--json", "--keys-only").stdout.splitlines()]
    assert key == {"key_base64": "eC//Cg=="}


def test_what_is_scanned_can_be_imported(fake, shoal):
    lines = shoal("scan", "ann/", "--json").stdout_bytes
    shoal("delete", "--prefix", "ann/")
    assert "imported 9 rows" in shoal("import", "-", "--format", "jsonl", stdin=lines).stdout
    assert shoal("scan", "ann/", "--json").stdout_bytes == lines


def test_a_weak_scan_asks_for_what_it_accepts(fake, shoal):
    shoal("scan", "ann/", "--consistency", "eventual", "--max-staleness", "3s")
    scans = [request for request in fake.requests if isinstance(request, Scan)]
    assert {(scan.freshness.strong, scan.freshness.max_staleness_ms) for scan in scans} == {(False, 3000)}


def test_wrong_bounds_are_told(shoal):
    shoal("scan", "--limit", "-1", code=2)
    shoal("scan", "--limit", "many", code=2)
    assert "not from b'b' down to b'a'" in shoal("scan", "--start", "b", "--end", "a", code=1).stderr

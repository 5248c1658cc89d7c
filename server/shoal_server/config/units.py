"""Durations, sizes and addresses as people write them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def duration_ns(value: object) -> int:
    """Return the nanoseconds of a duration such as `150ms`.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration: write a number and ns, us, ms, s, m or h, such as 150ms or 5s")
    return int(float(match[1]) * _NANOSECONDS[match[2]])


def size_bytes(value: object) -> int:
    """Return the bytes of a size such as `64MiB` or a plain number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size: write a number and B, KiB, MiB or GiB, such as 64MiB")
    return int(match[1]) * _BYTES[match[2] or "B"]


def address(value: object) -> str:
    """Return `host:port` as given, if it is that.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if host and port.isdecimal() and 1 <= int(port) <= 65535:
            return value
    raise ValueError(f"{value!r} is not an address: write host:port, such as 127.0.0.1:7400")

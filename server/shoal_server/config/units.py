"""Durations, sizes, numbers and addresses as people write them."""

from __future__ import annotations

import re

from shoal.bounds import MAX_ADDRESS

LARGEST = (1 << 63) - 1
"""The largest number that any setting may come to: what is stored and sent has 64 bits."""

_DURATION = re.compile(r"(\d{1,19}(?:\.\d{1,19})?)\s*(ns|us|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_SIZE = re.compile(r"(\d{1,100})\s*(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_NUMBER = re.compile(r"[+-]?\d{1,100}", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Return what a message calls a value: one line, of bounded length, whatever the value is."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > LARGEST:
        return "so large a number"  # Python refuses to print one of thousands of digits
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}..."
    return repr(value)


def written(number: int, unit: str) -> str:
    """Return a number as it may be written in a configuration.

    Args:
        unit: "ns" or "bytes"; else it has none.
    """
    if unit == "ns":
        largest = next((name for name in ("h", "m", "s", "ms", "us") if number % _NANOSECONDS[name] == 0), "ns")
        return f"{number // _NANOSECONDS[largest]}{largest}"
    if unit == "bytes":
        largest = next((name for name in ("TiB", "GiB", "MiB", "KiB") if number % _BYTES[name] == 0), "B")
        return f"{number // _BYTES[largest]}{largest}"
    return str(number)


def duration_ns(value: object) -> int:
    """Return the nanoseconds of a duration such as `150ms`.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{shown(value)} is not a duration: write a number and ns, us, ms, s, m or h, such as 150ms or 5s"
        )
    return _bounded(int(float(match[1]) * _NANOSECONDS[match[2]]), value)


def size_bytes(value: object) -> int:
    """Return the bytes of a size such as `64MiB` or a plain number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return _bounded(value, value)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a size: write a number and B, KiB, MiB, GiB or TiB, such as 64MiB")
    return _bounded(int(match[1]) * _BYTES[match[2] or "B"], value)


def whole_number(value: object) -> int:
    """Return a whole number, also one given as text, as in an environment variable.

    Raises:
        ValueError: it is none. `yes` and `true` are none, though Python counts with them.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value, value)
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a whole number: write one such as 8")
    return _bounded(int(match[0]), value)


def switch(value: object) -> bool:
    """Return true or false, also given as text, as in an environment variable.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError(f"{shown(value)} is not a switch: write true or false")


def address(value: object) -> str:
    """Return `host:port` as given, if it is that.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if host and _PORT.fullmatch(port) and 1 <= int(port) <= 65535 and len(value) <= MAX_ADDRESS:
            return value
    raise ValueError(f"{shown(value)} is not an address: write host:port, such as 127.0.0.1:7400")


def _bounded(number: int, value: object) -> int:
    if abs(number) > LARGEST:
        raise ValueError(f"{shown(value)} is too much: no setting goes beyond {LARGEST}")
    return number

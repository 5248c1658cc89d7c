"""Replicas are compared slice by slice, each at a position of its own, and beside entries that change no row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from shoal.admin.connection import WrongShard
from shoal.protocol.checksums import ChecksumCursor, ChecksumSlice
from shoal.shardmap import MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_chaos.checkers import divergence
from shoal_chaos.checkers.divergence import NotQuiet, find_violations

NODES = ("n1", "n2", "n3")
SLICES = 5
EVER = 1 << 30


class Replica:
    """One that says where its log is: `indexes`, one at each question, and the last one for ever."""

    def __init__(self, indexes: Sequence[int], other: int = EVER, wrong: int = 0) -> None:
        self._indexes = list(indexes)
        self._other = other
        self._wrong = wrong
        self.maps = 0

    async def read_checksum(self, _: int, __: Any, cursor: ChecksumCursor, *, max_rows: int) -> ChecksumSlice:
        if self._wrong:
            self._wrong -= 1
            raise WrongShard("another has it", shard=1, route=None)
        index = self._indexes.pop(0) if len(self._indexes) > 1 else self._indexes[0]
        number = cursor.microshard
        next_ = ChecksumCursor(number + 1, b"") if number + 1 < SLICES else None
        return ChecksumSlice(0, index, b"other" if number == self._other else b"same", max_rows, next_)

    async def shard_map(self) -> ShardMap:
        self.maps += 1
        return MAP

    async def __aenter__(self) -> Replica:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


MAP = ShardMap(
    1,
    "test",
    tuple(NodeAddress(name, f"{name}:1") for name in NODES),
    (),
    (Shard(1, 1, (MicroshardRange(0, 8),), NODES),),
)


def compared(monkeypatch: pytest.MonkeyPatch, *replicas: Replica) -> Any:
    by_address = dict(zip((node.address for node in MAP.nodes), replicas, strict=True))

    async def fetch(*_: object, **__: object) -> ShardMap:
        return MAP

    async def connect(address: str, *_: object) -> Replica:
        return by_address[address]

    monkeypatch.setattr(divergence, "fetch_shard_map", fetch)
    monkeypatch.setattr(divergence, "_connect", connect)
    monkeypatch.setattr(divergence, "RETRY_SECONDS", 0.0)
    return find_violations(["n1:1"], patience_seconds=0.0)


async def test_entries_that_come_between_slices_begin_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await compared(monkeypatch, *(Replica(range(10, 10 + SLICES)) for _ in NODES)) == []


async def test_replicas_that_are_at_different_positions_are_not_called_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotQuiet, match=r"shard 1: the replicas are at .*'n3': 9"):
        await compared(monkeypatch, Replica([10]), Replica([10]), Replica([9]))


async def test_a_slice_that_differs_is_narrowed_while_the_log_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = await compared(monkeypatch, *(Replica(range(10, 30), other) for other in (EVER, 3, EVER)))
    assert found.groups == (("n1", "n3"), ("n2",))
    assert found.cursor.microshard == 3
    assert f"differ at index {found.index}, " in found.sentence


async def test_microshards_that_stay_elsewhere_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotQuiet, match="other microshards"):
        await compared(monkeypatch, Replica([10]), Replica([10]), Replica([10], wrong=EVER))

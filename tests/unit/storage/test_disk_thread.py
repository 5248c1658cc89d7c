"""Group commit: one sync at a time, which covers everything asked for before it began."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event

import pytest
from shoal_server.storage.disk_thread import DiskThread, DiskWorkDone
from shoal_server.storage.engine import StorageFailed
from shoal_server.storage.memory import MemoryEngine


class HeldEngine(MemoryEngine):
    """Syncs begin when they are asked for, and end when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began: SimpleQueue[None] = SimpleQueue()
        self.let_go: SimpleQueue[Exception | None] = SimpleQueue()

    def sync(self) -> None:
        self.began.put(None)
        error = self.let_go.get(timeout=10)
        if error is not None:
            raise error


def test_requests_that_come_during_a_sync_share_the_next_one() -> None:
    engine = HeldEngine()
    done: SimpleQueue[DiskWorkDone] = SimpleQueue()
    writer = DiskThread("sync", engine.sync, done.put)
    writer.request(1)
    engine.began.get(timeout=10)
    for ticket in (2, 3, 4):
        writer.request(ticket)
    engine.let_go.put(None)
    assert done.get(timeout=10) == DiskWorkDone(1, None)
    engine.let_go.put(None)
    assert done.get(timeout=10) == DiskWorkDone(4, None)
    writer.stop()
    assert engine.began.qsize() == 1


def test_a_failure_is_reported_once_and_nothing_is_synced_after_it() -> None:
    engine = HeldEngine()
    done: SimpleQueue[DiskWorkDone] = SimpleQueue()
    writer = DiskThread("sync", engine.sync, done.put)
    writer.request(1)
    engine.let_go.put(StorageFailed("the disk is gone"))
    report = done.get(timeout=10)
    assert report.ticket == 0
    assert str(report.failure) == "the disk is gone"
    writer.request(2)
    writer.stop()
    assert done.empty()


def test_a_sync_that_hangs_is_seen_and_stopping_gives_up_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_server.storage.disk_thread.STOP_SECONDS", 0.05)
    engine = HeldEngine()
    reported = Event()
    writer = DiskThread("sync", engine.sync, lambda _: reported.set())
    assert writer.stalled_for() == 0
    writer.request(1)
    engine.began.get(timeout=10)
    assert writer.stalled_for() > 0
    with pytest.raises(StorageFailed, match="has not ended"):
        writer.stop()
    engine.let_go.put(None)
    assert reported.wait(10)

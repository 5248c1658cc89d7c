"""Group commit: one sync at a time, which covers everything asked for before it began."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event
from time import sleep

import pytest
from shoal_server.storage import disk_thread
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


class PacedEngine(MemoryEngine):
    """Syncs take as long as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.failure: Exception | None = None

    def sync(self) -> None:
        sleep(self.seconds)
        if self.failure is not None:
            raise self.failure


def waited_for(writer: DiskThread, ticket: int, done: SimpleQueue[DiskWorkDone]) -> bool:
    """Ask for a sync; say whether it was waited for, and not notified."""
    end = writer.request_and_wait(ticket)
    if end is None:
        end = done.get(timeout=10)
        assert end == DiskWorkDone(ticket, None)
        return False
    assert end == DiskWorkDone(ticket, None)
    assert done.empty()
    return True


def test_a_disk_that_was_quick_lately_is_waited_for_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_thread, "PATIENCE_NS", 10_000_000_000)
    monkeypatch.setattr(disk_thread, "QUICK_NS", 20_000_000)
    engine, done = PacedEngine(), SimpleQueue[DiskWorkDone]()
    writer = DiskThread("sync", engine.sync, done.put)
    assert not waited_for(writer, 1, done), "nothing is known of it yet"
    assert all(waited_for(writer, ticket, done) for ticket in range(2, 40))
    engine.seconds = 0.1
    found = [waited_for(writer, ticket, done) for ticket in range(40, 50)]
    assert found[0], "it was quick until then"
    assert not found[-1]
    engine.seconds = 0.0
    assert waited_for(writer, 50, done) or any(waited_for(writer, ticket, done) for ticket in range(51, 120))
    writer.stop()


def test_a_disk_that_hangs_at_once_is_waited_for_no_longer_than_a_moment() -> None:
    engine, done = HeldEngine(), SimpleQueue[DiskWorkDone]()
    writer = DiskThread("sync", engine.sync, done.put)
    writer._mean_ns = 0
    assert writer.request_and_wait(1) is None
    assert writer.stalled_for() > 0
    assert writer.request_and_wait(2) is None, "nobody waits for the sync after the one that hangs"
    engine.let_go.put(None)
    engine.let_go.put(None)
    assert [done.get(timeout=10).ticket for _ in range(2)] == [1, 2]
    writer.stop()


def test_a_sync_that_ends_as_patience_does_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_thread, "PATIENCE_NS", 200_000)
    engine, done = PacedEngine(), SimpleQueue[DiskWorkDone]()
    writer = DiskThread("sync", engine.sync, done.put)
    waited = 0
    for ticket in range(1, 400):
        engine.seconds = 0.0002
        writer._mean_ns = 0
        waited += waited_for(writer, ticket, done)
    writer.stop()
    assert done.empty()
    assert waited < 399


def test_a_failure_is_told_to_whoever_waits_for_it() -> None:
    engine, done = PacedEngine(), SimpleQueue[DiskWorkDone]()
    writer = DiskThread("sync", engine.sync, done.put)
    engine.failure = StorageFailed("the disk is gone")
    writer._mean_ns = 0
    end = writer.request_and_wait(1) or done.get(timeout=10)
    assert str(end.failure) == "the disk is gone"
    assert end.ticket == 0
    writer.stop()

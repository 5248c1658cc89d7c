"""Pages: few at once for a node, after all else, in turn of the scans that they are of; reads of large values are such, too."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal.errors import ErrorCode, Overloaded
from shoal.protocol.messages import Failure, OpenSession, Put, Read, Rows, Scan, ScanPage, SessionOpened, Welcome, Write
from shoal.routing.calls import ReadCall, ScanCall, Turns, WriteCall
from shoal.routing.page_queue import MEASURED_PAGES, PAGE_BYTES, PAGES_LEAST, PAGES_MOST
from shoal.routing.pages import LARGE_BYTES, LARGE_KEYS, LARGE_KEYS_BYTES, LargeKeys, keys_that_fit
from shoal.routing.router import Router
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

MIB = 1024 * 1024
MICROSHARDS = 64
SHARDS = 4
PER = MICROSHARDS // SHARDS
LATE = 100.0


class Scene:
    """A router and two nodes that answer when a test says so; n1 leads all shards. Calls are waited for by their names."""

    def __init__(self) -> None:
        self.router: Router[str] = Router(("n1:1", "n2:1"), Random(1))
        self.now = 10.0
        self.version = 1
        self.asked: dict[str, list[Any]] = {"n1": [], "n2": []}
        self.results: dict[str, Any] = {}
        self.router.network.discover(self.now)
        self.router.turn(self.now)
        self.leader = "n1"
        for node in ("n1", "n2"):
            self.up(node)
        self.turn()

    def map(self) -> ShardMap:
        spans = [MicroshardRange(n * PER, (n + 1) * PER) for n in range(SHARDS)]
        shards = [Shard(n + 1, 1, (spans[n],), ("n1", "n2"), leader=self.leader) for n in range(SHARDS)]
        nodes = (NodeAddress("n1", "n1:1"), NodeAddress("n2", "n2:1"))
        return ShardMap(self.version, "c", nodes, (Keyspace(1, "default", MICROSHARDS, b"/"),), tuple(shards), "id")

    def up(self, node: str) -> None:
        welcome = Welcome(1, "c", node, "i", 1 << 24, 4096, MIB, 8 * MIB, self.map(), (), "id")
        self.router.link_up(f"{node}:1", welcome, self.now)

    @property
    def routed(self) -> Any:
        return self.router.routed("default")

    def key(self, shard: int, number: int) -> bytes:
        """A key of the shard."""
        keyspace = self.routed.keyspace
        at = 0
        while True:
            key = b"%d/%d" % (at, number)
            if keyspace.microshard_of(key) // PER == shard - 1:
                return key
            at += 1

    def scan(self, name: str, shard: int, turns: Turns, rows: int = 1000, deadline: float = LATE) -> None:
        ranges = (MicroshardRange((shard - 1) * PER, shard * PER),)
        call = ScanCall(name, deadline, 64, ranges, b"", b"", False, False, rows, turns=turns)
        self.router.submit(self.routed, call)

    def get(self, name: str, key: bytes, *, together: bool = False) -> None:
        self.router.read(self.routed, ReadCall(name, LATE, 8 + len(key), key, False, together=together))

    def put(self, name: str, key: bytes) -> None:
        self.router.write(self.routed, WriteCall(name, LATE, 8, Put(key, b"v")))

    def turn(self, seconds: float = 0.0) -> list[Any]:
        """Let the router have a turn; return what it has sent, in its order."""
        self.now += seconds
        sent: list[Any] = []
        for link, requests in self.router.turn(self.now).frames:
            self.asked[link.address.split(":")[0]] += requests
            sent += requests
        self.take_outcomes()
        return sent

    def answer(self, *answers: Any, node: str = "n1", after: float = 0.001) -> list[Any]:
        """Let a node answer in one frame; return what is sent then."""
        self.now += after
        self.router.receive(f"{node}:1", list(answers), self.now)
        return self.turn()

    def take_outcomes(self) -> None:
        outcomes = self.router.take_outcomes()
        if outcomes is None:
            return
        for gets, rows, _ in outcomes.read:
            self.results |= {get.waiter: value for get, value in zip(gets, rows.values, strict=True) if get.waiter}
        for scan, page, _ in outcomes.scanned:
            self.results[str(scan.waiter)] = page
        for calls, result, _ in outcomes.written:
            self.results |= {str(call.waiter): result for call in calls}
        self.results |= dict(outcomes.failed)

    def link_pages(self, node: str = "n1") -> Any:
        return self.router.network.link(f"{node}:1").pages


def page(scan: Scan, rows: int = 1, size: int = 10) -> ScanPage:
    keys = [b"k%d" % number for number in range(rows)]
    return ScanPage(scan.request, 1, "n1", keys, [b"v" * size] * rows, [1] * rows, None)


def values(read: Read, *found: bytes | None) -> Rows:
    return Rows(read.request, 1, "n1", list(found), [1] * len(found), 0)


def busy(request: Any, reason: str = "node_busy") -> Failure:
    return Failure(request.request, ErrorCode.OVERLOADED, "too much", False, 100, reason=reason)


# -- few at once -------------------------------------------------------------------------------------------------------


def test_few_pages_are_asked_for_at_once_and_all_of_them_in_the_end() -> None:
    scene = Scene()
    for number in range(60):
        scene.scan(f"s{number}", 1 + number % SHARDS, Turns())
    waiting = scene.turn()
    assert len(waiting) == PAGES_LEAST
    asked = 0
    while waiting:
        asked += 1
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=0.004)
        assert len(waiting) <= PAGES_MOST
    assert asked == 60
    assert all(isinstance(scene.results[f"s{number}"], ScanPage) for number in range(60))


@pytest.mark.parametrize(("took", "at_once"), [(0.0001, PAGES_MOST), (0.004, 5), (0.2, PAGES_LEAST)])
def test_as_many_as_a_node_answers_within_a_moment(took: float, at_once: int) -> None:
    scene = Scene()
    for number in range(200):
        scene.scan(f"s{number}", 1, Turns(), deadline=1e6)
    waiting = scene.turn()
    for _ in range(60):
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=took)
    assert len(waiting) in (at_once - 1, at_once)


def test_other_calls_do_not_wait_for_pages_and_go_before_them() -> None:
    scene = Scene()
    for number in range(60):
        scene.scan(f"s{number}", 1, Turns())
    scene.get("first", scene.key(1, 1))
    sent = scene.turn()
    assert [type(request) for request in sent] == [Read, *[Scan] * PAGES_LEAST]
    for number in range(10):
        scene.get(f"g{number}", scene.key(1, number))
        assert [type(request) for request in scene.turn()] == [Read]


def test_one_is_asked_for_alone_once_a_node_has_refused_some() -> None:
    scene = Scene()
    for number in range(20):
        scene.scan(f"s{number}", 1, Turns())
    first, second = scene.turn()
    assert scene.answer(busy(first), busy(second)) == []
    assert scene.turn(0.05) == []
    [alone] = scene.turn(0.2)
    sent = scene.answer(page(alone))
    assert 1 <= len(sent) <= PAGES_LEAST
    scene.get("g", scene.key(1, 1))
    assert [type(request) for request in scene.turn()] == [Read]


def test_what_a_node_never_answered_keeps_no_place_after_its_deadline() -> None:
    scene = Scene()
    for number in range(PAGES_LEAST):
        scene.scan(f"silent{number}", 1, Turns(), deadline=scene.now + 0.2)
    scene.turn()
    scene.scan("later", 1, Turns())
    assert scene.turn() == []
    [sent] = scene.turn(0.3)
    scene.answer(page(sent))
    assert isinstance(scene.results["later"], ScanPage)


def crowded() -> Scene:
    """Two hundred scans are under way, of which it is known how long a page takes."""
    scene = Scene()
    for number in range(200):
        scene.scan(f"s{number}", 1, Turns(), deadline=1e6)
    waiting = scene.turn()
    for _ in range(MEASURED_PAGES):
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=0.02)
    return scene


def test_a_scan_is_not_begun_that_would_wait_for_most_of_its_time() -> None:
    scene = crowded()
    begun = Turns()
    begun.begun = True
    scene.scan("new", 1, Turns(), deadline=scene.now + 1)
    scene.scan("patient", 1, Turns(), deadline=scene.now + 60)
    scene.scan("begun", 1, begun, deadline=scene.now + 1)
    scene.turn()
    error = scene.results["new"]
    assert isinstance(error, Overloaded)
    assert (error.reason, error.maybe_applied) == ("node_busy", False)
    assert "pages of this client's scans wait" in str(error)
    assert "patient" not in scene.results
    assert "begun" not in scene.results


def test_pages_that_nobody_waits_for_any_more_keep_no_scan_from_beginning() -> None:
    scene = crowded()
    for page_read in scene.router._shard_queues[1].open_pages:
        for call in page_read.calls:
            call.waiter = None
    scene.scan("new", 1, Turns(), deadline=scene.now + 1)
    scene.turn()
    assert "new" not in scene.results


# -- in turn -----------------------------------------------------------------------------------------------------------


def order(scene: Scene, scans: int) -> list[str]:
    """Answer pages one by one; return the scans in the order in which they were asked for."""
    waiting, names = scene.turn(), []
    for _ in range(scans):
        before = set(scene.results)
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=0.02)
        names += sorted(set(scene.results) - before)
    return names


def test_a_scan_of_a_page_does_not_wait_for_one_of_many() -> None:
    scene = Scene()
    wide = Turns()
    for number in range(100):
        scene.scan(f"wide{number}", 1 + number % SHARDS, wide)
    waiting = scene.turn()
    for _ in range(3):
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=0.02)
    scene.scan("narrow", 1, Turns())
    scene.turn()
    answered = 0
    while "narrow" not in scene.results:
        waiting = waiting[1:] + scene.answer(page(waiting[0]), after=0.02)
        answered += 1
    assert answered < 16


def test_of_many_scans_made_at_once_the_first_are_over_soon() -> None:
    scene = Scene()
    for number in range(10):
        turns = Turns()
        for shard in range(1, SHARDS + 1):
            scene.scan(f"{number}-{shard}", shard, turns)
    assert {name.split("-")[0] for name in order(scene, 2 * SHARDS)} == {"0", "1"}


# -- where leaders and shards move -----------------------------------------------------------------------------------------


def test_pages_that_wait_for_their_turn_go_to_a_new_leader() -> None:
    scene = Scene()
    for number in range(10):
        scene.scan(f"s{number}", 1, Turns())
    first, _ = scene.turn()
    scene.leader = "n2"
    route = scene.map().shards[0]
    scene.answer(Failure(first.request, ErrorCode.NOT_LEADER, "not the leader", route=route))
    assert sum(type(request) is Scan for request in scene.asked["n1"]) == PAGES_LEAST
    assert sum(type(request) is Scan for request in scene.asked["n2"]) == PAGES_LEAST


def test_pages_that_wait_go_on_after_the_connection_is_lost() -> None:
    scene = Scene()
    for number in range(5):
        scene.scan(f"s{number}", 1, Turns())
    scene.turn()
    scene.router.link_down("n1:1", "lost", None, scene.now)
    scene.leader = "n2"
    scene.version += 1
    scene.up("n2")
    waiting = scene.turn(0.5)
    while waiting:
        waiting = waiting[1:] + scene.answer(page(waiting[0]), node="n2")
    assert all(isinstance(scene.results[f"s{number}"], ScanPage) for number in range(5))


def test_pages_that_wait_are_planned_anew_when_a_shard_is_divided() -> None:
    scene = Scene()
    for number in range(5):
        scene.scan(f"s{number}", 1, Turns())
    scene.turn()
    old = scene.map()
    half = [MicroshardRange(0, PER // 2), MicroshardRange(PER // 2, PER)]
    shards = (Shard(1, 1, (half[0],), ("n1", "n2"), leader="n1"), *old.shards[1:])
    shards = (*shards, Shard(9, 1, (half[1],), ("n1", "n2"), leader="n1"))
    newer = ShardMap(2, "c", old.nodes, old.keyspaces, shards, "id")
    scene.router.link_up("n2:1", Welcome(1, "c", "n2", "i", 1 << 24, 4096, MIB, 8 * MIB, newer, (), "id"), scene.now)
    scene.turn()
    assert sum("several shards now" in str(result) for result in scene.results.values()) == 5 - PAGES_LEAST


# -- large values --------------------------------------------------------------------------------------------------------


def test_as_many_keys_are_asked_for_as_fit() -> None:
    assert keys_that_fit(MIB, 0, 4096) == 4096
    assert keys_that_fit(MIB, 1000, 4096) == 1048
    assert keys_that_fit(MIB, 300_000, 4096) == 3
    assert keys_that_fit(MIB, 5 * MIB, 4096) == 1


def test_many_large_values_are_read_a_few_at_a_time_and_nothing_waits_for_them() -> None:
    scene = Scene()
    keys = [scene.key(1, number) for number in range(40)]
    for key in keys:
        scene.get(key.decode(), key, together=True)
    [read] = waiting = scene.turn()
    assert len(read.keys) == 40, "nobody knows yet"
    most = rounds = 0
    while waiting:
        rounds += 1
        read = waiting[0]
        sent = scene.answer(values(read, b"v" * MIB), after=0.003)
        waiting = waiting[1:] + sent
        most = max(most, len(waiting))
        assert all(len(each.keys) == 1 for each in sent)
        if rounds == 3:
            scene.get("small", scene.key(1, 1000))
            [small] = scene.turn()
            scene.answer(values(small, b"s"), after=0.0)
            assert scene.results["small"] == b"s"
    assert rounds == 40
    assert 1 < most <= PAGES_MOST
    assert all(len(scene.results[key.decode()]) == MIB for key in keys)


def test_a_single_read_that_travelled_with_large_ones_does_not_wait_for_all_of_them() -> None:
    scene = Scene()
    for number in range(30):
        scene.get(f"large{number}", scene.key(1, number), together=True)
    scene.get("single", scene.key(1, 1000))
    [read] = scene.turn()
    sent = scene.answer(values(read, b"v" * MIB))
    assert any(scene.key(1, 1000) in each.keys for each in sent)


def test_keys_with_large_values_are_known_the_next_time() -> None:
    scene = Scene()
    key, other = scene.key(1, 1), scene.key(1, 2)
    scene.get("first", key)
    [read] = scene.turn()
    scene.answer(values(read, b"v" * LARGE_BYTES))
    for number in range(50):
        scene.get(f"again{number}", key)
    assert len(scene.turn()) <= PAGES_LEAST
    scene.get("other", other)
    assert [read.keys for read in scene.turn()] == [[other]]


def test_a_value_that_has_become_small_is_read_as_others_are() -> None:
    scene = Scene()
    key = scene.key(1, 1)
    scene.get("first", key)
    [read] = scene.turn()
    scene.answer(values(read, b"v" * LARGE_BYTES))
    scene.get("second", key)
    [read] = scene.turn()
    scene.answer(values(read, b"small"))
    assert key not in scene.router._pages.large_keys.keys


def test_few_reads_are_in_flight_where_values_turn_out_to_be_large() -> None:
    scene = Scene()
    for number in range(8):
        scene.get(f"g{number}", scene.key(1, number))
        [read] = scene.turn()
        scene.answer(values(read, b"v" * MIB))
    sent: list[Any] = []
    for number in range(100, 120):
        scene.get(f"g{number}", scene.key(1, number))
        sent += scene.turn()
    assert len(sent) == 1


def test_the_memory_of_large_keys_is_bounded() -> None:
    known = LargeKeys()
    for number in range(2 * LARGE_KEYS):
        known.note(b"%d" % number, large=True)
    assert len(known.keys) == LARGE_KEYS
    assert b"0" not in known.keys
    for number in range(LARGE_KEYS):
        known.note(b"k" * 4000 + b"%d" % number, large=True)
    assert len(known.keys) <= LARGE_KEYS_BYTES // 4000


# -- slow lines ----------------------------------------------------------------------------------------------------------


def test_pages_are_shorter_on_a_slow_line() -> None:
    """A MiB at 4 MB/s would hold up everything else for a quarter of a second."""
    scene = Scene()
    turns = Turns()
    for number in range(12):
        scene.scan(f"s{number}", 1, turns, deadline=1e6)
    waiting = scene.turn()
    for _ in range(8):
        waiting = waiting[1:] + scene.answer(page(waiting[0], rows=1000, size=1000), after=0.25)
    assert scene.link_pages().page_bytes < PAGE_BYTES // 4
    assert all(each.max_rows < 250 for each in waiting)


# -- what is refused ---------------------------------------------------------------------------------------------------


def served_writes(scene: Scene) -> None:
    """Have a session of the first shard."""
    scene.put("opened", scene.key(1, 0))
    [opening] = scene.turn()
    assert isinstance(opening, OpenSession)
    [write] = scene.answer(SessionOpened(opening.request, b"s" * 16))
    assert isinstance(write, Write)


def test_refused_reads_hold_back_no_writes_and_refused_pages_no_reads() -> None:
    scene = Scene()
    served_writes(scene)
    scene.get("g", scene.key(1, 1))
    scene.scan("s", 1, Turns())
    read, scan = scene.turn()
    assert scene.answer(busy(scan)) == []
    scene.get("h", scene.key(1, 2))
    assert [type(request) for request in scene.turn()] == [Read]
    assert scene.answer(busy(read, "quota")) == []
    scene.get("i", scene.key(1, 3))
    scene.router._shard_queues[1].numbers.clear()
    scene.put("w", scene.key(1, 4))
    assert [type(request) for request in scene.turn()] == [Write]
    assert {type(request) for request in scene.turn(0.3)} == {Read, Scan}


def test_refused_writes_hold_back_no_reads() -> None:
    scene = Scene()
    served_writes(scene)
    [write] = [request for request in scene.asked["n1"] if isinstance(request, Write)]
    assert scene.answer(busy(write, "quota")) == []
    scene.get("g", scene.key(1, 1))
    assert [type(request) for request in scene.turn()] == [Read]
    assert [type(request) for request in scene.turn(0.3)] == [Write]

"""A simulated client of ranges: rows of its own that it clears and reads as a whole, and what it shares with others.

Nobody else writes its own rows, and it does one thing after another, so it knows at any moment which of them there are, and
looks: in one partition and over all microshards, in scans and in the pages of an export, while shards split, merge and
give each other microshards. A write of which nobody knows the outcome is the end of the rows that it was about: others
follow. And it puts rows into a range that others use, too, if that is as it was read: what was put there between the
reading and the commit, and acknowledged, must have made it fail.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from msgspec.structs import replace
from shoal.coverage import KeyspaceCoverage
from shoal.errors import ErrorCode
from shoal.protocol.digest import RangeDigest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Answer,
    Applied,
    Atomic,
    Condition,
    DeleteRange,
    Failure,
    GetShardMap,
    OpenSession,
    Operation,
    Page,
    Put,
    RangeUnchanged,
    ReadPage,
    Request,
    Scan,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    Write,
    Written,
)
from shoal.shardmap import Keyspace, Ranges, Routes, all_of, microshards_in, one_microshard

from shoal_chaos.simulation.clients.histories import Histories, SharedWrite
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.world.events import MILLISECOND, Events

TIMEOUT = 400 * MILLISECOND
PAUSE = 20 * MILLISECOND
SHIFT = 400 * MILLISECOND
"""For so long clients put rows into the same range together. Most depends on the first few of them."""
LONG_THOUGHT = 500 * MILLISECOND
"""The longest time between what a transaction reads and its commit: within it a shard may split."""
MAP_REQUEST = -1
LETTERS = b"abcdefgh"
SPREAD_ROWS = 10
MOST_PARTITIONS = 12
"""So many partitions a client has rows in; then the oldest is deleted."""
SCAN_ROWS = 1000


@dataclass(slots=True, frozen=True)
class Ask:
    """A request about microshards that all have to be of one shard: a write, or what `make` makes of number and shard."""

    ranges: Ranges
    operations: tuple[Operation, ...] = ()
    make: Callable[[int, int], Request] | None = None


@dataclass(slots=True, frozen=True)
class Wait:
    """Let time go by (ns)."""

    duration: int


@dataclass(slots=True, frozen=True)
class Elsewhere:
    """It was surely not done: the microshards are of several shards, or of another one."""


@dataclass(slots=True, frozen=True)
class Unknown:
    """Nobody can say whether the write was done, or will be."""


RequestOutcome: TypeAlias = Written | ScanPage | Page | Elsewhere | Unknown | None
Script: TypeAlias = Generator[Ask | Wait, RequestOutcome, None]
Pages: TypeAlias = Generator[Ask | Wait, RequestOutcome, "ScanPage | None"]


class RangeClient:
    """See the module's first lines; the rest is as with `SimulatedClient`."""

    def __init__(
        self,
        name: str,
        events: Events,
        random: Random,
        routes: Routes,
        keyspace: Keyspace,
        histories: Histories,
        send: Callable[[str, list[Request]], None],
    ) -> None:
        self.name = name
        self.completed = 0
        self.stopping = False
        self.idle = False
        self.pauses = 1
        self._events = events
        self._random = random
        self._routes = routes
        self._keyspace = keyspace
        self._histories = histories
        self._send = send
        self._targets: dict[int, str] = {}
        self._sessions: dict[int, tuple[bytes, int]] = {}
        self._request = 0
        self._script: Script | None = None
        self._ask: Ask | None = None
        self._shard = 0
        self._number = 0
        self._uncertain = False
        self._generation = 0
        self._rows: dict[bytes, bytes] = {}
        """Those spread over all microshards, of the present generation."""
        self._own: dict[bytes, dict[bytes, bytes]] = {}
        """By partition."""
        self._partitions = self._shared = 0
        self._last = False

    def start(self) -> None:
        self._events.after(self._random.randrange(PAUSE), self._next_script)

    # -- scripts

    def _next_script(self) -> None:
        if self.idle:
            return
        if self.stopping:
            # The last look at everything, after which there is nothing left to do.
            self._script, self.idle = self._export(), False
            self._last = True
        else:
            scripts = [
                self._fill_and_clear,
                self._fill_all,
                self._clear_all,
                self._look,
                self._look_at_all,
                self._export,
            ]
            self._script = self._random.choice([*scripts, self._fill_and_clear, self._share, self._share])()
        self._resume(None)

    def _fill_and_clear(self) -> Script:
        """Write the rows of a new partition, and delete some of them in one entry: ranges that begin or end together."""
        random = self._random
        if len(self._own) >= MOST_PARTITIONS:
            yield from self._drop(next(iter(self._own)))
        self._partitions += 1
        partition = b"own-%s-%d/" % (self.name.encode(), self._partitions)
        ranges = one_microshard(self._keyspace.microshard_of(partition))
        rows = {partition + LETTERS[at : at + 1]: b"%d" % at for at in range(len(LETTERS))}
        outcome = yield Ask(ranges, tuple(Put(key, value) for key, value in rows.items()))
        if not isinstance(outcome, Written):
            return
        yield Wait(random.choice([0, 3 * PAUSE]))
        spans = [self._some_span(partition) for _ in range(random.choice([1, 3]))]
        if random.random() < 0.5:
            spans = [(partition, partition[:-1] + b"0"), (partition, partition + random.choice([b"c", b"f"]))]
        outcome = yield Ask(ranges, tuple(DeleteRange(ranges, start, end) for start, end in spans))
        if not isinstance(outcome, Unknown):
            cleared = spans if isinstance(outcome, Written) else []
            self._own[partition] = {key: rows[key] for key in rows if not _within(key, cleared)}

    def _some_span(self, partition: bytes) -> tuple[bytes, bytes]:
        first, last = sorted(self._random.sample([0, 3, 5, 6, 8], 2))
        end = partition + LETTERS[last : last + 1] if last < len(LETTERS) else partition[:-1] + b"0"
        return partition + LETTERS[first : first + 1], end

    def _drop(self, partition: bytes) -> Script:
        """Delete a partition whole."""
        ranges = one_microshard(self._keyspace.microshard_of(partition))
        outcome = yield Ask(ranges, (DeleteRange(ranges, partition, partition[:-1] + b"0"),))
        if not isinstance(outcome, Elsewhere):
            del self._own[partition]

    def _fill_all(self) -> Script:
        """Write a row anywhere."""
        key = self._spread + b"%d" % self._random.randrange(SPREAD_ROWS)
        outcome = yield Ask(one_microshard(self._keyspace.microshard_of(key)), (Put(key, b"1"),))
        if isinstance(outcome, Unknown):
            self._begin_anew()
        elif isinstance(outcome, Written):
            self._rows[key] = b"1"

    def _clear_all(self) -> Script:
        """Delete among the rows that are spread over all microshards, in those of one shard."""
        part = self._random.choice(self._routes.parts(self._keyspace.id, all_of(self._keyspace)))
        spans = [(self._spread + b"%d" % self._random.randrange(SPREAD_ROWS // 2), self._spread + b":")]
        outcome = yield Ask(part.ranges, tuple(DeleteRange(part.ranges, start, end) for start, end in spans))
        if isinstance(outcome, Unknown):
            self._begin_anew()
        elif isinstance(outcome, Written):
            for key in [key for key in self._in(part.ranges, self._rows) if _within(key, spans)]:
                del self._rows[key]

    @property
    def _spread(self) -> bytes:
        return b"spread-%s-%d-" % (self.name.encode(), self._generation)

    def _begin_anew(self) -> None:
        self._generation += 1
        self._rows = {}

    def _in(self, ranges: Ranges, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the rows that are in some microshards."""
        wanted, microshard_of = set(microshards_in(ranges)), self._keyspace.microshard_of
        return {key: value for key, value in sorted(rows.items()) if microshard_of(key) in wanted}

    def _look(self) -> Script:
        """Read a partition that was written some time ago."""
        if self._own:
            partition = self._random.choice(list(self._own))
            ranges = one_microshard(self._keyspace.microshard_of(partition))
            page = yield from self._scan(ranges, partition)
            if page is not None:
                found = zip(page.keys, page.values, strict=True)
                self._compare("a scan of a partition", ranges, partition, self._own[partition], found)

    def _look_at_all(self) -> Script:
        """Read the rows that are spread over all microshards, shard by shard."""
        for part in self._routes.parts(self._keyspace.id, all_of(self._keyspace)):
            page = yield from self._scan(part.ranges, self._spread)
            if page is not None:
                found = zip(page.keys, page.values, strict=True)
                self._compare("a scan of a shard", part.ranges, self._spread, self._rows, found)

    def _scan(self, ranges: Ranges, prefix: bytes) -> Pages:
        """Read the rows with a prefix in some microshards, page by page; return them as one, None where they have gone."""
        keyspace, start, end = self._keyspace.id, prefix, prefix[:-1] + bytes([prefix[-1] + 1])
        whole: ScanPage | None = None
        while True:

            def make(number: int, shard: int, start: bytes = start) -> Request:
                return Scan(number, shard, keyspace, 0, ranges, start, end, False, False, SCAN_ROWS)

            page = yield Ask(ranges, make=make)
            if not isinstance(page, ScanPage):
                return None
            if whole is not None:
                keys, values, seqs = whole.keys + page.keys, whole.values + page.values, whole.seqs + page.seqs
                page = replace(page, keys=keys, values=values, seqs=seqs)
            if page.resume is None:
                return page
            whole, start = page, page.resume

    def _export(self) -> Script:
        """Read everything, as `shoal export` does."""
        coverage = KeyspaceCoverage(self._routes, self._keyspace)
        max_rows = self._random.choice([5, 50])
        found: list[tuple[bytes, bytes]] = []
        while (part := coverage.part) is not None:
            ranges, after = part.ranges, coverage.after

            def make(number: int, shard: int, ranges: Ranges = ranges, after: bytes = after) -> Request:
                return ReadPage(number, shard, self._keyspace.id, 0, ranges, after, max_rows)

            page = yield Ask(ranges, make=make)
            if isinstance(page, Page):
                coverage.take(page.microshards, page.keys, page.resume)
                found += zip(page.keys, page.values, strict=True)
            else:
                coverage.follow(self._routes)
        everywhere = all_of(self._keyspace)
        self._compare("an export", everywhere, self._spread, self._rows, found)
        for partition, rows in self._own.items():
            self._compare("an export", everywhere, partition, rows, found)

    def _compare(
        self,
        what: str,
        ranges: Ranges,
        prefix: bytes,
        expected: Mapping[bytes, bytes],
        found: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """What was found with a prefix in some microshards is what there is, each row once."""
        seen = sorted(row for row in found if row[0].startswith(prefix))
        there = list(self._in(ranges, expected).items())
        if seen != there:
            raise Violation(f"{what} by {self.name} found {seen} in {ranges}, where it has {there}")

    def _share(self) -> Script:
        """Put a row into a range that others put rows into, if it is as it was read: in the microshards of one shard."""
        events, random = self._events, self._random
        prefix = b"shift-%d-" % (events.now // SHIFT)
        self._shared += 1
        key = prefix + b"%s-%d" % (self.name.encode(), self._shared)
        own = self._keyspace.microshard_of(key)
        parts = self._routes.parts(self._keyspace.id, all_of(self._keyspace))
        ranges = next(part.ranges for part in parts if own in set(microshards_in(part.ranges)))
        page = yield from self._scan(ranges, prefix)
        read_at = events.now
        conditions: list[Condition] = []
        if page is not None:
            digest = RangeDigest()
            digest.add(page.keys, page.seqs)
            conditions = [RangeUnchanged(ranges, prefix, prefix[:-1] + b".", digest.value())]
            yield Wait(random.choice([0, 10 * PAUSE, LONG_THOUGHT]))
        else:
            ranges = one_microshard(own)
        began = events.now
        outcome = yield Ask(ranges, (Atomic(conditions, [Put(key, b"1")]),))
        if not isinstance(outcome, Written) or not isinstance(outcome.results[0], Applied):
            return
        writes = self._histories.shared_writes
        if conditions:
            wanted = set(microshards_in(ranges))
            for write in writes:
                inside = write.key.startswith(prefix) and self._keyspace.microshard_of(write.key) in wanted
                if inside and read_at < write.began and write.ended < began:
                    raise Violation(
                        f"{self.name} put {key!r} behind a reading of {ranges} at {read_at}, without having read "
                        f"{write.key!r}, which was put from {write.began} to {write.ended}, before its commit at {began}"
                    )
        writes.append(SharedWrite(key, began, events.now))

    # -- requests

    def _resume(self, outcome: RequestOutcome) -> None:
        """Go on with the script, which has been told what came of what it asked."""
        script = self._script
        assert script is not None, "somebody asked"
        self._request += 1
        self._ask = None
        try:
            following = script.send(outcome)
        except StopIteration:
            self._script = None
            self.completed += 1
            self.idle = self._last
            self._events.after(self._random.randrange(1, self.pauses * 5 * PAUSE), self._next_script)
            return
        if isinstance(following, Wait):
            self._events.after(following.duration + 1, lambda: self._resume(None))
            return
        self._ask = following
        self._shard = self._number = 0
        self._uncertain = False
        self._attempt()

    def _attempt(self) -> None:
        ask = self._ask
        assert ask is not None, "it waits for an answer"
        parts = self._routes.parts(self._keyspace.id, ask.ranges)
        shard = parts[0].shard if len(parts) == 1 else 0
        if not shard or (shard != self._shard and self._uncertain):
            self._resume(Unknown() if self._uncertain else Elsewhere())
            return
        if shard != self._shard:
            self._shard, self._number = shard, 0
        self._request += 1
        request = self._request
        target = self._targets.setdefault(shard, self._routes.shards[shard].voters[0])
        if ask.make is not None:
            message = ask.make(request, shard)
        elif shard not in self._sessions:
            message = OpenSession(request, shard)
        else:
            session, used = self._sessions[shard]
            if not self._number:
                self._number = used + 1
                self._sessions[shard] = (session, self._number)
            operations = encode_operations(list(ask.operations))
            message = Write(request, shard, self._keyspace.id, session, self._number, 0, operations)
        self._send(target, [message])
        written = isinstance(message, Write)
        self._events.after(TIMEOUT, lambda: self._timed_out(request, written))

    def _timed_out(self, request: int, written: bool) -> None:
        if request == self._request and self._ask is not None:
            self._uncertain = self._uncertain or written
            self._retry("")

    def _retry(self, leader: str) -> None:
        nodes = [node.id for node in self._routes.map.nodes]
        target = self._targets[self._shard]
        place = nodes.index(target) + 1 if target in nodes else 0
        self._targets[self._shard] = leader or nodes[place % len(nodes)]
        self._request += 1
        request = self._request
        self._events.after(self._random.randrange(PAUSE), lambda: self._attempt() if request == self._request else None)

    def receive(self, answers: list[Answer]) -> None:
        """Take the answers of one frame; those to given-up attempts are ignored."""
        for answer in answers:
            if isinstance(answer, ShardMapReply) and answer.shard_map.version > self._routes.map.version:
                self._routes = Routes(answer.shard_map)
            if (
                not isinstance(answer, SessionOpened | Written | ScanPage | Page | Failure)
                or answer.request != self._request
                or self._ask is None
            ):
                continue
            if isinstance(answer, SessionOpened):
                self._sessions[self._shard] = (answer.session, 0)
                self._attempt()
            elif isinstance(answer, Failure):
                self._refused(answer)
            else:
                self._resume(answer)

    def _refused(self, failure: Failure) -> None:
        if failure.code == ErrorCode.INVALID_ARGUMENT:
            raise Violation(f"{self.name} was told that it asked for what cannot be: {failure.message}")
        self._uncertain = self._uncertain or failure.maybe_applied
        if failure.code == ErrorCode.SESSION_EXPIRED:
            self._sessions.pop(self._shard, None)
            self._number = 0
            if self._uncertain:
                self._resume(Unknown())
                return
        if failure.map_version > self._routes.map.version:
            node = self._random.choice(self._routes.map.nodes).id
            self._send(node, [GetShardMap(MAP_REQUEST)])
        self._retry(failure.route.leader if failure.route is not None else "")


def _within(key: bytes, spans: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(start <= key < end for start, end in spans)

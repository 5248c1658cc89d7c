"""Whose turn it is to ask a node for a page, and how large what it asks for is. Pure: times are passed in.

A page is much work for a node, and its answer may be long; so is a read of values that are large. As many of them at once
as callers ask for would have everything else of this client wait behind them, at the node and on the line. So they queue, for
each node (page_queue.py), and are sent after all else, few at once.

Scans take turns of `TURN_PAGES` pages. Each page has a number in the order of its scan, which begins at that of the page sent
last: start-time fair queueing (Goyal, Vin, Cheng 1996). What is of one turn goes in the order in which it came, so that of many
scans made at once the first are over soon, not all of them at the end. A scan that would wait for too long is not begun.

How large values are is known only once they were read: a node answers as many as fit, and says where it stopped. The rest goes
on as pages, of as many keys as are expected to fit; and keys whose values were large are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from shoal.protocol.messages import ScanPage
from shoal.routing.calls import ReadCall, ScanCall, Turns, W
from shoal.routing.links import Link
from shoal.routing.page_queue import PAGE_BYTES
from shoal.routing.shard_queue import AnyQuery, AnyRequest, ReadBatch, ShardQueue

TURN_PAGES = 8
PATIENCE = 0.6
"""A scan is not begun of which a first page would wait for more than this part of its time: it may take several."""
ROWS_LEAST = 16
LARGE_BYTES = 64 * 1024
"""Reads of values from this size on are pages."""
LARGE_KEYS = 4096
LARGE_KEYS_BYTES = 1024 * 1024


class LargeKeys:
    """The keys whose values were large when they were last read; the latest, as far as there is room."""

    __slots__ = ("_bytes", "keys")

    def __init__(self) -> None:
        self.keys: dict[bytes, None] = {}
        self._bytes = 0

    def note(self, key: bytes, *, large: bool) -> None:
        """A value was read: it was large, or it was not."""
        keys = self.keys
        if key in keys:
            del keys[key]
            self._bytes -= len(key)
        if large:
            keys[key] = None
            self._bytes += len(key)
            while len(keys) > LARGE_KEYS or self._bytes > LARGE_KEYS_BYTES:
                oldest = next(iter(keys))
                del keys[oldest]
                self._bytes -= len(oldest)


class Pages(Generic[W]):
    """What the queues of all nodes have in common.

    `ready`: the links to nodes that there may be something to send to. `new`: the first pages of scans that are not begun.
    `large_keys`: see there.
    """

    def __init__(self) -> None:
        self.ready: dict[Link[W], None] = {}
        self.new: dict[Turns, list[tuple[Link[W], AnyQuery[W]]]] = {}
        self.large_keys = LargeKeys()
        self._now = 0
        self._scans = 0

    def add(self, link: Link[W], query: AnyQuery[W]) -> None:
        """Have a page wait for its turn; its shard queue has enqueued it."""
        turns = _turns_of(query)
        turns.pages = max(turns.pages, self._now) + 1
        if not turns.serial:
            self._scans += 1
            turns.serial = self._scans
        link.pages.add((turns.pages // TURN_PAGES, turns.serial, turns.pages), query)
        self.ready[link] = None

    def next(self, link: Link[W], now: float) -> AnyQuery[W] | None:
        """Take out the page whose turn it is; None: there is none, or no room for it."""
        found = link.pages.pop() if link.pages.has_room(now) else None
        if found is None:
            return None
        (turn, _, _), query = found
        self._now = max(self._now, turn * TURN_PAGES)
        return query

    def look_again(self, links: Iterable[Link[W]]) -> None:
        """Time has passed: there may be room where something waits."""
        for link in links:
            if len(link.pages):
                self.ready[link] = None

    def begin(self, link: Link[W], query: AnyQuery[W]) -> bool:
        """Take in a page that is to wait at a link; say whether it may: the first ones of a scan wait for `take_new`."""
        turns = _turns_of(query)
        if turns.begun or not isinstance(query.calls[0], ScanCall):
            return True
        self.new.setdefault(turns, []).append((link, query))
        return False

    def take_new(self, now: float) -> list[tuple[list[tuple[Link[W], AnyQuery[W]]], float]]:
        """Take out the first pages of scans, with how long one of them would wait; 0 where that is not for too long.

        It is one decision for all nodes that a scan asks: who is turned away by one would have had others work in vain.
        """
        new, self.new = self.new, {}
        taken = []
        for turns, first in new.items():
            wait = max(link.pages.wait_seconds for link, _ in first)
            left = min(query.latest for _, query in first) - now
            turns.begun = wait <= PATIENCE * left
            taken.append((first, 0.0 if turns.begun else wait))
            if turns.begun:
                for link, query in first:
                    query.shard_queue.enqueue(query)
                    self.add(link, query)
        return taken

    # -- answers ------------------------------------------------------------------------------------------------------

    def scanned(self, link: Link[W], query: AnyQuery[W], rows: int, size: int, now: float) -> None:
        """A page of so many rows, and bytes, was answered."""
        link.pages.answered(query, size, now)
        self.ready[link] = None
        turns = _turns_of(query)
        if rows:
            turns.row_bytes = size / rows

    def read(
        self, link: Link[W], batch: ReadBatch[W], calls: list[ReadCall[W]], values: list[bytes | None], now: float
    ) -> None:
        """The first `calls` of a read, which was a page or turns out to be one, were answered with these values."""
        shard_queue, large_keys = batch.shard_queue, self.large_keys
        sizes = [0 if value is None else len(value) for value in values]
        for call, size in zip(calls, sizes, strict=True):
            if size >= LARGE_BYTES or large_keys.keys:
                large_keys.note(call.key, large=size >= LARGE_BYTES)
        mean = sum(sizes) / len(sizes)
        shard_queue.value_bytes = (shard_queue.value_bytes + mean) / 2 if shard_queue.value_bytes else mean
        if batch.paged:
            link.pages.answered(batch, sum(sizes), now)
            self.ready[link] = None
        elif mean >= LARGE_BYTES:
            shard_queue.reads_most = max(1, shard_queue.reads_most // 2)

    def not_answered(self, link: Link[W], query: AnyRequest[W], *, overloaded: bool) -> None:
        """A page was refused; `overloaded`: since there is too much."""
        link.pages.not_answered(query, overloaded=overloaded)
        self.ready[link] = None

    # -- sizes --------------------------------------------------------------------------------------------------------

    def shorten(self, link: Link[W], query: AnyQuery[W]) -> None:
        """Ask for no more rows than the line takes in a moment, by how large those were that came before."""
        call = query.calls[0]
        page_bytes = link.pages.page_bytes
        if page_bytes < PAGE_BYTES and isinstance(call, ScanCall) and call.turns is not None and call.turns.row_bytes:
            call.max_rows = min(call.max_rows, max(ROWS_LEAST, int(page_bytes / call.turns.row_bytes)))

    def set_aside(self, shard_queue: ShardQueue[W]) -> None:
        """Have the reads of values that are known to be large go as pages."""
        large_keys = self.large_keys.keys
        for queue in (shard_queue.reads, *shard_queue.weak.values()):
            if any(get.key in large_keys for get in queue.calls):
                for get in queue.take_all():
                    if get.key in large_keys:
                        shard_queue.bulk_queue(get.max_staleness_ms).add(get)
                    else:
                        queue.add(get)


def keys_that_fit(page_bytes: int, value_bytes: float, most: int) -> int:
    """Return how many keys to ask for whose values are of about that size, for an answer of so many bytes."""
    return max(1, min(most, int(page_bytes / value_bytes))) if value_bytes >= 1 else most


def _turns_of(query: AnyQuery[W]) -> Turns:
    """Return the turns that a page counts for: those of its scan, or of all large reads of its shard."""
    call = query.calls[0]
    if isinstance(call, ScanCall) and call.turns is not None:
        return call.turns
    return query.shard_queue.turns


def fits(call: ScanCall[W], page: ScanPage) -> bool:
    """Say whether a page is what was asked for, and gets the scan on."""
    rows = len(page.keys)
    if len(page.seqs) != rows or len(page.values) != (0 if call.keys_only else rows):
        return False
    if page.resume is None:
        return True
    if call.reverse:
        return page.resume >= call.start and (page.resume < call.end or not call.end)
    return page.resume > call.start and (page.resume <= call.end or not call.end)

"""What the requests of clients cost a node, in nanoseconds of one core: estimates, by which they take turns.

They are right within a factor of two or so on the machines that they were measured on (docs/decisions/0029); what a turn may
take is set by how long turns have really lasted. What is found only while a request is served (rows of a scan, bytes of values)
is charged then.
"""

from __future__ import annotations

from typing import get_args

from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import Failure, OpenSession, Read, ReadPage, Request, Scan, Write
from shoal.protocol.migration import ReadMoving

from shoal_server.node.elements import ELEMENT_NS, KEY_BYTES, length_of_array
from shoal_server.node.request_frames import Received
from shoal_server.node.request_lists import has_lists, items_of
from shoal_server.shard.merging import PIECE_US
from shoal_server.shard.reading import READ_KEYS

REQUEST_NS = 4_000
REFUSAL_NS = 10_000
UNDECODED_NS = 10
"""Of a byte of a frame, before anything is known of it."""
QUEUED_NS = 2_000
"""To have a request wait."""
KEY_NS = 2_500
"""Of those that one answer may have; the others are only decoded."""
RANGE_NS = 500
"""To decode a range, and to see whether it is here; or to look at whatever else is listed."""
OPERATION_NS = 3_000
"""Besides applying it."""
SESSION_NS = 30_000
WRITTEN_BYTE_NS = 4
SCAN_NS = 1_000_000
"""Of a page for a client that has not asked for one yet; from then on it is about what its last ones came to."""
SCAN_NS_LEAST = 50_000
PIECE_NS = PIECE_US * 1_000
"""Of a page that was begun: as long as a piece is."""
CHECKSUM_NS = 3_000_000
STATUS_NS = 50_000
STATUS_REPLICA_NS = 15_000
MAP_SHARD_NS = 2_000
READ_NS = 2_000
REMOVED_PER_READ = 8
"""So many removed rows that are passed over count as one row: they take less, and who reads has not always removed them."""
ANSWERED_BYTE_NS = 4
"""To read it, to encode it and to hand it to the system: each copies it."""

_LISTED = frozenset(kind for kind in get_args(Request) if has_lists(kind))


def cost_of(request: Received | ReadMoving, scan_ns: int, read_ns: int) -> int:
    """Return about what a request will cost, by what it says.

    Args:
        scan_ns: what pages have cost that its client asked for (ns); read_ns: the values of its other reads.
    """
    kind = type(request)
    if kind is Write:
        body = request.operations  # type: ignore[union-attr]  # a Write
        # No more than there are bytes for, whatever it says.
        return REQUEST_NS + min(length_of_array(body), len(body)) * OPERATION_NS + len(body) * WRITTEN_BYTE_NS
    if kind is Read:
        keys = len(request.keys)  # type: ignore[union-attr]  # a Read
        return REQUEST_NS + min(keys, READ_KEYS) * KEY_NS + keys * ELEMENT_NS + read_ns
    if kind is Scan or kind is ReadPage:
        return scan_ns + len(request.ranges) * RANGE_NS  # type: ignore[union-attr]  # one of both
    if kind is OpenSession:
        return SESSION_NS
    if kind is Failure:
        return REFUSAL_NS
    cost = CHECKSUM_NS if kind is ReadChecksum else REQUEST_NS
    return cost + items_of(request)[0] * RANGE_NS if kind in _LISTED else cost


def decoded_bytes(request: Received) -> int:
    """Return about what the lists in a request take in memory, beyond the bytes that it came in."""
    if type(request) is Read:
        return len(request.keys) * KEY_BYTES
    return items_of(request)[1] if type(request) in _LISTED else 0


def page_reads(examined: int, passed: int) -> int:
    """Return what a page is of a quota of reads: the rows that it has come past, and 1 at the least.

    Args:
        examined: rows, expired ones included; passed: removed ones, which are not gone from the disk yet.
    """
    return max(1, examined + passed // REMOVED_PER_READ)


def page_cost(us: int, values: list[bytes]) -> int:
    """Return what a page has cost: the work of reading it (us), and to answer with its values."""
    return us * 1_000 + sum(map(len, values)) * ANSWERED_BYTE_NS

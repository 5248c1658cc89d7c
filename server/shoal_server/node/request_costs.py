"""What the requests of clients cost a node, in nanoseconds of one core: estimates, by which they take turns.

They are right within a factor of two or so on the machines that they were measured on (docs/decisions/0029); what a turn may
take is set by how long turns have really lasted. What is found only while a request is served (rows of a scan, bytes of values)
is charged then.
"""

from __future__ import annotations

from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import Read, ReadPage, Request, Scan, Write

REQUEST_NS = 4_000
REFUSAL_NS = 3_000
KEY_NS = 2_500
OPERATION_NS = 6_000
WRITTEN_BYTE_NS = 4
SCAN_NS = 1_000_000
"""Of a page for a client that has not asked for one yet; from then on it is about what its last ones came to."""
SCAN_NS_LEAST = 50_000
CHECKSUM_NS = 3_000_000
STATUS_NS = 50_000
STATUS_REPLICA_NS = 15_000
MAP_SHARD_NS = 2_000
ROW_NS = 1_500
ANSWERED_BYTE_NS = 2

_FIXARRAY, _ARRAY16, _ARRAY32 = 0x90, 0xDC, 0xDD


def cost_of(request: Request, scan_ns: int) -> int:
    """Return about what a request will cost, by what it says.

    Args:
        scan_ns: what pages have cost that its client asked for (ns).
    """
    kind = type(request)
    if kind is Write:
        body = memoryview(request.operations)  # type: ignore[union-attr]  # a Write
        return REQUEST_NS + _count(body) * OPERATION_NS + len(body) * WRITTEN_BYTE_NS
    if kind is Read:
        return REQUEST_NS + len(request.keys) * KEY_NS  # type: ignore[union-attr]  # a Read
    if kind is Scan or kind is ReadPage:
        return scan_ns
    if kind is ReadChecksum:
        return CHECKSUM_NS
    return REQUEST_NS


def rows_cost(rows: int, size: int) -> int:
    """Return what rows have cost that were examined, and what was answered of them, in bytes."""
    return rows * ROW_NS + size * ANSWERED_BYTE_NS


def _count(body: memoryview) -> int:
    """Return how many operations an encoded list says that it has, or 1: that is no list, and will be refused."""
    head = body[0] if len(body) else 0
    if _FIXARRAY <= head < _FIXARRAY + 16:
        return head - _FIXARRAY
    if head == _ARRAY16 and len(body) > 2:
        return int.from_bytes(body[1:3])
    if head == _ARRAY32 and len(body) > 4:
        # No more than there are bytes for.
        return min(int.from_bytes(body[1:5]), len(body))
    return 1

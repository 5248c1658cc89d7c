"""Decodes the operations of a write, unless there are more of them than a node does at once.

A few bytes make an operation, so that a batch may have a million: nobody decodes those only to refuse them. How many a batch
has is known from its first bytes. What one of them has in it (conditions, parts, ranges) is counted, where there may be much
of it, without being decoded, and no further than is accepted.
"""

from __future__ import annotations

from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Operation
from shoal.write_costs import PLAIN_US, WRITE_US

from shoal_server.node.elements import ELEMENT_NS, arrays_and_bytes_in, elements_in, length_of_array, small_elements

MAX_OPERATIONS = WRITE_US // PLAIN_US
"""Of one write: more are more work than is accepted, whatever they are."""
MAX_ELEMENTS = 6 * MAX_OPERATIONS
"""Of MessagePack, in the operations of one write, however nested: so many have no operations that would be accepted."""

SMALL_BYTES = 32 * 1024
"""Batches of so many bytes are decoded whatever they are."""
BATCH_BYTES = 1024 * 1024
"""Clients make no larger batches of calls that are independent; in those it is only looked whether there can be so much."""


class TooManyOperations(Exception):
    """A write has more operations, or more in them, than a node does at once: the message says how many."""


def decode_write(encoded: bytes) -> list[Operation]:
    """Return the operations of a write.

    Raises:
        TooManyOperations: there are more than can be done at once.
        MsgspecError: they are no operations.
    """
    count = length_of_array(encoded)
    if count > MAX_OPERATIONS:
        raise TooManyOperations(f"{count} operations")
    if len(encoded) > SMALL_BYTES and _may_be_dense(encoded) and elements_in(encoded, MAX_ELEMENTS) > MAX_ELEMENTS:
        raise TooManyOperations(f"{count} operations with more than {MAX_ELEMENTS} keys, values and ranges in them")
    return operations_decoder.decode(encoded)


def refusing_ns(encoded: bytes) -> int:
    """Return about what it took to decode, or to count, the operations of a write that was refused then (ns)."""
    if length_of_array(encoded) > MAX_OPERATIONS:
        return 0
    elements = MAX_ELEMENTS if len(encoded) > BATCH_BYTES else arrays_and_bytes_in(encoded)
    return min(elements, MAX_ELEMENTS) * ELEMENT_NS


def _may_be_dense(encoded: bytes) -> bool:
    return len(encoded) > BATCH_BYTES or small_elements(encoded) > 3 * MAX_OPERATIONS

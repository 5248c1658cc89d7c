"""The checksum of a few of a replica's rows at the position it has applied, by which replicas are compared.

A slice is bounded by rows, by bytes and by the microshards that it looks into, so that it takes a millisecond or so of the
node's turn; where it ends depends on the rows alone, and is the same on every replica that has the same ones. Rows that
have expired belong to it until an entry of the log removes them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from shoal.errors import ErrorCode
from shoal.protocol.checksums import ChecksumCursor, ChecksumSlice, ReadChecksum
from shoal.shardmap import microshards_in

from shoal_server.storage.applied_state import encode_compared_state
from shoal_server.storage.engine import Damaged, Engine
from shoal_server.storage.layout import prefix_end

if TYPE_CHECKING:
    from shoal_server.node.failing import Failing
    from shoal_server.node.outbox import Outbox
    from shoal_server.node.replica import Replica
    from shoal_server.node.replica_set import ReplicaSet

DIGEST_BYTES = 16
MAX_ROWS = 1024
MAX_BYTES = 256 * 1024
"""Of rows in a slice, beside the last one."""
LOOK_ROWS = 16
"""To begin a microshard counts as so many rows."""
START = ChecksumCursor()


def checksum(replica: Replica, engine: Engine, request: ReadChecksum) -> ChecksumSlice:
    """Return the slice that `request` asks for, of what the replica has applied; it has all the microshards asked for."""
    state = replica.machine.state
    hashed = blake2b(digest_size=DIGEST_BYTES)
    if request.cursor == START:
        # Where its rows lie is the node's own affair.
        hashed.update(encode_compared_state(state))
    budget = max(1, min(request.max_rows, MAX_ROWS))
    rows = size = 0
    after = request.cursor.after
    for microshard in microshards_in(request.ranges):
        if microshard < request.cursor.microshard:
            continue
        if budget <= 0:
            next_cursor = ChecksumCursor(microshard)
            return ChecksumSlice(request.request, state.index, hashed.digest(), rows, next_cursor)
        budget -= LOOK_ROWS
        prefix = replica.machine.prefixes[microshard]
        start = prefix + after + b"\0" if microshard == request.cursor.microshard and after else prefix
        for key, row in engine.scan(engine.data, start, prefix_end(prefix)):
            user_key = key[len(prefix) :]
            hashed.update(b"%d %d %d " % (microshard, len(user_key), len(row)))
            hashed.update(user_key)
            hashed.update(row)
            rows += 1
            budget -= 1
            size += len(key) + len(row)
            if budget <= 0 or size >= MAX_BYTES:
                next_cursor = ChecksumCursor(microshard, user_key)
                return ChecksumSlice(request.request, state.index, hashed.digest(), rows, next_cursor)
    return ChecksumSlice(request.request, state.index, hashed.digest(), rows, None)


def answer_checksum(
    client: int,
    request: ReadChecksum,
    replica_set: ReplicaSet,
    engine: Engine,
    failing: Failing,
    now: int,
    outbox: Outbox,
) -> None:
    """Answer a client with the slice that it asks for, or with why there is none."""
    replica, node = replica_set.by_shard.get(request.shard), replica_set.identity.node
    if replica is None:
        where = f"{node} has no replica of shard {request.shard}"
        outbox.fail(client, request.request, ErrorCode.INVALID_ARGUMENT, where)
        return
    if request.ranges and not replica.machine.has_ranges(request.ranges):
        replica.refusals.not_here(client, request.request, outbox)
        return
    if replica.failure is None:
        try:
            outbox.answer(client, checksum(replica, engine, request))
            return
        except Damaged as error:
            failing.damaged(replica, error, now)
    where = f"the replica of shard {request.shard} on {node} has failed ({replica.failure})"
    outbox.fail(client, request.request, ErrorCode.UNAVAILABLE, where)

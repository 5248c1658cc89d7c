"""A lane: what the router keeps for one shard - its queues, its session, its open batches, and whom to ask.

Write numbers of a session are consecutive from 1, and the newest is less than `WRITES_IN_FLIGHT` ahead of the oldest
open one, well inside the `SESSION_WINDOW` that the nodes remember; so a retry is always recognised.
"""

from __future__ import annotations

from typing import Generic

from shoal.calls import AnyBatch, CallQueue, ReadBatch, ReadCall, W, WriteBatch, WriteCall
from shoal.errors import ErrorCode
from shoal.protocol.messages import SESSION_WINDOW
from shoal.shardmap import Shard

WRITES_IN_FLIGHT = 1
"""So that writes gather while one is on its way: docs/decisions/0005. More would be as safe, up to the window."""

READS_IN_FLIGHT = 32
BATCH_CALLS = 4096
BATCH_BYTES = 1024 * 1024
"""Batches are closed at this size, though a single larger operation is a batch of its own."""

if WRITES_IN_FLIGHT >= SESSION_WINDOW:
    raise ValueError("writes in flight must stay inside the session window")


class Trouble:
    """Why a lane's requests are not getting through just now: the last refusal or failure."""

    __slots__ = ("code", "message", "retry_after")

    def __init__(self, code: ErrorCode, message: str, retry_after: float | None = None) -> None:
        self.code = code
        self.message = message
        self.retry_after = retry_after


class Lane(Generic[W]):
    """One shard as the router sees it.

    Args:
        shard: the newest route known; replaced whole.

    `open_writes` and `open_reads` are the batches that still have to be answered, oldest first; `numbers` are the open
    ones of the present session. `resend` is what waits for another attempt, `opening` says that a session is asked for.
    `target` is the node to ask, believed to lead. `epoch` grows whenever that belief is given up, so that many
    refusals of one and the same belief count once. `retries` in a row without a success set the backoff.
    """

    __slots__ = (
        "blocked_until",
        "dirty",
        "epoch",
        "next_number",
        "numbers",
        "open_reads",
        "open_writes",
        "opening",
        "reads",
        "resend",
        "retries",
        "session",
        "shard",
        "target",
        "trouble",
        "writes",
    )

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.target = shard.leader or shard.voters[0]
        self.epoch = 0
        self.retries = 0
        self.blocked_until = 0.0
        self.trouble: Trouble | None = None
        self.dirty = False
        self.session = 0
        self.next_number = 1
        self.opening = False
        self.writes: CallQueue[WriteCall[W]] = CallQueue()
        self.reads: CallQueue[ReadCall[W]] = CallQueue()
        self.open_writes: dict[WriteBatch[W], None] = {}
        self.numbers: dict[int, None] = {}
        self.open_reads: dict[ReadBatch[W], None] = {}
        self.resend: list[AnyBatch[W]] = []

    @property
    def idle(self) -> bool:
        """Nothing is waiting to be sent."""
        return not (self.writes.calls or self.reads.calls or self.resend)

    @property
    def quiet(self) -> bool:
        """Nobody waits for anything here."""
        return self.idle and not self.open_writes and not self.open_reads

    def may_number(self) -> bool:
        """Say whether the session's window has room for another write."""
        numbers = self.numbers
        return not numbers or self.next_number - next(iter(numbers)) < WRITES_IN_FLIGHT

    def number(self) -> int:
        """Give out the session's next number."""
        number = self.next_number
        self.next_number = number + 1
        self.numbers[number] = None
        return number

    def close_write(self, batch: WriteBatch[W]) -> None:
        """A write needs its number no more: answered, dissolved, or nobody waits for it."""
        self.open_writes.pop(batch, None)
        if batch.session == self.session:
            self.numbers.pop(batch.number, None)

    def start_session(self, session: int) -> None:
        """Number writes from 1 again, in a session just opened."""
        self.session = session
        self.next_number = 1
        self.numbers = {}
        self.opening = False

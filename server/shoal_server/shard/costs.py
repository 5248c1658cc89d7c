"""What applying the commands of an entry costs, about: microseconds of one core, as `shoal.write_costs` reckons for writes.

It says how many commands become one entry, and how many entries are applied at once. Nothing that is applied hangs on it:
replicas may reckon differently.
"""

from __future__ import annotations

from shoal.protocol.messages import Operation
from shoal.shardmap import count_in
from shoal.write_costs import WRITE_US, bytes_cost, operations_cost, plain_cost

from shoal_server.shard.commands import (
    AdoptCommand,
    BeginIncomingCommand,
    BeginOutgoingCommand,
    Command,
    OpenSessionCommand,
    PurgeCommand,
    SplitCommand,
    StoreMovedCommand,
    WriteCommand,
)

ENTRY_US = WRITE_US
"""The most work of the commands that become one entry, unless a single one is more."""

COMMAND_US = 10
"""Of a command, besides what it does: a slot of its session, an answer."""
ACCEPTED_US = WRITE_US + COMMAND_US
"""The most that a write costs as a command."""
OPENING_US = 40
"""Of a session that is opened and another one that is forgotten for it, slots and all."""
PURGED_ROW_US = 14
MOVED_ROW_US = 5
CLEARED_RANGE_US = 12
MICROSHARD_US = 4
"""Of a microshard that changes hands."""
MIGRATION_STEP_US = 500
"""Of a step of a migration that names no microshards: it is about those that the shard has on their way."""


def write_cost(operations: list[Operation], size: int) -> int:
    """Return what a write of well-formed operations costs, `size` bytes of them."""
    return COMMAND_US + operations_cost(operations) + bytes_cost(size)


def plain_write_cost(operations: int, size: int, expiring: int = 0) -> int:
    """Return what a write of so many puts and deletes costs, `size` bytes of them, of which some are puts that expire."""
    return COMMAND_US + plain_cost(operations, expiring) + bytes_cost(size)


def command_cost(command: Command) -> int:
    """Return what a command costs that is no write, or one of which nobody knows the operations."""
    if isinstance(command, OpenSessionCommand):
        return COMMAND_US + OPENING_US
    if isinstance(command, PurgeCommand):
        return COMMAND_US + PURGED_ROW_US * len(command.rows)
    if isinstance(command, SplitCommand):
        return COMMAND_US + MICROSHARD_US * count_in(command.child.ranges)
    if isinstance(command, BeginIncomingCommand | BeginOutgoingCommand):
        return COMMAND_US + MICROSHARD_US * count_in(command.ranges)
    if isinstance(command, StoreMovedCommand):
        size = sum([len(key) + len(row or b"") for _, key, row in command.rows])
        size += sum([len(start) + len(end) for _, start, end in command.cleared])
        ranges, rows = len(command.cleared), len(command.rows)
        return COMMAND_US + CLEARED_RANGE_US * ranges + MOVED_ROW_US * rows + bytes_cost(size)
    if isinstance(command, WriteCommand):
        return COMMAND_US + bytes_cost(len(command.operations))
    return COMMAND_US + (MIGRATION_STEP_US if isinstance(command, AdoptCommand) else 0)

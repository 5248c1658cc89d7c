"""The commands that a replica has taken and not proposed yet: those of this turn, and all while leadership is on its way."""

from __future__ import annotations

from shoal_server.node.waiting import QueuedCommand

HELD_BYTES = 8 * 1024 * 1024
"""So much waits at the most for a transfer of leadership to come about or not; with more, whoever comes is refused."""


class CommandQueue:
    """See the module's first line. `commands` are what waits, in order; `size`: of them, in bytes."""

    __slots__ = ("commands", "size")

    def __init__(self) -> None:
        self.commands: list[QueuedCommand] = []
        self.size = 0

    def append(self, command: QueuedCommand) -> None:
        """Have a command wait behind the others."""
        self.commands.append(command)
        self.size += command.size

    def take_all(self) -> list[QueuedCommand]:
        """Take out the commands, in order."""
        taken, self.commands = self.commands, []
        self.size = 0
        return taken

    def take_beyond(self, size: int) -> list[QueuedCommand]:
        """Take out those that came last and are more than so many bytes altogether; the first stays."""
        taken: list[QueuedCommand] = []
        while self.size > size and len(self.commands) > 1:
            command = self.commands.pop()
            self.size -= command.size
            taken.append(command)
        return taken


def too_much_held(shard: int) -> str:
    """Return why a command is refused while leadership is on its way."""
    held = f"over {HELD_BYTES >> 20} MiB of writes wait for it"
    return f"the leadership of shard {shard} is being handed over, and {held}: ask again"

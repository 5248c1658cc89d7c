"""The commands that a replica has taken and not proposed yet: those of this turn, and all while leadership is on its way."""

from __future__ import annotations

from collections.abc import Callable

from shoal_server.node.lateness import NS_PER_MS, say_late
from shoal_server.node.outbox import Outbox
from shoal_server.node.waiting import QueuedCommand

HELD_BYTES = 8 * 1024 * 1024
"""So much waits at the most for a transfer of leadership to come about or not; with more, whoever comes is refused."""


class CommandQueue:
    """See the module's first line. `commands` are what waits, in order; `size`: of them, in bytes, with what was decoded."""

    __slots__ = ("commands", "size")

    def __init__(self) -> None:
        self.commands: list[QueuedCommand] = []
        self.size = 0

    def append(self, command: QueuedCommand) -> None:
        """Have a command wait behind the others."""
        self.commands.append(command)
        self.size += command.size + command.decoded_bytes

    def take_all(self) -> list[QueuedCommand]:
        """Take out the commands, in order."""
        taken, self.commands = self.commands, []
        self.size = 0
        return taken

    @property
    def is_held(self) -> bool:
        """Whether commands are kept."""
        return bool(self.commands) and self.commands[0].held_at > 0

    def hold(self, now: int) -> None:
        """Take note that the commands are kept, from `now` on (ns) where they were not before."""
        for command in reversed(self.commands):
            if command.held_at:
                break
            command.held_at = now

    def refuse_late(self, now: int, outbox: Outbox) -> list[QueuedCommand]:
        """Take out those kept commands whose callers do not wait for them any more, and answer so."""
        late = self._take(lambda each: each.held_at > 0 and 0 < each.timeout_ms * NS_PER_MS < now - each.held_at)
        for command in late:
            say_late(command.client, command.request, now - command.held_at, outbox)
        return late

    def take_of(self, client: int) -> list[QueuedCommand]:
        """Take out the commands of a client."""
        return self._take(lambda each: each.client == client)

    def _take(self, wanted: Callable[[QueuedCommand], bool]) -> list[QueuedCommand]:
        taken = list(filter(wanted, self.commands))
        if taken:
            self.commands = [each for each in self.commands if not wanted(each)]
            self.size -= sum(each.size + each.decoded_bytes for each in taken)
        return taken

    def take_beyond(self, size: int) -> list[QueuedCommand]:
        """Take out those that came last and are more than so many bytes altogether; the first stays."""
        taken: list[QueuedCommand] = []
        while self.size > size and len(self.commands) > 1:
            command = self.commands.pop()
            self.size -= command.size + command.decoded_bytes
            taken.append(command)
        return taken


def too_much_held(shard: int) -> str:
    """Return why a command is refused while leadership is on its way."""
    held = f"over {HELD_BYTES >> 20} MiB of writes wait for it"
    return f"the leadership of shard {shard} is being handed over, and {held}: ask again"

"""Which replicas a turn looks at, which the next one does, which later, and when a turn is due though nothing arrives."""

from __future__ import annotations

from shoal_server.node.replica import Replica


class Agenda:
    """See the module's first line. By shard each:

    Attributes:
        dirty: this turn lets them propose, stores and sends what their groups have ready, and applies what is committed.
        again: they have something to say that came up after that: the next turn's, together with what arrives until then.
        behind: they follow, and have something committed to apply: all of them together from `behind_due` (ns) on.
        awake: they may have something to do as time passes; whatever is not among them is at rest.
        next_tick: when the next turn has to look at the clock (ns).
    """

    __slots__ = ("again", "awake", "behind", "behind_due", "dirty", "next_tick")

    def __init__(self, now: int) -> None:
        self.dirty: dict[int, Replica] = {}
        self.again: dict[int, Replica] = {}
        self.behind: dict[int, Replica] = {}
        self.awake: dict[int, Replica] = {}
        self.behind_due = now
        self.next_tick = now

    def mark(self, replica: Replica) -> None:
        """Have the replica looked at in this turn."""
        self.dirty[replica.shard.id] = replica

    def want_turn(self, replica: Replica, now: int) -> None:
        """Have a turn taken soon, for what was queued at a replica."""
        self.dirty[replica.shard.id] = replica
        self.next_tick = now

    def client_gone(self, client: int) -> None:
        """Have replicas drop what they have not begun of what a client has asked for."""
        # They keep it where leadership is on its way, and no such replica is at rest.
        for replica in self.awake.values():
            replica.forget(client)

    def forget(self, shard: int) -> None:
        """The replica of a shard is gone."""
        for waiting in (self.dirty, self.behind, self.again, self.awake):
            waiting.pop(shard, None)

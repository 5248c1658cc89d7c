"""What the links between processes do to what passes: rules, by who sends and who is to receive. Pure.

In proxies a link is a direction of TCP connections, so its faults are those that TCP leaves visible. A lost segment is a
stall of everything behind it, for as long as a sender waits before it sends again; duplicates and disorder are invisible:
late duplicates of whole messages come of connections that are made anew, not of the network. Between network namespaces a
link is a direction of packets, which vanish, come twice, or overtake each other, and TCP itself has to get over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

CLIENTS = "clients"
"""Whoever is no node of the cluster: clients, the command line and the managers, which cannot be told apart."""

RETRANSMISSION_SECONDS = 0.2
"""The least time after which Linux sends a lost segment again."""


@dataclass(frozen=True, slots=True)
class LinkRule:
    """What one direction does.

    Args:
        held: nothing arrives until the rule is gone: bytes, and ends of connections, then do; packets were dropped.
        reset: connections break at once, and no new one is let through. In proxies only.
        delay_seconds: everything is so late; jitter_seconds: and up to so much later, bytes in order, packets not.
        loss: the share of packets that are dropped, or of pieces of bytes that come one retransmission later.
        duplicates: the share of packets that arrive twice. In networks of packets only.
        bytes_per_second: how much passes; None: any amount. In proxies only.
        flips: the share of pieces of bytes in which a bit flips, behind TCP's checksum. In proxies only.
    """

    held: bool = False
    reset: bool = False
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    duplicates: float = 0.0
    bytes_per_second: float | None = None
    flips: float = 0.0

    def lateness(self, random: Random) -> float:
        """Return by how many seconds a piece is late, in which bandwidth is not counted."""
        late = self.delay_seconds + random.uniform(0, self.jitter_seconds)
        return late + RETRANSMISSION_SECONDS if random.random() < self.loss else late

    def harmed(self, piece: bytes, random: Random) -> bytes:
        """Return a piece of bytes as it arrives."""
        if not self.flips or not piece or random.random() >= self.flips:
            return piece
        bit = random.randrange(8 * len(piece))
        flipped = bytearray(piece)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)


CLEAR = LinkRule()
HELD = LinkRule(held=True)

Link = tuple[str, str]
"""Who sends, and who is to receive."""


class NoSuchRule(ValueError):
    """What lies between the processes cannot do what a rule says."""


class Links:
    """The rules in force. Several nemeses may set rules of different links, not of the same."""

    def __init__(self) -> None:
        self._rules: dict[Link, LinkRule] = {}
        self._watchers: list[Callable[[], None]] = []

    def rule(self, source: str, target: str) -> LinkRule:
        """Return what the direction from `source` to `target` does."""
        return self._rules.get((source, target), CLEAR)

    def set(self, rules: Mapping[Link, LinkRule]) -> None:
        """Put rules in force, in the place of older ones of these links.

        Raises:
            NoSuchRule: that cannot be done; what the links then do is open until they are cleared.
        """
        self._rules.update(rules)
        self._changed()

    def clear(self, links: Iterable[Link]) -> None:
        """Let these links do what they should."""
        for link in links:
            self._rules.pop(link, None)
        self._changed()

    @property
    def in_force(self) -> Mapping[Link, LinkRule]:
        """The rules, by link; the others are clear."""
        return self._rules

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever rules have changed; it raises `NoSuchRule` where it cannot do one."""
        self._watchers.append(changed)

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()


def both_ways(pairs: Iterable[Link]) -> list[Link]:
    """Return each link and its opposite."""
    return [link for source, target in pairs for link in ((source, target), (target, source))]

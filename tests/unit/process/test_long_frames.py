"""Connections on which long frames come are read from in turn."""

from __future__ import annotations

import asyncio

from shoal_server.process.long_frames import AT_ONCE, ROUND_BYTES, LongFrames

CHUNK_BYTES = 256 * 1024


class Sender:
    """A connection on which so many chunks come, as fast as they are received; it is read from until it rests."""

    def __init__(self, frames: LongFrames, chunks: int, rounds: list[list[Sender]]) -> None:
        self.left = chunks
        self._frames = frames
        self._rounds = rounds
        self._rests = False

    def receive(self) -> None:
        while self.left and not self._rests:
            self.left -= 1
            self._rounds[-1].append(self)
            self._frames.received(self, CHUNK_BYTES)

    def rest(self) -> None:
        self._rests = True

    def go_on(self) -> None:
        self._rests = False
        asyncio.get_running_loop().call_soon(self.receive)


async def test_each_round_takes_so_much_and_every_connection_comes_to_its_end() -> None:
    frames = LongFrames(asyncio.get_running_loop())
    rounds: list[list[Sender]] = [[]]
    senders = [Sender(frames, 40, rounds) for _ in range(20)]
    for sender in senders:
        sender.receive()
    # Before anybody rests all of them are read from at once, each of them once.
    assert len(rounds[0]) <= ROUND_BYTES // CHUNK_BYTES + len(senders)
    while any(sender.left for sender in senders):
        rounds.append([])
        await asyncio.sleep(0)
        assert len(rounds[-1]) <= ROUND_BYTES // CHUNK_BYTES + AT_ONCE
        assert len(rounds) < 1000
    assert len(set(map(id, (sender for taken in rounds[:20] for sender in taken)))) == len(senders), "all go on"


class Resting:
    """A connection that has always more, and goes on at once."""

    def __init__(self, frames: LongFrames) -> None:
        self.taken = 0
        self._frames = frames

    def rest(self) -> None:
        pass

    def go_on(self) -> None:
        self.taken += 1
        self._frames.received(self, ROUND_BYTES + 1)


async def test_there_is_one_round_at_a_time() -> None:
    frames = LongFrames(asyncio.get_running_loop())
    resting = [Resting(frames) for _ in range(10)]
    for each in resting:
        each.go_on()
    for _ in range(20):
        before = sum(each.taken for each in resting)
        await asyncio.sleep(0)
        assert sum(each.taken for each in resting) - before == 1, "each is a whole round's work"
    assert max(each.taken for each in resting) <= 1 + 20 // len(resting)

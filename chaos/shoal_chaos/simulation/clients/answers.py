"""What clients on the simulated network are sent: frames of answers."""

from __future__ import annotations

from collections.abc import Callable

from shoal.protocol.frames import answer_decoder
from shoal.protocol.messages import Answer


def decoding(receive: Callable[[list[Answer]], None]) -> Callable[[str, bytes], None]:
    """Return what takes frames, whoever sent them, and gives `receive` the answers in each."""
    return lambda _sender, body: receive(answer_decoder.decode(body))

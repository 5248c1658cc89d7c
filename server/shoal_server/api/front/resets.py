"""How many calls may be given up: so many a second by one address, and by all together. Pure.

Nothing of a call that was begun can be taken back from gRPC: it is handed on, and found to be over. So whoever begins calls
and gives them up at once has a node do as much as whoever waits for answers, and is not slowed down by having to wait for any.
"""

from __future__ import annotations

from shoal_server.node.token_bucket import TokenBucket

RATE, BURST = 200.0, 400.0
"""By one address: a second, and at once. Each takes about a third of a millisecond."""
RATE_OF_ALL, BURST_OF_ALL = 400.0, 800.0
DEBT_MOST = 400.0
"""Of an address whose connections have ended with calls under way: it is paid for before another one begins."""
ADDRESSES_MOST = 4096


class Resets:
    """See the module's first lines. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self._all = _full_bucket(RATE_OF_ALL, BURST_OF_ALL, now)
        self._of_address: dict[str, TokenBucket] = {}

    def may(self, address: str, now: float) -> bool:
        """Say whether somebody at an address may give up a call now; if so, it has done it."""
        if not self.could(address, now):
            return False
        self._bucket(address, now).level -= 1.0
        self._all.level -= 1.0
        return True

    def could(self, address: str, now: float) -> bool:
        """Say whether somebody at an address might give up a call now."""
        at = _ns(now)
        return min(self._bucket(address, now).fill(at), self._all.fill(at)) >= 1.0

    def charge(self, address: str, calls: int, now: float) -> None:
        """So many calls were given up by a connection that has ended."""
        if calls:
            for bucket in (self._bucket(address, now), self._all):
                bucket.level = max(-DEBT_MOST, bucket.fill(_ns(now)) - calls)

    def owes(self, address: str, now: float) -> bool:
        """Say whether an address has given up so many calls that no connection of it begins."""
        bucket = self._of_address.get(address)
        return bucket is not None and bucket.fill(_ns(now)) < 0.0

    def _bucket(self, address: str, now: float) -> TokenBucket:
        found = self._of_address.get(address)
        if found is None:
            if len(self._of_address) >= ADDRESSES_MOST:
                del self._of_address[next(iter(self._of_address))]
            found = self._of_address[address] = _full_bucket(RATE, BURST, now)
        return found


def _full_bucket(rate: float, burst: float, now: float) -> TokenBucket:
    bucket = TokenBucket(_ns(now))
    bucket.set_rate(rate, burst, _ns(now))
    return bucket


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)

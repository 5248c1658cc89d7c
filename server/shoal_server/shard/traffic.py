"""What a replica has had to do since its process began: counted by batches, and by microshard for a sample of them.

Nothing here is part of the replicated state, or costs a step for every operation: a batch adds its length, and one in
`SAMPLED_ONE_IN` is counted by microshard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SAMPLED_ONE_IN = 16


class Traffic:
    """Counters of one replica.

    `reads`, `writes`: keys read and operations applied; `written_bytes`: of the log entries that they came in.
    `changed`: the microshards whose rows may be others than when somebody last took this set away.
    """

    __slots__ = (
        "_reads_to_sample",
        "_sampled_reads",
        "_sampled_writes",
        "_writes_to_sample",
        "changed",
        "reads",
        "writes",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.written_bytes = 0
        self.changed: set[int] = set()
        self._sampled_reads: Counter[int] = Counter()
        self._sampled_writes: Counter[int] = Counter()
        self._reads_to_sample = SAMPLED_ONE_IN
        self._writes_to_sample = SAMPLED_ONE_IN

    def read(self, microshards: list[int]) -> None:
        """Count a read of keys in these microshards, one for each key."""
        self.reads += len(microshards)
        self._reads_to_sample -= 1
        if not self._reads_to_sample:
            self._reads_to_sample = SAMPLED_ONE_IN
            self._sampled_reads.update(microshards)

    def wrote(self, microshards: list[int], distinct: set[int]) -> None:
        """Count a write of operations in these microshards, one for each operation; `distinct` are the same."""
        self.writes += len(microshards)
        self.changed |= distinct
        self._writes_to_sample -= 1
        if not self._writes_to_sample:
            self._writes_to_sample = SAMPLED_ONE_IN
            self._sampled_writes.update(microshards)

    def take_changed(self) -> set[int]:
        """Return the microshards that have changed, and forget them."""
        changed, self.changed = self.changed, set()
        return changed

    def take_sampled(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return estimates of the reads and of the writes by microshard since the last time."""
        taken = (_scaled(self._sampled_reads.items()), _scaled(self._sampled_writes.items()))
        self._sampled_reads.clear()
        self._sampled_writes.clear()
        return taken


def _scaled(counts: Iterable[tuple[int, int]]) -> dict[int, int]:
    return {microshard: count * SAMPLED_ONE_IN for microshard, count in counts}

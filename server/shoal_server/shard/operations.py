"""What each operation of a write does to a shard's rows, decided when it is applied, the same on every replica.

Nothing here reads a clock: `now` is the entry's, so that an expired row is gone for every replica or for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shoal.integers import MAX_INTEGER, MIN_INTEGER, parse_integer
from shoal.protocol.digest import RangeDigest, rows_of
from shoal.protocol.messages import (
    DEFAULT_TTL,
    MAX_FOUND_BYTES,
    Applied,
    Atomic,
    AtomicOperation,
    Condition,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Impossible,
    Increment,
    KeyAbsent,
    KeyPresent,
    Operation,
    OperationResult,
    Put,
    RangeUnchanged,
    SeqEquals,
    Touch,
    ValueEquals,
)
from shoal.shardmap import Ranges, microshards_in

from shoal_server.shard.expiry import ExpiryIndex
from shoal_server.shard.looking import TOO_LARGE_ROWS, Looking, is_more_than_any_entry_may
from shoal_server.shard.overlay import Overlay
from shoal_server.storage.layout import (
    DATA_PREFIX_BYTES,
    is_visible,
    prefix_end,
    row_expiry,
    row_seq,
    row_value,
    value_header,
)

FETCHED_TOGETHER = 16
"""Rows that are read at once for the conditions of an atomic operation: each may be a MiB."""


class WriteExecutor:
    """Applies the operations of one entry. `now` is its time; an order to set the shard's clock back changes it.

    `expiring` counts puts of rows that expire. `looked` is what was looked at besides what the operations say.

    Args:
        prefixes: by microshard, what its data keys begin with.
        seq: of the entry; now: its time; default_ttl: the keyspace's when it was proposed (both milliseconds).
    """

    __slots__ = ("_default_ttl", "_expiry", "_header", "_overlay", "_prefixes", "_seq", "expiring", "looked", "now")

    def __init__(
        self,
        overlay: Overlay,
        prefixes: Mapping[int, bytes],
        expiry: ExpiryIndex,
        *,
        seq: int,
        now: int,
        default_ttl: int,
    ) -> None:
        self._overlay = overlay
        self._prefixes = prefixes
        self._expiry = expiry
        self._seq = seq
        self.now = now
        self.expiring = 0
        self.looked = Looking()
        self._default_ttl = default_ttl
        self._header = value_header(seq)

    def execute_plain(self, operations: list[Put | Delete], microshards: list[int]) -> None:
        """Apply operations that read nothing and have no result: what most writes are, so the fast way.

        Args:
            microshards: of the operations' keys.
        """
        prefixes, header, rows = self._prefixes, self._header, self._overlay.rows
        forever = (0, 0 if self._default_ttl else DEFAULT_TTL)
        for operation, microshard in zip(operations, microshards, strict=True):
            if type(operation) is Put:
                if operation.ttl_ms in forever:
                    rows[prefixes[microshard] + operation.key] = header + operation.value
                else:
                    self._put_expiring(operation, microshard)
            else:
                rows[prefixes[microshard] + operation.key] = None

    def execute(self, operations: list[Operation], microshards: list[int]) -> list[OperationResult]:
        """Apply operations, each alone; return the results of those that have one.

        Args:
            microshards: of the keys that `commands.named_keys` yields of the operations.
        """
        results: list[OperationResult] = []
        places = iter(microshards)
        for operation in operations:
            if isinstance(operation, Put | Delete):
                self._one(operation, next(places))
            elif isinstance(operation, DeleteRange):
                results.append(self._delete_range(operation))
            elif isinstance(operation, Atomic):
                results.append(self._atomic(operation, places))
            else:
                results.append(self._one(operation, next(places)))
        return results

    # -- single operations

    def _put_expiring(self, operation: Put, microshard: int) -> None:
        expiry = self._expiry_of(operation.ttl_ms)
        key = self._prefixes[microshard] + operation.key
        self._overlay.rows[key] = value_header(self._seq, expiry) + operation.value
        self._expiry.add(microshard, expiry, expiry - self.now, operation.key, self._overlay)
        self.expiring += 1

    def _expiry_of(self, ttl: int) -> int:
        if ttl == DEFAULT_TTL:
            ttl = self._default_ttl
        return self.now + ttl if ttl else 0

    def _one(self, operation: AtomicOperation, microshard: int) -> OperationResult:
        """Apply an operation on one key; an `Applied` has the values of its result, if it has one."""
        overlay = self._overlay
        key = self._prefixes[microshard] + operation.key
        if isinstance(operation, Put):
            expiry = self._expiry_of(operation.ttl_ms)
            if expiry:
                self._put_expiring(operation, microshard)
            else:
                overlay.rows[key] = self._header + operation.value
            return Applied([])
        if isinstance(operation, Delete):
            overlay.rows[key] = None
            return Applied([])
        row = overlay.get(key)
        looked_before = self.looked.bytes
        self.looked.count(row)
        if not self.looked.may_use(row):
            overlay.forget(key)
            return _too_large(self.looked.bytes - looked_before)
        found = row if is_visible(row, self.now) else None
        if isinstance(operation, Touch):
            if found is None:
                return Applied([0])
            self.looked.count_rewritten(found)
            expiry = self._expiry_of(operation.ttl_ms)
            overlay.rows[key] = value_header(self._seq, expiry) + row_value(found)
            if expiry:
                self._expiry.add(microshard, expiry, expiry - self.now, operation.key, overlay)
            return Applied([1])
        return self._increment(operation, microshard, key, found)

    def _increment(self, operation: Increment, microshard: int, key: bytes, found: bytes | None) -> OperationResult:
        value = b"0" if found is None else row_value(found)
        number = parse_integer(value)
        if number is None:
            return Impossible(0, f"the value is no decimal integer of 64 bits: {value[:32]!r}")
        total = number + operation.by
        if not MIN_INTEGER <= total <= MAX_INTEGER:
            return Impossible(0, f"{number} {operation.by:+d} does not fit into 64 bits")
        # The expiry of what is there stays, and so does its row in the index.
        expiry = self._expiry_of(operation.ttl_ms) if found is None else row_expiry(found)
        self._overlay.rows[key] = value_header(self._seq, expiry) + str(total).encode()
        if found is None and expiry:
            self._expiry.add(microshard, expiry, expiry - self.now, operation.key, self._overlay)
        return Applied([total])

    def _delete_range(self, operation: DeleteRange) -> OperationResult:
        touched = list(self._spans(operation.ranges, operation.start, operation.end))
        self._overlay.clear(touched)
        return Applied([len(touched)])

    def _spans(self, ranges: Ranges, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield what [start, end) is in the data of microshards, in order: nothing where it is empty."""
        prefixes = self._prefixes
        if end and start >= end:
            return
        for each in microshards_in(ranges):
            prefix = prefixes[each]
            yield prefix + start, prefix + end if end else prefix_end(prefix)

    # -- all or nothing

    def _atomic(self, operation: Atomic, places: Iterator[int]) -> OperationResult:
        prefixes, overlay = self._prefixes, self._overlay
        conditions = [
            (condition, b"" if isinstance(condition, RangeUnchanged) else prefixes[next(places)] + condition.key)
            for condition in operation.conditions
        ]
        parts = [(part, next(places)) for part in operation.operations]
        keys = [prefixes[microshard] + part.key for part, microshard in parts]
        looked_before = self.looked.bytes
        fetched = 0
        for number, (condition, key) in enumerate(conditions):
            if number == fetched:
                fetched += 1 if self.looked.is_too_much else FETCHED_TOGETHER
                self._look_at([key for _, key in conditions[number:fetched] if key])
            refused = self._check(number, condition, key)
            if is_more_than_any_entry_may(self.looked.bytes - looked_before):
                return _too_large(self.looked.bytes - looked_before)
            if refused is not None:
                return refused
        savepoint = overlay.savepoint(keys)
        values: list[int] = []
        for number, (part, microshard) in enumerate(parts):
            result = self._one(part, microshard)
            if isinstance(result, Applied):
                values += result.values
            else:
                overlay.take_back(savepoint)
                assert isinstance(result, Impossible), "an operation in an Atomic has no conditions of its own"
                alone = is_more_than_any_entry_may(self.looked.bytes - looked_before)
                return Impossible(number, result.reason, result.again and not alone)
        return Applied(values)

    def _look_at(self, keys: list[bytes]) -> None:
        """Read rows that are about to be asked for, all of which counts whether it is asked for or not."""
        self._overlay.fetch(keys)
        for key in keys:
            self.looked.count(self._overlay.get(key))

    def _check(self, number: int, condition: Condition, key: bytes) -> ConditionNotMet | Impossible | None:
        """Return None where the condition holds, else what was found."""
        if isinstance(condition, RangeUnchanged):
            if self._is_unchanged(condition):
                return None
            return ConditionNotMet(number, 0, None)
        row = self._overlay.get(key)
        if not self.looked.may_use(row):
            self._overlay.forget(key)
            return _too_large(0)
        if not is_visible(row, self.now):
            if isinstance(condition, KeyPresent | ValueEquals) or (
                isinstance(condition, SeqEquals) and condition.seq != 0
            ):
                return ConditionNotMet(number, 0, None)
            return None
        value, seq = row_value(row), row_seq(row)
        if isinstance(condition, KeyPresent):
            return None
        if isinstance(condition, KeyAbsent):
            holds = False
        elif isinstance(condition, SeqEquals):
            holds = condition.seq == seq
        else:
            holds = condition.value == value
        return None if holds else ConditionNotMet(number, seq, value if len(value) <= MAX_FOUND_BYTES else None)

    def _is_unchanged(self, condition: RangeUnchanged) -> bool:
        """Say whether a range has the rows of a digest, as far as that can be said of what an entry may look at.

        Otherwise it counts as changed, so that whoever asks does it again: expired rows are removed soon, and what other writes
        of the entry have looked at is not there then.
        """
        expected = rows_of(condition.digest)
        looked, now = self.looked, self.now
        rows: list[tuple[bytes, int]] = []
        if looked.is_too_much:
            return False
        for start, end in self._spans(condition.ranges, condition.start, condition.end):
            for key, row in self._overlay.scan(start, end):
                looked.bytes += len(row)
                if is_visible(row, now):
                    if len(rows) >= expected:
                        return False
                    rows.append((key[DATA_PREFIX_BYTES:], row_seq(row)))
                else:
                    looked.expired += 1
                if looked.is_too_much:
                    return False
        rows.sort()
        digest = RangeDigest()
        digest.add([key for key, _ in rows], [seq for _, seq in rows])
        return digest.value() == condition.digest


def _too_large(looked: int) -> Impossible:
    """Return why something is not done that has looked at rows of so many bytes, in an entry that has looked at too much."""
    return Impossible(0, TOO_LARGE_ROWS, again=not is_more_than_any_entry_may(looked))

"""Rows of replicas that are stored twice, in the meta family and in that of the log: what promises rest on.

A vote binds whoever gave it, though nobody can read it any more; and what else is known of a replica says nothing of it. So
the row is there twice, in tables of two families. Both copies are always written in one batch: either of them says what
both say, also that there is no row. Only where neither can be read, nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from shoal_server.invariants import invariant
from shoal_server.storage.decoding import decoded
from shoal_server.storage.engine import Batch, Damaged, Engine, Family
from shoal_server.storage.layout import group_key, group_of, prefix_end
from shoal_server.storage.meta_rows import MetaKind

T = TypeVar("T")

COPIES = bytes(4)
"""In place of a log's group: what begins with it are the copies in the log family."""
_GROUPS_END = 1 << 32


class TwiceStored(Generic[T]):
    """The rows of one kind that is stored twice."""

    def __init__(self, kind: MetaKind, encode: Callable[[T], bytes], decode: Callable[[bytes, bytes], T]) -> None:
        """
        Args:
            decode: makes of a key and a value what was encoded; whatever it raises says that they are no such row.
        """
        invariant(kind.stored_twice, "it is known of a kind that it is stored twice")
        self.kind = kind
        self._encode = encode
        self._decode = decode

    def put(self, batch: Batch, engine: Engine, group: int, row: T) -> None:
        """Store a group's row."""
        key, value = group_key(self.kind, group), self._encode(row)
        invariant(self._is_row(key, value), f"what is stored can be read again: {row}")
        batch.put(key, value, engine.meta)
        batch.put(COPIES + key, value, engine.log)

    def delete(self, batch: Batch, engine: Engine, group: int) -> None:
        """Remove a group's row, if there is one."""
        for family, key in self._copies(engine, group):
            batch.delete(key, family)

    def load(self, engine: Engine, group: int) -> T | None:
        """Return a group's row, None where there is none.

        Raises:
            Damaged: neither copy can be read.
        """
        (meta, key), (log, copy) = self._copies(engine, group)
        try:
            return self._read(engine, meta, key)
        except Damaged as damaged:
            try:
                return self._read(engine, log, copy)
            except Damaged:
                raise damaged from None

    def is_there(self, engine: Engine, group: int) -> bool:
        """Say whether a group has a row, or may have one, be it one that cannot be decoded."""
        for family, key in self._copies(engine, group):
            try:
                return engine.get(family, key) is not None
            except Damaged:
                continue
        return True

    def mend(self, engine: Engine, group: int) -> None:
        """Write a copy that cannot be read anew, as the other one is.

        Raises:
            Damaged: neither can be read.
        """
        damaged = 0
        for family, key in self._copies(engine, group):
            try:
                self._read(engine, family, key)
            except Damaged:
                damaged += 1
        if not damaged:
            return
        row = self.load(engine, group)
        batch = engine.batch()
        if row is None:
            # A row that was removed lately is known not to be there, whatever block it would be in.
            self.delete(batch, engine, group)
        else:
            self.put(batch, engine, group, row)
        engine.write(batch)

    def stored_groups(self, engine: Engine) -> tuple[set[int], bool]:
        """Return the groups that have a row, and whether these are all: each was found in one family or in the other."""
        in_meta, all_in_meta = _readable_groups(engine, engine.meta, self.kind.letter)
        in_log, all_in_log = _readable_groups(engine, engine.log, COPIES + self.kind.letter)
        return in_meta | in_log, all_in_meta or all_in_log

    def copied_keys(self, engine: Engine, family: str) -> list[bytes]:
        """Return the keys in the meta or in the log family of all rows that can be found in either."""
        first = COPIES if family == "log" else b""
        groups, _ = self.stored_groups(engine)
        return [first + group_key(self.kind, group) for group in sorted(groups)]

    def _is_row(self, key: bytes, value: bytes) -> bool:
        try:
            decoded("meta", key, value, self._decode)
        except Damaged:
            return False
        return True

    def _copies(self, engine: Engine, group: int) -> tuple[tuple[Family, bytes], tuple[Family, bytes]]:
        key = group_key(self.kind, group)
        return (engine.meta, key), (engine.log, COPIES + key)

    def _read(self, engine: Engine, family: Family, key: bytes) -> T | None:
        row = engine.get(family, key)
        return None if row is None else decoded("meta" if family is engine.meta else "log", key, row, self._decode)


def _readable_groups(engine: Engine, family: Family, prefix: bytes) -> tuple[set[int], bool]:
    """Return the groups of the rows that begin with a prefix, as far as they can be read, and whether all can."""
    found: set[int] = set()
    complete, first = True, 0
    while first < _GROUPS_END:
        try:
            for key, _ in engine.scan(family, _from(prefix, first), prefix_end(prefix)):
                group = group_of(key[len(prefix) - 1 :])
                found.add(group)
                first = group + 1
        except Damaged:
            complete = False
            first = _behind_damage(engine, family, prefix, first)
        else:
            break
    return found, complete


def _behind_damage(engine: Engine, family: Family, prefix: bytes, first: int) -> int:
    """Return from which group on rows can be read again that cannot be from `first` on.

    Of several damaged blocks it may be behind more than one: it is found by ever longer steps.
    """
    step = 1
    behind = first + step
    while behind < _GROUPS_END and not _can_read(engine, family, prefix, behind):
        first, step = behind, 2 * step
        behind = first + step
    behind = min(behind, _GROUPS_END)
    while behind - first > 1:
        middle = (first + behind) // 2
        if _can_read(engine, family, prefix, middle):
            behind = middle
        else:
            first = middle
    return behind


def _can_read(engine: Engine, family: Family, prefix: bytes, first: int) -> bool:
    """Say whether the first row from a group on can be read, or none is there."""
    try:
        next(iter(engine.scan(family, _from(prefix, first), prefix_end(prefix))), None)
    except Damaged:
        return False
    return True


def _from(prefix: bytes, first: int) -> bytes:
    return prefix + first.to_bytes(4, "big")

"""The only loop over RocksDB's iterators.

They end at a block that they cannot read as they end behind the last row: whoever does not ask for their status takes half of
the rows for all. This one asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rocksdict import Rdict, RdictIter, ReadOptions

from shoal_server.storage.engine import Family, StorageFailed


class RocksReader:
    """Reads the rows of one family.

    Args:
        failure: says what to raise for what RocksDB raises.
        options: kept for as long as the iterator lives: it points to the bounds in them and does not own them.
    """

    __slots__ = ("_failure", "_iterator", "_options")

    def __init__(
        self, source: Rdict, failure: Callable[[Exception], StorageFailed], options: ReadOptions | None = None
    ) -> None:
        self._failure = failure
        self._options = options
        self._iterator: RdictIter = source.iter(options)

    def rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in order.

        Raises:
            Damaged: a row cannot be read, and with it what follows.
        """
        iterator = self._iterator
        iterator.seek(start)
        key_of, value_of, step = iterator.key, iterator.value, iterator.next
        while (key := key_of()) is not None:
            if key >= end:
                return
            yield key, value_of()
            step()
        self._check()

    def rows_reversed(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) from the last to the first; raise as `rows` does."""
        iterator = self._iterator
        iterator.seek_for_prev(end)
        key_of, value_of, step = iterator.key, iterator.value, iterator.prev
        while (key := key_of()) is not None:
            if key < start:
                return
            if key < end:
                yield key, value_of()
            step()
        self._check()

    def _check(self) -> None:
        try:
            self._iterator.status()
        except Exception as error:  # rocksdict raises plain Exception for whatever RocksDB reports
            raise self._failure(error) from error


class RocksView:
    """A view: one RocksDB iterator a family, made between two writes of the only thread that writes.

    An iterator sees its family as it was when it was made. (rocksdict 0.3.29's snapshots do not: their iterators read
    what is there now.) One scan of a family at a time.
    """

    def __init__(self, readers: dict[Family, RocksReader]) -> None:
        self._readers = readers

    def scan(self, family: Family, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._readers[family].rows(start, end)

    def close(self) -> None:
        self._readers = {}

"""What a simulated client does: steps of one request each, some of which lead to another."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Protocol

from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import (
    STRONG,
    Applied,
    Atomic,
    AtomicOperation,
    Condition,
    ConditionNotMet,
    Freshness,
    Increment,
    Operation,
    Put,
    RangeUnchanged,
    Read,
    Request,
    Rows,
    Scan,
    ScanPage,
    SeqEquals,
    Written,
)
from shoal.shardmap import one_microshard

from shoal_chaos.checkers import counters, serializability, staleness
from shoal_chaos.checkers.linearizability import NEVER, RegisterOperation
from shoal_chaos.checkers.sessions import SessionEvent
from shoal_chaos.simulation.clients.histories import BANK_ACCOUNTS, BANK_START, COUNTER, Histories

MILLISECOND_NS = 1_000_000
BANK = b"bank/"
BANK_END = b"bank0"


class ClientStep(Protocol):
    """One request, of the shard of `key`. A write has `operations`; a read makes its own request."""

    key: bytes
    weak: bool

    @property
    def operations(self) -> list[Operation]: ...

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        """Return the request of a read."""
        ...

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:
        """Record the outcome; return what to do next, or None. `sent`: when the request that it answers was."""
        ...

    def given_up(self) -> None:
        """Record that nobody will know the outcome."""
        ...


class PutStep:
    """Writes a value that was never written before into a register."""

    weak = False

    def __init__(self, histories: Histories, client: str, shard: int, key: bytes, value: bytes, began: int) -> None:
        self.key = key
        self.shard = shard
        self.operations: list[Operation] = [Put(key, value)]
        self._histories = histories
        self._client = client
        self._value = value
        self._began = began

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        raise NotImplementedError

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        self._record(now)
        histories = self._histories
        histories.acknowledged.append(staleness.AcknowledgedWrite(self.key, answer.seq, now))
        histories.session_events.append(
            SessionEvent(self._client, self.key, "write", answer.seq, self._began, now, answer.seq, self.shard)
        )
        return None

    def given_up(self) -> None:
        self._record(NEVER)

    def _record(self, ended: float) -> None:
        operation = RegisterOperation(self._client, True, self._value, self._began, ended)
        self._histories.registers[self.key].append(operation)


class FastPutStep(PutStep):
    """Writes such a value fast: it is acknowledged before it is safe, and a failover may lose it."""

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        # It has taken effect for whoever reads from then on, unless it is lost: nobody can tell for how long.
        self._record(NEVER)
        return None


class ReadStep:
    """Reads a register: strongly, or at least as fresh as `freshness` asks."""

    operations: ClassVar[list[Operation]] = []

    def __init__(
        self,
        histories: Histories,
        client: str,
        shard: int,
        key: bytes,
        began: int,
        freshness: Freshness,
        *,
        in_session: bool,
    ) -> None:
        self.key = key
        self.shard = shard
        self.weak = not freshness.strong
        self._freshness = freshness
        self._histories = histories
        self._client = client
        self._began = began
        self._in_session = in_session

    def strengthen(self) -> None:
        """After replicas have declined: ask the leader, whose answer satisfies everybody."""
        self._freshness = STRONG
        self.weak = False

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:  # noqa: ARG002
        return Read(number, shard, keyspace, 0, [self.key], self._freshness)

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:
        assert isinstance(answer, Rows)
        histories = self._histories
        if self._freshness.strong:
            operation = RegisterOperation(self._client, False, answer.values[0], self._began, now)
            histories.registers[self.key].append(operation)
        histories.bounded_reads.append(
            staleness.BoundedRead(self.key, answer.seqs[0], answer.seq, sent, now, answer.staleness_ms * MILLISECOND_NS)
        )
        bound = self._freshness.max_staleness_ms
        if self.weak and bound and answer.staleness_ms > bound:
            raise AssertionError(f"{answer} is staler than the {bound} ms asked for")
        if self._in_session:
            histories.session_events.append(
                SessionEvent(self._client, self.key, "read", answer.seqs[0], self._began, now, answer.seq, self.shard)
            )
        return None

    def given_up(self) -> None:
        """A read that ended nowhere tells nothing."""


class IncrementStep:
    """Adds to the counter that all clients share."""

    weak = False

    def __init__(self, histories: Histories, by: int, began: int) -> None:
        self.key = COUNTER
        self.operations: list[Operation] = [Increment(COUNTER, by)]
        self._histories = histories
        self._by = by
        self._began = began

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        raise NotImplementedError

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        assert isinstance(answer, Written)
        result = answer.results[0]
        assert isinstance(result, Applied), result
        self._histories.increments.append(counters.Increment(self._by, result.values[0], self._began, now))
        return None

    def given_up(self) -> None:
        self._histories.increments.append(counters.Increment(self._by, None, self._began, None))


class ExpiringPutStep:
    """Writes a row that is to be gone, and removed, soon. What becomes of it the comparison of replicas shows."""

    weak = False

    def __init__(self, key: bytes, ttl_ms: int) -> None:
        self.key = key
        self.operations: list[Operation] = [Put(key, b"here", ttl_ms)]

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        raise NotImplementedError

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        return None

    def given_up(self) -> None:
        """Nobody counts on it."""


class BankReadStep:
    """Reads accounts, all by a scan or some by their keys, and then moves money between two of them."""

    weak = False
    operations: ClassVar[list[Operation]] = []

    def __init__(self, histories: Histories, random: Random, number: int, began: int) -> None:
        self.key = BANK_ACCOUNTS[0]
        self._histories = histories
        self._random = random
        self._number = number
        self._began = began
        self._whole = random.random() < 0.5
        self._source, self._target = random.sample(BANK_ACCOUNTS, 2)
        self._microshard = 0
        self._start = BANK
        self._pages: list[ScanPage] = []

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        self._microshard = microshard
        if self._whole:
            ranges = one_microshard(microshard)
            return Scan(number, shard, keyspace, 0, ranges, self._start, BANK_END, False, False, 1000)
        return Read(number, shard, keyspace, 0, [self._source, self._target])

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        conditions: list[Condition]
        reads: dict[bytes, int] = {}
        ranges: tuple[serializability.RangeRead, ...] = ()
        balances = dict.fromkeys(BANK_ACCOUNTS, BANK_START)
        if isinstance(answer, ScanPage):
            self._pages.append(answer)
            if answer.resume is not None:
                self._start = answer.resume
                return self
            digest = RangeDigest()
            seen: dict[bytes, int] = {}
            for page in self._pages:
                digest.add(page.keys, page.seqs)
                seen.update(zip(page.keys, page.seqs, strict=True))
                balances.update({key: int(value) for key, value in zip(page.keys, page.values, strict=True)})
            if len(self._pages) == 1:
                # Pages are of different moments; what is read in several is true together only if the transfer is done.
                self._histories.audits.append(serializability.BankRead(self._number, balances))
            conditions = [RangeUnchanged(one_microshard(self._microshard), BANK, BANK_END, digest.value())]
            ranges = (serializability.RangeRead(BANK, BANK_END, seen),)
        else:
            assert isinstance(answer, Rows)
            keys = [self._source, self._target]
            reads = dict(zip(keys, answer.seqs, strict=True))
            conditions = [SeqEquals(key, seq) for key, seq in reads.items()]
            for key, value in zip(keys, answer.values, strict=True):
                if value is not None:
                    balances[key] = int(value)
        amount = self._random.randint(1, 10)
        parts: list[AtomicOperation] = [
            Put(self._source, b"%d" % (balances[self._source] - amount)),
            Put(self._target, b"%d" % (balances[self._target] + amount)),
        ]
        return TransferStep(self._histories, self._number, self._began, conditions, parts, reads, ranges)

    def given_up(self) -> None:
        """Nothing was written yet."""


class TransferStep:
    """Commits a transfer, if what it rests on still holds."""

    weak = False

    def __init__(
        self,
        histories: Histories,
        number: int,
        began: int,
        conditions: list[Condition],
        parts: list[AtomicOperation],
        reads: dict[bytes, int],
        ranges: tuple[serializability.RangeRead, ...],
    ) -> None:
        self.key = BANK_ACCOUNTS[0]
        self.operations: list[Operation] = [Atomic(conditions, parts)]
        self._histories = histories
        self._number = number
        self._began = began
        self._writes = frozenset(part.key for part in parts)
        self._reads = reads
        self._ranges = ranges

    def request(self, number: int, shard: int, keyspace: int, microshard: int) -> Request:
        raise NotImplementedError

    def answered(self, answer: Written | Rows | ScanPage, sent: int, now: int) -> ClientStep | None:  # noqa: ARG002
        assert isinstance(answer, Written)
        result = answer.results[0]
        if isinstance(result, ConditionNotMet):
            return None
        assert isinstance(result, Applied), result
        self._histories.transactions.append(
            serializability.Transaction(
                self._number, answer.seq, self._began, now, self._reads, self._ranges, self._writes
            )
        )
        return None

    def given_up(self) -> None:
        """It may have been done: the versions it wrote, where others read them, are then nobody's."""

"""Money moves between accounts that are opened and closed meanwhile: is it all there in every view, in a serial order?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.checkers.serializability import BankRead, find_bank_violations
from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep
from shoal_chaos.workloads.transaction_recorder import RecordedTransaction, TransactionRecorder, payload_of

CLIENTS = 4
ACCOUNTS = 5
FEWEST_ACCOUNTS = 3
MOST_ACCOUNTS = 8
FIRST_BALANCE = 100


class Bank(Workload):
    """Transfers by key, accounts opened and closed after a scan of all, and audits in and outside of transactions."""

    name: ClassVar[str] = "bank"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.transactions = TransactionRecorder(self.recorder)
        self.audits: list[BankRead] = []
        self._prefix = f"{self.prefix}/".encode()
        self._opened = 0
        self._accounts: list[bytes] = []
        """What is believed to be open, which the transactions find out."""

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    async def prepare(self, db: AsyncClient) -> None:
        await self.transactions.commit(db, self._found, PATIENT_SECONDS)

    def check(self) -> Iterator[str]:
        for found in find_bank_violations(self.audits, ACCOUNTS * FIRST_BALANCE):
            yield f"{found.sentence} {dict(found.read.balances)}"
        yield from self.transactions.check()

    async def _step(self, db: AsyncClient) -> None:
        kind = self.random.random()
        if kind < 0.15:
            await self._audit(db)
        elif kind < 0.3:
            await self.transactions.attempt(db, self._read_all_only, self.patience())
        elif kind < 0.4:
            await self.transactions.attempt(db, self._open, self.patience())
        elif kind < 0.5:
            await self.transactions.attempt(db, self._close, self.patience())
        else:
            await self.transactions.attempt(db, self._transfer, self.patience())

    async def _audit(self, db: AsyncClient) -> None:
        try:
            rows = {key: value async for key, value in db.scan(self._prefix, timeout=self.patience())}
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(*rows.values())
        self._note(0, {key: payload_of(value) for key, value in rows.items()})

    async def _read_all(self, tx: RecordedTransaction) -> dict[bytes, int]:
        balances = self._note(tx.number, await tx.get_all(self._prefix))
        self._accounts = list(balances)
        return balances

    def _note(self, number: int, payloads: dict[bytes, bytes]) -> dict[bytes, int]:
        """Record what one page showed: one instant of the shard, whatever becomes of its transaction."""
        balances = {key: int(payload) for key, payload in payloads.items()}
        self.audits.append(BankRead(number, balances))
        return balances

    async def _read_all_only(self, tx: RecordedTransaction) -> None:
        await self._read_all(tx)

    async def _found(self, tx: RecordedTransaction) -> None:
        if not await tx.get_all(self._prefix):
            for _ in range(ACCOUNTS):
                tx.put(self._new_account(), b"%d" % FIRST_BALANCE)

    async def _open(self, tx: RecordedTransaction) -> None:
        balances = await self._read_all(tx)
        if len(balances) >= MOST_ACCOUNTS:
            return
        source = self.random.choice(list(balances))
        amount = self.random.randint(0, max(0, balances[source]))
        tx.put(source, b"%d" % (balances[source] - amount))
        tx.put(self._new_account(), b"%d" % amount)

    async def _close(self, tx: RecordedTransaction) -> None:
        balances = await self._read_all(tx)
        if len(balances) <= FEWEST_ACCOUNTS:
            return
        source, target = self.random.sample(list(balances), 2)
        tx.delete(source)
        tx.put(target, b"%d" % (balances[target] + balances[source]))

    async def _transfer(self, tx: RecordedTransaction) -> None:
        if len(self._accounts) < 2:
            await self._read_all(tx)
            return
        source, target = self.random.sample(self._accounts, 2)
        left, there = await tx.get(source), await tx.get(target)
        if left is None or there is None:
            return
        amount = self.random.randint(1, 20)
        tx.put(source, b"%d" % (int(left) - amount))
        tx.put(target, b"%d" % (int(there) + amount))

    def _new_account(self) -> bytes:
        """Return a name that no account has had: a key that comes back has no order among its absences."""
        self._opened += 1
        return self._prefix + b"%d" % self._opened

"""Of the two on call one may leave, if the other stays: does nobody ever find both gone (write skew)?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from shoal import AsyncClient, ShoalError

from shoal_chaos.workloads.base import PATIENT_SECONDS, Workload, WorkloadStep
from shoal_chaos.workloads.transaction_recorder import RecordedTransaction, TransactionRecorder, payload_of

CLIENTS = 4
SHIFTS = 2
DOCTORS = (b"a", b"b")
ON, OFF = b"on", b"off"


class OnCall(Workload):
    """Each transaction reads both doctors of a shift, by their keys or by a scan, and changes one of them."""

    name: ClassVar[str] = "on-call"

    def __init__(self, run: str, random: Random) -> None:
        super().__init__(run, random)
        self.transactions = TransactionRecorder(self.recorder)
        self._shifts = [f"{self.prefix}{number}/".encode() for number in range(SHIFTS)]

    def steps(self) -> list[WorkloadStep]:
        return [self._step] * CLIENTS

    async def prepare(self, db: AsyncClient) -> None:
        for shift in self._shifts:

            async def begin(tx: RecordedTransaction, shift: bytes = shift) -> None:
                if not await tx.get_all(shift):
                    for doctor in DOCTORS:
                        tx.put(shift + doctor, ON)

            await self.transactions.commit(db, begin, PATIENT_SECONDS)

    def check(self) -> Iterator[str]:
        return self.transactions.check()

    async def _step(self, db: AsyncClient) -> None:
        shift = self.random.choice(self._shifts)
        if self.random.random() < 0.2:
            await self._look(db, shift)
            return

        async def change(tx: RecordedTransaction) -> None:
            await self._change(tx, shift)

        await self.transactions.attempt(db, change, self.patience())

    async def _look(self, db: AsyncClient, shift: bytes) -> None:
        try:
            values = [value async for _, value in db.scan(shift, timeout=self.patience())]
        except ShoalError as error:
            self.recorder.read_failed(error)
            return
        self.recorder.saw(*values)
        if [payload_of(value) for value in values].count(ON) == 0:
            self.recorder.complain(f"Nobody is on call in {shift!r}: {values}.")

    async def _change(self, tx: RecordedTransaction, shift: bytes) -> None:
        one, other = self.random.sample([shift + doctor for doctor in DOCTORS], 2)
        if self.random.random() < 0.5:
            rows = await tx.get_all(shift)
            mine, theirs = rows.get(one), rows.get(other)
        else:
            mine, theirs = await tx.get(one), await tx.get(other)
        if mine == OFF:
            tx.put(one, ON)
        elif theirs == ON:
            tx.put(one, OFF)

"""Sessions of several clients on real node cores: nobody writes in another's, or costs another his by opening many."""

from __future__ import annotations

from random import Random, SystemRandom
from typing import Any

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    MAX_FOUND_BYTES,
    SESSION_WINDOW,
    Answer,
    Atomic,
    ConditionNotMet,
    Failure,
    Increment,
    KeyAbsent,
    OpenSession,
    Operation,
    Put,
    Request,
    SessionOpened,
    Write,
    Written,
)
from shoal_server.certificates import identity_of
from shoal_server.node.callers import Callers
from shoal_server.node.settings import NodeSettings
from shoal_server.shard import sessions
from shoal_server.storage.session_rows import SessionOwner, stored_sessions

SHARD = 1
ANN, MALLORY = 10, 11


class Clients:
    """Clients of three nodes, each with a connection to every one; `nodes` says who leads."""

    def __init__(self, nodes: Any, identities: dict[int, bytes], addresses: dict[int, str] | None = None) -> None:
        self.nodes = nodes
        for client, identity in identities.items():
            self.connect(client, identity)
        for client, address in (addresses or {}).items():
            self.connect(client, b"", address)

    def connect(self, client: int, identity: bytes, address: str = "") -> None:
        for node in self.nodes.nodes.values():
            node.client_connected(client, identity, address=address)

    def send(self, client: int, request: Request) -> None:
        self.nodes.nodes[self.nodes.leader].receive_client(client, [request])

    def number(self) -> int:
        self.nodes._request += 1
        return int(self.nodes._request)

    def ask(self, client: int, request: Request) -> Answer:
        self.send(client, request)
        answer: Answer = self.nodes.answer(request.request)
        return answer

    def open(self, client: int) -> bytes:
        opened = self.ask(client, OpenSession(self.number(), SHARD))
        assert isinstance(opened, SessionOpened)
        return opened.session

    def write(self, client: int, session: bytes, number: int, *operations: Operation, fast: bool = False) -> Answer:
        body = encode_operations(list(operations))
        return self.ask(client, Write(self.number(), SHARD, 1, session, number, 1000, body, fast))


@pytest.fixture
def proven(nodes: Any) -> Clients:
    """Clients with certificates."""
    return Clients(nodes, {ANN: b"ann", MALLORY: b"mallory"})


@pytest.mark.parametrize("fast", [False, True])
def test_a_write_under_somebody_elses_session_is_not_applied_and_costs_its_owner_nothing(
    proven: Clients, fast: bool
) -> None:
    session = proven.open(ANN)
    for number in range(1, 41):
        forged = proven.write(MALLORY, session, number, Put(b"k", b"forged"), fast=fast)
        assert isinstance(forged, Failure)
        assert (forged.code, forged.maybe_applied) == (ErrorCode.SESSION_EXPIRED.value, False)
    for number in range(1, 41):
        assert isinstance(proven.write(ANN, session, number, Put(b"%d" % number, b"v"), fast=fast), Written)
    proven.nodes.pass_time(50)
    machine = proven.nodes.replica(proven.nodes.leader).machine
    keys = [b"%d" % number for number in range(1, 41)]
    assert machine.read(keys, machine.route(keys), 0)[0] == [b"v"] * 40
    assert machine.read([b"k"], machine.route([b"k"]), 0)[0] == [None]


def test_a_session_goes_on_from_another_connection_of_its_owner(nodes: Any) -> None:
    clients = Clients(nodes, {ANN: b"ann", MALLORY: b"ann"})
    session = clients.open(ANN)
    assert isinstance(clients.write(MALLORY, session, 1, Put(b"k", b"v")), Written)


def test_who_opens_many_sessions_costs_nobody_else_his(make_nodes: Any) -> None:
    """Be that on a connection for each."""
    clients = Clients(make_nodes(NodeSettings(sessions_per_shard=50)), {}, {ANN: "10.0.0.1"})
    session = clients.open(ANN)
    for connection in range(5):
        for number in range(100):
            client = 1_000 + 100 * connection + number
            clients.connect(client, b"", "10.0.0.2")
            clients.send(client, OpenSession(clients.number(), SHARD))
        clients.nodes.pass_time(20)
    another = clients.open(ANN)
    assert isinstance(clients.write(ANN, another, 1, Put(b"k", b"v")), Written)
    assert isinstance(clients.write(ANN, session, 1, Put(b"k", b"v")), Written)
    assert len({len(clients.nodes.replica(name).machine.sessions) for name in clients.nodes.nodes}) == 1


def test_ids_are_of_what_the_node_draws_and_never_twice(proven: Clients) -> None:
    assert len({proven.open(ANN) for _ in range(100)}) == 100
    assert len(Callers(SystemRandom()).draw_session()) == 16
    assert Callers(Random(1)).draw_session() == Callers(Random(1)).draw_session() != Callers(Random(2)).draw_session()


def test_what_clients_without_a_certificate_open_is_their_address_s_at_every_node() -> None:
    callers, elsewhere = Callers(Random(1)), Callers(Random(2))
    for number, address in enumerate(("10.0.0.1", "10.0.0.1", "10.0.0.2")):
        callers.introduce(number, b"", address)
        elsewhere.introduce(number, b"", address)
    owners = [callers.owner(number) for number in range(3)]
    assert owners[0] == owners[1] != owners[2]
    assert [elsewhere.owner(number) for number in range(3)] == owners
    callers.introduce(3, b"ann", "10.0.0.1")
    assert callers.owner(3) == SessionOwner(b"ann", proven=True)


def test_an_identity_is_that_of_the_names_in_a_certificate_whatever_else_it_says() -> None:
    subject = ((("organizationName", "Example"),), (("commonName", "ann"),))
    ann = identity_of({"subject": subject, "serialNumber": "01", "notAfter": "Jan  1 00:00:00 2030 GMT"})
    assert len(ann) == 16
    assert identity_of({"subject": subject, "serialNumber": "02"}) == ann
    assert identity_of({"subject": ((("commonName", "ann"),),)}) != ann
    names = (("DNS", "n1"), ("DNS", "n2"))
    assert identity_of({"subject": subject, "subjectAltName": names}) not in (b"", ann)
    assert identity_of({"subject": (), "subjectAltName": names}) == identity_of({"subjectAltName": names[::-1]})
    assert identity_of({}) == b""


def test_failing_conditions_leave_next_to_nothing_on_the_replicas(nodes: Any) -> None:
    clients = Clients(nodes, {})
    session = clients.open(ANN)
    found = bytes(MAX_FOUND_BYTES)
    put = clients.write(ANN, session, 1, Put(b"k", found))
    assert isinstance(put, Written)
    conditions = [Atomic([KeyAbsent(b"k")], []) for _ in range(62)]
    for number in range(2, SESSION_WINDOW):
        written = clients.write(ANN, session, number, *conditions)
        assert isinstance(written, Written)
        assert written.results[0] == ConditionNotMet(0, put.seq, found)
    nodes.pass_time(50)
    for name, engine in nodes.engines.items():
        machine = nodes.replica(name).machine
        stored = [slot for each in stored_sessions(engine, SHARD, machine.state.generation) for slot in each.slots]
        assert sum(len(slot.results or b"") for slot in stored) < 62 * 62 * 10
        assert machine.sessions.results_bytes < 62 * (62 * 10 + sessions.KEPT_OVERHEAD_BYTES)


def test_who_asks_again_for_results_that_are_forgotten_is_told_that_the_write_was_done(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TABLE_RESULTS_BYTES", 3 * sessions.KEPT_OVERHEAD_BYTES)
    clients = Clients(nodes, {})
    ann, mallory = clients.open(ANN), clients.open(MALLORY)
    first = clients.write(ANN, ann, 1, Increment(b"n"))
    assert isinstance(first, Written)
    repeated = clients.write(ANN, ann, 1, Increment(b"n"))
    assert isinstance(repeated, Written)
    assert repeated.results == first.results
    for number in range(1, 5):
        clients.write(MALLORY, mallory, number, Increment(b"m"))
    again = clients.write(ANN, ann, 1, Increment(b"n"))
    assert isinstance(again, Failure)
    assert (again.code, again.maybe_applied) == (ErrorCode.OUTCOME_UNKNOWN.value, True)
    assert f"was done, at seq {first.seq}," in again.message
    machine = nodes.replica(nodes.leader).machine
    assert machine.read([b"n"], machine.route([b"n"]), 0)[0] == [b"1"]

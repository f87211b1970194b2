"""What a program notices when servers go, or change their parts, as far as one server shows it; see test_clusters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import peewee
import pytest
import servers
from conftest import Person

from tent.data import dbm
from tent.data.orm import running

pytestmark = pytest.mark.databases("servers")
NOWHERE = "127.0.0.1:1"  # where nothing listens


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Between attempts no time is lost; the pauses are listed, and pass for what the clock has gone on."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
    monkeypatch.setattr(running, "time", clock)
    return pauses


def address(config: Any) -> str:
    """Return the host and port of a server."""
    found: str = servers.mapping(config)["host"][0]
    return found


def lose_connection(session: dbm.Session) -> None:
    """Let the server end the connection of a session's transaction, and let the session notice."""
    number = session.scalar(f"SELECT {servers.CONNECTION_ID[session.engine.kind]}")
    servers.end_connections(session.engine, [number])
    session.execute("SELECT 1")


# Work that is repeated for as long as there is no server


def test_a_lost_server_takes_no_attempts(engine: Any, pauses: list[float]) -> None:
    calls = itertools.count(1)

    def work(session: dbm.Session) -> int:
        session.add(Person(name="Joe"))
        session.flush()
        call = next(calls)
        if call <= 5:
            lose_connection(session)
        return call

    assert dbm.run_transaction(engine, work, attempts=1) == 6
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1


def test_a_server_that_stays_away_is_waited_for_with_patience(engine: Any, pauses: list[float]) -> None:
    with dbm.open_session(engine) as session:
        session.begin()
        with pytest.raises(peewee.OperationalError) as caught:
            lose_connection(session)

    def work(session: dbm.Session) -> None:
        raise caught.value

    with pytest.raises(peewee.OperationalError, match="is lost"):
        dbm.run_transaction(engine, work, patience=20)
    assert 20 <= sum(pauses) < 20.5
    assert max(pauses) <= 0.3


def test_without_patience_a_lost_server_is_an_error_at_once(engine: Any) -> None:
    calls = itertools.count()

    def work(session: dbm.Session) -> None:
        next(calls)
        lose_connection(session)

    with pytest.raises(peewee.OperationalError, match="is lost"):
        dbm.run_transaction(engine, work, patience=0)
    assert next(calls) == 1


def test_a_password_that_is_refused_is_an_error_at_once(connect: Callable[..., Any], pauses: list[float]) -> None:
    engine = connect()
    engine.close_idle()
    engine.connect_params["password"] = "outdated"
    with pytest.raises(peewee.OperationalError):
        dbm.run_transaction(engine, lambda session: session.add(Person(name="Joe")))
    assert pauses == []


@pytest.mark.parametrize("patience", [-1, "1", None, True, float("nan")])
def test_patience_is_a_number_of_seconds(engine: Any, patience: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="patience is a number of seconds"):
        dbm.run_transaction(engine, print, patience=patience)


# Several hosts


def test_a_host_that_does_not_answer_is_passed_over(connect: Callable[..., Any], config: Any) -> None:
    engine = connect(host=[NOWHERE, address(config)])
    with dbm.transaction(engine) as session:
        session.add(Person(name="Joe"))
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1


def test_reads_go_to_a_host_that_writes_when_no_replica_answers(connect: Callable[..., Any]) -> None:
    engine = connect(replicas=[NOWHERE])
    with dbm.open_session(engine, read_only=True) as session:
        assert session.query(Person).count() == 0
    assert engine.replica.is_closed()


def test_closing_an_engine_closes_the_connections_to_its_replicas(connect: Callable[..., Any], config: Any) -> None:
    engine = connect(replicas=[address(config)])
    with dbm.open_session(engine, read_only=True) as session:
        session.query(Person).all()
    assert engine.replica._connections
    engine.close_all()
    assert not engine.replica._connections


@pytest.mark.databases("mariadb", "mysql")
def test_a_host_that_broke_several_connections_is_passed_over_once(connect: Callable[..., Any], config: Any) -> None:
    engine = connect(host=[address(config), NOWHERE])
    twins = [engine.private() for _ in range(2)]
    for twin in twins:
        twin.acquire()
    for twin in twins:
        servers.end_connections(engine, [twin.execute_sql("SELECT CONNECTION_ID()").fetchone()[0]])
        with pytest.raises(peewee.OperationalError):
            twin.execute_sql("SELECT 1")
        twin.release()
    assert engine.hosts[engine._host] == ("127.0.0.1", 1)


# A server that only reads now


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("way", ["insert", "update"])
def test_work_goes_on_elsewhere_than_on_a_server_that_only_reads(
    connect: Callable[..., Any], config: Any, way: str
) -> None:
    engine = connect(host=[address(config)] * 2)
    people = [Person(name="Joe"), Person(name="Ann")]
    with dbm.transaction(engine) as session:
        session.add_all(people)
    with dbm.open_session(engine) as session:
        session.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        session.commit()

    def work(session: dbm.Session) -> None:
        if way == "insert":
            session.add_all([Person(name="Joe"), Person(name="Ann")])
        else:
            for person in session.query(Person):
                person.age = 1

    dbm.run_transaction(engine, work, attempts=1)
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == (4 if way == "insert" else 2)


@pytest.mark.databases("postgresql")
def test_a_session_that_only_reads_is_not_repeated_because_it_does(engine: Any) -> None:
    calls = itertools.count()

    def work(session: dbm.Session) -> None:
        next(calls)
        session.execute("SELECT nextval('people_id_seq')")

    with pytest.raises(peewee.PeeweeException, match="read-only transaction"):
        dbm.run_transaction(engine, work, read_only=True)
    assert next(calls) == 1


@pytest.mark.databases("postgresql")
def test_hosts_of_which_none_takes_writes_for_a_while_are_waited_for(
    connect: Callable[..., Any], config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, host = connect(), servers.mapping(config)["host"][0]
    engine = connect(host=[host, host])
    engine.close_idle()
    pauses: list[float] = []

    def take_writes(are_taken: bool) -> None:
        only_reads = "off" if are_taken else "on"
        admin.execute_sql(f"ALTER DATABASE {admin.database} SET default_transaction_read_only = {only_reads}")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        take_writes(True)

    monkeypatch.setattr(running.time, "sleep", pause)
    take_writes(False)
    try:
        dbm.run_transaction(engine, lambda session: session.add(Person(name="Joe")))
    finally:
        take_writes(True)
    assert len(pauses) == 1
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1

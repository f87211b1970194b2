"""Transactions beside each other: isolation levels, sessions that only read, locked rows, work that is repeated."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest
import servers
from conftest import Person, collected

from tent.data import dbm
from tent.data.orm import running

servers_only = pytest.mark.databases("servers")


Own = dbm.declarative_base()


class Counter(Own):
    """Something that is read, changed and written back."""

    value = peewee.IntegerField(default=0)


@pytest.fixture
def joe(engine: Any) -> int:
    """The key of a person with a row."""
    with dbm.transaction(engine) as session:
        joe = Person(name="Joe", age=1)
        session.add(joe)
    key: int = joe.id
    return key


def set_age(engine: Any, key: int, age: int) -> None:
    """Change a person in a transaction of its own."""
    with dbm.transaction(engine) as session:
        session.get_one(Person, key).age = age


def age_in(session: dbm.Session, key: int) -> Any:
    return session.scalar("SELECT age FROM people WHERE id = ?", [key])


# Isolation levels


@servers_only
def test_at_repeatable_read_a_transaction_sees_one_moment(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, isolation_level="REPEATABLE READ") as session:
        session.begin()
        assert age_in(session, joe) == 1
        set_age(engine, joe, 2)
        assert age_in(session, joe) == 1
        session.rollback()
        assert age_in(session, joe) == 2


@servers_only
def test_at_read_committed_a_transaction_sees_what_others_commit(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, isolation_level="READ COMMITTED") as session:
        session.begin()
        assert age_in(session, joe) == 1
        set_age(engine, joe, 2)
        assert age_in(session, joe) == 2
        session.rollback()


@servers_only
def test_the_level_can_be_that_of_one_transaction(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, isolation_level="READ COMMITTED") as session:
        session.begin(isolation_level="REPEATABLE READ")
        assert age_in(session, joe) == 1
        set_age(engine, joe, 2)
        assert age_in(session, joe) == 1
        session.rollback()
        session.begin()
        assert age_in(session, joe) == 2
        set_age(engine, joe, 3)
        assert age_in(session, joe) == 3
        session.rollback()


@servers_only
@pytest.mark.parametrize("level", ["SERIALIZABLE", "serializable", "repeatable_read", "Read Committed"])
def test_a_level_may_be_written_in_any_case(engine: Any, level: str) -> None:
    with collected(engine) as ran, dbm.open_session(engine, isolation_level=level) as session:
        session.begin()
        session.rollback()
    assert f"ISOLATION LEVEL {level.upper().replace('_', ' ')}" in " ".join(ran)


@pytest.mark.parametrize("level", ["CHAOS", "", 3, "READ COMMITTED; DROP TABLE people"])
def test_a_level_that_there_is_not_is_refused(engine: Any, level: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="isolation_level is one of"):
        dbm.open_session(engine, isolation_level=level)


@pytest.mark.parametrize("level", ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.databases("sqlite")
def test_sqlite_is_serializable_whatever_is_asked_for(engine: Any, level: str) -> None:
    with collected(engine) as ran, dbm.open_session(engine, isolation_level=level) as session:
        session.begin()
        session.rollback()
    assert ran == ["BEGIN IMMEDIATE", "ROLLBACK"]


def test_within_atomic_the_level_is_that_blocks(engine: Any) -> None:
    with engine.atomic(), dbm.open_session(engine, isolation_level="SERIALIZABLE") as session:
        with pytest.raises(dbm.InvalidRequestError, match=r"engine\.atomic"):
            session.begin()


@servers_only
def test_two_serializable_transactions_that_can_follow_in_no_order_do_not_both_commit(engine: Any, joe: int) -> None:
    one, two = (dbm.open_session(engine, isolation_level="SERIALIZABLE") for _ in range(2))
    with one, two:
        found: list[BaseException] = []
        for session in (one, two):
            session.begin()
            age_in(session, joe)

        def write(session: dbm.Session) -> None:
            try:
                session.execute("UPDATE people SET age = age + 1 WHERE id = ?", [joe])
                session.commit()
            except peewee.OperationalError as error:
                found.append(error)
                session.rollback()

        threads = [threading.Thread(target=write, args=[session]) for session in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        assert engine.is_retryable(found[0])


# Sessions that only read


def test_a_session_that_only_reads_reads(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, read_only=True) as session:
        assert session.get_one(Person, joe).name == "Joe"
        with session.begin():
            assert session.query(Person).count() == 1


def test_a_session_that_only_reads_refuses_a_flush_and_names_the_object(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, read_only=True) as session:
        session.get_one(Person, joe).age = 7
        with pytest.raises(dbm.InvalidRequestError, match=r"only reads \(read_only=True\), and can't write <Person"):
            session.commit()
        session.rollback()
        assert age_in(session, joe) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.execute("UPDATE people SET age = 2"),
        lambda session: session.execute(Person.update(age=2)),
        lambda session: session.query(Person).update({"age": 2}),
        lambda session: session.query(Person).delete(),
        lambda session: session.execute("DELETE FROM people"),
        lambda session: session.execute("SELECT 1; DELETE FROM people"),
    ],
)
def test_a_session_that_only_reads_refuses_statements_that_write(
    engine: Any, joe: int, write: Callable[[dbm.Session], Any]
) -> None:
    with dbm.open_session(engine, read_only=True) as session:
        with pytest.raises(dbm.InvalidRequestError, match="only reads"):
            write(session)
        session.rollback()
        assert age_in(session, joe) == 1


@servers_only
def test_the_database_sees_to_it_too(engine: Any, joe: int) -> None:
    with collected(engine) as ran, dbm.open_session(engine, read_only=True) as session:
        session.begin()
        session.rollback()
    assert "READ ONLY" in ran[0]


def test_one_transaction_can_be_one_that_only_reads(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        session.begin(read_only=True)
        with pytest.raises(dbm.InvalidRequestError, match="only reads"):
            session.execute("UPDATE people SET age = 2")
        session.rollback()
        session.execute("UPDATE people SET age = 2")
        session.commit()
        assert age_in(session, joe) == 2


@pytest.mark.databases("file")
def test_a_transaction_that_only_reads_keeps_nobody_from_writing(engine: Any, joe: int) -> None:
    with dbm.open_session(engine, read_only=True) as session:
        session.begin()
        assert age_in(session, joe) == 1
        set_age(engine, joe, 2)
        assert age_in(session, joe) == 1
        session.rollback()
        assert age_in(session, joe) == 2


def test_transaction_and_run_transaction_take_the_same_options(engine: Any, joe: int) -> None:
    with dbm.transaction(engine, read_only=True) as session:
        assert session.query(Person).count() == 1
    with pytest.raises(dbm.InvalidRequestError, match="only reads"):
        dbm.run_transaction(engine, lambda session: session.query(Person).delete(), read_only=True)


# Locked rows


@servers_only
@pytest.mark.parametrize(
    "lock",
    [
        lambda session, key: session.get(Person, key, with_for_update=True),
        lambda session, key: session.query(Person).filter_by(id=key).with_for_update().one(),
        lambda session, key: session.query(Person).where(Person.id == key).with_for_update().all(),
        lambda session, key: list(session.query(Person).where(Person.id == key).with_for_update().yield_per(1)),
        lambda session, key: session.refresh(session.get(Person, key), with_for_update=True),
        lambda session, key: session.execute("SELECT * FROM people WHERE id = ? FOR UPDATE", [key]),
    ],
)
def test_a_locked_row_waits_for_the_end_of_the_transaction(
    engine: Any, joe: int, lock: Callable[[dbm.Session, int], Any]
) -> None:
    with dbm.open_session(engine) as session, dbm.open_session(engine) as other:
        lock(session, joe)
        assert session.in_transaction()
        with pytest.raises(peewee.OperationalError):
            other.query(Person).filter_by(id=joe).with_for_update(nowait=True).one()
        other.rollback()
        session.commit()
        assert other.query(Person).filter_by(id=joe).with_for_update(nowait=True).one().name == "Joe"
        other.rollback()


@servers_only
def test_locked_rows_can_be_left_out(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session, dbm.open_session(engine) as other:
        session.add(Person(name="Ann"))
        session.commit()
        session.get(Person, joe, with_for_update=True)
        free = other.query(Person).with_for_update(skip_locked=True).order_by(Person.id).all()
        assert [person.name for person in free] == ["Ann"]
        other.rollback()
        session.rollback()


@pytest.mark.databases("file")
def test_sqlite_locks_the_database_for_rows_that_are_read_for_update(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        assert session.query(Person).with_for_update(skip_locked=True).one().name == "Joe"
        hasty = dbm.connect({"driver": "sqlite", "path": engine.database, "timeout": 0})
        with pytest.raises(peewee.OperationalError, match="locked"):
            set_age(hasty, joe, 2)
        hasty.close_all()
        session.commit()


def test_reading_for_update_makes_no_doubt_about_what_was_read(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        person = session.query(Person).with_for_update().one()
        session.rollback()
        person.age = 1
        with collected(engine) as ran:
            session.commit()
        assert ran == []


# Work that is repeated


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Between attempts no time is lost; the pauses that would have been are listed."""
    pauses: list[float] = []
    monkeypatch.setattr(running.time, "sleep", pauses.append)
    return pauses


@servers_only
def test_a_deadlock_is_repeated(engine: Any, joe: int) -> None:
    with dbm.transaction(engine) as session:
        ann = Person(name="Ann", age=1)
        session.add(ann)
    both_hold_one, calls = threading.Barrier(2), itertools.count()

    def swap(first: int, second: int) -> None:
        def work(session: dbm.Session) -> None:
            next(calls)
            session.execute("UPDATE people SET age = age + 1 WHERE id = ?", [first])
            if not both_hold_one.broken:
                both_hold_one.wait(10)
            session.execute("UPDATE people SET age = age + 1 WHERE id = ?", [second])
            both_hold_one.abort()

        dbm.run_transaction(engine, work)

    threads = [threading.Thread(target=swap, args=keys) for keys in ((joe, ann.id), (ann.id, joe))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert next(calls) > 2
    with dbm.open_session(engine) as session:
        assert [age_in(session, key) for key in (joe, ann.id)] == [3, 3]


@pytest.mark.databases("mariadb", "mysql")
def test_what_was_flushed_before_a_deadlock_is_not_taken_for_written(engine: Any, joe: int) -> None:
    with dbm.transaction(engine) as session:
        ann = Person(name="Ann")
        session.add(ann)
    both_hold_one, met = threading.Barrier(2), []

    def work(name: str, first: int, second: int) -> None:
        with dbm.open_session(engine) as session:
            session.add(Person(name=name))
            session.flush()
            session.get(Person, first, with_for_update=True)
            both_hold_one.wait(10)
            try:
                session.get(Person, second, with_for_update=True)
            except peewee.OperationalError:
                met.append(session.in_transaction())
            session.commit()

    threads = [threading.Thread(target=work, args=args) for args in (("a", joe, ann.id), ("b", ann.id, joe))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [False]  # MariaDB and MySQL end the whole transaction of one of the two
    with dbm.open_session(engine) as session:
        assert {person.name for person in session.query(Person)} == {"Joe", "Ann", "a", "b"}


@pytest.mark.databases("mariadb", "mysql")
def test_after_a_deadlock_within_atomic_nothing_is_written_outside_of_a_transaction(engine: Any, joe: int) -> None:
    with dbm.transaction(engine) as session:
        ann = Person(name="Ann")
        session.add(ann)
    both_hold_one, met = threading.Barrier(2), []

    def work(name: str, first: int, second: int) -> None:
        try:
            with engine.atomic(), dbm.open_session(engine) as session:
                session.add(Person(name=name))
                session.flush()
                session.get(Person, first, with_for_update=True)
                both_hold_one.wait(10)
                try:
                    session.get(Person, second, with_for_update=True)
                except peewee.OperationalError as error:
                    met.append((name, engine.is_retryable(error)))
                    with pytest.raises(dbm.InvalidRequestError, match=r"transaction of engine\.atomic"):
                        session.commit()
                    session.rollback()
                    raise
                session.commit()
        except peewee.OperationalError:
            pass  # Peewee's block raises it
        finally:
            engine.close()

    threads = [threading.Thread(target=work, args=args) for args in (("a", joe, ann.id), ("b", ann.id, joe))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [(loser, is_retryable)] = met
    assert is_retryable
    with dbm.open_session(engine) as session:
        assert {person.name for person in session.query(Person)} == {"Joe", "Ann", "a", "b"} - {loser}


@servers_only
def test_a_serialization_failure_is_repeated(engine: Any) -> None:
    dbm.install_tables(engine, models=Own)
    with dbm.transaction(engine) as session:
        session.add(Counter())

    def increment() -> None:
        def work(session: dbm.Session) -> None:
            counter = session.query(Counter).one()
            counter.value += 1

        for _ in range(10):
            dbm.run_transaction(engine, work, attempts=1000, isolation_level="SERIALIZABLE")

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with dbm.open_session(engine) as session:
        assert session.query(Counter).one().value == 40


@servers_only
def test_a_connection_that_is_lost_before_the_commit_is_repeated(engine: Any, no_pauses: list[float]) -> None:
    attempts = itertools.count(1)

    def work(session: dbm.Session) -> int:
        session.add(Person(name="Joe"))
        session.flush()
        attempt = next(attempts)
        if attempt == 1:
            number = session.scalar(f"SELECT {servers.CONNECTION_ID[engine.kind]}")
            servers.end_connections(engine, [number])
        session.query(Person).all()
        return attempt

    assert dbm.run_transaction(engine, work) == 2
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1


@servers_only
def test_a_commit_in_doubt_is_not_repeated(engine: Any) -> None:
    attempts = itertools.count(1)

    def work(session: dbm.Session) -> None:
        next(attempts)
        session.add(Person(name="Joe"))
        session.flush()
        number = session.scalar(f"SELECT {servers.CONNECTION_ID[engine.kind]}")
        servers.end_connections(engine, [number])

    with pytest.raises(dbm.CommitInDoubtError):
        dbm.run_transaction(engine, work)
    assert next(attempts) == 2


@servers_only
def test_an_error_of_the_work_itself_is_not_repeated(engine: Any) -> None:
    attempts = itertools.count(1)

    def work(session: dbm.Session) -> None:
        next(attempts)
        session.add_all([Person(email="a"), Person(email="a")])
        session.flush()

    with pytest.raises(peewee.IntegrityError):
        dbm.run_transaction(engine, work)
    assert next(attempts) == 2


@servers_only
def test_pauses_grow_to_a_bound_and_are_never_the_same(
    engine: Any, no_pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine), "is_retryable", lambda self, error: True)
    with pytest.raises(peewee.PeeweeException):
        dbm.run_transaction(engine, lambda session: session.execute("SELECT * FROM nowhere"), attempts=20)
    assert len(no_pauses) == len(set(no_pauses)) == 19
    assert no_pauses[0] < 0.01
    assert max(no_pauses) <= 0.75


# PostgreSQL takes no more statements after one that failed


@pytest.mark.databases("postgresql")
def test_a_statement_that_failed_leaves_a_transaction_that_can_only_be_rolled_back(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        session.execute("UPDATE people SET age = 2")
        with pytest.raises(peewee.ProgrammingError):
            session.execute("SELECT * FROM nowhere")
        with pytest.raises(peewee.PeeweeException, match="aborted"):
            session.execute("SELECT 1")
        session.rollback()
        assert age_in(session, joe) == 1


@pytest.mark.databases("postgresql")
def test_a_transaction_in_which_a_statement_failed_is_not_committed_as_if_it_had_been(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        session.execute("UPDATE people SET age = 2")
        with pytest.raises(peewee.ProgrammingError):
            session.execute("SELECT * FROM nowhere")
        with pytest.raises(peewee.InternalError, match="can't be committed"):
            session.commit()
        assert not session.in_transaction()
        assert age_in(session, joe) == 1


@servers_only
def test_what_fails_in_a_savepoint_leaves_the_transaction(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        session.execute("UPDATE people SET age = 2")
        with pytest.raises(peewee.ProgrammingError):
            with session.begin_nested():
                session.execute("SELECT * FROM nowhere")
        session.commit()
        assert age_in(session, joe) == 2


@servers_only
def test_a_flush_that_failed_leaves_the_transaction(engine: Any, joe: int) -> None:
    with dbm.open_session(engine) as session:
        session.execute("UPDATE people SET age = 2")
        ann, eve = Person(name="Ann", email="a"), Person(name="Eve", email="a")
        session.add_all([ann, eve])
        with pytest.raises(peewee.IntegrityError) as caught:
            session.flush()
        assert caught.value.object is eve  # type: ignore[attr-defined]
        eve.email = "b"
        session.commit()
        assert age_in(session, joe) == 2
        assert session.query(Person).count() == 3


# Replicas: here the server itself stands for one; tests/test_clusters.py has real ones


@pytest.fixture
def replicated(config: Any, engine: Any) -> Iterator[Any]:
    """An engine whose config names a replica."""
    settings = servers.mapping(config)
    engine = dbm.connect({**settings, "replicas": settings["host"]})
    yield engine
    engine.close_all()


@servers_only
def test_sessions_that_only_read_have_a_pool_of_their_own(replicated: Any) -> None:
    with dbm.open_session(replicated) as session, dbm.open_session(replicated, read_only=True) as reader:
        session.begin()
        reader.begin()
        assert len(replicated._in_use) == len(replicated.replica._in_use) == 1
        assert reader.engine is replicated


@servers_only
def test_hooks_of_an_engine_are_told_of_its_replicas_too(replicated: Any) -> None:
    with collected(replicated) as ran, dbm.open_session(replicated, read_only=True) as reader:
        reader.query(Person).count()
    assert len(ran) == 1
    heard: list[dbm.Session] = []
    dbm.listen(replicated, "after_rollback", heard.append)
    with dbm.open_session(replicated, read_only=True) as reader:
        reader.begin()
        reader.rollback()
    assert heard == [reader]


@servers_only
def test_closing_an_engine_closes_the_connections_to_its_replicas(replicated: Any) -> None:
    with dbm.open_session(replicated, read_only=True) as reader:
        reader.query(Person).count()
    assert len(replicated.replica._connections) == 1
    replicated.close_all()
    assert replicated.replica._connections == []

"""Where a transaction begins and ends, who holds a connection, and what sessions see of each other."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import Model, Note, Person, collected

from tent.data import dbm


@contextmanager
def connection(engine: Any) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file, which does not wait for locks."""
    with closing(sqlite3.connect(engine.database, timeout=0, isolation_level=None)) as connection:
        yield connection


def names(engine: Any) -> list[str]:
    """Return the names in the file, as another program sees them."""
    with connection(engine) as second:
        return [name for (name,) in second.execute("SELECT name FROM people ORDER BY id")]


def can_write(engine: Any) -> bool:
    """Tell whether another program could write to the file now."""
    with connection(engine) as second:
        try:
            second.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        second.execute("ROLLBACK")
        return True


@pytest.fixture
def writer(file_engine: Any) -> Iterator[dbm.Session]:
    """A session on a file, whose connections no other session has."""
    with dbm.open_session(file_engine) as session:
        yield session
        session.rollback()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Any]:
    """An engine that gives up at once when the file is locked."""
    engine = dbm.connect({"driver": "sqlite", "path": tmp_path / "hasty.db", "timeout": 0})
    dbm.install_tables(engine, models=Model)
    yield engine
    engine.close_all()


# Beginning and ending


def test_a_session_is_in_no_transaction_until_it_writes(session: dbm.Session) -> None:
    states = [session.in_transaction()]
    person = Person(name="Jo")
    session.add(person)
    states.append(session.in_transaction())
    session.flush()
    states.append(session.in_transaction())
    session.commit()
    states.append(session.in_transaction())
    person.name = "Joe"
    session.delete(person)
    states.append(session.in_transaction())
    session.rollback()
    assert states == [False, False, True, False, False]


def test_a_transaction_of_a_write_is_immediate(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "INSERT", "COMMIT"]
    assert ran[0] == "BEGIN IMMEDIATE"


def test_begin_begins_an_immediate_transaction_now(writer: dbm.Session, file_engine: Any) -> None:
    with collected(file_engine) as ran:
        writer.begin()
    assert ran == ["BEGIN IMMEDIATE"]
    assert writer.in_transaction()
    assert not can_write(file_engine)


def test_begin_twice_is_refused(session: dbm.Session) -> None:
    session.begin()
    with pytest.raises(dbm.InvalidRequestError, match="already begun"):
        session.begin()
    assert session.in_transaction()


def test_begin_after_a_flush_is_refused(session: dbm.Session) -> None:
    session.add(Person())
    session.flush()
    with pytest.raises(dbm.InvalidRequestError, match="already begun"):
        session.begin()


def test_commit_and_rollback_with_nothing_to_do_run_nothing(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    with statements() as ran:
        session.commit()
        session.rollback()
        session.commit()
    assert ran == []


def test_a_session_goes_through_many_transactions(session: dbm.Session) -> None:
    for number in range(3):
        session.add(Person(age=number))
        session.commit()
        session.add(Person(age=-1))
        session.flush()
        session.rollback()
    assert session.query(Person.age).all() == [(0,), (1,), (2,)]


def test_a_begin_block_commits(session: dbm.Session, other: dbm.Session) -> None:
    with session.begin():
        session.add(Person(name="Jo"))
    assert not session.in_transaction()
    assert other.query(Person.name).all() == [("Jo",)]


def test_a_begin_block_rolls_back_on_an_error(session: dbm.Session) -> None:
    person = Person(name="Jo")
    with pytest.raises(KeyError), session.begin():
        session.add(person)
        session.flush()
        raise KeyError
    assert not session.in_transaction()
    assert session.state(person) == "transient"
    assert session.query(Person).count() == 0


def test_a_begin_block_whose_flush_fails_rolls_back(session: dbm.Session) -> None:
    with pytest.raises(peewee.IntegrityError):
        with session.begin():
            session.add(Person(name="Jo"))
            session.flush()
            session.add(Note(text="of nobody"))
    assert not session.in_transaction()
    assert session.new == []
    assert session.query(Person).count() == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_work_after_the_end_of_the_transaction_in_a_begin_block_is_refused(session: dbm.Session, end: str) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.commit()
    verbs: list[Callable[[], Any]] = [
        lambda: session.add(Person()),
        lambda: session.delete(person),
        lambda: session.merge(Person(id=1)),
        lambda: session.get(Person, 1),
        lambda: session.query(Person).all(),
        lambda: session.query(Person).update({"age": 3}),
        lambda: session.execute("SELECT 1"),
        lambda: session.refresh(person),
        lambda: session.flush(),
        lambda: session.commit(),
        lambda: session.begin(),
        lambda: session.begin_nested(),
    ]
    with session.begin():
        getattr(session, end)()
        for verb in verbs:
            with pytest.raises(dbm.InvalidRequestError, match="Can't operate on closed transaction inside context"):
                verb()
    session.add(Person(name="Al"))
    session.commit()
    assert session.query(Person).count() == 2


def test_a_used_up_handle_is_closed(session: dbm.Session) -> None:
    handle = session.begin()
    assert handle.is_active
    handle.commit()
    assert not handle.is_active
    for verb in (handle.commit, handle.rollback, handle.__enter__):
        with pytest.raises(dbm.ResourceClosedError, match="This transaction is closed"):
            verb()


def test_a_handle_is_used_up_by_the_sessions_own_end(session: dbm.Session) -> None:
    handle = session.begin()
    session.commit()
    assert not handle.is_active
    with pytest.raises(dbm.ResourceClosedError):
        handle.commit()


def test_a_handle_without_a_block_lets_the_session_go_on(session: dbm.Session) -> None:
    session.begin()
    session.rollback()
    session.add(Person(name="Jo"))
    session.commit()
    assert session.query(Person).count() == 1


def test_a_handle_rolls_back(session: dbm.Session) -> None:
    handle = session.begin()
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    handle.rollback()
    assert session.state(person) == "transient"
    assert session.query(Person).count() == 0


# Within a transaction of the engine


def test_within_engine_atomic_a_commit_is_a_savepoint(engine: Any, statements: Callable[[], Any]) -> None:
    with pytest.raises(KeyError):
        with engine.atomic(), dbm.open_session(engine) as session:
            session.add(Person(name="Jo"))
            with statements() as ran:
                session.commit()
            assert session.query(Person).count() == 1
            raise KeyError
    assert [sql.split()[0] for sql in ran] == ["SAVEPOINT", "INSERT", "RELEASE"]
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 0


def test_within_engine_atomic_a_rollback_undoes_only_the_sessions_part(engine: Any) -> None:
    with engine.atomic():
        Person.insert(name="outer").execute(engine)
        with dbm.open_session(engine) as session:
            session.add(Person(name="inner"))
            session.flush()
            session.rollback()
        assert not engine.is_closed()
    with dbm.open_session(engine) as session:
        assert session.query(Person.name).all() == [("outer",)]


def test_within_engine_atomic_closing_leaves_the_connection_open(engine: Any) -> None:
    with engine.atomic():
        with dbm.open_session(engine) as session:
            session.add(Person(name="Jo"))
            session.commit()
        assert not engine.is_closed()
        assert Person.select().count(engine) == 1


def test_within_engine_atomic_a_savepoint_nests(engine: Any) -> None:
    with engine.atomic(), dbm.open_session(engine) as session:
        session.add(Person(name="kept"))
        nested = session.begin_nested()
        session.add(Person(name="dropped"))
        nested.rollback()
        session.commit()
    with dbm.open_session(engine) as session:
        assert session.query(Person.name).all() == [("kept",)]


# Connections


def fails(session: dbm.Session, sql: str) -> None:
    with pytest.raises(peewee.OperationalError):
        session.execute(sql)


READS: dict[str, Callable[[dbm.Session], Any]] = {
    "query": lambda s: s.query(Person).all(),
    "filter_by": lambda s: s.query(Person).filter_by(name="Jo").first(),
    "count": lambda s: s.query(Person).count(),
    "exists": lambda s: s.query(Person).exists(),
    "get": lambda s: s.get(Person, 1),
    "refresh": lambda s: s.refresh(s.get(Person, 1)),  # type: ignore[arg-type]
    "iteration": lambda s: list(s.query(Person)),
    "half an iteration": lambda s: next(iter(s.query(Person))),
    "yield_per": lambda s: list(s.query(Person).yield_per(1)),
    "half of yield_per": lambda s: next(iter(s.query(Person).yield_per(1))),
    "a foreign key": lambda s: s.query(Note).first().person,
    "a backref": lambda s: list(s.get(Person, 1).notes),  # type: ignore[union-attr]
    "a Peewee select": lambda s: s.execute(Person.select()).all(),
    "SQL": lambda s: s.execute("SELECT * FROM people").all(),
    "SQL in capitals and on lines": lambda s: s.execute("\n  select name\nfrom people").all(),
    "SQL with a CTE": lambda s: s.execute("WITH p AS (SELECT * FROM people) SELECT name FROM p").all(),
    "SQL with a comment": lambda s: s.execute("/* all */ SELECT name FROM people -- all").all(),
    "a raw query with a CTE": lambda s: s.execute(Person.raw("WITH p AS (SELECT * FROM people) SELECT * FROM p")).all(),
    "EXPLAIN": lambda s: s.execute("EXPLAIN QUERY PLAN SELECT * FROM people").all(),
    "a PRAGMA": lambda s: s.execute("PRAGMA table_info(people)").all(),
    "a merge": lambda s: s.merge(Person(id=1)),
    "a query that fails": lambda s: fails(s, "SELECT nothing FROM people"),
    "a get that finds nothing": lambda s: s.get(Person, 99),
}


@pytest.mark.parametrize("kind", READS)
def test_a_session_that_has_only_read_holds_nothing(writer: dbm.Session, file_engine: Any, kind: str) -> None:
    writer.add(Note(person=Person(name="Jo")))
    writer.add(Person(name="Al"))
    writer.commit()
    writer.expunge_all()
    READS[kind](writer)
    assert not writer.in_transaction()
    assert not file_engine._in_use
    assert can_write(file_engine)


def test_open_sessions_that_do_nothing_hold_nothing(file_engine: Any) -> None:
    sessions = [dbm.open_session(file_engine) for _ in range(20)]
    assert not file_engine._in_use
    for session in sessions:
        session.close()


def test_a_write_holds_one_connection_until_the_end(writer: dbm.Session, file_engine: Any) -> None:
    held = []
    for end in (writer.commit, writer.rollback, writer.close):
        writer.add(Person())
        writer.flush()
        writer.query(Person).all()
        held.append(len(file_engine._in_use))
        if end == writer.close:
            with pytest.warns(dbm.UnsavedChangesWarning):
                end()
        else:
            end()
        held.append(len(file_engine._in_use))
    assert held == [1, 0, 1, 0, 1, 0]


def test_a_flush_that_fails_holds_nothing(writer: dbm.Session, file_engine: Any) -> None:
    writer.add(Note(text="of nobody"))
    with pytest.raises(peewee.IntegrityError):
        writer.commit()
    assert not writer.in_transaction()
    assert not file_engine._in_use
    assert can_write(file_engine)


def test_a_begin_that_fails_holds_nothing(hasty: Any) -> None:
    with connection(hasty) as locker, dbm.open_session(hasty) as session:
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(peewee.OperationalError, match="locked"):
            session.begin()
        assert not session.in_transaction()
        assert not hasty._in_use


def test_connections_are_taken_from_the_pool_again(writer: dbm.Session, file_engine: Any) -> None:
    for _ in range(5):
        writer.add(Person())
        writer.commit()
        writer.query(Person).all()
    assert len(file_engine._connections) == 1


def test_a_session_that_is_dropped_in_a_transaction_gives_all_back(file_engine: Any) -> None:
    session = dbm.open_session(file_engine)
    session.add(Person(name="Jo"))
    session.flush()
    del session
    assert not file_engine._in_use
    assert can_write(file_engine)
    assert names(file_engine) == []


# Isolation


def test_two_sessions_on_a_file_are_isolated(writer: dbm.Session, file_engine: Any) -> None:
    with dbm.open_session(file_engine) as reader:
        writer.add(Person(name="Jo"))
        writer.flush()
        assert reader.query(Person).all() == []
        assert names(file_engine) == []
        writer.commit()
        assert [person.name for person in reader.query(Person)] == ["Jo"]
        assert names(file_engine) == ["Jo"]


def test_what_was_rolled_back_is_never_seen(writer: dbm.Session, file_engine: Any) -> None:
    writer.add(Person(name="Jo"))
    writer.flush()
    writer.rollback()
    assert names(file_engine) == []


def test_a_read_does_not_keep_another_session_from_writing(writer: dbm.Session, file_engine: Any) -> None:
    with dbm.open_session(file_engine) as reader:
        rows = iter(reader.query(Person))
        reader.query(Person).all()
        writer.add(Person(name="Jo"))
        writer.commit()
        assert list(rows) == []
        assert reader.query(Person).count() == 1


def test_a_read_that_turns_into_a_write_is_not_locked_out(writer: dbm.Session, file_engine: Any) -> None:
    writer.add(Person(name="Jo", age=3))
    writer.commit()
    with dbm.open_session(file_engine) as second:
        person = second.query(Person).one()
        writer.query(Person).one().name = "Joe"
        writer.commit()
        person.age = 4
        second.commit()
    assert names(file_engine) == ["Joe"]
    assert writer.query(Person.name, Person.age).all() == [("Joe", 4)]


def test_a_second_writer_waits_for_the_first(writer: dbm.Session, file_engine: Any) -> None:
    writer.add(Person(name="first"))
    writer.flush()
    begun = threading.Event()

    def write() -> None:
        with dbm.open_session(file_engine) as session:
            session.add(Person(name="second"))
            begun.set()
            session.commit()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    writer.commit()
    thread.join()
    assert names(file_engine) == ["first", "second"]


def test_a_locked_database_leaves_the_changes_for_another_try(hasty: Any) -> None:
    with connection(hasty) as locker, dbm.open_session(hasty) as session:
        person = Person(name="Jo")
        session.add(person)
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(peewee.OperationalError, match="locked"):
            session.commit()
        assert session.new == [person]
        locker.execute("COMMIT")
        session.commit()
    assert names(hasty) == ["Jo"]


def test_sessions_in_memory_share_one_connection(tmp_path: Path) -> None:
    engine = dbm.connect({"driver": "sqlite", "path": ":memory:", "timeout": 0})
    dbm.install_tables(engine, models=Model)
    with dbm.open_session(engine) as first, dbm.open_session(engine) as second:
        first.add(Person(name="Jo"))
        first.flush()
        assert second.query(Person.name).all() == [("Jo",)]
        second.add(Person(name="Al"))
        with pytest.raises(peewee.OperationalError, match="database is locked"):
            second.flush()
        first.commit()
        second.commit()
        assert first.query(Person.name).all() == [("Jo",), ("Al",)]
    engine.close_all()


# dbm.transaction


def test_transaction_commits_at_its_end(engine: Any, session: dbm.Session) -> None:
    with dbm.transaction(engine) as inner:
        person = Person(name="Jo")
        inner.add(person)
    assert session.query(Person.name).all() == [("Jo",)]
    assert person.name == "Jo"
    assert inner.state(person) == "detached"


def test_transaction_rolls_back_on_an_error(engine: Any, session: dbm.Session) -> None:
    person = Person(name="Jo")
    with pytest.raises(KeyError), dbm.transaction(engine) as inner:
        inner.add(person)
        inner.flush()
        raise KeyError
    assert session.query(Person).count() == 0
    assert session.state(person) == "transient"


def test_transaction_raises_what_the_commit_raises(engine: Any, session: dbm.Session) -> None:
    with pytest.raises(peewee.IntegrityError), dbm.transaction(engine) as inner:
        inner.add(Person(name="Jo"))
        inner.add(Note(text="of nobody"))
    assert session.query(Person).count() == 0
    assert not inner.in_transaction()


# dbm.run_transaction


def test_run_transaction_commits_and_returns_what_the_callback_returns(engine: Any, session: dbm.Session) -> None:
    def work(inner: dbm.Session) -> Person:
        person = Person(name="Jo")
        inner.add(person)
        return person

    person = dbm.run_transaction(engine, work)
    assert (person.name, person.id) == ("Jo", 1)
    assert session.query(Person.name).all() == [("Jo",)]


def test_run_transaction_calls_the_callback_in_a_transaction(engine: Any) -> None:
    assert dbm.run_transaction(engine, lambda session: session.in_transaction()) is True


def test_run_transaction_tries_again_when_the_database_was_locked(hasty: Any) -> None:
    """The lock is another program's; it goes away during the second try."""
    with connection(hasty) as locker:
        locker.execute("BEGIN IMMEDIATE")
        tries = []

        def locked_once(event: Any) -> None:
            tries.append(event.sql)
            if len(tries) == 2:
                locker.execute("COMMIT")

        hasty.query_hooks.append(locked_once)
        dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")))
    assert tries[:2] == ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE"]
    assert names(hasty) == ["Jo"]


def _hold_lock(path: str, locked: Any, release: Any) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        locked.set()
        release.wait()
        connection.execute("COMMIT")


def test_run_transaction_outlasts_the_lock_of_another_process(hasty: Any) -> None:
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    process = context.Process(target=_hold_lock, args=(hasty.database, locked, release))
    process.start()
    assert locked.wait(60)
    failures = []

    def release_after_a_failure(event: Any) -> None:
        if event.exception is not None:
            failures.append(str(event.exception))
            release.set()

    hasty.query_hooks.append(release_after_a_failure)
    try:
        dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")), attempts=1000)
    finally:
        release.set()
        process.join()
    assert failures and "locked" in failures[0]
    assert names(hasty) == ["Jo"]


def test_run_transaction_gives_up_after_its_attempts(hasty: Any) -> None:
    with connection(hasty) as locker, collected(hasty) as ran:
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(peewee.OperationalError, match="locked"):
            dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")), attempts=3)
    assert ran == ["BEGIN IMMEDIATE"] * 3
    assert not hasty._in_use
    assert names(hasty) == []


def test_run_transaction_repeats_a_stale_write(engine: Any) -> None:
    tries = []

    def work(session: dbm.Session) -> None:
        tries.append(session)
        person = Person(name="Jo")
        session.add(person)
        session.flush()
        if len(tries) < 3:
            session.execute("DELETE FROM people")
        person.name = "Joe"

    dbm.run_transaction(engine, work)
    assert len(tries) == 3 == len(set(tries))
    with dbm.open_session(engine) as session:
        assert session.query(Person.name).all() == [("Joe",)]


@pytest.mark.parametrize("error", [KeyError("k"), peewee.IntegrityError("i"), peewee.OperationalError("no such table")])
def test_run_transaction_does_not_repeat_other_errors(engine: Any, error: Exception) -> None:
    tries = []

    def work(session: dbm.Session) -> None:
        tries.append(session)
        session.add(Person(name="Jo"))
        session.flush()
        raise error

    with pytest.raises(type(error)) as caught:
        dbm.run_transaction(engine, work)
    assert caught.value is error
    assert len(tries) == 1
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 0


def test_run_transaction_does_not_repeat_what_the_database_refuses(engine: Any) -> None:
    tries = []

    def work(session: dbm.Session) -> None:
        tries.append(session)
        session.add(Note(text="of nobody"))

    with pytest.raises(peewee.IntegrityError):
        dbm.run_transaction(engine, work)
    assert len(tries) == 1


@pytest.mark.parametrize("attempts", [0, -1, "many"])
def test_run_transaction_refuses_a_senseless_number_of_attempts(engine: Any, attempts: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="attempts"):
        dbm.run_transaction(engine, lambda session: None, attempts=attempts)


def test_many_threads_that_count_lose_no_update(file_engine: Any) -> None:
    dbm.run_transaction(file_engine, lambda session: session.add(Person(id=1, age=0)))

    def count(session: dbm.Session) -> None:
        session.query(Person).one().age += 1

    def work() -> None:
        for _ in range(5):
            dbm.run_transaction(file_engine, count, attempts=100)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with dbm.open_session(file_engine) as session:
        assert session.query(Person).one().age == 20


@pytest.mark.parametrize("sql", ["COMMIT", " rollback", "/* now */ BEGIN", "SAVEPOINT a", "release a", "END"])
def test_sql_that_ends_or_begins_a_transaction_is_refused(session: dbm.Session, sql: str) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    with pytest.raises(dbm.InvalidRequestError, match="Use its own verbs"):
        session.execute(sql)
    session.commit()
    assert session.query(Person).count() == 1

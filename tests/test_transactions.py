"""Where a transaction begins and ends, who holds a connection, and what sessions see of each other."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import Model, Note, Person, collected, with_settings

from tent.data import dbm

# What keeps all others from writing to the table of people
LOCK = {
    "sqlite": ["BEGIN IMMEDIATE"],
    "postgresql": ["BEGIN", "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"],
    "mariadb": ["LOCK TABLES people WRITE"],
    "mysql": ["LOCK TABLES people WRITE"],
}

# Settings with which an engine gives up at once when what it wants is locked
HASTY: dict[str, Any] = {
    "sqlite": {"timeout": 0},
    "postgresql": {"options": {"options": "-c lock_timeout=1ms"}},
    "mariadb": {"options": {"init_command": "SET lock_wait_timeout = 0, innodb_lock_wait_timeout = 0"}},
    "mysql": {"options": {"init_command": "SET lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"}},
}


def lock(engine: Any) -> None:
    for sql in LOCK[engine.kind]:
        engine.execute_sql(sql)


def unlock(engine: Any) -> None:
    if isinstance(engine, peewee.MySQLDatabase):
        engine.execute_sql("UNLOCK TABLES")
    else:
        engine.rollback()


def names(engine: Any) -> list[str]:
    """Return the names in the database, as another program sees them."""
    return [name for (name,) in engine.execute_sql("SELECT name FROM people ORDER BY id")]


def can_write(program: Any) -> bool:
    """Tell whether another program could write now, whatever it likes to."""
    try:
        lock(program)
    except peewee.OperationalError:
        return False
    finally:
        unlock(program)
    return True


@pytest.fixture
def writer(engine: Any) -> Iterator[dbm.Session]:
    """A session on a database, whose connections no other session has."""
    with dbm.open_session(engine) as session:
        yield session
        session.rollback()


@pytest.fixture
def hasty(engine: Any, config: Any) -> Iterator[Any]:
    """An engine of the database that gives up at once when it is locked."""
    hasty = dbm.connect(with_settings(config, **HASTY[engine.kind]))
    yield hasty
    hasty.close_all()


@pytest.fixture
def program(engine: Any, config: Any) -> Iterator[Any]:
    """Another program's engine of the database, which does not wait for locks."""
    program = dbm.connect(with_settings(config, **HASTY[engine.kind]))
    yield program
    program.close_all()


def failures_of(engine: Any) -> list[Any]:
    """Return a list that gets each error of a statement of the engine's."""
    failures: list[Any] = []
    engine.query_hooks.append(lambda event: failures.extend([event.exception] if event.exception else []))
    return failures


not_memory = pytest.mark.databases("file", "servers")


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


def test_a_write_is_a_transaction(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "INSERT", "COMMIT"]


def test_begin_begins_a_transaction_now(session: dbm.Session, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        session.begin()
    assert [sql.split()[0] for sql in ran] == ["BEGIN"]
    assert session.in_transaction()


@pytest.mark.databases("sqlite")
def test_a_transaction_of_a_write_is_immediate(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran:
        session.commit()
    assert ran[0] == "BEGIN IMMEDIATE"


@pytest.mark.databases("file")
def test_begin_begins_an_immediate_transaction(
    session: dbm.Session, program: Any, statements: Callable[[], Any]
) -> None:
    with statements() as ran:
        session.begin()
    assert ran == ["BEGIN IMMEDIATE"]
    assert not can_write(program)
    session.rollback()
    assert can_write(program)


@pytest.mark.databases("servers")
def test_a_transaction_of_a_server_locks_what_it_has_written(session: dbm.Session, program: Any) -> None:
    session.begin()
    assert can_write(program)
    session.add(Person(name="Jo"))
    session.flush()
    assert not can_write(program)
    session.rollback()
    assert can_write(program)


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


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_a_transaction_goes_on_after_a_statement_that_failed(session: dbm.Session) -> None:
    with session.begin():
        session.add(Person(name="Jo"))
        fails(session, "SELECT nothing FROM people")
        session.add(Person(name="Al"))
    assert session.query(Person).count() == 2


@pytest.mark.databases("postgresql")
def test_a_transaction_of_postgresql_takes_nothing_after_a_statement_that_failed(session: dbm.Session) -> None:
    with pytest.raises(peewee.InternalError, match=r"PostgreSQL takes no more .*session\.begin_nested\(\)"):
        with session.begin():
            session.add(Person(name="Jo"))
            fails(session, "SELECT nothing FROM people")
            session.query(Person).count()
    assert not session.in_transaction()
    assert session.query(Person).count() == 0


def test_a_transaction_goes_on_after_a_statement_that_failed_in_a_savepoint(session: dbm.Session) -> None:
    with session.begin():
        session.add(Person(name="Jo"))
        with suppress(peewee.DatabaseError), session.begin_nested():
            session.execute("SELECT nothing FROM people")
        session.add(Person(name="Al"))
    assert session.query(Person).count() == 2


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


@pytest.fixture
def ann(session: dbm.Session) -> Person:
    ann = Person(name="Ann")
    session.add(ann)
    session.commit()
    return ann


def stored(engine: Any) -> list[str]:
    return [name for (name,) in Person.select(Person.name).order_by(Person.id).tuples().execute(engine)]


@pytest.mark.parametrize("end", ["error", "rollback"])
@pytest.mark.parametrize("done", ["committed", "flushed"])
def test_what_was_done_within_engine_atomic_is_undone_with_it(
    engine: Any, session: dbm.Session, ann: Person, end: str, done: str
) -> None:
    bob = Person(name="Bob")
    with suppress(ZeroDivisionError), engine.atomic() as block:
        ann.name = "Anna"
        session.add(bob)
        session.commit() if done == "committed" else session.flush()
        if end == "error":
            raise ZeroDivisionError
        block.rollback()
    assert (ann.name, session.state(ann)) == ("Ann", "persistent")
    assert (bob.id, session.state(bob)) == (None, "transient")
    assert not session.in_transaction()
    ann.name = "Anna"
    session.add(bob)
    session.commit()
    assert stored(engine) == ["Anna", "Bob"]


def test_a_delete_within_engine_atomic_is_undone_with_it(engine: Any, session: dbm.Session, ann: Person) -> None:
    with suppress(ZeroDivisionError), engine.atomic():
        session.delete(ann)
        session.commit()
        raise ZeroDivisionError
    assert ann in session
    assert session.get(Person, ann.id) is ann


def test_several_commits_within_engine_atomic_are_undone_with_it(
    engine: Any, session: dbm.Session, ann: Person
) -> None:
    with suppress(ZeroDivisionError), engine.atomic():
        for name in ("one", "two"):
            ann.name = name
            session.commit()
        ann.name = "three"
        session.flush()
        ann.name = "four"
        raise ZeroDivisionError
    assert ann.name == "Ann"
    assert session.dirty == []


def test_what_was_flushed_within_engine_atomic_is_kept_by_its_end(
    engine: Any, session: dbm.Session, ann: Person
) -> None:
    with engine.atomic():
        ann.name = "Anna"
        session.flush()
    assert not session.in_transaction()
    session.rollback()
    assert ann.name == "Anna"
    assert stored(engine) == ["Anna"]


def test_an_inner_block_undoes_its_own_part(engine: Any, session: dbm.Session, ann: Person) -> None:
    with engine.atomic():
        ann.name = "outer"
        session.commit()
        with suppress(ZeroDivisionError), engine.atomic():
            ann.name = "inner"
            session.commit()
            raise ZeroDivisionError
        assert ann.name == "outer"
    assert (ann.name, stored(engine)) == ("outer", ["outer"])


def test_what_an_inner_block_kept_is_undone_by_the_outer_one(engine: Any, session: dbm.Session, ann: Person) -> None:
    with suppress(ZeroDivisionError), engine.atomic():
        with engine.atomic():
            ann.name = "inner"
            session.commit()
        with engine.atomic():
            ann.name = "flushed"
            session.flush()
        assert not session.in_transaction()
        raise ZeroDivisionError
    assert (ann.name, stored(engine)) == ("Ann", ["Ann"])


def test_objects_of_a_session_that_was_closed_within_engine_atomic_are_new_again(engine: Any) -> None:
    bob = Person(name="Bob")
    with suppress(ZeroDivisionError), engine.atomic():
        with dbm.open_session(engine) as session:
            session.add(bob)
            session.commit()
        raise ZeroDivisionError
    with dbm.open_session(engine) as session:
        session.add(bob)
        session.commit()
    assert stored(engine) == ["Bob"]


def test_what_another_session_commits_within_a_transaction_in_engine_atomic_is_undone_with_it(
    engine: Any, session: dbm.Session, other: dbm.Session, ann: Person
) -> None:
    bob = Person(name="Bob")
    with engine.atomic():
        ann.name = "Anna"
        session.flush()
        other.add(bob)
        other.commit()
        session.rollback()
        assert (ann.name, other.state(bob)) == ("Ann", "transient")
    other.add(bob)
    other.commit()
    assert stored(engine) == ["Ann", "Bob"]


@pytest.mark.parametrize("verb", ["commit", "rollback", "close"])
def test_a_transaction_in_engine_atomic_can_not_end_before_what_was_begun_after_it(
    engine: Any, session: dbm.Session, other: dbm.Session, ann: Person, verb: str
) -> None:
    with engine.atomic():
        ann.name = "Anna"
        session.flush()
        other.add(Person(name="Bob"))
        other.flush()
        with pytest.raises(dbm.InvalidRequestError, match=r"the transaction of another session.*End that first"):
            getattr(session, verb)()
        with engine.atomic(), pytest.raises(dbm.InvalidRequestError, match=r"a block of engine\.atomic\(\)"):
            other.commit()
        other.commit()
        session.commit()
    assert stored(engine) == ["Anna", "Bob"]


def test_listeners_are_told_of_the_end_that_a_block_puts_to_a_transaction(
    engine: Any, session: dbm.Session, ann: Person
) -> None:
    told: list[str] = []
    dbm.listen(session, "after_rollback", lambda session: told.append("rolled back"))
    dbm.listen(session, "after_commit", lambda session: told.append("committed"))
    with suppress(ZeroDivisionError), engine.atomic():
        ann.name = "Anna"
        session.flush()
        raise ZeroDivisionError
    with engine.atomic():
        ann.name = "Anna"
        session.flush()
    assert told == ["rolled back", "committed"]


# Connections


def fails(session: dbm.Session, sql: str) -> None:
    with pytest.raises(peewee.DatabaseError):
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
    "EXPLAIN": lambda s: s.execute("EXPLAIN SELECT * FROM people").all(),
    "a merge": lambda s: s.merge(Person(id=1)),
    "a query that fails": lambda s: fails(s, "SELECT nothing FROM people"),
    "a get that finds nothing": lambda s: s.get(Person, 99),
}


@not_memory
@pytest.mark.parametrize("kind", READS)
def test_a_session_that_has_only_read_holds_nothing(writer: dbm.Session, engine: Any, program: Any, kind: str) -> None:
    writer.add(Note(person=Person(name="Jo")))
    writer.add(Person(name="Al"))
    writer.commit()
    writer.expunge_all()
    READS[kind](writer)
    assert not writer.in_transaction()
    assert not engine._in_use
    assert can_write(program)


OWN_READS = {
    "sqlite": ["EXPLAIN QUERY PLAN SELECT * FROM people", "PRAGMA table_info(people)"],
    "postgresql": ["SHOW search_path", "TABLE people"],
    "mariadb": ["SHOW TABLES", "DESCRIBE people", "SHOW CREATE TABLE people"],
    "mysql": ["SHOW TABLES", "DESCRIBE people"],
}


@not_memory
def test_a_session_that_has_only_read_in_its_databases_own_words_holds_nothing(
    writer: dbm.Session, engine: Any, program: Any
) -> None:
    writer.add(Person(name="Al"))
    writer.commit()
    for sql in OWN_READS[engine.kind]:
        assert writer.execute(sql).all()
        assert not writer.in_transaction()
        assert not engine._in_use
    assert can_write(program)


@not_memory
def test_open_sessions_that_do_nothing_hold_nothing(engine: Any) -> None:
    sessions = [dbm.open_session(engine) for _ in range(20)]
    assert not engine._in_use
    for session in sessions:
        session.close()


@not_memory
def test_a_write_holds_one_connection_until_the_end(writer: dbm.Session, engine: Any) -> None:
    held = []
    for end in (writer.commit, writer.rollback, writer.close):
        writer.add(Person())
        writer.flush()
        writer.query(Person).all()
        held.append(len(engine._in_use))
        if end == writer.close:
            with pytest.warns(dbm.UnsavedChangesWarning):
                end()
        else:
            end()
        held.append(len(engine._in_use))
    assert held == [1, 0, 1, 0, 1, 0]


@not_memory
def test_a_flush_that_fails_holds_nothing(writer: dbm.Session, engine: Any, program: Any) -> None:
    writer.add(Note(text="of nobody"))
    with pytest.raises(peewee.IntegrityError):
        writer.commit()
    assert not writer.in_transaction()
    assert not engine._in_use
    assert can_write(program)


@pytest.mark.databases("file")
def test_a_session_that_waits_in_vain_for_another_one_loses_nothing_and_is_told_so(hasty: Any) -> None:
    with dbm.open_session(hasty) as first, dbm.open_session(hasty) as second:
        first.add(Person(name="Jo"))
        first.flush()
        second.add(Person(name="Al"))
        with pytest.raises(peewee.OperationalError, match=r"is locked: another session .* Commit it"):
            second.commit()
        first.commit()
        second.commit()
        assert second.query(Person.name).order_by(Person.id).all() == [("Jo",), ("Al",)]


@pytest.mark.databases("file")
def test_a_transaction_that_only_reads_waits_for_nobody(hasty: Any) -> None:
    with dbm.open_session(hasty) as first, dbm.open_session(hasty, read_only=True) as second:
        first.add(Person(name="Jo"))
        first.flush()
        with second.begin():
            assert second.query(Person).count() == 0
        first.commit()


@pytest.mark.databases("file")
def test_peewees_own_transactions_wait_in_turn_too(hasty: Any) -> None:
    with dbm.open_session(hasty) as session, hasty.atomic():
        session.add(Person(name="Jo"))  # is part of it
        session.commit()
        with dbm.open_session(hasty) as other, ThreadPoolExecutor(1) as thread:
            other.add(Person(name="Al"))
            with pytest.raises(peewee.OperationalError, match="another session"):
                thread.submit(other.commit).result()
            other.rollback()
    with hasty.atomic("DEFERRED"), hasty.atomic():
        assert sorted(name for (name,) in hasty.execute_sql("SELECT name FROM people")) == ["Jo"]


@pytest.fixture(params=[":memory:", "turn.db"])
def impatient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An SQLite database, in memory or in a file, in which nobody waits for others."""
    path = request.param if request.param == ":memory:" else str(tmp_path / request.param)
    impatient = dbm.connect({"driver": "sqlite", "path": path, "timeout": 0})
    dbm.install_tables(impatient, models=Model)
    yield impatient
    impatient.close_all()


def test_ctrl_c_while_a_transaction_waits_for_its_turn_keeps_nobody_out(impatient: Any) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    take = impatient._turn.take
    for moment in (interrupt, lambda *args: (take(*args), interrupt())):  # before the turn has come, and after
        impatient._turn.take = moment
        with dbm.open_session(impatient) as session:
            session.add(Person(name="Jo"))
            with pytest.raises(KeyboardInterrupt):
                session.commit()
            impatient._turn.take = take
            session.commit()
    with impatient.connection_context():
        assert names(impatient) == ["Jo", "Jo"]


def test_ctrl_c_when_a_commit_is_done_leaves_the_transaction_that_comes_next_alone(
    impatient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dbm.open_session(impatient) as session, dbm.open_session(impatient) as other:
        commit = type(impatient).commit

        def interrupted(engine: Any) -> None:
            commit(engine)
            monkeypatch.undo()
            other.add(Person(name="Al"))
            other.flush()
            raise KeyboardInterrupt

        monkeypatch.setattr(type(impatient), "commit", interrupted)
        session.add(Person(name="Jo"))
        with pytest.raises(KeyboardInterrupt):
            session.commit()
        assert (session.new, session.dirty, session.in_transaction()) == ([], [], False)
        other.commit()
    with impatient.connection_context():
        assert names(impatient) == ["Jo", "Al"]


def test_a_transaction_that_a_program_ends_by_sql_of_its_own_gives_its_turn_back(impatient: Any) -> None:
    with impatient.connection_context():
        impatient.begin()
        impatient.execute_sql("INSERT INTO people (name, score, tags) VALUES ('Jo', 0, '[]')")
        impatient.execute_sql("COMMIT")
        with dbm.transaction(impatient) as session:
            session.add(Person(name="Al"))
        assert names(impatient) == ["Jo", "Al"]


def test_a_transaction_within_one_is_refused_and_leaves_that_one_open(impatient: Any) -> None:
    with impatient.connection_context():
        impatient.begin()
        impatient.execute_sql("INSERT INTO people (name, score, tags) VALUES ('Jo', 0, '[]')")
        with pytest.raises(peewee.OperationalError, match="within a transaction"):
            impatient.begin()
        impatient.commit()
        with dbm.transaction(impatient) as session:
            session.add(Person(name="Al"))
        assert names(impatient) == ["Jo", "Al"]


def test_engine_atomic_in_another_thread_waits_for_the_first_one_and_does_not_undo_it(impatient: Any) -> None:
    def write() -> None:
        with impatient.connection_context(), impatient.atomic():
            pass

    with impatient.connection_context(), impatient.atomic():
        impatient.execute_sql("INSERT INTO people (name, score, tags) VALUES ('Jo', 0, '[]')")
        with ThreadPoolExecutor(1) as thread, pytest.raises(peewee.OperationalError, match="another session"):
            thread.submit(write).result()
    with impatient.connection_context():
        assert names(impatient) == ["Jo"]


@pytest.mark.parametrize("where", ["this thread", "another"])
def test_what_the_engine_writes_gets_into_no_transaction_of_a_session(impatient: Any, where: str) -> None:
    def write() -> None:
        with impatient.connection_context():
            Person.insert(name="Al").execute(impatient)

    def try_it() -> None:
        if where == "this thread":
            write()
        else:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(write).result()

    with dbm.open_session(impatient) as session:
        session.add(Person(name="Jo"))
        session.flush()
        assert session.query(Person).count() == 1
        with pytest.raises(peewee.OperationalError, match="locked"):
            try_it()
        session.rollback()
        try_it()
        assert [person.name for person in session.query(Person)] == ["Al"]


@pytest.mark.databases("file")
def test_a_begin_that_fails_holds_nothing(hasty: Any, program: Any) -> None:
    lock(program)
    with dbm.open_session(hasty) as session:
        with pytest.raises(peewee.OperationalError, match="locked"):
            session.begin()
        assert not session.in_transaction()
        assert not hasty._in_use
    unlock(program)


@not_memory
def test_connections_are_taken_from_the_pool_again(writer: dbm.Session, engine: Any) -> None:
    for _ in range(5):
        writer.add(Person())
        writer.commit()
        writer.query(Person).all()
    assert len(engine._connections) == 1


@not_memory
def test_a_session_that_is_dropped_in_a_transaction_gives_all_back(engine: Any, program: Any) -> None:
    session = dbm.open_session(engine)
    session.add(Person(name="Jo"))
    session.flush()
    del session
    assert not engine._in_use
    assert can_write(program)
    assert names(program) == []


# Isolation


@not_memory
def test_two_sessions_are_isolated(writer: dbm.Session, engine: Any, program: Any) -> None:
    with dbm.open_session(engine) as reader:
        writer.add(Person(name="Jo"))
        writer.flush()
        assert reader.query(Person).all() == []
        assert names(program) == []
        writer.commit()
        assert [person.name for person in reader.query(Person)] == ["Jo"]
        assert names(program) == ["Jo"]


@not_memory
def test_what_was_rolled_back_is_never_seen(writer: dbm.Session, program: Any) -> None:
    writer.add(Person(name="Jo"))
    writer.flush()
    writer.rollback()
    assert names(program) == []


@not_memory
def test_a_read_does_not_keep_another_session_from_writing(writer: dbm.Session, engine: Any) -> None:
    with dbm.open_session(engine) as reader:
        rows = iter(reader.query(Person))
        reader.query(Person).all()
        writer.add(Person(name="Jo"))
        writer.commit()
        assert list(rows) == []
        assert reader.query(Person).count() == 1


@not_memory
def test_a_read_that_turns_into_a_write_is_not_locked_out(writer: dbm.Session, engine: Any, program: Any) -> None:
    writer.add(Person(name="Jo", age=3))
    writer.commit()
    with dbm.open_session(engine) as second:
        person = second.query(Person).one()
        writer.query(Person).one().name = "Joe"
        writer.commit()
        person.age = 4
        second.commit()
    assert names(program) == ["Joe"]
    assert writer.query(Person.name, Person.age).all() == [("Joe", 4)]


@pytest.mark.databases("servers")
def test_a_second_writer_of_a_server_does_not_wait_for_the_first(
    writer: dbm.Session, engine: Any, program: Any
) -> None:
    writer.add(Person(name="first"))
    writer.flush()
    with dbm.transaction(engine) as session:
        session.add(Person(name="second"))
    assert names(program) == ["second"]
    writer.commit()
    assert names(program) == ["first", "second"]


@pytest.mark.databases("file")
def test_a_second_writer_waits_for_the_first(writer: dbm.Session, engine: Any, program: Any) -> None:
    writer.add(Person(name="first"))
    writer.flush()
    begun = threading.Event()

    def write() -> None:
        with dbm.open_session(engine) as session:
            session.add(Person(name="second"))
            begun.set()
            session.commit()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    writer.commit()
    thread.join()
    assert names(program) == ["first", "second"]


@not_memory
def test_a_locked_database_leaves_the_changes_for_another_try(hasty: Any, program: Any) -> None:
    with dbm.open_session(hasty) as session:
        person = Person(name="Jo")
        session.add(person)
        lock(program)
        with pytest.raises(peewee.OperationalError) as caught:
            session.commit()
        assert hasty.is_retryable(caught.value)
        assert (session.new, session.in_transaction(), len(hasty._in_use)) == ([person], False, 0)
        unlock(program)
        session.commit()
    assert names(program) == ["Jo"]


def test_sessions_in_memory_share_one_connection() -> None:
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


@not_memory
def test_run_transaction_tries_again_when_the_database_was_locked(hasty: Any, program: Any) -> None:
    """The lock is another program's; it goes away during the second try."""
    lock(program)
    failures = failures_of(hasty)
    hasty.query_hooks.append(lambda event: unlock(program) if event.exception and len(failures) == 2 else None)
    dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")))
    assert len(failures) == 2
    assert names(program) == ["Jo"]


@pytest.mark.databases("servers")
def test_run_transaction_repeats_the_one_that_a_deadlock_has_ended(engine: Any, session: dbm.Session) -> None:
    session.add_all([Person(id=1), Person(id=2)])
    session.commit()
    tries: list[int] = []
    both = threading.Barrier(2, timeout=30)

    def work(one: int, other: int) -> None:
        def count_up(session: dbm.Session) -> None:
            tries.append(one)
            session.execute("UPDATE people SET score = score + 1 WHERE id = ?", [one])
            if tries.count(one) == 1:
                both.wait()
            session.execute("UPDATE people SET score = score + 1 WHERE id = ?", [other])

        dbm.run_transaction(engine, count_up)

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 3
    assert session.query(Person.score).all() == [(2,), (2,)]


def _hold_lock(config: Any, locked: Any, release: Any) -> None:
    engine: Any = dbm.connect(config)
    lock(engine)
    locked.set()
    release.wait()
    unlock(engine)
    engine.close_all()


@not_memory
def test_run_transaction_outlasts_the_lock_of_another_process(hasty: Any, config: Any, program: Any) -> None:
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    process = context.Process(target=_hold_lock, args=(config, locked, release))
    process.start()
    assert locked.wait(60)
    failures = failures_of(hasty)
    hasty.query_hooks.append(lambda event: release.set() if failures else None)
    try:
        dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")), attempts=1000)
    finally:
        release.set()
        process.join()
    assert failures and hasty.is_retryable(failures[0])
    assert names(program) == ["Jo"]


@not_memory
def test_run_transaction_gives_up_after_its_attempts(hasty: Any, program: Any) -> None:
    lock(program)
    failures = failures_of(hasty)
    with pytest.raises(peewee.OperationalError):
        dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")), attempts=3)
    unlock(program)
    assert len(failures) == 3
    assert not hasty._in_use
    assert names(program) == []


@pytest.mark.databases("file")
def test_run_transaction_of_a_locked_file_fails_at_begin(hasty: Any, program: Any) -> None:
    lock(program)
    with collected(hasty) as ran, pytest.raises(peewee.OperationalError, match="locked"):
        dbm.run_transaction(hasty, lambda session: session.add(Person(name="Jo")), attempts=3)
    unlock(program)
    assert ran == ["BEGIN IMMEDIATE"] * 3


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


@pytest.mark.databases("file")
def test_many_threads_that_count_lose_no_update(engine: Any) -> None:
    dbm.run_transaction(engine, lambda session: session.add(Person(id=1, age=0)))

    def count(session: dbm.Session) -> None:
        session.query(Person).one().age += 1

    def work() -> None:
        for _ in range(5):
            dbm.run_transaction(engine, count, attempts=100)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with dbm.open_session(engine) as session:
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

"""Sessions and threads: one at a time in a session, any number on an engine; and what a child process inherits."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peewee
import pytest
from conftest import Note, Person, opened

from tent.data import dbm
from tent.data.orm import hooks, mapper

WAIT = 30  # seconds, for a test that fails; no test that passes waits


def in_thread(call: Callable[[], Any]) -> Any:
    """Call in another thread, to its end, and return or raise what comes of it."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(WAIT)
    assert outcome, "the thread hangs"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


@contextmanager
def in_the_middle_of(engine: Any, call: Callable[[], Any]) -> Iterator[None]:
    """While the block runs, another thread is in the middle of a call: in its first statement."""
    entered, leave = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def hold(event: Any) -> None:
        if threading.current_thread() is thread and not entered.is_set():
            entered.set()
            leave.wait(WAIT)

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    engine.query_hooks.append(hold)
    try:
        thread.start()
        assert entered.wait(WAIT), f"the call ran no statement: {errors}"
        yield
    finally:
        leave.set()
        thread.join(WAIT)
        engine.query_hooks.remove(hold)
    assert not errors, errors


@pytest.fixture
def person(session: Any) -> Person:
    person = Person(name="Jo", score=0)
    session.add(person)
    session.commit()
    return person


# One thread at a time in a session


SECOND_CALLS: list[Callable[[Any, Person], Any]] = [
    lambda session, person: session.add(Person()),
    lambda session, person: session.add_all([Person()]),
    lambda session, person: session.delete(person),
    lambda session, person: session.expunge(person),
    lambda session, person: session.expunge_all(),
    lambda session, person: session.merge(Person(name="x")),
    lambda session, person: session.refresh(person),
    lambda session, person: session.expire(person),
    lambda session, person: session.expire_all(),
    lambda session, person: session.flush(),
    lambda session, person: session.commit(),
    lambda session, person: session.rollback(),
    lambda session, person: session.close(),
    lambda session, person: session.begin(),
    lambda session, person: session.begin_nested(),
    lambda session, person: session.get(Person, 1),
    lambda session, person: session.execute("SELECT 1"),
    lambda session, person: session.scalar("SELECT 1"),
    lambda session, person: session.query(Person).all(),
    lambda session, person: session.query(Person).filter_by(name="Jo").first(),
    lambda session, person: session.query(Person).where(Person.id > 0).first(),
    lambda session, person: session.query(Person.id).all(),
    lambda session, person: session.query(Person).count(),
    lambda session, person: list(session.query(Person).yield_per(10)),
    lambda session, person: session.query(Person).update({"score": 1}),
    lambda session, person: session.query(Person).delete(),
    lambda session, person: list(person.notes),
]

FIRST_CALLS: list[Callable[[Any], Any]] = [
    lambda session: session.flush(),
    lambda session: session.commit(),
    lambda session: session.query(Person).all(),
    lambda session: session.query(Person).where(Person.id > 0).all(),
    lambda session: session.execute("SELECT 1"),
]


@pytest.mark.parametrize("call", SECOND_CALLS)
def test_a_second_thread_in_the_middle_of_a_call_is_refused(
    engine: Any, session: Any, person: Person, call: Callable[[Any, Person], Any]
) -> None:
    session.add(Person(name="new"))
    with in_the_middle_of(engine, session.flush):
        with pytest.raises(dbm.ConcurrentUseError, match="one for each"):
            call(session, person)
    assert len(session.identity_map) == 2
    session.rollback()


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_each_call_that_runs_sql_keeps_other_threads_out(
    engine: Any, session: Any, person: Person, call: Callable[[Any], Any]
) -> None:
    session.add(Person(name="new"))
    with in_the_middle_of(engine, lambda: call(session)):
        with pytest.raises(dbm.ConcurrentUseError):
            session.add(Person())
    session.rollback()


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("begin", ["begin", "begin_nested"])
def test_a_transactions_handle_is_refused_in_the_middle_of_a_call_too(
    engine: Any, session: Any, person: Person, begin: str, end: str
) -> None:
    handle = getattr(session, begin)()
    person.name = "new"
    with in_the_middle_of(engine, session.flush):
        with pytest.raises(dbm.ConcurrentUseError):
            getattr(handle, end)()
    assert handle.is_active
    session.rollback()


@pytest.mark.parametrize(
    "condition", [lambda key: key > 0, lambda key: (key > 0) | (key < 0)], ids=["plain", "not plain"]
)
def test_a_second_thread_is_refused_while_the_rows_of_a_query_become_objects(
    engine: Any, session: Any, condition: Callable[[Any], Any]
) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(peewee.TextField):
        def python_value(self, value: Any) -> Any:
            entered.set()
            leave.wait(WAIT)
            return value

    class Page(dbm.declarative_base()):  # type: ignore[misc]
        text = Slow()

    dbm.install_tables(engine, models=[Page])
    engine.execute_sql("INSERT INTO pages (text) VALUES ('a')")
    thread = threading.Thread(target=lambda: session.query(Page).where(condition(Page.id)).all())
    thread.start()
    try:
        assert entered.wait(WAIT)
        with pytest.raises(dbm.ConcurrentUseError):
            session.expunge_all()
    finally:
        leave.set()
        thread.join(WAIT)


def test_the_first_thread_is_not_disturbed_by_one_that_is_refused(engine: Any, session: Any) -> None:
    session.add(Person(name="new"))
    with in_the_middle_of(engine, session.commit):
        with pytest.raises(dbm.ConcurrentUseError):
            session.rollback()
    assert list(engine.execute_sql("SELECT name FROM people")) == [("new",)]


def test_following_a_relation_is_refused_too(engine: Any, session: Any, person: Person) -> None:
    session.add(Note(person=person))
    session.commit()
    session.expunge_all()
    note = session.query(Note).first()
    with in_the_middle_of(engine, lambda: session.execute("SELECT 1")):
        with pytest.raises(dbm.ConcurrentUseError):
            note.person  # noqa: B018
    assert note.person.name == "Jo"


def test_reading_and_setting_columns_is_allowed_while_another_thread_reads(
    engine: Any, session: Any, person: Person
) -> None:
    with in_the_middle_of(engine, lambda: session.execute("SELECT 1")):
        assert person.name == "Jo"
        person.score = 3
    session.commit()
    assert list(engine.execute_sql("SELECT score FROM people")) == [(3,)]


def test_objects_that_are_added_together_are_added_as_one(session: Any) -> None:
    def people() -> Iterator[Person]:
        yield Person(name="Jo")
        with pytest.raises(dbm.ConcurrentUseError):
            in_thread(session.rollback)
        yield Person(name="Al")

    session.add_all(people())
    assert [person.name for person in session.new] == ["Jo", "Al"]


def test_dirty_objects_can_be_listed_while_another_thread_changes_one_more(session: Any, person: Person) -> None:
    meanwhile: list[Callable[[], Any]] = []

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            if meanwhile:
                in_thread(meanwhile.pop())
            return super().__eq__(other)

    second = Person()
    session.add(second)
    person.name = Name("a")
    session.commit()
    person.name = Name("b")
    meanwhile.append(lambda: setattr(second, "score", 1))
    assert session.dirty == [person]
    assert session.dirty == [person, second]


def test_a_session_may_be_handed_from_thread_to_thread(engine: Any, session: Any) -> None:
    def start() -> Person:
        person = Person(name="Jo")
        session.add(person)
        session.flush()
        return person

    def go_on() -> None:
        session.query(Person).one().name = "Flo"
        session.flush()

    person = in_thread(start)
    in_thread(go_on)
    session.commit()
    assert person.name == "Flo"
    assert list(engine.execute_sql("SELECT name FROM people")) == [("Flo",)]


def test_a_thread_can_close_the_session_of_another_one(engine: Any, session: Any, other: Any) -> None:
    def start() -> None:
        session.add(Person(name="Jo"))
        session.flush()

    in_thread(start)
    session.rollback()
    session.close()
    other.add(Person(name="Flo"))
    other.commit()
    assert list(engine.execute_sql("SELECT name FROM people")) == [("Flo",)]


def test_hooks_and_callbacks_of_the_same_thread_may_use_the_session(engine: Any, session: Any) -> None:
    with session.no_autoflush:
        session.add(Person(name="Jo"))
        assert session.query(Person).count() == 0
    assert session.query(Person).count() == 1


# Several threads on one engine


def run_all(calls: list[Callable[[], Any]]) -> None:
    errors: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * WAIT)
    assert not errors, errors


def count_up_in_8_threads(engine: Any, key: int, locks: bool = False, **options: Any) -> tuple[int, int]:
    """Let each thread count up 25 times, and return what the counter says, and how often it was counted up."""

    def count_up(session: Any) -> None:
        found = session.get(Person, key, with_for_update=locks)
        found.score += 1
        session.add(Note(person=found))

    def work() -> None:
        for _ in range(25):
            dbm.run_transaction(engine, count_up, attempts=200, **options)

    run_all([work] * 8)
    with dbm.open_session(engine) as session:
        return session.get(Person, key).score, session.query(Note).count()


@pytest.mark.databases("sqlite")
def test_a_counter_that_8_threads_count_up_is_exact(engine: Any, person: Person) -> None:
    assert count_up_in_8_threads(engine, person.id) == (200, 200)


def test_a_counter_whose_row_is_locked_before_it_is_read_is_exact(engine: Any, person: Person) -> None:
    assert count_up_in_8_threads(engine, person.id, locks=True) == (200, 200)


def test_a_counter_that_serializable_transactions_count_up_is_exact(engine: Any, person: Person) -> None:
    assert count_up_in_8_threads(engine, person.id, isolation_level="SERIALIZABLE") == (200, 200)


@pytest.mark.databases("servers")
def test_two_transactions_of_a_server_that_read_before_either_writes_lose_an_update(
    engine: Any, person: Person
) -> None:
    # SQLite lets the second begin when the first has ended; a server does not, and wants a lock, a version or a level.
    with dbm.open_session(engine, isolation_level="READ COMMITTED") as one:
        with dbm.open_session(engine, isolation_level="READ COMMITTED") as two:
            for session in (one, two):
                session.begin()
                session.get(Person, person.id).score += 1
            one.commit()
            two.commit()
    with dbm.open_session(engine) as session:
        assert session.get(Person, person.id).score == 1


def test_8_threads_each_with_a_session_write_and_read_their_own(engine: Any) -> None:
    def worker(name: str) -> Callable[[], None]:
        def work() -> None:
            for number in range(10):
                with dbm.transaction(engine) as session:
                    session.add(Person(name=name, age=number))
                with dbm.open_session(engine) as session:
                    assert session.query(Person).filter_by(name=name).count() == number + 1

        return work

    run_all([worker(str(number)) for number in range(8)])
    found = engine.execute_sql("SELECT name, COUNT(*) FROM people GROUP BY name ORDER BY name")
    assert list(found) == [(str(number), 10) for number in range(8)]


def test_a_database_is_one_for_all_threads(engine: Any, person: Person) -> None:
    def read() -> str:
        with dbm.open_session(engine) as session:
            return str(session.get(Person, person.id).name)

    assert in_thread(read) == "Jo"


def test_a_writer_waits_for_another_threads_transaction_to_end(
    engine: Any, session: Any, other: Any, person: Person
) -> None:
    person.score = 1
    session.flush()
    started = threading.Event()

    def count_up() -> None:
        started.set()
        other.execute("UPDATE people SET score = score + 10")
        other.commit()

    thread = threading.Thread(target=count_up)
    thread.start()
    assert started.wait(WAIT)
    session.commit()
    thread.join(WAIT)
    assert list(engine.execute_sql("SELECT score FROM people")) == [(11,)]


def test_threads_that_use_a_model_for_the_first_time_at_once_share_what_is_kept_of_it(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page(dbm.declarative_base()):  # type: ignore[misc]
        text = peewee.TextField()

    first: list[mapper.Mapper] = []
    make = mapper.Mapper.__init__

    def slowly(self: Any, model: Any, engine: Any) -> None:
        make(self, model, engine)
        if not first:
            first.append(self)
            first[0] = in_thread(lambda: mapper.mapper_of(model, engine))

    monkeypatch.setattr(mapper.Mapper, "__init__", slowly)
    assert mapper.mapper_of(Page, engine) is first[0]


def test_listeners_that_go_at_the_same_time_are_both_gone(engine: Any, session: Any) -> None:
    told: list[Any] = []
    meanwhile: list[Callable[[], Any]] = []

    class Going:
        def __call__(self, session: Any) -> None: ...

        def __eq__(self, other: object) -> bool:
            if meanwhile:
                in_thread(meanwhile.pop())
            return self is other

    going = Going()
    for listener in (told.append, going):
        dbm.listen(engine, "after_commit", listener)
    meanwhile.append(lambda: dbm.unlisten(engine, "after_commit", told.append))
    dbm.unlisten(engine, "after_commit", going)
    session.commit()
    assert told == []


def test_a_listener_that_comes_while_those_of_its_model_are_looked_up_is_told_from_then_on(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    meanwhile = [lambda: dbm.listen(Note, "before_insert", told.append)]
    look_up = hooks.Listeners.of

    def ignore(note: Note) -> None: ...

    def slowly(self: Any, name: str) -> Any:
        found = look_up(self, name)
        if meanwhile and name == "before_insert":
            in_thread(meanwhile.pop())
        return found

    person = Person(name="Jo")
    dbm.listen(Note, "before_insert", ignore)
    monkeypatch.setattr(hooks.Listeners, "of", slowly)
    session.add(Note(person=person))
    session.commit()
    note = Note(person=person)
    session.add(note)
    session.commit()
    for listener in (ignore, told.append):
        dbm.unlisten(Note, "before_insert", listener)
    assert told == [note]


def test_a_session_that_was_dropped_in_a_transaction_frees_the_database_for_other_threads(
    engine: Any, person: Person
) -> None:
    def drop() -> None:
        session = dbm.open_session(engine)
        session.get(Person, person.id).score = 5
        session.flush()

    def write() -> None:
        with dbm.transaction(engine) as session:
            session.get(Person, person.id).score += 1

    in_thread(drop)
    in_thread(write)
    assert list(engine.execute_sql("SELECT score FROM people")) == [(1,)]


def test_a_session_that_is_dropped_after_its_engine_was_closed_is_quiet(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    session = dbm.open_session(engine)
    session.add(Person(name="Jo"))
    session.flush()
    engine.close_all()
    del session
    gc.collect()
    assert [hooked.exc_value for hooked in raised] == []


# After a fork


def in_child(call: Callable[[], Any]) -> str:
    """Call in a forked child, and return what it returned, or its error, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(call())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.databases("file", "servers")
def test_a_child_process_has_connections_of_its_own(engine: Any) -> None:
    session = dbm.open_session(engine)
    session.add(Person(name="Jo"))
    session.commit()

    def work() -> str:
        with opened(engine) as connections:
            names = ",".join(person.name for person in session.query(Person).order_by(Person.id))
            with dbm.transaction(engine) as own:
                own.add(Person(name="child"))
        return f"{names}, {len(connections)} opened"

    assert in_child(work) == "Jo, 1 opened"
    assert [person.name for person in session.query(Person).order_by(Person.id)] == ["Jo", "child"]
    session.close()


@pytest.mark.databases("file", "servers")
def test_a_transaction_that_was_open_at_the_fork_is_the_parents(engine: Any) -> None:
    session = dbm.open_session(engine)
    session.add(Person(name="Jo"))
    session.flush()
    found = in_child(lambda: session.query(Person).all())
    assert found.startswith("InterfaceError") and "fork" in found
    session.commit()
    assert [person.name for person in session.query(Person)] == ["Jo"]
    session.close()


@pytest.mark.databases("file")
def test_a_child_writes_though_a_thread_was_just_taking_its_turn_at_the_fork(engine: Any) -> None:
    def work() -> str:
        with dbm.transaction(engine) as session:
            session.add(Person(name="child"))
        return "written"

    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._turn._lock:
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    assert in_child(work) == "written"
    go_on.set()
    thread.join()


@pytest.mark.databases("file", "servers")
def test_a_child_that_drops_a_session_of_the_parents_does_not_end_its_transaction(engine: Any) -> None:
    sessions = [dbm.open_session(engine)]
    sessions[0].add(Person(name="Jo"))
    sessions[0].flush()

    def drop() -> int:
        sessions.clear()
        with dbm.open_session(engine) as own:
            return own.query(Person).count()

    assert in_child(drop) == "0"
    sessions[0].commit()
    assert sessions[0].query(Person).count() == 1
    sessions[0].close()


def test_a_database_in_memory_stays_with_the_parent() -> None:
    engine = dbm.connect("sqlite:///:memory:")
    engine.execute_sql("CREATE TABLE t (x)")
    found = in_child(lambda: dbm.open_session(engine).scalar("SELECT COUNT(*) FROM t"))
    assert found.startswith("InterfaceError") and "parent" in found
    assert engine.execute_sql("SELECT COUNT(*) FROM t").fetchall() == [(0,)]
    engine.close_all()

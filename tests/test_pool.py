"""Connections: who holds one and for how long, what happens when there are none, and when one is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import peewee
import pytest
import servers
from conftest import Person

from tent.data import dbm

pytestmark = pytest.mark.databases("servers")


def number(database: Any) -> int:
    """Return the server's number of the connection that a session, or an engine, uses now."""
    return int(database.execute(f"SELECT {servers.CONNECTION_ID[_engine(database).kind]}").scalar())


def _engine(database: Any) -> Any:
    return getattr(database, "engine", database)


def end(engine: Any, *numbers: int) -> None:
    """Let the server end connections, as one that restarts does, and wait until they are gone."""
    servers.end_connections(engine, numbers)


def in_pool(engine: Any) -> tuple[int, int]:
    """Return how many connections are in use, and how many are idle."""
    return len(engine._in_use), len(engine._connections)


# Who holds one


def test_a_session_that_reads_gives_its_connection_back(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.query(Person).all()
        assert len(engine._in_use) == 0


def test_a_session_holds_one_connection_from_its_first_write_to_its_commit(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add(Person(name="Joe"))
        assert len(engine._in_use) == 0
        session.flush()
        session.query(Person).all()
        assert len(engine._in_use) == 1
        session.commit()
        assert len(engine._in_use) == 0


@pytest.mark.parametrize("end_it", ["rollback", "close"])
def test_an_end_without_commit_gives_the_connection_back(connect: Callable[..., Any], end_it: str) -> None:
    engine = connect()
    session = dbm.open_session(engine)
    session.begin()
    getattr(session, end_it)()
    assert len(engine._in_use) == 0


def test_a_thousand_open_sessions_share_a_pool_of_five(connect: Callable[..., Any]) -> None:
    engine = connect(pool_size=5, pool_timeout=0.01)
    with ExitStack() as stack:
        sessions = [stack.enter_context(dbm.open_session(engine)) for _ in range(1000)]
        for place, session in enumerate(sessions):
            session.add(Person(name=f"{place}"))
            session.commit()
            assert session.query(Person).count() == place + 1
        assert sum(in_pool(engine)) <= 5


def test_connections_are_opened_as_they_are_wanted(connect: Callable[..., Any]) -> None:
    engine = connect(pool_size=5)
    engine.close_idle()
    with dbm.open_session(engine) as one, dbm.open_session(engine) as two:
        one.begin()
        two.begin()
        assert in_pool(engine) == (2, 0)
    assert in_pool(engine) == (0, 2)


def test_a_connection_older_than_pool_recycle_is_replaced(connect: Callable[..., Any]) -> None:
    engine = connect(pool_recycle=0.05)
    with dbm.open_session(engine) as session:
        first = number(session)
        time.sleep(0.06)
        assert number(session) != first


def test_a_connection_younger_than_pool_recycle_is_used_again(connect: Callable[..., Any]) -> None:
    engine = connect(pool_recycle=3600)
    with dbm.open_session(engine) as session:
        assert number(session) == number(session)


# When there is none


def test_who_waits_in_vain_is_told_who_holds_what(connect: Callable[..., Any]) -> None:
    engine = connect(pool_size=2, pool_timeout=0.05)
    with dbm.open_session(engine) as one, dbm.open_session(engine) as two, dbm.open_session(engine) as three:
        one.begin()
        two.execute("UPDATE people SET age = 1")
        three.add(Person(name="Joe"))
        with pytest.raises(peewee.OperationalError) as caught:
            three.commit()
        assert "No connection was free within 0.05 s: all 2 of the pool are in use" in str(caught.value)
        assert f"thread {threading.current_thread().name!r}" in str(caught.value)
        assert "UPDATE people SET age = 1" in str(caught.value)
        assert "pool_size" in str(caught.value)
        two.rollback()
        three.commit()
        assert three.query(Person).count() == 1


def test_who_waits_gets_the_connection_that_is_given_back(connect: Callable[..., Any]) -> None:
    engine = connect(pool_size=1, pool_timeout=30)
    with dbm.open_session(engine) as holder:
        holder.begin()
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(dbm.open_session(engine).query(Person).count()))
        waiting.start()
        holder.commit()
        waiting.join(30)
    assert found == [0]


def test_many_threads_take_turns_with_few_connections(connect: Callable[..., Any]) -> None:
    engine = connect(pool_size=2, pool_timeout=30)

    def work() -> None:
        for _ in range(10):
            with dbm.transaction(engine) as session:
                session.add(Person(name="Joe"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 80
    assert sum(in_pool(engine)) <= 2


@pytest.mark.parametrize(
    ("sql", "params"), [("UPDATE people SET name = ?", ["hunter2"]), ("UPDATE people SET name = 'hunter2'", [])]
)
def test_a_value_is_in_no_message(connect: Callable[..., Any], sql: str, params: list[str]) -> None:
    engine = connect(pool_size=1, pool_timeout=0.05)
    with dbm.open_session(engine) as one, dbm.open_session(engine) as two:
        one.execute(sql, params)
        with pytest.raises(peewee.OperationalError) as caught:
            two.query(Person).all()
        one.rollback()
    assert "hunter2" not in str(caught.value)


# When one is lost


def test_a_connection_that_died_in_the_pool_is_replaced(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        end(engine, number(session))
        assert session.query(Person).all() == []


def test_all_connections_of_the_pool_may_have_died(connect: Callable[..., Any]) -> None:
    engine = connect()
    with ExitStack() as stack:
        sessions = [stack.enter_context(dbm.open_session(engine)) for _ in range(4)]
        for session in sessions:
            session.begin()
        numbers = [number(session) for session in sessions]
        for session in sessions:
            session.rollback()
        end(engine, *numbers)
        for session in sessions:
            session.add(Person(name="Joe"))
            session.commit()
        assert sessions[0].query(Person).count() == 4


def test_a_transaction_begins_on_another_connection_than_a_dead_one(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        end(engine, number(session))
        session.add(Person(name="Joe"))
        session.commit()
        assert session.query(Person).count() == 1


def test_rows_are_streamed_on_another_connection_than_a_dead_one(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add_all([Person(name="Joe"), Person(name="Ann")])
        session.commit()
        end(engine, number(session))
        assert len(list(session.query(Person).yield_per(1))) == 2


def test_a_stream_whose_connection_is_lost_keeps_none(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add_all([Person(name=name) for name in ("Joe", "Ann", "Eve")])
        session.commit()
        its_own = number(session)
        rows: Any = iter(session.query(Person).yield_per(1))
        next(rows)
        end(engine, its_own)
        rows.close()
        assert in_pool(engine)[0] == 0
        assert session.query(Person).count() == 3


@pytest.fixture
def broken(connect: Callable[..., Any]) -> Iterator[dbm.Session]:
    """A session that has flushed Joe in a transaction, whose connection is lost."""
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add(Person(name="Ann"))
        session.commit()
        session.add(Person(name="Joe"))
        session.flush()
        end(engine, number(session))
        yield session
        session.rollback()


def test_a_connection_that_is_lost_in_a_transaction_is_an_error_that_says_so(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError, match="The connection to the database is lost"):
        broken.query(Person).all()


def test_nothing_of_a_transaction_that_was_lost_is_written(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError):
        broken.query(Person).all()
    broken.rollback()
    assert [person.name for person in broken.query(Person)] == ["Ann"]


def test_the_session_works_again_after_rollback(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError):
        broken.flush() or broken.execute("SELECT 1")
    broken.rollback()
    broken.add(Person(name="Eve"))
    broken.commit()
    assert [person.name for person in broken.query(Person).order_by(Person.name)] == ["Ann", "Eve"]


def test_what_was_flushed_in_a_lost_transaction_can_be_committed_again(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError):
        broken.execute("SELECT 1")
    broken.commit()
    assert [person.name for person in broken.query(Person).order_by(Person.name)] == ["Ann", "Joe"]


def test_a_flush_on_a_lost_connection_changes_nothing(broken: dbm.Session) -> None:
    eve = Person(name="Eve")
    broken.add(eve)
    with pytest.raises(peewee.OperationalError, match="is lost"):
        broken.flush()
    assert eve in broken.new
    broken.commit()
    assert broken.query(Person).count() == 3


READS: dict[str, Callable[[dbm.Session, Person], Any]] = {
    "get": lambda session, ann: session.get(Person, ann.id, with_for_update=True),
    "refresh": lambda session, ann: session.refresh(ann),
    "filter_by": lambda session, ann: session.query(Person).filter_by(name="Joe").first(),
    "relation": lambda session, ann: list(ann.notes),
    "update": lambda session, ann: session.query(Person).update({"age": 1}),
    "delete": lambda session, ann: session.query(Person).delete(),
    "yield_per": lambda session, ann: list(session.query(Person).yield_per(1)),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_whatever_meets_a_lost_connection_ends_the_transaction_and_keeps_the_objects(
    connect: Callable[..., Any], read: Callable[[dbm.Session, Person], Any]
) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        ann = Person(name="Ann")
        session.add(ann)
        session.commit()
        session.add(Person(name="Joe"))
        session.flush()
        end(engine, number(session))
        with pytest.raises(peewee.OperationalError, match="is lost"):
            read(session, ann)
        assert not session.in_transaction()
        assert in_pool(engine)[0] == 0
        session.commit()
        assert {person.name for person in session.query(Person)} == {"Ann", "Joe"}


def test_a_commit_whose_connection_is_lost_is_in_doubt(broken: dbm.Session) -> None:
    with pytest.raises(dbm.CommitInDoubtError, match="may be in the database, or may not"):
        broken.commit()
    assert not broken.in_transaction()
    assert broken.new == []
    assert [person.name for person in broken.query(Person)] == ["Ann"]


def test_a_lost_connection_does_not_go_back_to_the_pool(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError):
        broken.execute("SELECT 1")
    broken.rollback()
    assert in_pool(broken.engine)[0] == 0
    assert broken.query(Person).count() == 1


def test_a_savepoint_on_a_lost_connection_ends_with_the_transaction(broken: dbm.Session) -> None:
    with pytest.raises(peewee.OperationalError, match="is lost"):
        with broken.begin_nested():
            pass
    assert not broken.in_transaction()


# Ctrl-C


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch, database: str) -> Callable[[], None]:
    """A function after which Ctrl-C comes while the next statement is on its way: its answer is not read."""

    def interrupted(self: Any, *sent: Any, **options: Any) -> None:
        monkeypatch.undo()
        for generator in sent:
            next(generator)
        raise KeyboardInterrupt

    def interrupt() -> None:
        if database == "postgresql":
            monkeypatch.setattr("psycopg.Connection.wait", interrupted)
        else:
            monkeypatch.setattr("pymysql.connections.Connection._read_query_result", interrupted)

    return interrupt


INTERRUPTED: dict[str, Callable[[dbm.Session], Any]] = {
    "get": lambda session: session.get(Person, 1, with_for_update=True),
    "execute": lambda session: session.execute("UPDATE people SET age = 7"),
    "flush": lambda session: (session.add_all([Person(name="Eve"), Person(name="Zoe")]), session.flush()),
    "savepoint": lambda session: session.begin_nested(),
    "commit": lambda session: session.commit(),
    "rollback": lambda session: session.rollback(),
    "yield_per": lambda session: list(session.query(Person).yield_per(1)),
}


@pytest.mark.parametrize("call", INTERRUPTED.values(), ids=list(INTERRUPTED))
def test_an_answer_that_ctrl_c_left_unread_is_not_taken_for_that_to_the_next_statement(
    connect: Callable[..., Any], interrupt: Callable[[], None], call: Callable[[dbm.Session], Any]
) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add(Person(name="Joe"))
        session.flush()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            call(session)
        session.rollback()
        assert in_pool(engine)[0] == 0
        assert session.scalar("SELECT 42") == 42
        session.add(Person(name="Ann"))
        session.commit()
        assert {person.name for person in session.query(Person)} - {"Joe"} == {"Ann"}


def test_an_answer_that_ctrl_c_left_unread_between_transactions(
    connect: Callable[..., Any], interrupt: Callable[[], None]
) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        for call in (session.query(Person).all, lambda: list(session.query(Person).yield_per(1)), session.begin):
            interrupt()
            with pytest.raises(KeyboardInterrupt):
                call()
            assert in_pool(engine)[0] == 0
            assert session.scalar("SELECT 42") == 42


def test_ctrl_c_while_a_connection_is_given_back_keeps_none(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect()
    close = type(engine).give_back

    def interrupted(*args: Any) -> None:
        monkeypatch.setattr(type(engine), "give_back", close)
        raise KeyboardInterrupt

    with dbm.open_session(engine) as session:
        session.begin()
        monkeypatch.setattr(type(engine), "give_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.commit()
        assert in_pool(engine)[0] == 0
        assert session.query(Person).count() == 0


def test_ctrl_c_while_a_begin_is_undone_keeps_no_connection(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect()

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with dbm.open_session(engine) as session:
        monkeypatch.setattr(type(engine), "begin", interrupted)
        monkeypatch.setattr(type(engine), "discard_transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.begin()
        monkeypatch.undo()
        assert in_pool(engine)[0] == 0


def test_ctrl_c_while_a_stream_is_closed_keeps_no_connection(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect()
    close = type(engine).close_stream

    def interrupted(*args: Any) -> None:
        close(*args)
        raise KeyboardInterrupt

    with dbm.open_session(engine) as session:
        monkeypatch.setattr(type(engine), "close_stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(session.query(Person).yield_per(1))
        monkeypatch.undo()
        assert in_pool(engine)[0] == 0


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_child_opens_connections_of_its_own_and_leaves_the_parents_alone(connect: Callable[..., Any]) -> None:
    engine = connect()
    with dbm.open_session(engine) as session:
        session.add(Person(name="parent"))
        session.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with dbm.transaction(engine) as own:
                    own.add(Person(name="child"))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        session.commit()
        assert {person.name for person in session.query(Person)} == {"parent", "child"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_child_that_ends_as_programs_do_leaves_the_parents_connection_alone(config: Any) -> None:
    code = """
import multiprocessing, sys
from tent.data import dbm

engine = dbm.connect(sys.argv[1])
session = dbm.open_session(engine)
session.begin()
context = multiprocessing.get_context("fork")
child = context.Process(target=lambda: dbm.open_session(engine).execute("SELECT 1"))
child.start()
child.join()
assert child.exitcode == 0
session.execute("SELECT 1")
session.commit()
print("sound")
"""
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("sound\n", "")


def test_a_process_that_is_killed_leaves_nothing_behind(connect: Callable[..., Any], config: Any) -> None:
    engine = connect()
    code = """
import sys, time
from conftest import Person
from tent.data import dbm

session = dbm.open_session(dbm.connect(sys.argv[1]))
session.add(Person(name="Joe"))
session.flush()
print("flushed", flush=True)
time.sleep(60)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, config], stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(__file__)
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "flushed\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with dbm.transaction(engine) as session:
        session.add(Person(name="Joe"))
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1

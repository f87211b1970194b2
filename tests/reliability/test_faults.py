"""A statement fails, whichever it is and however: nothing is lost, nothing is half done, and the work can go on.

The drivers' own cursors are told to fail at the k-th thing that the library asks of them, for every k of a workload;
the real database is underneath. A plain dict says what the objects hold, and what the rows have to become.
"""

from __future__ import annotations

import collections
import copy
import functools
import json
import logging
import random
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import peewee
import pytest
import servers
from conftest import run_sql, with_settings

from tent.data import dbm

Model = dbm.declarative_base()


class Author(Model):
    label = peewee.CharField(unique=True)
    score = peewee.IntegerField(default=0)
    data = peewee.JSONField(default=dict)
    version = dbm.VersionField()


class Book(Model):
    label = peewee.CharField(unique=True)
    author = peewee.ForeignKeyField(Author, backref="books")
    sequel = peewee.ForeignKeyField("self", null=True)


class Review(Model):
    label = peewee.CharField(unique=True)
    book = peewee.ForeignKeyField(Book, backref="reviews")
    text = peewee.TextField(default="")


Values = dict[str, Any]
MODELS: tuple[Any, ...] = (Author, Book, Review)  # each after those that it refers to
COLUMNS: dict[Any, tuple[str, ...]] = {Author: ("score", "data"), Book: ("author", "sequel"), Review: ("text", "book")}
REFERENCES = ("author", "sequel", "book")


# Faults

DRIVERS_ERRORS = ("IntegrityError", "OperationalError", "InterfaceError")
DEAD = "dead connection"  # it ends before the statement, or after its answer has come
LOST = (peewee.OperationalError, peewee.InterfaceError, peewee.ProgrammingError, dbm.CommitInDoubtError)
UNANSWERED = "lost answer"  # the statement is done, and the connection ends before the answer comes
REFUSED = "server's error"  # after which PostgreSQL takes no more in a transaction
PYTHONS_ERRORS = (KeyboardInterrupt, MemoryError)
MODES = ("before", "after")  # the error comes instead of what was asked for, or when that is done


class Fault(NamedTuple):
    """What goes wrong, and when."""

    kind: Any
    mode: str
    times: int = 1  # the next statement, by which the library deals with the first fault, may fail, too

    def __str__(self) -> str:
        name = self.kind if isinstance(self.kind, str) else self.kind.__name__
        return f"{name} {self.mode}" + (f", {self.times} times" if self.times > 1 else "")


def faults_of(database: str, times: int = 1) -> list[Fault]:
    """Return all that can go wrong with a database. One in memory is gone with its connection."""
    found = [Fault(kind, mode, times) for mode in MODES for kind in (*DRIVERS_ERRORS, *PYTHONS_ERRORS)]
    if database != "memory":
        found += [Fault(DEAD, mode, times) for mode in MODES]
    if database in servers.URLS:
        found.append(Fault(UNANSWERED, "after", times))
    if database == "postgresql":
        found.append(Fault(REFUSED, "before", times))
    return found


class Driver:
    """The cursors of an engine's connections, one of which fails when it is told to."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.fault: Fault | None = None
        self.place = 0  # of what fails, of all that is asked
        self.asked: list[str] = []
        self.hit: list[str] = []
        self.is_on = self.is_within = False
        self.commits = 0  # that were done

    @contextmanager
    def failing(self, fault: Fault | None = None, place: int = 0) -> Iterator[None]:
        """A block in which what is asked at a place fails."""
        self.fault, self.place, self.asked, self.hit = fault, place, [], []
        self.is_on, self.commits = True, 0
        try:
            yield
        finally:
            self.is_on = False

    def ask(self, what: str, cursor: Any, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Do what a cursor is asked, or not."""
        if not self.is_on or self.is_within:  # PyMySQL's executemany() calls execute()
            return call(*args, **options)
        self.is_within = True
        try:
            return self._do(what, cursor, lambda: call(*args, **options), args)
        finally:
            self.is_within = False

    def _do(self, what: str, cursor: Any, call: Callable[[], Any], args: Any) -> Any:
        verb = str(args[0]).split()[0] if what.startswith("execute") else ""
        self.asked.append(f"{what} {verb}".strip())
        fault = self.fault
        is_next = len(self.asked) > self.place and verb and 0 < len(self.hit) < (fault.times if fault else 0)
        if fault is None or not (len(self.asked) == self.place or is_next):
            return self._done(verb, call)
        is_committed = self.asked[-2:-1] == ["execute COMMIT"] or (verb == "COMMIT" and fault.mode == "after")
        if is_committed and fault.kind in DRIVERS_ERRORS:
            return self._done(verb, call)  # no driver says so of a COMMIT that was done
        if (what == "close" and fault.kind == UNANSWERED) or (not verb and fault.kind == REFUSED):
            return self._done(verb, call)  # it asks nothing of the server
        self.hit.append(self.asked[-1])
        connection = cursor.connection
        if fault.mode == "before":
            self._fail(fault, cursor, connection)
            return self._done(verb, call)  # on a dead connection
        found = self._done(verb, call)
        self._fail(fault, cursor, connection)
        return found

    def _done(self, verb: str, call: Callable[[], Any]) -> Any:
        found = call()
        self.commits += verb == "COMMIT"
        return found

    def _fail(self, fault: Fault, cursor: Any, connection: Any) -> None:
        if isinstance(fault.kind, type):
            raise fault.kind
        if fault.kind in DRIVERS_ERRORS:
            module = {"sqlite": "sqlite3", "postgresql": "psycopg"}.get(self.engine.kind, "pymysql")
            number = (1105,) if module == "pymysql" else ()
            raise getattr(__import__(module), fault.kind)(*number, "it was told to fail")
        execute = functools.partial(type(cursor).__mro__[1].execute, cursor)
        if fault.kind == REFUSED:
            execute("SELECT 1 / 0")
        if self.engine.kind == "sqlite":
            type(cursor).__mro__[1].close(cursor)  # else what is left of it, in a traceback, keeps the file open
        end(self.engine, connection)
        if fault.kind == UNANSWERED:
            execute("SELECT 1")  # for the driver's own error


def end(engine: Any, connection: Any) -> None:
    """End a connection: its server does."""
    if engine.kind == "sqlite":
        connection.close()
    elif engine.kind == "postgresql":
        if not connection.closed:
            servers.end_connections(engine, [connection.info.backend_pid])
    elif connection.open:
        servers.end_connections(engine, [connection.thread_id()])


def faulty(kind: Any, driver: Driver) -> Any:
    """Return a class of cursors that ask a driver's for everything, if they are told to."""

    class Cursor(kind):  # type: ignore[misc]
        pass

    def asking(name: str) -> Any:
        own = getattr(kind, name)
        return lambda self, *args, **options: driver.ask(
            name, self, lambda *args, **options: own(self, *args, **options), *args, **options
        )

    for name in ("execute", "executemany", "fetchone", "fetchmany", "fetchall", "close"):
        setattr(Cursor, name, asking(name))
    return Cursor


def driver_of(engine: Any) -> Driver:
    """Give an engine's new connections such cursors; those that it has are closed."""
    driver = Driver(engine)
    if engine.kind == "sqlite":
        own = faulty(sqlite3.Cursor, driver)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = own) -> Any:
                return super().cursor(factory)

        engine.connect_params["factory"] = Connection
    else:
        open_one = engine._open

        def open_faulty() -> Any:
            connection = open_one()
            name = "cursor_factory" if engine.kind == "postgresql" else "cursorclass"
            setattr(connection, name, faulty(getattr(connection, name), driver))
            return connection

        engine._open = open_faulty
    engine.close_all()
    return driver


# The work, and what has to come of it


class Work:
    """Verbs of a session on objects that have labels, each told to a dict, too."""

    def __init__(self, session: dbm.Session) -> None:
        self.session = session
        self.objects: dict[str, Any] = {}
        self.wanted: dict[str, Values] = {}  # what the objects hold that are to have rows
        self.durable: dict[str, Values] = {}  # the same, as of the last commit
        self.commits = 0
        self.savepoints: list[tuple[Any, dict[str, Values]]] = []
        self.verb = ""

    # What runs no SQL

    def make(self, model: Any, label: str, **values: Any) -> None:
        given = {name: self.objects[value] if name in REFERENCES else value for name, value in values.items()}
        self.objects[label] = model(label=label, **copy.deepcopy(given) if model is Author else given)
        self.wanted[label] = {**self.held(label), **values}
        self.session.add(self.objects[label])

    def set(self, label: str, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.objects[label], name, self.objects[value] if name in REFERENCES else value)
        self.wanted[label] = {**self.wanted[label], **values}

    def put(self, label: str, key: str, value: Any) -> None:
        """Change JSON in place."""
        self.objects[label].data[key] = value
        self.wanted[label] = {**self.wanted[label], "data": {**self.wanted[label]["data"], key: value}}

    def drop(self, label: str) -> None:
        self.session.delete(self.objects[label])
        del self.wanted[label]

    # What does; an error leaves `verb` as it is

    def call(self, verb: str, function: Callable[[], Any]) -> Any:
        self.verb = verb
        found = function()
        self.verb = ""
        return found

    def flush(self) -> None:
        self.call("flush", self.session.flush)

    def commit(self) -> None:
        self.call("commit", self.session.commit)
        self.note_commit()

    def note_commit(self) -> None:
        self.durable = dict(self.wanted)
        self.commits += 1
        self.savepoints.clear()

    def rollback(self) -> None:
        self.call("rollback", self.session.rollback)
        self.note_rollback(self.durable)

    def note_rollback(self, wanted: dict[str, Values]) -> None:
        """Note that all is as it was: objects that were new are so again, with what they were given."""
        for label in self.wanted.keys() - wanted.keys():
            held, new = self.held(label), self.objects.pop(label)
            assert held == self.wanted[label], label
            assert (self.session.state(new), new.id) == ("transient", None), label
        self.wanted = dict(wanted)

    def begin_nested(self) -> None:
        self.savepoints.append((self.call("begin nested", self.session.begin_nested), dict(self.wanted)))

    def release(self) -> None:
        self.call("release", self.savepoints[-1][0].commit)
        self.savepoints.pop()

    def roll_back_to(self) -> None:
        self.call("rollback to", self.savepoints[-1][0].rollback)
        self.note_rollback(self.savepoints.pop()[1])

    def query(self, model: Any) -> None:
        found = self.call("query", self.session.query(model).all)
        assert {each.label for each in found} == {each for each in self.wanted if self.is_of(model, each)}

    def stream(self, model: Any) -> None:
        found = self.call("stream", lambda: list(self.session.query(model).yield_per(1)))
        assert {each.label for each in found} == {each for each in self.wanted if self.is_of(model, each)}

    def lock(self, label: str) -> None:
        author = self.objects[label]
        found = self.call("lock", lambda: self.session.get(Author, author.id, with_for_update=True))
        assert found is author

    def follow(self, label: str) -> None:
        """Follow a relation."""
        found = self.call("follow", lambda: list(self.objects[label].books))
        assert {book.label for book in found} == {
            each for each, values in self.wanted.items() if values.get("author") == label
        }

    def bulk(self, score: int) -> None:
        """Set a column of all rows by one statement."""
        self.call("bulk", lambda: self.session.query(Author).update({"score": score}))
        for label in self.wanted:
            if self.is_of(Author, label):
                self.wanted[label] = {**self.wanted[label], "score": score}

    # What is there

    def is_of(self, model: Any, label: str) -> bool:
        return isinstance(self.objects[label], model)

    def held(self, label: str) -> Values:
        """Return what an object holds, by labels where it refers to others."""
        instance = self.objects[label]
        found = {}
        for name in COLUMNS[type(instance)]:
            found[name] = self.referred(instance, name) if name in REFERENCES else getattr(instance, name)
        return copy.deepcopy(found)

    def referred(self, instance: Any, name: str) -> str | None:
        related, key = instance.__rel__.get(name), getattr(instance, f"{name}_id")
        if related is None and key is not None:
            model = type(instance)._meta.fields[name].rel_model
            related = next(one for one in self.objects.values() if isinstance(one, model) and one.id == key)
        return None if related is None else str(related.label)


class Row(NamedTuple):
    id: int
    version: int | None
    values: Values


def rows_by(run: Callable[[str], Any]) -> dict[str, Row]:
    """Return the rows that are there by their labels, as what runs SQL shows them."""
    found: dict[str, Row] = {}
    labels: dict[tuple[str, Any], str] = {}
    for number, label, score, data, version in run("SELECT id, label, score, data, version FROM authors"):
        found[label] = Row(
            number, version, {"score": score, "data": data if isinstance(data, dict) else json.loads(data)}
        )
        labels["author", number] = label
    books = list(run("SELECT id, label, author_id, sequel_id FROM books"))
    labels |= {("book", number): label for number, label, *_ in books} | {("book", None): None}
    for number, label, author, sequel in books:
        values = {"author": labels["author", author], "sequel": labels["book", sequel]}
        found[label] = Row(number, None, values)
    for number, label, text, book in run("SELECT id, label, text, book_id FROM reviews"):
        found[label] = Row(number, None, {"text": text, "book": labels["book", book]})
    return found


def work(w: Work) -> None:
    """Do a bit of everything."""
    for place, label in enumerate(("ann", "bob", "cid")):
        w.make(Author, label, score=place, data={"tags": [label]})
    w.make(Book, "one", author="ann")
    w.make(Book, "two", author="bob", sequel="one")
    w.make(Book, "three", author="cid", sequel="two")
    w.make(Review, "r1", book="one", text="good")
    w.make(Review, "r2", book="two", text="bad")
    w.commit()
    for label in ("ann", "bob", "cid"):
        w.set(label, score=w.wanted[label]["score"] + 10)
    w.put("ann", "likes", 1)
    w.query(Author)
    w.make(Author, "dan", data={"new": True})
    w.make(Book, "four", author="dan")
    w.begin_nested()
    w.drop("r1")
    w.set("one", author="bob")
    w.put("bob", "likes", [2])
    w.flush()
    w.follow("bob")
    w.release()
    w.make(Author, "eve")
    w.put("dan", "new", False)
    w.begin_nested()
    w.drop("r2")
    w.make(Review, "r3", book="four", text="so so")
    w.set("dan", score=7)
    w.flush()
    w.put("dan", "new", None)
    w.roll_back_to()
    w.lock("cid")
    w.stream(Book)
    w.bulk(20)
    w.set("bob", score=21)
    w.commit()
    w.query(Book)
    w.set("ann", score=30)
    w.drop("r2")
    w.make(Review, "r4", book="three")
    w.flush()
    w.put("ann", "likes", 2)
    w.rollback()
    w.follow("ann")
    w.stream(Author)
    w.set("ann", score=40)
    w.put("cid", "likes", 3)
    w.set("three", author="ann")
    w.drop("r2")
    w.make(Review, "r5", book="three", text="fine")
    w.commit()


class Trial:
    """A session of an engine whose driver fails, and another program that looks at the database."""

    def __init__(self, engine: Any, outside: Any, secret: str | None = None) -> None:
        self.engine = engine
        self.secret = secret
        self.driver = driver_of(engine)
        self.is_memory = engine.kind == "sqlite" and engine.database == ":memory:"
        self.outside = engine if self.is_memory else outside
        dbm.install_tables(engine, models=Model)
        self.session = dbm.open_session(engine)
        self.work = Work(self.session)

    def run(self, fault: Fault | None = None, place: int = 0) -> BaseException | None:
        """Do the work on empty tables, up to what goes wrong, and return the error."""
        self.work = Work(self.session)
        with self.driver.failing(fault, place):
            try:
                work(self.work)
            except BaseException as error:
                if not self.driver.hit:
                    raise
                return error
        return None

    def empty(self) -> None:
        """Let go of all objects, and delete their rows."""
        self.session.expunge_all()
        for model in reversed(MODELS):
            if model is Book:
                run_sql(self.outside, "UPDATE books SET sequel_id = NULL")
            run_sql(self.outside, f"DELETE FROM {model._meta.table_name}")

    def rows(self) -> dict[str, Row]:
        """Return the committed rows."""
        return rows_by(lambda sql: run_sql(self.outside, sql).fetchall())

    def rows_inside(self) -> dict[str, Row]:
        """Return the rows as the session has them."""
        with self.session.no_autoflush:
            return rows_by(self.session.execute)

    # What has to be so

    def check_success(self) -> None:
        """Check that the work succeeds when nothing fails, and leave empty tables."""
        assert self.run() is None
        self.check_end()

    def check_end(self) -> None:
        self.check_ended()
        self.check_rows(self.work.wanted)
        self.check_objects()
        self.empty()

    def check_fault(self, fault: Fault, place: int, way: str) -> BaseException | None:
        """Check all that comes of a fault, and that the same work then succeeds; return the error that was met."""
        error = self.run(fault, place)
        if self.driver.hit:
            self.check_error(error, fault)
        if error is not None:
            self.check_failure(error, fault)
        if isinstance(error, dbm.CommitInDoubtError):
            self.session.expunge_all()
            self.empty()
        else:
            if error is not None:
                is_half_told = self.work.verb == "bulk" and fault.times > 1 and self.session.in_transaction()
                self.go_on("rollback" if is_half_told else way)
            self.check_end()
        self.check_success()
        return error

    def check_error(self, error: BaseException | None, fault: Fault) -> None:
        """Check that an error is what the driver raised, as Peewee's class, and that nothing is kept from the user."""
        first = self.driver.hit[0]
        is_needless = error is None and ("close" in first or "ROLLBACK" in first)  # all is read, or was only read
        if isinstance(fault.kind, type):
            assert type(error) is fault.kind or (fault.kind is MemoryError and is_needless), repr(error)
        elif fault.kind == REFUSED:
            assert isinstance(error, peewee.DatabaseError) or is_needless, repr(error)
        elif fault.kind not in DRIVERS_ERRORS:  # a transaction begins on another connection
            assert error is None or isinstance(error, LOST), repr(error)
        elif (fault.mode, fault.times) == ("before", 1) and "execute" in first:
            assert type(error).__name__ == fault.kind or is_needless, repr(error)
        else:  # what a driver says of a statement that was done may be taken for the error of what is tried next
            assert isinstance(error, peewee.PeeweeException) or is_needless, repr(error)
        if error is not None and self.secret:
            assert self.secret not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
            assert self.secret not in f"{error!r} {self.session!r} {self.engine!r}"

    def check_failure(self, error: BaseException, fault: Fault) -> None:
        """Check that objects and rows are as before what failed, or as its rule says."""
        w, is_commit = self.work, self.work.verb == "commit"
        durable = w.wanted if is_commit and self.driver.commits > w.commits else w.durable
        if isinstance(error, dbm.CommitInDoubtError):
            assert is_commit
            w.note_rollback(w.durable)
            self.check_rows(durable)
            self.check_ended()
            return
        if w.verb in ("rollback", "rollback to"):
            w.note_rollback(w.durable)
        w.durable = durable
        if not self.session.in_transaction():
            self.check_rows(durable)
            self.check_ended()
        elif not self.is_memory:
            self.check_rows(durable)
        if self.is_aborted():
            return
        if w.verb != "bulk" or not self.session.in_transaction():
            self.check_objects()
        elif fault.times == 1:  # it may be done or not; the objects know
            w.wanted = {label: row.values for label, row in self.rows_inside().items()}
            self.check_objects()

    def is_aborted(self) -> bool:
        """Tell whether the session's transaction takes no more statements."""
        return self.session.in_transaction() and bool(self.session._transaction.database.is_aborted())

    def check_rows(self, wanted: dict[str, Values]) -> None:
        found = {label: row.values for label, row in self.rows().items()}
        assert found == wanted, differing(found, wanted)

    def check_objects(self) -> None:
        """Check what the objects hold, and that the session's books have all that differs from the rows."""
        w, session = self.work, self.session
        rows = self.rows_inside() if session.in_transaction() else self.rows()
        dirty = {label for label, row in rows.items() if label in w.wanted and row.values != w.wanted[label]}
        assert {label: w.held(label) for label in w.wanted} == w.wanted
        for label, row in rows.items():
            if label in w.wanted:  # what is to be written again has the version that it had when it was written
                known = (w.objects[label].id, getattr(w.objects[label], "version", None))
                assert known[: 1 if label in dirty else 2] == row[: 1 if label in dirty else 2], (label, known, row)
        books = [{each.label for each in book} for book in (session.new, session.dirty, session.deleted)]
        new = w.wanted.keys() - rows.keys()
        assert books == [
            new,
            dirty,
            {label for label in rows if label not in w.wanted},
        ]
        for label in w.wanted:
            state = "pending" if label in new else "persistent"
            assert session.state(w.objects[label]) == state
            assert (w.objects[label].id is None) == (label in new)

    def check_ended(self) -> None:
        """Check that nothing is left open, that no connection is missing, and that others can write at once."""
        assert not self.session.in_transaction()
        assert not self.engine._in_use
        if self.engine.kind == "sqlite":
            assert self.engine._turn._current is None  # else nobody else could write
        if self.is_memory:
            with dbm.open_session(self.engine) as other:
                other.begin()
        elif self.engine.kind == "sqlite":
            with self.outside.atomic("IMMEDIATE"):
                pass
            assert self.outside.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # nobody reads
        elif self.engine.kind == "postgresql":
            with self.outside.atomic():
                self.outside.execute_sql("SET LOCAL lock_timeout = '10s'")
                self.outside.execute_sql("LOCK TABLE authors, books, reviews IN ACCESS EXCLUSIVE MODE")
        else:
            self.outside.execute_sql("LOCK TABLES authors WRITE, books WRITE, reviews WRITE WAIT 10")
            self.outside.execute_sql("UNLOCK TABLES")

    def go_on(self, way: str) -> None:
        """Commit what is there after a failure, or roll it back."""
        if way == "commit" and self.is_aborted():
            with pytest.raises(peewee.InternalError, match="can't be committed"):
                self.session.commit()
            self.check_ended()
            self.check_rows(self.work.durable)
            self.check_objects()
        if way == "commit":
            self.work.commit()
        else:
            self.work.rollback()
        self.check_ended()
        self.check_rows(self.work.wanted)
        self.check_objects()


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what two dicts disagree on, for a message."""
    return {key: (one.get(key), other.get(key)) for key in {**one, **other} if one.get(key) != other.get(key)}


@pytest.fixture
def trial(config: Any, outside: Any) -> Iterator[Trial]:
    """A trial with a pool of one connection, so that one that is lost is missed."""
    is_server = isinstance(config, str)
    engine = dbm.connect(with_settings(config, pool_size=1, pool_timeout=5) if is_server else config)
    trial = Trial(engine, outside, servers.mapping(config)["password"] if is_server else None)
    yield trial
    trial.session.rollback()
    trial.session.close()
    engine.close_all()


def test_the_work_comes_to_what_is_wanted_when_nothing_fails(trial: Trial) -> None:
    trial.check_success()


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_whatever_fails_nothing_is_lost_or_half_done_and_the_work_goes_on(
    trial: Trial,
    database: str,
    times: int,
    chance: random.Random,
    caplog: pytest.LogCaptureFixture,
    is_long: bool,
    report: Callable[..., None],
) -> None:
    trial.check_success()
    places, faults = range(1, len(trial.driver.asked) + 1), faults_of(database, times)
    errors: collections.Counter[str] = collections.Counter()
    for place in places:
        for fault in faults if is_long else chance.sample(faults, 1):
            way = chance.choice(("commit", "rollback"))
            caplog.set_level(chance.choice((logging.DEBUG, logging.WARNING)))  # who is told of statements runs them so
            try:
                error = trial.check_fault(fault, place, way)
                assert trial.secret is None or trial.secret not in caplog.text
            except Exception as wrong:
                met = f"{', '.join(trial.driver.hit)}; the session's {trial.work.verb}"
                raise AssertionError(f"{fault} at place {place} ({met}), then {way}") from wrong
            caplog.clear()
            errors[type(error).__name__ if error else "none"] += 1
    report(places=len(places), faults=sum(errors.values()), errors=dict(errors.most_common()))

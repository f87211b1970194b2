"""Engines: Peewee databases that give each session a connection of its own.

An engine is a pooled Peewee database, and every Peewee tool works on it. `Engine.private` makes a session's twin of
it: the same database with a connection of its own, taken from the engine's pool while the session needs one. This
module has what all engines share, and `kind` that in which they differ, as most of them have it; `sqlite`, `postgresql`
and `mysql` have what each does in its own way.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import peewee

from .cursor import BufferedCursor, close_quietly
from .enclosing import Inner, Outermost
from .errors import ArgumentError
from .hooks import Listeners
from .kind import Kind
from .pool import Pool
from .statements import Delete, Insert, Update

statements = logging.getLogger("tent.data.sql")


class Engine(Kind, Pool):
    """What all engines have; `connect` makes one.

    It is a real Peewee database, with a pool: `engine.atomic()` and every query that is executed on it work as with
    Peewee, on a connection for each thread.
    """

    place: str  # of the database, as a message shows it
    patience: float = 0  # seconds for which a database that is busy is tried when it is connected to
    origin: Engine | None = None
    run: Callable[[Any], BufferedCursor] | None = None
    isolation_level: str | None = None  # of the next transactions, if it isn't the database's own default
    read_only = False
    replica: Engine | None = None  # for sessions that only read
    is_careful = False  # about statements that may fail
    last_statement: str | None = None
    _cursor: Any = BufferedCursor([], None)
    _place: int | None = None
    _state: Any
    _own_state: Any
    _lock: Any

    def open_books(self, echo: bool) -> None:
        """Keep the books that an engine has beside Peewee's."""
        self.listeners = Listeners()  # to the events of all its sessions
        self._forks = _forks
        _engines.add(self)
        if echo:
            self.query_hooks.append(_log)
            _show(statements)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} {self.database!r}>"

    def get_context_options(self) -> dict[str, Any]:
        return {**super().get_context_options(), "engine": self}

    # A session's twin

    def private(self, run: Callable[[Any], BufferedCursor] | None = None) -> Engine:
        """Return a twin of this database with a connection of its own; `run`, if given, executes its queries."""
        twin: Engine = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.origin = self
        twin.run = run
        twin._forks = _forks
        twin._lock = peewee._NoopLock()  # a session sees to it that one thread at a time uses its twin
        twin._state = twin._own_state = peewee._ConnectionState()
        return twin

    def acquire(self) -> None:
        """Give the twin a connection: that of this thread's open `engine.atomic()` block, else one of the pool."""
        assert self.origin is not None
        if self._forks != _forks:
            self._leave_parent()
        if self._state.closed:
            shared = self.origin._state
            if shared.closed or not shared.transactions:
                try:
                    self._state.conn = self.origin.checkout(self)
                    self._state.closed = False
                except Exception:
                    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                        raise
            else:
                self._state = shared

    def release(self) -> None:
        """Give the twin's connection back."""
        assert self.origin is not None
        state = self._state
        if state is self._own_state:
            conn = state.conn
            try:
                if state.transactions or state.ctx or state.commit_callbacks:
                    state.reset()
                state.conn, state.closed = None, True
                self.origin.give_back(conn)
            except BaseException:  # Ctrl-C, in whichever line: a connection that is back already stays there
                self.origin.give_back(conn)
                self._state.reset()
                raise
        else:
            self._state = self._own_state

    def fetch(self, sql: str, params: Any = ()) -> BufferedCursor:
        """Run one statement on the twin and fetch its rows, holding a connection no longer than that takes."""
        is_held = not self._state.closed and self._forks == _forks
        if not is_held:
            self.acquire()
        try:
            cursor = self._execute_cursor(sql, params) if is_held else self.execute_first(sql, params)
            return BufferedCursor.drain(cursor, self.describe)
        except BaseException:
            # Ctrl-C after the statement: SQLite can't commit while there are rows that nobody has taken.
            close_quietly(self._cursor)
            raise
        finally:
            if not is_held:
                self.release()

    def execute_first(self, sql: str, params: Any = (), **options: Any) -> Any:
        """Run the first statement on a connection. One that died while it lay in the pool is replaced."""
        while True:
            try:
                return self._execute_cursor(sql, params, **options)
            except peewee.PeeweeException:
                if not self._replace():
                    raise

    def _replace(self) -> bool:
        """Take another connection when the one that was taken is lost, and was not opened just now."""
        if self.origin is None or self._state is not self._own_state or not self.is_lost():
            return False
        if self._state.transactions:  # what was done in it would be lost without a word
            return False
        if self.origin.is_new(self._state.conn):
            return False
        self.origin.close_idle()  # what has ended this one has likely ended them, too
        self.release()
        self.acquire()
        return True

    def execute(self, query: Any, **context_options: Any) -> Any:
        if self.run is not None:
            return self.run(query)
        return super().execute(query, **context_options)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]], returns: bool = False) -> BufferedCursor:
        """Run one statement for each row of parameters, and return the rows that it `returns`, or their number.

        An error has the attribute `place`, if it is known: the number of the row of parameters that it came with.
        """
        start, self._place, self.last_statement = time.perf_counter(), None, sql
        try:
            try:
                with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                    return self._repeat(sql, rows, returns)
            except (OverflowError, UnicodeEncodeError) as error:
                raise _unpassable(error) from error
        except BaseException as error:
            self.drop_if_busy()
            if self._place is not None:
                error.place = self._place
            else:
                error.is_partial = True  # type: ignore[attr-defined]  # what came before it may be written
            if isinstance(error, peewee.PeeweeException):
                self._failed(error)
            raise
        finally:
            if self.query_hooks:
                self._notify_hooks(sql, rows, start, None)

    def _repeat(self, sql: str, rows: Sequence[Any], returns: bool) -> BufferedCursor:
        cursor = self.cursor()
        cursor.executemany(sql, self._counted(rows))
        return BufferedCursor([], None, cursor.rowcount)

    def _counted(self, rows: Sequence[Any]) -> Iterable[Any]:
        return rows

    def insert_rows(self, insert: Insert, columns: Sequence[Sequence[Any]], count: int) -> BufferedCursor:
        """Insert a number of rows, given by the values of each column, and return what the statement returns."""
        sql = insert.of_rows(count, is_often=count in (1, self.batch))
        if count == 1:
            return self.fetch(sql, [value for (value,) in columns])
        return self.fetch(sql, list(itertools.chain.from_iterable(zip(*columns))))

    def update_rows(self, update: Update, columns: Sequence[Sequence[Any]]) -> int:
        """Update rows, given by the values of each of the update's columns, the keys last.

        Returns the number of rows that were found by their keys.
        """
        rows = list(zip(*columns))
        return (self.fetch(update.sql, rows[0]) if len(rows) == 1 else self.execute_many(update.sql, rows)).rowcount

    def delete_rows(self, delete: Delete, columns: Sequence[Sequence[Any]]) -> int:
        """Delete rows that are found by values, given by columns. Returns the number of rows that were found."""
        params = list(itertools.chain.from_iterable(zip(*columns)))
        return self.fetch(delete.of_rows(len(columns[0])), params).rowcount

    def attempt(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do what may fail so that the transaction can go on after it: where need be, and with care, in a savepoint."""
        if self.is_careful:
            with self.savepoint():
                work(*arguments)
        else:
            work(*arguments)

    # Rows that are taken part by part

    def open_stream(self, sql: str, params: Any) -> Any:
        """Run a query on the twin's connection, and return a cursor that holds no more rows than are asked for."""
        return self.execute_first(sql, params)

    def close_stream(self, cursor: Any) -> None:
        """Let go of a cursor, whatever is left of it."""
        close_quietly(cursor)

    def next_rows(self, cursor: Any, size: int) -> list[Any]:
        """Return the next rows of a cursor."""
        try:
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                return list(cursor.fetchmany(size))
        except BaseException:
            self.drop_if_busy()
            raise

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        self.last_statement = sql
        try:
            if options or self.query_hooks or peewee.logger.isEnabledFor(logging.DEBUG):  # type: ignore[attr-defined]
                return super()._execute_cursor(sql, params, **options)
            # Nobody wants to be told; Peewee's way to tell takes as long as a short statement.
            try:
                cursor = self.cursor()
                cursor.execute(sql, params or ())
                return cursor
            except Exception:
                with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                    raise
        except (OverflowError, UnicodeEncodeError) as error:
            raise _unpassable(error) from error
        except peewee.PeeweeException as error:
            close_quietly(self._cursor)
            self._failed(error)
            raise
        except BaseException:
            self.drop_if_busy()
            # A hook or Ctrl-C may have failed after the statement: unread rows would keep the transaction open.
            close_quietly(self._cursor)
            raise

    def drop_if_busy(self) -> None:
        """Close a connection on which a statement was interrupted: its answer would be taken for the next one's."""
        if not self._state.closed and self.is_busy(self._state.conn):
            close_quietly(self._state.conn)

    def _failed(self, error: peewee.PeeweeException) -> None:
        """Say in an error that the connection is lost, if it is."""
        self._note_failure(error)
        if self.is_lost():
            reason = error.args[-1] if error.args else type(error).__name__
            error.args = (f"The connection to the database is lost, and with it what was not committed: {reason}",)

    def _note_failure(self, error: peewee.PeeweeException) -> None:
        """Learn what an error has left of the connection and its transaction, where the driver does not tell."""

    def parse(self, query: Any, **options: Any) -> tuple[str, list[Any]]:
        """Return the SQL of a Peewee query, or of a part of one, and its parameters."""
        sql, params = self.get_sql_context(**options).sql(query).query()
        return sql, params

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        """A block within which tables are installed, one process at a time: a transaction, where the database can."""
        with self.atomic():
            yield

    # Transactions: through execute_sql, so that hooks and logs see them as they see every other statement

    def transaction(self, *args: Any, **options: Any) -> Any:
        """Return Peewee's context of a transaction; that of an engine tells the sessions within it how it ended."""
        return super().transaction(*args, **options) if self.origin is not None else Outermost(self, *args, **options)

    def savepoint(self) -> Any:
        """Return Peewee's context of a savepoint; it tells the sessions within it, too."""
        is_own = self.origin is not None and self._state is self._own_state
        return super().savepoint() if is_own else Inner(self)

    def begin(self, isolation_level: str | None = None) -> None:
        first, *others = self.beginning(isolation_level or self.isolation_level)
        self.execute_first(first)
        for sql in others:
            self.execute_sql(sql)

    def commit(self) -> None:
        self.execute_sql("COMMIT")

    def rollback(self) -> None:
        if self.has_transaction():
            self.execute_sql("ROLLBACK")

    def discard_transaction(self) -> None:
        """Roll back a transaction of the twin's own that was begun and got into no books: Ctrl-C came in between."""
        if self._state is self._own_state:
            self._state.transactions.clear()
            with contextlib.suppress(peewee.PeeweeException):
                self.rollback()

    # Connections

    def _connect(self) -> Any:
        return super()._connect() if self.origin is None else self.origin._connect()

    def _close(self, connection: Any, close_conn: bool = False) -> None:
        if self.origin is None:
            super()._close(connection, close_conn)
        else:
            self.origin.give_back(connection, close_conn)

    def cursor(self, named_cursor: Any = None) -> Any:
        if self._forks != _forks:
            self._leave_parent()
        self._cursor = super().cursor(named_cursor) if self._state.closed else self._state.conn.cursor()
        return self._cursor

    def close_all(self) -> None:
        super().close_all()
        if self.replica is not None:
            self.replica.close_all()

    def __del__(self) -> None:
        if self.origin is None and self.__dict__.get("_forks") == _forks and not sys.is_finalizing():
            self._close_connections()

    def _close_connections(self) -> None:
        for conn in [entry[-1] for entry in self._connections] + [entry.connection for entry in self._in_use.values()]:
            close_quietly(conn)

    def _leave_parent(self) -> None:
        """In a child process: forget the connection of the parent's, without closing it."""
        self._forks = _forks
        if self.origin is not None and not self._own_state.closed:
            self._state = self._own_state = peewee._ConnectionState()
            raise peewee.InterfaceError(
                "This session was in a transaction when the process forked, and the transaction is the parent's. "
                "Close the session and open another one in the child."
            )

    def _after_fork(self) -> None:
        abandon(self._connections, self._in_use, self._state)
        self._connections, self._in_use, self._opening = [], {}, 0
        self._state, self._lock = peewee._ConnectionLocal(), threading.Lock()
        self._pool_lock = threading.RLock()
        self._pool_available = threading.Condition(self._pool_lock)


def quoted(engine: Engine, *path: str) -> str:
    """Return a name as SQL has it."""
    sql = engine.parse(peewee.Entity(*path))[0]
    return sql.replace("%", "%%") if engine.param == "%s" else sql


ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


def isolation(level: Any) -> str | None:
    """Return an isolation level as SQL has it, or None. Raises `ArgumentError` for one that there is not."""
    if level is None:
        return None
    name = " ".join(level.upper().replace("_", " ").split()) if isinstance(level, str) else level
    if name not in ISOLATION_LEVELS:
        raise ArgumentError(f"isolation_level is one of {', '.join(map(repr, ISOLATION_LEVELS))}, not {level!r}.")
    return str(name)


def abandon(*inherited: Any) -> None:
    """Keep what a child process has inherited of connections, for ever.

    Closing, or just dropping, a connection in the child can damage the parent's: SQLite's advice is to leak it
    (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork"), and a server
    would end the parent's session.
    """
    _inherited.append(inherited)


def _unpassable(error: Exception) -> peewee.DataError:
    return peewee.DataError(f"a value can't be passed to the database: {error}")


def _log(event: peewee.QueryEvent) -> None:
    statements.info("%s %r (%.1f ms)", event.sql, event.params, event.duration * 1000)


def _show(logger: logging.Logger) -> None:
    """Make a logger's messages visible, in a program that has set up no logging."""
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_inherited: list[Any] = []
_forks = 0


@atexit.register
def _close_engines() -> None:
    for engine in list(_engines):
        engine._close_connections()


def _after_fork() -> None:
    global _forks
    _forks += 1
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""Engines: Peewee databases that give each session a connection of its own.

An engine is a pooled Peewee database, and every Peewee tool works on it. `Engine.private` makes a session's twin of
it: the same database with a connection of its own, taken from the engine's pool while the session needs one.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee
from playhouse.pool import PooledSqliteDatabase

from .hooks import Listeners

statements = logging.getLogger("tent.data.sql")


def close_quietly(cursor: Any) -> None:
    """Close a cursor, whose connection somebody may have closed before."""
    with contextlib.suppress(sqlite3.Error):
        cursor.close()


class BufferedCursor:
    """The rows of a statement, all fetched, so that its connection is free again; what Peewee's wrappers expect."""

    __slots__ = ("_position", "description", "lastrowid", "load", "rowcount", "rows")

    load: Callable[[Any, BufferedCursor], Any] | None

    def __init__(self, rows: list[Any], description: Any, rowcount: int = -1, lastrowid: Any = None) -> None:
        self.rows = rows
        self.description = description
        self.rowcount = rowcount
        self.lastrowid = lastrowid
        self.load = None
        self._position = 0

    @classmethod
    def drain(cls, cursor: Any) -> BufferedCursor:
        """Take all rows of a driver's cursor, and close it."""
        try:
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                rows = cursor.fetchall() if cursor.description else []
            return cls(rows, cursor.description, cursor.rowcount, cursor.lastrowid)
        finally:
            close_quietly(cursor)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def fetchone(self) -> Any:
        self._position += 1
        return self.rows[self._position - 1] if self._position <= len(self.rows) else None

    def fetchall(self) -> list[Any]:
        rest, self._position = self.rows[self._position :], len(self.rows)
        return rest

    def fetchmany(self, size: int = 1) -> list[Any]:
        start, self._position = self._position, min(self._position + size, len(self.rows))
        return self.rows[start : self._position]

    def close(self) -> None:
        """A buffered cursor holds nothing open."""


class Engine(PooledSqliteDatabase):  # type: ignore[misc]  # playhouse has no type hints
    """An SQLite database in a file.

    A real `peewee.SqliteDatabase`, with a pool; `engine.atomic()` and every query that is executed on it work as with
    Peewee, on a connection for each thread.
    """

    origin: Engine | None = None
    run: Callable[[Any], BufferedCursor] | None = None
    _cursor: Any = BufferedCursor([], None)
    _place = 0
    _state: Any
    _own_state: Any
    _lock: Any
    _connections: Any
    _in_use: Any
    _pragmas: Any

    def __init__(self, path: str, pragmas: dict[str, Any], timeout: float, echo: bool = False) -> None:
        super().__init__(
            path, pragmas=pragmas, max_connections=None, lock_type="IMMEDIATE", check_same_thread=False, uri=False
        )
        self.timeout = timeout
        self.listeners = Listeners()  # to the events of all its sessions
        self._forks = _forks
        _engines.add(self)
        if echo:
            self.query_hooks.append(_log)
            _show(statements)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sqlite {self.database!r}>"

    @property
    def enforces_foreign_keys(self) -> bool:
        """Whether the database sees to it that foreign keys refer to rows, and obeys their `on_delete`."""
        return str(dict(self._pragmas).get("foreign_keys")).lower() in ("1", "on", "true", "yes")

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
                with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                    self._state.set_connection(self._connect())
            else:
                self._state = shared

    def release(self) -> None:
        """Give the twin's connection back."""
        if self._state is self._own_state:
            conn = self._state.conn
            self._state.reset()
            self._close(conn)
        else:
            self._state = self._own_state

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> BufferedCursor:
        """Run one statement on the twin and fetch its rows, holding a connection no longer than that takes."""
        held = not self._state.closed
        if not held or self._forks != _forks:
            self.acquire()
        try:
            return BufferedCursor.drain(self._execute_cursor(sql, params))
        finally:
            if not held:
                self.release()

    def next_rows(self, cursor: Any, size: int) -> list[Any]:
        """Return the next rows of a cursor that is read part by part."""
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            return list(cursor.fetchmany(size))

    def execute(self, query: Any, **context_options: Any) -> Any:
        if self.run is not None:
            return self.run(query)
        return super().execute(query, **context_options)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each row of parameters, and return the number of rows that it changed.

        An error has the attribute `place`: the number of the row of parameters that it came with.
        """
        start, self._place = time.perf_counter(), 0
        try:
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                cursor = self.cursor()
                cursor.executemany(sql, self._counted(rows))
                return int(cursor.rowcount)
        except Exception as error:
            error.place = self._place  # type: ignore[attr-defined]
            raise
        finally:
            if self.query_hooks:
                self._notify_hooks(sql, rows, start, None)

    def _counted(self, rows: Sequence[Any]) -> Iterator[Any]:
        for self._place, row in enumerate(rows):
            yield row

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        try:
            return super()._execute_cursor(sql, params, **options)
        except (OverflowError, UnicodeEncodeError) as error:
            raise peewee.DataError(f"a value can't be passed to the database: {error}") from error
        except BaseException:
            # A hook or Ctrl-C may have failed after the statement: unread rows would keep the transaction open.
            close_quietly(self._cursor)
            raise

    # What is registered on connections is registered on those that are idle, too: new ones take their place

    def register_aggregate(self, *args: Any, **options: Any) -> None:
        super().register_aggregate(*args, **options)
        self._renew()

    def register_collation(self, *args: Any, **options: Any) -> None:
        super().register_collation(*args, **options)
        self._renew()

    def register_function(self, *args: Any, **options: Any) -> None:
        super().register_function(*args, **options)
        self._renew()

    def register_window_function(self, *args: Any, **options: Any) -> None:
        super().register_window_function(*args, **options)
        self._renew()

    def load_extension(self, extension: str) -> None:
        super().load_extension(extension)
        self._renew()

    def attach(self, filename: str, name: str) -> bool:
        attached = bool(super().attach(filename, name))
        self._renew()
        return attached

    def _renew(self) -> None:
        self.close_idle()

    def __del__(self) -> None:
        if self.origin is None and self.__dict__.get("_forks") == _forks and not sys.is_finalizing():
            self._close_connections()

    def _close_connections(self) -> None:
        for conn in [entry[-1] for entry in self._connections] + [entry.connection for entry in self._in_use.values()]:
            with contextlib.suppress(sqlite3.Error):
                conn.close()

    def parse(self, query: Any, **options: Any) -> tuple[str, list[Any]]:
        """Return the SQL of a Peewee query, or of a part of one, and its parameters."""
        sql, params = self.get_sql_context(**options).sql(query).query()
        return sql, params

    # Transactions: through execute_sql, so that hooks and logs see them as they see every other statement

    def begin(self, lock_type: str | None = None) -> None:
        self.execute_sql(f"BEGIN {lock_type or self._lock_type}")

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

    def has_transaction(self) -> bool:
        """Tell whether the connection is in a transaction: SQLite ends it by itself after some errors (a full disk)."""
        try:
            return bool(self._state.conn.in_transaction)
        except (sqlite3.ProgrammingError, AttributeError):  # somebody closed the connection, or there is none
            return False

    def is_retryable(self, error: BaseException) -> bool:
        """Tell whether the work that met this error may succeed when it is done again from its start."""
        return isinstance(error, peewee.OperationalError) and "locked" in str(error)

    # Connections

    def _connect(self) -> Any:
        return super()._connect() if self.origin is None else self.origin._connect()

    def _close(self, conn: Any, close_conn: bool = False) -> None:
        if self.origin is None:
            super()._close(conn, close_conn)
        else:
            self.origin._close(conn, close_conn)

    def cursor(self, named_cursor: Any = None) -> Any:
        if self._forks != _forks:
            self._leave_parent()
        self._cursor = super().cursor(named_cursor)
        return self._cursor

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
        self._connections, self._in_use = [], {}
        self._state, self._lock = peewee._ConnectionLocal(), threading.Lock()
        self._pool_lock = threading.RLock()
        self._pool_available = threading.Condition(self._pool_lock)


def abandon(*inherited: Any) -> None:
    """Keep what a child process has inherited of connections, for ever.

    Closing, or just dropping, a connection in the child can damage the parent's: SQLite's advice is to leak it
    (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork").
    """
    _inherited.append(inherited)


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

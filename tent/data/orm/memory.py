"""The engine of a `:memory:` database: all its sessions, in all threads, share one connection."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import peewee

from .cursor import BufferedCursor
from .engine import abandon
from .sqlite import SqliteEngine


class MemoryEngine(SqliteEngine):
    """An SQLite database in memory: one for the whole engine, all threads included, on one connection.

    Its sessions share the connection, so one sees what another has flushed and not yet committed; only one of them
    can be in a transaction at a time.
    """

    _memory: Any = None

    def __init__(self, path: str, pragmas: dict[str, Any], timeout: float, echo: bool = False) -> None:
        super().__init__(path, pragmas, timeout, echo)
        self._turn = _Turn()
        self._mutex = threading.RLock()
        self._home = os.getpid()

    # Python's sqlite3 can't run two statements on one connection at once, in whatever mode SQLite itself is built

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        with self._mutex:
            return BufferedCursor.drain(super()._execute_cursor(sql, params, **options))

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        with self._mutex:
            return super().execute_many(sql, rows)

    def begin(self, lock_type: str | None = None) -> None:
        self._turn.take(self._state, self._timeout)
        try:
            super().begin(lock_type)
        except BaseException:
            self._abandon()
            raise

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            if not self.has_transaction():
                self._turn.give(self._state)

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._abandon()

    def discard_transaction(self) -> None:
        if self._state is self._own_state:
            self._state.transactions.clear()
            self._abandon()

    def _abandon(self) -> None:
        """Give the turn back with no transaction open, which Ctrl-C leaves after a BEGIN or before a ROLLBACK."""
        if self._turn.is_held_by(self._state):
            with contextlib.suppress(sqlite3.Error):
                self._state.conn.rollback()
            self._turn.give(self._state)

    def close_all(self) -> None:
        """Close the connection, and with it the database: what it held is gone."""
        self.close()
        self._close_connections()
        self._memory = None

    def attach(self, filename: str, name: str) -> bool:
        self.connection()
        return super().attach(filename, name)

    def load_extension(self, extension: str) -> None:
        self.connection()
        super().load_extension(extension)

    def _renew(self) -> None:
        if self._memory is not None:
            self._load_aggregates(self._memory)
            self._load_collations(self._memory)
            self._load_functions(self._memory)
            self._load_window_functions(self._memory)

    def _close_connections(self) -> None:
        if self._memory is not None:
            self._memory.close()

    def checkout(self, user: Any) -> Any:
        return self._connect()

    def _connect(self) -> Any:
        if self.origin is not None:
            return self.origin._connect()
        if self._home != os.getpid():
            raise peewee.InterfaceError(
                "This :memory: database is in the parent process. Connect again in the child, or use a file."
            )
        with self._pool_lock:
            if self._memory is None:
                self._memory = peewee.SqliteDatabase._connect(self)  # type: ignore[attr-defined]
            return self._memory

    def _close(self, conn: Any, close_conn: bool = False) -> None:
        """The connection stays open: the database lives in it."""

    def give_back(self, connection: Any, close_conn: bool = False) -> None:
        """As little as `_close`."""

    def _after_fork(self) -> None:
        abandon(self._memory)
        super()._after_fork()


class _Turn:
    """Whose transaction it is on the one connection of a `MemoryEngine`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Any = None
        self._thread = 0

    def take(self, holder: Any, timeout: float) -> None:
        waiting_is_vain = self._lock.locked() and self._thread == threading.get_ident()
        if not self._lock.acquire(timeout=0 if waiting_is_vain else timeout):
            raise peewee.OperationalError(
                "database is locked: another session"
                + (" of this thread" if waiting_is_vain else "")
                + " has a transaction open on this :memory: database. Commit it, roll it back or close it first."
            )
        self._holder, self._thread = holder, threading.get_ident()

    def is_held_by(self, holder: Any) -> bool:
        return self._holder is holder

    def give(self, holder: Any) -> None:
        if self._holder is holder:
            self._holder = None
            self._lock.release()

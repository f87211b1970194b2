"""The engine of a `:memory:` database: all its sessions, in all threads, share one connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import peewee

from .cursor import BufferedCursor
from .engine import abandon
from .sql import only_reads, without_strings
from .sqlite import SqliteEngine
from .turn import Claim


class MemoryEngine(SqliteEngine):
    """An SQLite database in memory: one for the whole engine, all threads included, on one connection.

    Its sessions share the connection, so one sees what another has flushed and not yet committed; only one of them
    can be in a transaction at a time.
    """

    _memory: Any = None

    def __init__(self, path: str, pragmas: dict[str, Any], timeout: float, echo: bool = False) -> None:
        super().__init__(path, pragmas, timeout, echo)
        self._mutex = threading.RLock()
        self._home = os.getpid()

    # Python's sqlite3 can't run two statements on one connection at once, in whatever mode SQLite itself is built

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        with self._access(sql):
            return BufferedCursor.drain(super()._execute_cursor(sql, params, **options), self.describe)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]], returns: bool = False) -> BufferedCursor:
        with self._access(sql):
            return super().execute_many(sql, rows, returns)

    def _access(self, sql: str) -> AbstractContextManager[Any]:
        """Return the block in which a statement runs."""
        is_in_between = self.origin is None and self._turn.is_of_another(self._claim)
        return self._in_turn() if is_in_between and not only_reads(without_strings(sql)) else self._mutex

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Keep what the engine itself writes out of a session's transaction, with which it would be rolled back."""
        claim = Claim()
        try:
            self._take_turn(claim, self._lock_type)
            with self._mutex:
                yield
        finally:
            self._turn.give(claim)

    def _take_turn(self, claim: Claim, lock_type: str) -> None:
        waiting_is_vain = self._turn.is_of_this_thread()
        if not self._turn.take(claim, 0 if waiting_is_vain else self._timeout):
            raise peewee.OperationalError(
                "database is locked: another session"
                + (" of this thread" if waiting_is_vain else "")
                + " has a transaction open on this :memory: database. Commit it, roll it back or close it first."
            )

    def has_transaction(self) -> bool:
        # The connection is everybody's: what is open on it may be another session's.
        return not self._turn.is_of_another(self._claim) and super().has_transaction()

    def discard_transaction(self) -> None:
        if self._state is self._own_state:
            self._state.transactions.clear()
            self._abandon()

    def close_all(self) -> None:
        """Close the connection, and with it the database: what it held is gone."""
        self.close()
        self._close_connections()
        self._memory = None

    def attach(self, filename: str, name: str) -> bool:
        self.connection()
        return bool(super().attach(filename, name))

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

"""SQLite: engines of a database in a file."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee
from playhouse.pool import PooledSqliteDatabase

from .engine import Engine
from .statements import Delete
from .turn import Claim, Turn

_OLDEST = (3, 35, 0)  # RETURNING
_BASIC = (int, float, str, bytearray)


def _renewing(register: Callable[..., Any]) -> Any:
    """Return what registers something on connections so that it is on those that are idle, too: by new ones."""

    @functools.wraps(register)
    def method(self: SqliteEngine, *args: Any, **options: Any) -> Any:
        found = register(self, *args, **options)
        self._renew()
        return found

    return method


class SqliteEngine(Engine, PooledSqliteDatabase):  # type: ignore[misc]  # playhouse has no type hints
    """An SQLite database in a file: a `peewee.SqliteDatabase` with a pool."""

    kind = "sqlite"
    probe = "SELECT COUNT(*) FROM sqlite_master"
    most_parameters = 32_000  # the default limit is 32,766 (https://www.sqlite.org/limits.html)
    native_times = ()
    tells_last_key = True
    last_key = 2**63 - 1
    adds_foreign_keys = False
    _pragmas: Any

    def __init__(self, path: str, pragmas: dict[str, Any], timeout: float, echo: bool = False) -> None:
        super().__init__(
            path, pragmas=pragmas, max_connections=None, lock_type="IMMEDIATE", check_same_thread=False, uri=False
        )
        self.timeout = self.patience = timeout
        self._files: dict[int, Any] = {}  # those of the connections that can be used again, by their `id`
        self.place = repr(path)
        self._turn = Turn()
        self.open_books(echo)

    def diagnosis(self, problem: str) -> str:
        if "not a database" in problem:
            return "is no SQLite database. Give the path of a database, or of a file yet to be made"
        if "unable to open" in problem or "readonly" in problem or "read-only" in problem:
            return (
                "can't be opened: the user of this process needs the permission to read and write the file, and to "
                "write in its directory"
            )
        return "can't be used"

    def unfit(self) -> str | None:
        if self.server_version >= _OLDEST:
            return None
        return f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed. Use a newer Python."

    @property
    def enforces_foreign_keys(self) -> bool:  # type: ignore[override]
        """Whether the database sees to it that foreign keys refer to rows, and obeys their `on_delete`."""
        return str(dict(self._pragmas).get("foreign_keys")).lower() in ("1", "on", "true", "yes")

    def begin(self, lock_type: str | None = None) -> None:
        """Begin a transaction, in which only others can read: SQLite's are serializable, whatever level is asked for.

        One that only reads is DEFERRED: it locks nobody out.
        """
        self._refuse_lost_file()
        lock_type = lock_type or ("DEFERRED" if self.read_only else self._lock_type)
        state = self._state
        if state.closed:
            self.cursor()  # which opens a connection, if that is to be done unasked
        if self._turn.is_had_by(self._claim):  # a transaction in the middle of one: let SQLite refuse it
            self.execute_sql(f"BEGIN {lock_type}")
            return
        claim = state.claim = Claim()  # known before the turn is had: Ctrl-C may come in any line
        try:
            self._take_turn(claim, lock_type)
            self.execute_sql(f"BEGIN {lock_type}")
            claim.connection = state.conn
        except BaseException:
            self._abandon()
            raise

    def commit(self) -> None:
        try:
            self.execute_sql("COMMIT")
        finally:
            if not self.has_transaction():
                self._turn.give(self._claim)

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._abandon()

    @property
    def _claim(self) -> Claim | None:
        """That of the transaction to the turn, if it has one."""
        return getattr(self._state, "claim", None)

    def _take_turn(self, claim: Claim, lock_type: str) -> None:
        """Wait for those transactions of this engine that write; SQLite itself waits for those of other programs."""
        if lock_type.upper() != "DEFERRED" and not self._turn.take(claim, self._timeout):
            raise peewee.OperationalError(
                f"database is locked: another session has a transaction open on {self.place}, and in the "
                f"{self._timeout:g} s of 'timeout' the turn did not come. Commit it, roll it back or close it."
            )

    def _abandon(self) -> None:
        """Give the turn back with no transaction open, which Ctrl-C leaves after a BEGIN or before a ROLLBACK."""
        claim = self._claim
        if self._turn.is_had_by(claim):
            with contextlib.suppress(sqlite3.Error):
                self._state.conn.rollback()
            self._turn.give(claim)

    def _open(self) -> Any:
        connection = super()._open()
        self._files[id(connection)] = _identity(self.database)
        return connection

    def _can_reuse(self, connection: Any) -> bool:
        return id(connection) in self._files and bool(super()._can_reuse(connection))

    def _refuse_lost_file(self) -> None:
        """Refuse to write to a file that is not there any more: SQLite itself would, and all would be lost with it."""
        number = id(self._state.conn)
        if number in self._files and self._files[number] != _identity(self.database):
            del self._files[number]
            (self.origin or self).close_idle()
            raise peewee.OperationalError(
                f"The database file {self.database!r} was deleted or replaced after it had been opened, and nothing "
                "was written. Put it back; what is there now is opened from now on."
            )

    def _note_failure(self, error: peewee.PeeweeException) -> None:
        if "readonly" in str(error):  # so was the file when it was opened, and the connection stays like that
            self._files.pop(id(self._state.conn), None)
            (self.origin or self).close_idle()

    @staticmethod
    def adapter(kind: type) -> Callable[[Any], Any] | None:
        # Peewee's, or a program's own; sqlite3 asks for none for these (https://docs.python.org/3/library/sqlite3.html).
        return None if kind in _BASIC else sqlite3.adapters.get((kind, sqlite3.PrepareProtocol))

    def delete_rows(self, delete: Delete, columns: Sequence[Sequence[Any]]) -> int:
        # Four times as fast as a list of keys, which SQLite makes a table of.
        rows = list(zip(*columns))
        return (self.fetch(delete.sql, rows[0]) if len(rows) == 1 else self.execute_many(delete.sql, rows)).rowcount

    def has_transaction(self) -> bool:
        try:
            return bool(self._state.conn.in_transaction)
        except (sqlite3.ProgrammingError, AttributeError):  # somebody closed the connection, or there is none
            return False

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, peewee.OperationalError) and "locked" in str(error)

    def is_interrupted(self, error: BaseException) -> bool:
        return isinstance(error, peewee.OperationalError) and "interrupted" in str(error)

    def _counted(self, rows: Sequence[Any]) -> Iterator[Any]:
        for self._place, row in enumerate(rows):
            yield row

    is_gone = PooledSqliteDatabase._is_closed

    def _after_fork(self) -> None:
        self._turn.forget()
        super()._after_fork()

    register_aggregate = _renewing(PooledSqliteDatabase.register_aggregate)
    register_collation = _renewing(PooledSqliteDatabase.register_collation)
    register_function = _renewing(PooledSqliteDatabase.register_function)
    register_window_function = _renewing(PooledSqliteDatabase.register_window_function)
    load_extension = _renewing(PooledSqliteDatabase.load_extension)
    attach = _renewing(PooledSqliteDatabase.attach)

    def _renew(self) -> None:
        self.close_idle()


def _identity(path: str) -> Any:
    """Return what tells a file from another one that has its path later; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

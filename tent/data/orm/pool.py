"""The pool of an engine: playhouse's, where a session waits for a connection and is told who has them."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import peewee
from playhouse.pool import MaxConnectionsExceeded, PooledDatabase

_STRING = r"'[^']*'"  # it may be a secret


class Held:
    """A connection in use: what playhouse's pool keeps of one, and by whom."""

    __slots__ = ("checked_out", "connection", "is_new", "thread", "timestamp", "user")

    def __init__(self, connection: Any, timestamp: float, is_new: bool, user: Any) -> None:
        self.connection = connection
        self.timestamp = timestamp  # when it was opened
        self.checked_out = time.time()
        self.is_new = is_new
        self.thread = threading.get_ident()
        self.user = user

    def __str__(self) -> str:
        statement = getattr(self.user, "last_statement", None)
        name = next((thread.name for thread in threading.enumerate() if thread.ident == self.thread), "that has ended")
        return f"thread {name!r} for {time.time() - self.checked_out:.1f} s" + (
            f", whose last statement was {' '.join(re.sub(_STRING, '…', statement).split())[:80]}" if statement else ""
        )


class Pool(PooledDatabase):  # type: ignore[misc]  # playhouse has no type hints
    """Playhouse's pool, which opens a connection without making those wait who give one back.

    The books are playhouse's, so that its `close_idle`, `close_stale` and the like work.
    """

    _connections: list[tuple[float, int, Any]]
    _in_use: dict[int, Held]
    _opening = 0

    def checkout(self, user: Any) -> Any:
        """Return a connection for a session's twin. Raises `peewee.OperationalError` when none becomes free in time."""
        deadline = None
        while True:
            try:
                return self._take(self.is_gone, user)
            except MaxConnectionsExceeded as error:
                now = time.monotonic()
                deadline = now + (self._wait_timeout or 0) if deadline is None else deadline
                with self._pool_available:
                    if self._is_full() and not self._connections:
                        if deadline <= now:
                            raise peewee.OperationalError(self._why_full()) from error
                        self._pool_available.wait(min(deadline - now, threading.TIMEOUT_MAX))

    def is_gone(self, connection: Any) -> bool:
        """Tell whether a connection is known to be closed, without asking the server."""
        return bool(self._is_closed(connection))

    def is_busy(self, connection: Any) -> bool:
        """Tell whether a connection is in the middle of a statement, which Ctrl-C or the like has interrupted."""
        return False

    def is_new(self, connection: Any) -> bool:
        """Tell whether a connection was opened for who has it now."""
        held = self._in_use.get(id(connection))
        return held is None or held.is_new

    def _connect(self) -> Any:
        return self._take(self._is_closed)

    def _take(self, is_closed: Any, user: Any = None) -> Any:
        with self._pool_lock:
            while self._connections:
                opened, _, connection = self._connections.pop()
                if is_closed(connection):
                    continue
                if self._stale_timeout and self._is_stale(opened):
                    self._close_raw(connection)
                    continue
                self._in_use[id(connection)] = Held(connection, opened, False, user)
                return connection
            if self._is_full():
                raise MaxConnectionsExceeded(self._why_full())
            self._opening += 1
        connection = None
        try:
            connection = self._open()
            return connection
        finally:
            with self._pool_available:
                self._opening -= 1
                if connection is None:
                    self._pool_available.notify()
                else:
                    self._in_use[id(connection)] = Held(connection, time.time(), True, user)

    def _open(self) -> Any:
        """Return a new connection, as the driver makes it."""
        return super(PooledDatabase, self)._connect()

    def _is_full(self) -> bool:
        return bool(self._max_connections) and len(self._in_use) + self._opening >= self._max_connections

    def _why_full(self) -> str:
        holders = sorted(self._in_use.values(), key=lambda held: held.checked_out)
        return (
            f"No connection was free within {self._wait_timeout or 0:g} s: all {self._max_connections} of the pool "
            f"are in use, by {'; '.join(map(str, holders[:5]))}{' …' if len(holders) > 5 else ''}. A session holds one "
            "from its first write, or from begin(), to its commit(), rollback() or close(): end those that are done, "
            "or raise 'pool_size'."
        )

    def _close(self, connection: Any, close_conn: bool = False) -> None:
        self.give_back(connection, close_conn)

    def give_back(self, connection: Any, close_conn: bool = False) -> None:
        """Take back a connection that was given out, or close it."""
        with self._pool_lock:
            held = self._in_use.pop(id(connection), None)
            if held is None and not close_conn:
                return
            stale = held is not None and self._stale_timeout and self._is_stale(held.timestamp)
            if held is None or close_conn or stale or self.is_busy(connection) or not self._can_reuse(connection):
                self._close_raw(connection)
            else:
                self._heap_counter += 1
                self._connections.append((held.timestamp, self._heap_counter, connection))
            if self._max_connections:  # else nobody ever waits
                self._pool_available.notify()

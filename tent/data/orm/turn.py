"""Whose turn it is to write to an SQLite database, which takes one transaction that writes at a time."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any


class Turn:
    """A lock that knows who has it. Threads that wait for it get it soon, one after the other.

    SQLite itself lets those that are locked out sleep and try again, longer and longer, so that who comes last often
    comes first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Any = None
        self._connection: Any = None
        self._thread = 0

    def take(self, holder: Any, connection: Any, timeout: float) -> bool:
        """Wait for the turn, for so many seconds, and return whether it has come."""
        if not self._lock.acquire(timeout=timeout) and self._is_in_use():
            return False
        self._holder, self._connection, self._thread = holder, connection, threading.get_ident()
        return True

    def _is_in_use(self) -> bool:
        """Tell whether there is a transaction: Ctrl-C may have ended the one that had the turn before it gave it up."""
        try:
            return bool(self._connection.in_transaction)
        except (sqlite3.ProgrammingError, AttributeError):  # the connection is closed, or there is none
            return False

    def is_of_this_thread(self) -> bool:
        """Tell whether it was in this thread that somebody took the turn, and still has it."""
        return self._lock.locked() and self._thread == threading.get_ident()

    def is_held_by(self, holder: Any) -> bool:
        return holder is not None and self._holder is holder

    def give(self, holder: Any) -> None:
        """Let the next one have the turn, if it is this holder's."""
        if self.is_held_by(holder):
            self._holder = self._connection = None
            self._lock.release()

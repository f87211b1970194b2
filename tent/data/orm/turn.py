"""Whose turn it is to write to an SQLite database, which takes one transaction that writes at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from typing import Any


class Claim:
    """A transaction's claim to the turn. Its gate opens when the turn has come."""

    __slots__ = ("connection", "gate", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.gate: threading.Lock | None = None
        self.connection: Any = None  # once it has begun

    def is_over(self) -> bool:
        """Tell whether the transaction has ended behind the engine's back: by a COMMIT of the program's own, say."""
        try:
            return self.connection is not None and not self.connection.in_transaction
        except sqlite3.ProgrammingError:  # the connection is closed
            return True


class Turn:
    """The turn to write, which comes in the order in which it is asked for.

    SQLite itself lets those that are locked out sleep and try again, longer and longer, so that who comes last often
    comes first.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a child process, in which nobody goes on who had the turn, or waited for it."""
        # A session that is dropped gives its turn back, and the garbage collector may drop one in any line.
        self._lock = threading.RLock()
        self._current: Claim | None = None
        self._waiting: deque[Claim] = deque()

    def take(self, claim: Claim, timeout: float) -> bool:
        """Wait for the turn, for so many seconds, and return whether it has come."""
        with self._lock:
            if self._current is None or (self._current.is_over() and not self._waiting):
                self._current = claim
                return True
        claim.gate = threading.Lock()
        claim.gate.acquire()
        try:
            with self._lock:
                self._waiting.append(claim)
                self._pass_on()
            claim.gate.acquire(timeout=timeout)
        finally:
            with self._lock:
                if claim in self._waiting:
                    self._waiting.remove(claim)
                    if self._current is not None and self._current.is_over():
                        self._current = claim
        return self.is_had_by(claim)

    def is_had_by(self, claim: Claim | None) -> bool:
        """Tell whether a transaction has the turn."""
        return claim is not None and self._current is claim

    def is_of_another(self, claim: Claim | None) -> bool:
        """Tell whether another transaction than one has the turn."""
        return self._current is not None and self._current is not claim

    def is_of_this_thread(self) -> bool:
        """Tell whether it was in this thread that somebody took the turn who still has it."""
        current = self._current
        return current is not None and current.thread == threading.get_ident()

    def give(self, claim: Claim | None) -> None:
        """Let the next one have the turn, if a transaction has it."""
        with self._lock:
            if self.is_had_by(claim):
                self._current = None
                self._pass_on()

    def _pass_on(self) -> None:
        if self._current is None and self._waiting:
            self._current = claim = self._waiting.popleft()
            if claim.gate is not None:
                claim.gate.release()

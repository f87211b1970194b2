"""The blocks of `engine.atomic()`: what sessions do within one is kept or undone with it."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import peewee


class Guest(Protocol):
    """What a session has done within a block."""

    def enter(self, block: Any) -> None:
        """Note that a block has begun within the one that the session's transaction was begun in."""

    def leave(self, is_kept: bool) -> None:
        """Let the session's objects agree with the rows: the block was committed, or else rolled back."""


class _Block:
    """What Peewee's transactions and savepoints have in common, and what is done within them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.guests: list[Guest] = []  # the oldest first

    def commit(self, begin: bool = True) -> None:
        super().commit(begin=False)  # type: ignore[misc]
        self._tell(is_kept=True)
        if begin:
            self._begin()  # type: ignore[attr-defined]

    def rollback(self, begin: bool = True) -> None:
        try:
            super().rollback(begin=False)  # type: ignore[misc]
        finally:
            self._tell(is_kept=False)
        if begin:
            self._begin()  # type: ignore[attr-defined]

    def _tell(self, is_kept: bool) -> None:
        guests, self.guests = self.guests, []
        enclosing = self._enclosing()
        if is_kept and enclosing is not None:
            enclosing.guests += guests
        with contextlib.ExitStack() as stack:  # all of them, whatever a listener raises; the last one first
            for guest in guests:
                stack.callback(guest.leave, is_kept)

    def _enclosing(self) -> _Block | None:
        return None


class Outermost(_Block, peewee._transaction):
    """A transaction of an engine."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.savepoints: list[_Block] = []  # those that are open


class Inner(_Block, peewee._savepoint):
    """A savepoint in a transaction of an engine."""

    _outermost: Outermost | None = None

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self._outermost = _outermost(self.db)
        if self._outermost is not None:
            for block in (self._outermost, *self._outermost.savepoints):
                for guest in block.guests:
                    guest.enter(self)
            self._outermost.savepoints.append(self)
        return entered

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            if self._outermost is not None and self in self._outermost.savepoints:
                del self._outermost.savepoints[self._outermost.savepoints.index(self) :]

    def _enclosing(self) -> _Block | None:
        outermost = self._outermost
        if outermost is None or self not in outermost.savepoints:
            return outermost
        place = outermost.savepoints.index(self)
        return outermost.savepoints[place - 1] if place else outermost


def block_of(database: Any) -> _Block | None:
    """Return the innermost open block on the connection of a database, or None."""
    outermost = _outermost(database)
    return outermost.savepoints[-1] if outermost is not None and outermost.savepoints else outermost


def _outermost(database: Any) -> Outermost | None:
    """Return the transaction that ends on the database; Peewee's are nested without any effect."""
    transactions = database._state.transactions
    return transactions[0] if transactions and isinstance(transactions[0], Outermost) else None

"""The blocks of `engine.atomic()`: what sessions do within one is kept or undone with it.

In a transaction of an engine a session has a savepoint, which is a block, too, of what other sessions do within it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import peewee


class Guest:
    """What a session has done within a block."""

    def enter(self, block: Any) -> None:
        """Note that another block has begun, within the one that the session's transaction was begun in."""
        raise NotImplementedError

    def leave(self, is_kept: bool) -> None:
        """Let the session's objects agree with the rows: the block was committed, or else rolled back."""
        raise NotImplementedError


class _Block:
    """What Peewee's transactions and savepoints have in common, and what is done within them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.guests: list[Guest] = []  # the oldest first
        self.open: list[_Block] = [self]  # on the connection, the outermost first

    def commit(self, begin: bool = True) -> None:
        super().commit(begin=False)  # type: ignore[misc]
        self._end(is_kept=True)
        if begin:
            self._begin_again()

    def rollback(self, begin: bool = True) -> None:
        try:
            super().rollback(begin=False)  # type: ignore[misc]
        finally:
            self._end(is_kept=False)
        if begin:
            self._begin_again()

    def _begin_again(self) -> None:
        self._begin()  # type: ignore[attr-defined]
        self.open.append(self)

    def _end(self, is_kept: bool) -> None:
        """Close the block, and with it what is open within it, and tell the guests."""
        if self not in self.open:
            return
        place = self.open.index(self)
        guests = [guest for block in self.open[place:] for guest in block.guests]
        self.guests = []
        del self.open[place:]
        if is_kept and self.open:
            self.open[-1].guests += guests
        with contextlib.ExitStack() as stack:  # all of them, whatever a listener raises; the last one first
            for guest in guests:
                stack.callback(guest.leave, is_kept)


class Outermost(_Block, peewee._transaction):
    """A transaction of an engine."""


class Inner(_Block, peewee._savepoint):
    """A savepoint in a transaction of an engine: the engine's own, or a session's."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        transactions = self.db._state.transactions
        if transactions and isinstance(transactions[0], Outermost):
            self.open = transactions[0].open
            for guest in [guest for block in self.open for guest in block.guests]:
                guest.enter(self)
            self.open.append(self)
        return entered

    def note_guest(self, guest: Guest) -> None:
        """Note whose savepoint this is, in the block that it was set in."""
        if len(self.open) > 1:
            self.open[self.open.index(self) - 1].guests.append(guest)

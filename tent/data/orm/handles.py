"""What `begin` and `begin_nested` return: a transaction or a savepoint, to end or to use in a `with` statement."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import peewee

from .errors import ResourceClosedError
from .guard import exclusive
from .history import Scope
from .transaction import Transaction


class _Handle:
    """What `begin` and `begin_nested` return: a transaction to end, or to use in a `with` statement."""

    def __init__(self, transaction: Transaction, scope: Scope) -> None:
        self._transaction = transaction
        self._scope = scope

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, by itself or with what encloses it."""
        return self._scope not in self._transaction.scopes

    @property
    def lock(self) -> Any:
        """The lock of the session."""
        return self._transaction.lock

    def _commit(self) -> None:
        raise NotImplementedError

    def _rollback(self) -> None:
        raise NotImplementedError

    @exclusive
    def commit(self) -> None:
        """End it, keeping what was done. Raises `ResourceClosedError` when it has ended."""
        self._check()
        self._commit()

    @exclusive
    def rollback(self) -> None:
        """End it, undoing what was done. Raises `ResourceClosedError` when it has ended."""
        self._check()
        self._rollback()

    @property
    def is_active(self) -> bool:
        """Whether it is open."""
        return not self.is_closed

    def _check(self) -> None:
        if self.is_closed:
            raise ResourceClosedError("This transaction is closed. Begin another one.")

    def __enter__(self) -> Any:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_closed:
            return
        if kind is not None:
            self.rollback()
            return
        try:
            self.commit()
        except BaseException:
            with contextlib.suppress(peewee.PeeweeException):  # what it met first is what the caller has to know
                self._give_up()
            raise

    def _give_up(self) -> None:
        """Undo everything after a commit that failed."""
        if not self.is_closed:
            self.rollback()


class RootTransaction(_Handle):
    """The transaction of a session that `begin` began."""

    def __init__(self, transaction: Transaction, scope: Scope) -> None:
        super().__init__(transaction, scope)
        self.is_entered = False
        self.is_committed = False
        transaction.handle = self

    def _commit(self) -> None:
        self._transaction.commit()

    def _rollback(self) -> None:
        self._transaction.rollback()

    def _give_up(self) -> None:
        self._transaction.rollback()  # after a COMMIT that failed the objects still have their changes

    def __enter__(self) -> Any:
        self.is_entered = True
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self.is_entered = False


class NestedTransaction(_Handle):
    """A savepoint, which `begin_nested` set."""

    def _commit(self) -> None:
        self._transaction.release(self._scope)

    def _rollback(self) -> None:
        self._transaction.rollback_to(self._scope)

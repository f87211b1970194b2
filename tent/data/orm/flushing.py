"""Flushing: all changes are written, or the rows and the objects are as they were before."""

from __future__ import annotations

from typing import Any

import peewee

from .blame import name_stale
from .errors import FlushError, InvalidRequestError, StaleDataError
from .history import Scope, Snapshot, take_back
from .persister import Persister
from .planning import compute_plan
from .settling import Settlement
from .writing import write


class Attempt:
    """A flush that may fail: a scope of its own, which becomes part of the transaction or is undone."""

    def __init__(self, transaction: Any, before: Snapshot | None = None) -> None:
        self._transaction = transaction
        self._before = before
        self._scope: Scope | None = None
        self._persister = Persister(transaction.database, transaction.unit.identity_map)
        self._came_along: list[Any] = []

    def run(self) -> None:
        """Write all changes. If that fails, rows and objects are as they were before."""
        transaction, unit, is_heard = self._transaction, self._transaction.unit, self._before is not None
        try:
            transaction.is_flushing = True
            if is_heard:
                self._begin()
                transaction.events.before_flush()
            self._came_along = unit.register_reachable()
            plan = compute_plan(unit)
            self._check()
            if plan:
                self._begin()
                write(plan, self._persister)
                Settlement(unit, transaction.scopes[-1].log).flushed(plan, self._persister)
                if is_heard:
                    transaction.events.after_flush(plan)
            else:
                unit.settled()
            self._release()
        except BaseException as error:
            failure = self._take_back(error)
            if failure is error:
                raise
            raise failure from None
        finally:
            transaction.is_flushing = False
            unit.journal = None

    def _begin(self) -> None:
        """Begin the transaction or, where there is one, set a savepoint in it."""
        if self._scope is not None:
            return
        transaction = self._transaction
        savepoint = transaction.database.savepoint() if transaction.scopes else None
        transaction.begin()
        self._scope = Scope(savepoint, is_flush=True)
        transaction.scopes.append(self._scope)
        if savepoint is not None:
            savepoint.__enter__()

    def _check(self) -> None:
        """Refuse to go on when a listener has met an error at which the database ended the transaction."""
        if self._scope is not None and self._scope not in self._transaction.scopes:
            raise InvalidRequestError(
                "The database has ended the transaction by itself, at an error that a listener met and did not raise. "
                "Let the listener raise it."
            )

    def _release(self) -> None:
        """Keep what was done."""
        self._check()
        if self._scope is not None:
            if self._scope.context is not None:
                self._scope.context.commit(begin=False)
            self._transaction.merge(self._scope)

    def _take_back(self, error: BaseException) -> BaseException:
        """Let all be as it was before, and return the error that says why."""
        transaction, unit = self._transaction, self._transaction.unit
        has_ended = self._undo()
        if getattr(error, "is_blind", False):
            error = self._named(error)
        for instance in self._came_along:
            unit.cancel_new(instance)
        if self._before is not None:
            self._before.restore()
        if isinstance(error, StaleDataError) and hasattr(error, "changes"):
            error = name_stale(transaction.database, transaction.run, error, error.changes)
        if has_ended:
            transaction.tell_of_rollback(error)
        return error

    def _named(self, error: BaseException) -> BaseException:
        """Return the error of a batch with its object named: all is written once more, with care, and undone."""
        again = Attempt(self._transaction)
        database = self._transaction.database
        database.is_careful = True
        try:
            again._begin()
            write(compute_plan(self._transaction.unit), again._persister)
        except (peewee.PeeweeException, FlushError) as its_own:
            return its_own if type(its_own) is type(error) else error
        finally:
            database.is_careful = False
            again._undo()
        return error

    def _undo(self) -> bool:
        """Undo what was written and settled; return whether that has ended the transaction."""
        transaction, scope = self._transaction, self._scope
        is_open = scope is not None and scope in transaction.scopes
        if scope is not None and is_open:
            del transaction.scopes[transaction.scopes.index(scope) :]
            take_back(transaction.unit, scope.log, keep=True)
        self._persister.undo()
        if scope is None or not is_open:
            return False
        transaction.unit.note_statement(is_done=False)
        return bool(transaction.undo(scope.context))

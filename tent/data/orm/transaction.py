"""Where a transaction and a savepoint begin and end, for the rows and for the objects."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import peewee

from .blame import name_stale
from .engine import BufferedCursor, Engine, close_quietly
from .errors import FlushError, InvalidRequestError, ResourceClosedError, StaleDataError, explain, shown
from .events import ROUNDS, Events
from .flush import write
from .guard import exclusive
from .history import Snapshot, Step, take_back
from .ordering import Plan
from .persister import Persister
from .settling import Settlement
from .unit_of_work import UnitOfWork


class Scope:
    """An open transaction or savepoint: how the database knows it, and what was flushed in it."""

    __slots__ = ("context", "log")

    def __init__(self, context: Any) -> None:
        self.context = context
        self.log: list[Step] = []


class Transaction:
    """The transactions of a session, one after the other: its database, and what is open on it, outermost first."""

    def __init__(self, database: Engine, unit: UnitOfWork, lock: Any, events: Events) -> None:
        self.database = database
        self.lock = lock
        self.unit = unit
        self.events = events
        self.scopes: list[Scope] = []
        self.handle: RootTransaction | None = None  # what begin() gave out
        self.is_flushing = False
        self.streams: list[Any] = []  # cursors that are read part by part

    @property
    def root(self) -> Scope | None:
        """The open transaction."""
        return self.scopes[0] if self.scopes else None

    def check(self) -> None:
        """Refuse work in a `with session.begin()` block whose transaction has ended, and while listeners are told."""
        self.events.check()
        if self.handle is not None and self.handle.is_closed and self.handle.is_entered:
            raise InvalidRequestError(
                "Can't operate on closed transaction inside context manager: leave the `with session.begin()` block, "
                "whose transaction was committed or rolled back, before using the session again."
            )

    def begin(self) -> None:
        """Begin a transaction, unless there is one."""
        self.check()
        if self.scopes:
            return
        self.database.acquire()
        try:
            # Within engine.atomic() the session's transaction is a savepoint of that one.
            context = self.database.atomic()
            context.__enter__()
            self.scopes.append(Scope(context._helper))
        except BaseException:
            self.scopes.clear()
            self.database.discard_transaction()
            self.database.release()
            raise

    def flush(self) -> None:
        """Write all changes. If that fails, rows and objects are as they were before."""
        if self.is_flushing:
            raise InvalidRequestError("The session is already flushing: a flush can't be called within a flush.")
        if not self.unit.has_pending():
            self.unit.unsettled.clear()
            return
        self.is_flushing = True
        before = Snapshot(self.unit) if self.events else None
        came_along: list[Any] = []
        try:
            if before is not None:
                self.events.before_flush()
            came_along = self.unit.register_reachable()
            plan = self.unit.plan()
            if plan:
                self._write(plan)
            else:
                self.unit.tidy()
                self.unit.unsettled.clear()
        except BaseException:
            for instance in came_along:
                self.unit.cancel_new(instance)
            if before is not None:
                before.restore()
            raise
        finally:
            self.is_flushing = False

    def _write(self, plan: Plan) -> None:
        savepoint = self.database.savepoint() if self.scopes else None
        self.begin()
        persister, log = Persister(self.database, self.unit.identity_map), self.scopes[-1].log
        start = len(log)
        try:
            if savepoint is not None:
                savepoint.__enter__()
            write(plan, persister)
            Settlement(self.unit, log).flushed(plan, persister)
            if self.events:
                self.events.after_flush(plan)
            if savepoint is not None:
                savepoint.commit(begin=False)
        except BaseException as error:
            done = log[start:]
            del log[start:]
            take_back(self.unit, done, keep=True)
            persister.undo()
            self.unit.note_statement()
            self._undo_flush(savepoint)
            if isinstance(error, StaleDataError):
                raise name_stale(self.database, error, error.changes) from None  # type: ignore[attr-defined]
            raise

    def commit(self) -> None:
        """Write all changes and make them durable."""
        self.events.fire("before_commit")
        self._flush_all()
        if not self.scopes:
            self.unit.end_transaction()
            self.events.fire_end("after_commit", "committed")
            return
        root, interrupt = self.scopes[0].context, None
        try:
            if isinstance(root, peewee._savepoint):
                root.commit(begin=False)
            else:
                self.database.commit()
        except BaseException as error:
            if not self._is_through(error):
                # The rows are as before the transaction; the objects keep their changes, to be flushed again.
                self._end(keep=True)
                raise
            interrupt = error
        callbacks = self._leave()
        self.unit.end_transaction()
        if interrupt is not None:
            raise interrupt
        for callback in callbacks:
            callback()
        self.events.fire_end("after_commit", "committed")

    def _flush_all(self) -> None:
        """Flush until nothing is left, as what waits for a flush may change something after it."""
        for _ in range(ROUNDS):
            self.flush()
            if not self.unit.has_pending():
                return
        raise FlushError(
            f"After {ROUNDS} flushes there is still something to write: listeners change something after each flush. "
            "Let them do so before it (before_flush), or once."
        )

    def _is_through(self, error: BaseException) -> bool:
        """Tell whether a COMMIT was done all the same: Python raises Ctrl-C when the driver's call has returned."""
        return not isinstance(error, peewee.PeeweeException) and not self.database.has_transaction()

    def forget_stream(self, cursor: Any) -> None:
        """Note that a cursor has been read to its end."""
        self.streams = [other for other in self.streams if other is not cursor]

    def fetch(self, sql: str, params: Any = ()) -> BufferedCursor:
        """Run a statement outside of a flush."""
        try:
            return self.database.fetch(sql, params)
        except BaseException as error:
            if isinstance(error, peewee.PeeweeException):
                explain(error, f"running {shown(sql)}")
            if self.scopes and not self.database.has_transaction():
                # The database ended it by itself; the objects keep what was flushed in it, to be written again.
                self._end(keep=True)
            raise

    def rollback(self) -> None:
        """Undo what was not committed, in the rows and on the objects."""
        if self.is_flushing:
            raise InvalidRequestError(
                "The session is flushing, and can't be rolled back within. Raise an error instead."
            )
        self._end(keep=False)

    def begin_nested(self) -> NestedTransaction:
        """Write all changes, and set a savepoint."""
        self.flush()
        self.begin()
        savepoint = self.database.savepoint()
        savepoint.__enter__()
        scope = Scope(savepoint)
        self.scopes.append(scope)
        return NestedTransaction(self, scope)

    def release(self, scope: Scope) -> None:
        """Keep what was done since a savepoint, as part of what encloses it."""
        self.flush()
        scope.context.commit(begin=False)
        place = self.scopes.index(scope)
        for inner in self.scopes[place:]:
            self.scopes[place - 1].log += inner.log
        del self.scopes[place:]

    def rollback_to(self, scope: Scope) -> None:
        """Undo what was done since a savepoint, in the rows and on the objects."""
        place = self.scopes.index(scope)
        log = [step for inner in self.scopes[place:] for step in inner.log]
        try:
            _undo_savepoint(scope.context)
        except BaseException:
            self._end(keep=False)
            raise
        del self.scopes[place:]
        take_back(self.unit, log)
        self.unit.loader.epoch += 1

    def changed(self) -> dict[int, Any]:
        """Return the objects that were flushed and not committed, by `id`."""
        steps = (step for scope in self.scopes for step in scope.log)
        return {id(instance): instance for step in steps for instance in step.instances}

    def _undo_flush(self, savepoint: Any) -> None:
        if savepoint is None:
            self._end(keep=True)
            return
        try:
            _undo_savepoint(savepoint)
        except peewee.PeeweeException:
            # The database ended the whole transaction by itself (a full disk, a lost connection). What was flushed
            # in it is not lost: it is changed again, and the next flush writes it.
            self._end(keep=True)

    def _end(self, keep: bool) -> None:
        """Roll back the transaction; the objects keep their changes, or get their former values back."""
        log = [step for scope in self.scopes for step in scope.log]
        is_undoing = bool(self.scopes) or (not keep and self.unit.has_pending())
        try:
            if self.scopes and not self.database.is_closed():
                root = self.scopes[0].context
                if isinstance(root, peewee._savepoint):
                    _undo_savepoint(root)
                else:
                    self.database.rollback()
        finally:
            self._leave()
            take_back(self.unit, log, keep)
            self.unit.end_transaction()
        if is_undoing:
            self.events.fire_end("after_rollback", "rolled back")

    def _leave(self) -> list[Any]:
        """Forget the transaction, give the connection back, and return what waited for the commit."""
        callbacks: list[Any] = []
        if not self.scopes:
            return callbacks
        state = self.database._state
        try:
            if state.transactions and state.transactions[-1] is self.scopes[0].context:
                callbacks = list(state.commit_callbacks)
                state.commit_callbacks.clear()
                state.transactions.pop()
            for cursor in self.streams:  # on a connection that another session gets, it would hold on to its snapshot
                close_quietly(cursor)
        finally:
            self.scopes.clear()
            self.streams.clear()
            self.database.release()
        return callbacks


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


def _undo_savepoint(savepoint: Any) -> None:
    """Roll back to a savepoint and remove it, which ROLLBACK TO alone does not."""
    savepoint.rollback(begin=False)
    savepoint.commit(begin=False)

"""Where a transaction and a savepoint begin and end, for the rows and for the objects."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import peewee

from .cursor import BufferedCursor, close_quietly
from .enclosing import Guest, Inner
from .engine import Engine
from .errors import CommitInDoubtError, FlushError, InvalidRequestError, explain, shown
from .events import ROUNDS, Events
from .flushing import Attempt
from .history import Scope, Snapshot, Step, take_back
from .unit_of_work import UnitOfWork

_IN_DOUBT = (
    "The connection was lost in the middle of the COMMIT: the changes may be in the database, or may not. The session "
    "is as after a rollback. Look whether they are there before you repeat them."
)


class Transaction:
    """The transactions of a session, one after the other: its database, and what is open on it, outermost first."""

    def __init__(self, database: Engine, unit: UnitOfWork, lock: Any, events: Events) -> None:
        self.database = database
        self.lock = lock
        self.unit = unit
        self.events = events
        self.scopes: list[Scope] = unit.scopes
        self.defaults = database.isolation_level, database.read_only
        self.handle: Any = None  # what begin() gave out
        self.guest: _Guest | None = None  # in a block of engine.atomic()
        self.is_flushing = False
        self.is_committing = False
        self.streams: list[Any] = []  # cursors that are read part by part
        this = weakref.ref(self)
        unit.loader.fetch = lambda sql, params: this().run(sql, params)  # type: ignore[union-attr]

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

    def begin(self, isolation_level: str | None = None, read_only: bool = False) -> None:
        """Begin a transaction, unless there is one, with the session's own settings or others."""
        self.check()
        if self.scopes:
            return
        self.database.acquire()
        try:
            scope = Scope(self._enter(isolation_level, read_only))
            self.scopes.append(scope)
            if isinstance(scope.context, Inner):
                self.guest = _Guest(self, scope)
                scope.context.note_guest(self.guest)
        except BaseException:
            self.scopes.clear()
            self.guest = None
            try:
                self.database.discard_transaction()
            finally:
                self._let_go()
            raise

    def _enter(self, isolation_level: str | None, read_only: bool) -> Any:
        """Begin with these settings, and return what Peewee knows the transaction by."""
        database = self.database
        database.isolation_level = isolation_level or database.isolation_level
        database.read_only = read_only or database.read_only
        if not database.in_transaction():
            context = peewee._transaction(database)
            database.begin()
            database.push_transaction(context)
            return context
        if not database.has_transaction() and not database.is_lost():
            raise InvalidRequestError(
                "The database has ended the transaction of engine.atomic() by itself, at an error that was met in it. "
                "Leave its block before using the session again."
            )
        if database.isolation_level:
            raise InvalidRequestError(
                "The session is within a transaction of engine.atomic(), which has its own isolation level. Say it "
                "there, or open the session outside of it."
            )
        return database.atomic().__enter__()  # a savepoint of that one

    def _let_go(self) -> None:
        """Give the connection back; the next transaction has the session's own settings again."""
        self.database.isolation_level, self.database.read_only = self.defaults
        self.database.release()

    def refuse_if_read_only(self, what: str) -> None:
        """Refuse to write in a session, or a transaction, that only reads."""
        if self.database.read_only:
            raise InvalidRequestError(
                f"The session only reads (read_only=True), and can't {what}. Open another one to write."
            )

    def flush(self) -> None:
        """Write all changes. If that fails, rows and objects are as they were before."""
        if self.is_flushing:
            raise InvalidRequestError("The session is already flushing: a flush can't be called within a flush.")
        is_heard = bool(self.events)
        if not self.unit.has_pending() or (is_heard and not self.unit.unflushed()):
            self.unit.settled()
            return
        if self.database.read_only and self.unit.unflushed():
            changed = list(self.unit.unflushed().values())
            self.refuse_if_read_only(f"write {changed[0]!r}" + f" and {len(changed) - 1} more" * (len(changed) > 1))
        Attempt(self, Snapshot(self.unit) if is_heard else None).run()

    def commit(self) -> None:
        """Write all changes and make them durable."""
        self.refuse_end("committed")
        self.is_committing = True
        try:
            self.events.fire("before_commit")
            self._flush_all()
        finally:
            self.is_committing = False
        callbacks = self._make_durable() if self.scopes else []
        self.unit.end_transaction()
        for callback in callbacks:
            callback()
        self.events.fire_end("after_commit", "committed")

    def _make_durable(self) -> list[Any]:
        """Commit the rows, and return what waited for that."""
        root = self.scopes[0].context
        try:
            if isinstance(root, peewee._savepoint):
                root.commit(begin=False)
            else:
                self.database.commit()
        except BaseException as error:
            if self.database.is_in_doubt(error):
                self._end(keep=False)
                self.tell_of_rollback(error)
                doubt = CommitInDoubtError(_IN_DOUBT)
                if isinstance(error, peewee.PeeweeException):
                    raise doubt from error
                raise error from doubt  # Ctrl-C, while the answer was awaited: it stays what it is
            if self._is_through(error):
                self._note_committed()
                self.unit.end_transaction()
            else:
                # The rows are as before the transaction; the objects keep their changes, to be flushed again.
                self._end(keep=True)
                self.tell_of_rollback(error)
            raise
        try:
            return self._note_committed()
        except BaseException:  # Ctrl-C, in whichever line: what is done is noted to the end
            self._note_committed()
            raise

    def leave_block(self, scope: Scope, is_kept: bool) -> None:
        """End what was begun in a block of engine.atomic(), or with it, as the block has ended."""
        place = self.scopes.index(scope)
        if place > 0:
            self.merge(scope) if is_kept else self._take_back_to(place)
        elif is_kept:
            self._note_committed()
            self.unit.end_transaction()
            self.events.fire_end("after_commit", "committed")
        else:
            self._take_back(self.steps(), keep=False)
            self.events.fire_end("after_rollback", "rolled back")

    def _note_committed(self) -> list[Any]:
        if self.guest is not None:
            self.guest.note(self.steps())
        if self.handle is not None and not self.handle.is_closed:
            self.handle.is_committed = True
        return self._leave()

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
        """Run a statement outside of a flush. Its error says which one it was."""
        try:
            return self.run(sql, params)
        except peewee.PeeweeException as error:
            explain(error, f"running {shown(sql)}")
            raise

    def run(self, sql: str, params: Any = ()) -> BufferedCursor:
        """Run a statement outside of a flush, and notice if the database ends the transaction at its error."""
        try:
            return self.database.fetch(sql, params)
        except BaseException as error:
            self.notice_end(error)
            raise

    def notice_end(self, error: BaseException) -> None:
        """End what the database has ended by itself; the objects keep what was flushed in it, to be written again."""
        if self.scopes and not self.database.has_transaction():
            self._end(keep=True)
            self.tell_of_rollback(error)

    def rollback(self) -> None:
        """Undo what was not committed, in the rows and on the objects."""
        self.refuse_end("rolled back")
        is_undoing = bool(self.scopes) or self.unit.has_pending()
        self._end(keep=False)
        if is_undoing:
            self.events.fire_end("after_rollback", "rolled back")

    def refuse_end(self, how: str, scope: Scope | None = None) -> None:
        """Refuse to end the transaction, or a savepoint, where that can't be."""
        self.refuse_in_listener(how, is_savepoint=scope is not None)
        if self.guest is None:
            return
        place = 0 if scope is None else self.scopes.index(scope)
        if any(inner.is_block for inner in self.scopes[place:]):
            raise InvalidRequestError(
                f"The session can't be {how} here: after its {'transaction' if scope is None else 'savepoint'} a block "
                "of engine.atomic() was begun, or the transaction of another session in one. End that first."
            )

    def refuse_in_listener(self, how: str, is_savepoint: bool = False) -> None:
        """Refuse an end in a listener that is told of a flush or of an end."""
        self.events.check()
        if self.is_flushing or (self.is_committing and not is_savepoint):
            raise InvalidRequestError(
                f"The session can't be {how} in the middle of a {'flush' if self.is_flushing else 'commit'}. To undo "
                "it, let the listener raise an error."
            )

    def tell_of_rollback(self, error: BaseException) -> None:
        """Tell listeners of a rollback that an error has caused."""
        try:
            self.events.fire_end("after_rollback", "rolled back")
        except Exception as its_own:
            error.__context__ = error.__context__ or its_own  # what came first is what the caller has to know

    def begin_nested(self) -> Scope:
        """Write all changes, set a savepoint, and return it."""
        self._flush_all()
        self.begin()
        savepoint = self.database.savepoint()
        try:
            savepoint.__enter__()
        except BaseException as error:
            self.notice_end(error)
            raise
        scope = Scope(savepoint)
        self.scopes.append(scope)
        return scope

    def release(self, scope: Scope) -> None:
        """Keep what was done since a savepoint, as part of what encloses it."""
        self.refuse_end("released", scope)
        self._flush_all()
        try:
            scope.context.commit(begin=False)
        except BaseException as error:
            self.notice_end(error)
            raise
        self.merge(scope)

    def merge(self, scope: Scope) -> None:
        """Let what was done in a scope be part of what encloses it."""
        place = self.scopes.index(scope)
        for inner in self.scopes[place:]:
            self.scopes[place - 1].log += inner.log
        del self.scopes[place:]

    def rollback_to(self, scope: Scope) -> None:
        """Undo what was done since a savepoint, in the rows and on the objects."""
        self.refuse_end("rolled back", scope)
        try:
            _undo_savepoint(scope.context)
        except BaseException:
            self._end(keep=False)
            raise
        self._take_back_to(self.scopes.index(scope))

    def _take_back_to(self, place: int) -> None:
        log = self.steps(place)
        del self.scopes[place:]
        take_back(self.unit, log)
        self.unit.loader.epoch += 1

    def changed(self) -> dict[int, Any]:
        """Return the objects that were flushed and not committed, by `id`."""
        return {id(instance): instance for step in self.steps() for instance in step.instances}

    def steps(self, place: int = 0) -> list[Step]:
        """Return what was flushed in the transaction, or since one of its savepoints."""
        return [step for scope in self.scopes[place:] for step in scope.log]

    def undo(self, savepoint: Any) -> bool:
        """Undo a flush that began with a savepoint, or the transaction; return whether the transaction has ended."""
        if savepoint is not None:
            try:
                _undo_savepoint(savepoint)
                return False
            except peewee.PeeweeException:
                # The database ended the whole transaction by itself (a full disk, a lost connection). What was flushed
                # in it is not lost: it is changed again, and the next flush writes it.
                pass
            except BaseException:  # Ctrl-C for the second time: what the flush has written must not stay
                self._end(keep=True)
                raise
        self._end(keep=True)
        return True

    def _end(self, keep: bool) -> None:
        """Roll back the transaction; the objects keep their changes, or get their former values back."""
        log = self.steps()
        try:
            if self.scopes and not self.database.is_closed():
                root = self.scopes[0].context
                if not isinstance(root, peewee._savepoint):
                    self.database.rollback()
                elif self.database.has_transaction():  # else the database has ended that of engine.atomic()
                    _undo_savepoint(root)
        finally:
            try:
                self._take_back(log, keep)
            except BaseException:  # Ctrl-C, in whichever line: each step can be taken back twice
                self._take_back(log, keep)
                raise

    def _take_back(self, log: Sequence[Step], keep: bool) -> None:
        try:
            self._leave()
        finally:
            take_back(self.unit, log, keep)
            self.unit.end_transaction()

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
            for scope in self.scopes:
                scope.log = []  # somebody may hold on to the scope
            try:
                self._let_go()
            finally:
                self.scopes.clear()
                self.streams.clear()
                self.guest = None
        return callbacks


class _Guest(Guest):
    """What a session does within a block of engine.atomic(), in a scope that was begun there, and commits there."""

    def __init__(self, transaction: Transaction, scope: Scope) -> None:
        self._transaction = weakref.ref(transaction)
        self._scope = scope
        self._unit = transaction.unit
        self._log: Sequence[Step] = ()
        self._owner: Any = None
        self._gone: Sequence[Any] = ()

    def note(self, log: Sequence[Step]) -> None:
        """Note what is committed, the first time that this is said."""
        if not self._log:
            self._log, self._owner, self._gone = log, self._unit.owner, list(self._unit.gone.values())

    def enter(self, block: Any) -> None:
        transaction = self._transaction()
        if transaction is not None and transaction.guest is self and transaction.database is not block.db:
            scope = Scope(None, is_block=True)
            transaction.scopes.append(scope)
            block.guests.append(_Guest(transaction, scope))

    def leave(self, is_kept: bool) -> None:
        transaction = self._transaction()
        if transaction is not None and self._scope in transaction.scopes:
            transaction.leave_block(self._scope, is_kept)
        elif self._log and not is_kept:
            for instance in self._gone:  # the commit has let go of them
                if instance._owner is None and self._unit.owner is self._owner:
                    instance._owner = self._owner
            take_back(self._unit, self._log)
            self._unit.end_transaction()


def _undo_savepoint(savepoint: Any) -> None:
    """Roll back to a savepoint and remove it, which ROLLBACK TO alone does not."""
    savepoint.rollback(begin=False)
    savepoint.commit(begin=False)

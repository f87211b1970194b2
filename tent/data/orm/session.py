"""The session: a conversation with a database through its objects."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar, overload

from . import merging
from .engine import Engine, isolation
from .errors import ArgumentError, InvalidRequestError, UnsavedChangesWarning
from .events import Events
from .execution import Execution
from .guard import exclusive, used_at_once
from .handles import NestedTransaction, RootTransaction
from .identity import IdentityMap
from .model import ModelRoot, refuse_unmapped
from .query import Query
from .result import Result
from .tracking import CLEAN, DELETED, Unknown, changed_names, committed_value, session_of, state_of
from .transaction import Transaction
from .unit_of_work import UnitOfWork

M = TypeVar("M", bound=ModelRoot)


class Session:
    """A conversation with a database: an identity map, a unit of work, and a transaction.

    `engine` is what `dbm.connect` gives. With `autoflush=False` queries do not write pending changes first.
    `isolation_level` is that of its transactions, "SERIALIZABLE" for one, and `read_only=True` has it refuse to write;
    it reads from one of the engine's replicas then, if the config names some.

    A session may be handed from thread to thread, as long as only one uses it at a time. It is a context manager that
    closes: `with dbm.open_session(engine) as session:`.
    """

    def __init__(
        self, engine: Engine, autoflush: bool = True, isolation_level: str | None = None, read_only: bool = False
    ) -> None:
        if not isinstance(engine, Engine):
            raise ArgumentError(f"A session takes an engine, as dbm.connect(config) gives, not {engine!r}.")
        self.engine = engine
        self.lock = threading.RLock()
        this = weakref.ref(self)
        source = engine.replica if read_only and engine.replica is not None else engine
        database = source.private(lambda query: this()._execution.run(query))  # type: ignore[union-attr]
        database.isolation_level, database.read_only = isolation(isolation_level), read_only
        self._unit = UnitOfWork(self, database)
        self._events = Events(self._unit, database)
        self._transaction = Transaction(database, self._unit, self.lock, self._events)
        self._execution = Execution(database, self._unit, self._transaction, self.lock, autoflush)

    def __repr__(self) -> str:
        unit = self._unit
        return (
            f"<Session of {self.engine!r}: {len(unit.new)} new, {len(self.dirty)} dirty, {len(unit.deleted)} deleted>"
        )

    # Objects

    @exclusive
    def add(self, instance: ModelRoot) -> None:
        """Put an object into the session; a flush inserts its row. The objects that it refers to come along.

        An object that has a row comes back into the session, with what was changed on it. Raises
        `InvalidRequestError` when it is in another open session, or when another object of its row is in this one.
        """
        self._transaction.check()
        refuse_unmapped(instance)
        if instance._committed is None or instance._committed is DELETED:
            self._unit.register_new(instance)
        elif session_of(instance) is not self:
            self._unit.register_persistent(instance)
        self._unit.deleted.pop(id(instance), None)

    @exclusive
    def add_all(self, instances: Iterable[ModelRoot]) -> None:
        """Add several objects."""
        for instance in instances:
            self.add(instance)

    @exclusive
    def delete(self, instance: ModelRoot, recursive: bool = False, delete_nullable: bool = False) -> None:
        """Mark an object so that a flush deletes its row. A pending one is let go of, as it has no row.

        Rows that refer to it are the database's to deal with, as `on_delete` of their key says. With `recursive`, as in
        Peewee, their objects are loaded and marked too, at any depth; but where the key can be null it becomes None,
        unless `delete_nullable` says otherwise. Raises `InvalidRequestError` for an object that has no row.
        """
        self._transaction.check()
        refuse_unmapped(instance)
        if id(instance) in self._unit.new:
            self._unit.drop_new(instance)
        elif instance._committed is None or (instance._committed is DELETED and session_of(instance) is not self):
            raise InvalidRequestError(f"{instance!r} is not persisted: it has no row that could be deleted.")
        elif instance._committed is not DELETED:
            if session_of(instance) is not self:
                self._unit.register_persistent(instance)
            for child, field in self._execution.dependents(instance, delete_nullable) if recursive else ():
                if field.null and not delete_nullable:
                    setattr(child, field.name, None)
                else:
                    self._unit.register_deleted(child)
            self._unit.register_deleted(instance)

    @exclusive
    def expunge(self, instance: ModelRoot) -> None:
        """Let go of an object: it is detached then, or transient if it was pending."""
        self._refuse_strangers(instance)
        if id(instance) in self._unit.new:
            self._unit.drop_new(instance)
        self._unit.expunge(instance)

    @exclusive
    def expunge_all(self) -> None:
        """Let go of all objects, unsaved changes included."""
        self._transaction.refuse_in_listener("emptied")
        self._unit.expunge_all()

    @exclusive
    def merge(self, instance: M, load: bool = True) -> M:
        """Copy the values that are set on an object to the session's own object of its row, and return that one.

        The row is read if need be; when there is none, or the object has no key, the copy is a new pending object.
        With `load=False` nothing is read: the object must be clean, and its values are taken as the row's.
        """
        self._transaction.check()
        refuse_unmapped(instance)
        if session_of(instance) is self:
            return instance
        return merging.merge(self._execution, instance, load)  # type: ignore[no-any-return]

    @exclusive
    def refresh(self, instance: ModelRoot, *, discard: bool = False, with_for_update: bool = False) -> None:
        """Read the row of an object now.

        Raises `InvalidRequestError` when the object has unsaved changes, unless `discard` says to drop them, and when
        the row is gone.
        """
        self._transaction.check()
        self._refuse_strangers(instance)
        self._refuse_without_row(instance, "refreshed")
        if changed_names(instance) and not discard:
            raise InvalidRequestError(
                f"{instance!r} has unsaved changes ({', '.join(changed_names(instance))}), which a refresh would drop. "
                "Flush them first, or say session.refresh(obj, discard=True)."
            )
        if instance._committed is not CLEAN:
            self._unit.revert(instance)
        if with_for_update:
            self._transaction.begin()
        mapper, key = self._unit.identity_of(instance)
        if self._unit.loader.by_key(mapper, key, with_for_update) is None:
            raise InvalidRequestError(f"{instance!r} can't be refreshed: its row is gone.")

    @exclusive
    def expire(self, instance: ModelRoot) -> None:
        """Let `get` read the row of an object again. Its attributes stay as they are until then."""
        self._refuse_strangers(instance)
        self._refuse_without_row(instance, "expired")
        instance._epoch = -1

    @exclusive
    def expire_all(self) -> None:
        """Let `get` read each row again. Attributes stay as they are until then."""
        self._unit.loader.epoch += 1

    def is_modified(self, instance: ModelRoot) -> bool:
        """Return whether an attribute differs from what the row is known to have. Runs no SQL."""
        refuse_unmapped(instance)
        return bool(changed_names(instance))

    def state(self, instance: ModelRoot) -> str:
        """Return the state of an object: "transient", "pending", "persistent", "deleted" or "detached"."""
        refuse_unmapped(instance)
        return state_of(instance)

    def flag_modified(self, instance: ModelRoot, name: str) -> None:
        """Have an attribute written by the next flush, for a value that was changed in a way that can't be noticed."""
        self._refuse_strangers(instance)
        if name not in instance._meta.fields:
            raise ArgumentError(f"{type(instance).__name__} has no column {name!r}.")
        if instance._committed is not None and instance._committed is not DELETED:
            instance._committed = {**instance._committed, name: Unknown(committed_value(instance, name))}
            self._unit.register_dirty(instance)

    @property
    def new(self) -> list[Any]:
        """The objects that a flush will insert, in the order in which they were added.

        While `after_flush` is told, those that were inserted, and likewise `dirty` and `deleted`.
        """
        return [*self._events.flushed.get("insert", ()), *self._unit.new.values()]

    @property
    def dirty(self) -> list[Any]:
        """The objects that a flush will update: those that differ from their rows."""
        changed = {id(instance): instance for instance in self._events.flushed.get("update", ())}
        dirty = self._unit.dirty.copy()  # as another thread may change an object meanwhile
        changed |= {n: i for n, i in dirty.items() if n not in self._unit.deleted and changed_names(i)}
        return list(changed.values())

    @property
    def deleted(self) -> list[Any]:
        """The objects that are marked, whose rows a flush will delete."""
        return [*self._events.flushed.get("delete", ()), *self._unit.deleted.values()]

    @property
    def identity_map(self) -> IdentityMap:
        """The session's objects that have a row, by `(model, key)`."""
        return self._unit.identity_map

    def __contains__(self, instance: object) -> bool:
        return (
            isinstance(instance, ModelRoot)
            and session_of(instance) is self
            and (instance._committed is not DELETED or id(instance) in self._unit.new)
        )

    def __iter__(self) -> Iterator[Any]:
        return iter([*self._unit.new.values(), *self._unit.identity_map.objects()])

    # Transactions

    @exclusive
    def flush(self) -> None:
        """Write all changes, in one transaction that a commit ends.

        If that fails, the rows and the objects are as before, and the error names the object. Correct it and flush
        again, or roll back.
        """
        self._transaction.check()
        self._transaction.flush()

    @exclusive
    def commit(self) -> None:
        """Write all changes and make them durable."""
        self._transaction.check()
        self._transaction.commit()

    @exclusive
    def rollback(self) -> None:
        """Undo what was not committed, on the objects too: they have their former values, without SQL."""
        self._transaction.rollback()

    @exclusive
    def begin(self, isolation_level: str | None = None, read_only: bool = False) -> RootTransaction:
        """Begin a transaction now, and return it. `with session.begin():` commits, or rolls back on an error.

        It has the session's isolation level unless another is given, and can be one that only reads. Raises
        `InvalidRequestError` when there is a transaction.
        """
        if self._transaction.scopes:
            raise InvalidRequestError(
                "A transaction is already begun on this session. Commit it or roll it back first."
            )
        self._transaction.begin(isolation(isolation_level), read_only)
        self._unit.loader.epoch += 1
        return RootTransaction(self._transaction, self._transaction.scopes[0])

    @exclusive
    def begin_nested(self) -> NestedTransaction:
        """Write all changes, set a savepoint, and return it. In a `with` statement an error rolls back to it."""
        return NestedTransaction(self._transaction, self._transaction.begin_nested())

    def in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        return bool(self._transaction.scopes)

    def in_nested_transaction(self) -> bool:
        """Return whether a savepoint is open."""
        return any(not scope.is_flush for scope in self._transaction.scopes[1:])

    def close(self) -> None:
        """Roll back what is open, let go of all objects, and give the connection back. The session can be used again.

        Warns (`UnsavedChangesWarning`) when changes are lost by it, unless an error is being handled.
        """
        self._end(is_error=sys.exc_info()[1] is not None)

    @exclusive
    def _end(self, is_error: bool) -> None:
        self._transaction.refuse_end("closed")
        if not is_error:
            self._warn_of_changes()
        try:
            self._transaction.rollback()
        finally:
            self._unit.expunge_all()

    def _warn_of_changes(self) -> None:
        unsaved = {**self._transaction.changed(), **self._unit.unflushed()}
        if unsaved:
            what = f"unsaved changes of {len(unsaved)} object(s), such as {next(iter(unsaved.values()))!r}"
        else:
            what = "what statements have written, and no commit has saved"
        if unsaved or any(step.is_write for step in self._transaction.steps()):
            warnings.warn(
                f"The session was closed with {what}: it is lost. Call session.commit() before, or session.rollback() "
                "to drop it.",
                UnsavedChangesWarning,
                stacklevel=5,  # the line that closes the session, or ends its block
            )

    def __reduce__(self) -> Any:
        raise TypeError("A session can't be copied or pickled. Pickle its objects, and open another session.")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(is_error=kind is not None)

    def __del__(self) -> None:
        # A session that was dropped in a transaction must not keep the database locked.
        transaction = self.__dict__.get("_transaction")
        if transaction is not None and transaction.scopes and not sys.is_finalizing():
            with suppress(Exception):  # its engine may have been closed before: each driver has an error for that
                transaction.rollback()

    # Reading

    def get(self, model: type[M], key: Any, *, with_for_update: bool = False) -> M | None:
        """Return the object of a key, or None. A key of several columns is a tuple, or a dict by their names.

        It comes from the identity map, without SQL, if its row was read in this transaction or since the last commit
        or rollback; else the row is read. `with_for_update` reads it in a transaction, which it begins if need be.
        """
        if not self.lock.acquire(False):
            raise used_at_once()
        try:
            found = None if with_for_update else self._execution.held(model, key)
            return self._execution.get(model, key, with_for_update) if found is None else found  # type: ignore[no-any-return]
        finally:
            self.lock.release()

    def get_one(self, model: type[M], key: Any) -> M:
        """Return the object of a key. Raises `NoResultFound` when there is none."""
        found = self.get(model, key)
        return Result([] if found is None else [found], f"{model.__name__} with the key {key!r}").one()

    @overload
    def query(self, entity: type[M], /) -> Query[M]: ...

    @overload
    def query(self, *entities: Any) -> Query[Any]: ...

    def query(self, *entities: Any) -> Query[Any]:
        """Return a query for objects of a model, or, of several models and columns, for named rows.

        Such as `session.query(User).filter_by(name="Joe Public").first()`, which gives a user or None, and
        `session.query(User.id, User.name).order_by(User.name).all()`, which gives rows with `row.id` and `row.name`.
        """
        return Query.of(self, *entities)

    def execute(self, query: Any, params: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """Run any Peewee query, or SQL with parameters, and return its `Result`: of a write, what Peewee returns.

        Selects of models give the session's objects, SQL gives named rows. Writing begins a transaction.
        """
        return self._execution.execute(query, params)

    def scalars(self, query: Any, params: Any = ()) -> Result[Any]:
        """Run a query and return the first column of each row; of a query for objects, the objects."""
        return self._execution.columns(query, params).scalars()

    def scalar(self, query: Any, params: Any = ()) -> Any:
        """Run a query and return the first column of the first row, or None."""
        return self._execution.columns(query, params).scalar()

    @property
    def autoflush(self) -> bool:
        """Whether queries write pending changes first."""
        return self._execution.autoflush

    @autoflush.setter
    def autoflush(self, on: bool) -> None:
        self._execution.autoflush = on

    @property
    @contextmanager
    def no_autoflush(self) -> Iterator[Session]:
        """`with session.no_autoflush:` lets queries run without writing pending changes first."""
        before, self.autoflush = self.autoflush, False
        try:
            yield self
        finally:
            self.autoflush = before

    def _refuse_without_row(self, instance: Any, what: str) -> None:
        if instance._committed is None or instance._committed is DELETED:
            raise InvalidRequestError(f"{instance!r} is {state_of(instance)}: without a row it can't be {what}.")

    def _refuse_strangers(self, instance: Any) -> None:
        refuse_unmapped(instance)
        if session_of(instance) is not self:
            raise InvalidRequestError(f"{instance!r} is {state_of(instance)} and not in this session.")

"""Running queries in a session: what is pending is written first, and rows become the session's objects."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import peewee

from . import bulk, following
from .cursor import BufferedCursor
from .engine import Engine
from .errors import ArgumentError, InvalidRequestError, ResourceClosedError, StaleDataError, shown
from .guard import exclusive
from .model import ModelRoot
from .query import Query
from .related import Related
from .relation import Relation
from .result import Result
from .select import model_of
from .settling import Settlement
from .shaping import shaped
from .sql import (
    changes_rows,
    commits_by_itself,
    controls_transactions,
    locks_rows,
    only_reads,
    with_marks,
    without_strings,
)
from .tracking import changed_names
from .transaction import Transaction
from .unit_of_work import UnitOfWork


class Execution:
    """Runs the queries of a session. Its own queries ask for it, and objects whose relations are followed."""

    def __init__(
        self, database: Engine, unit: UnitOfWork, transaction: Transaction, lock: Any, autoflush: bool
    ) -> None:
        self.database = database
        self.unit = unit
        self.transaction = transaction
        self.lock = lock
        self.autoflush = autoflush

    @exclusive
    def prepare(self) -> None:
        """Write what is pending, so that a query finds it."""
        self._prepare()

    def _prepare(self) -> None:
        self.transaction.check()
        if self.unit.has_pending() and self.autoflush and not self.transaction.is_flushing:
            self._autoflush()

    def _autoflush(self) -> None:
        try:
            self.transaction.flush()
        except (peewee.PeeweeException, InvalidRequestError) as error:
            error.args = (
                f"{error} (raised by a flush that a query began: to query before the changes are complete, use "
                "`with session.no_autoflush:`)",
            )
            raise

    @exclusive
    def run(self, query: Any) -> BufferedCursor:
        """Run a Peewee query. Writing begins a transaction."""
        self.prepare()
        if isinstance(query, peewee._WriteQuery):
            self.transaction.refuse_if_read_only("write")
            if not self.transaction.is_flushing:
                self.transaction.flush()  # without autoflush too: what is pending must not be written over it later
            self.transaction.begin()
            cursor = bulk.write(self.transaction, query)
            cursor.load = self.load
            return cursor
        sql, params = self.database.parse(query)
        if isinstance(query, peewee.RawQuery):
            sql = with_marks(sql, params, self.database.param)
        return self._fetch(sql, params, getattr(query, "locks", False))

    @exclusive
    def execute(self, query: Any, params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Run any Peewee query, or SQL; see `Session.execute`."""
        if isinstance(query, str):
            return self.run_sql(query, params)
        if params:
            raise ArgumentError(
                "execute() takes parameters with SQL only; a query of Peewee's has its own: Note.select().where(…), "
                "Note.insert_many(rows)."
            )
        if isinstance(query, Query):
            return Result(query.all())
        if not isinstance(query, peewee.BaseQuery):
            raise ArgumentError(f"execute() takes a Peewee query or SQL, not {query!r}.")
        found = query.clone().execute(self.database)
        if isinstance(found, Result) or not isinstance(found, peewee.CursorWrapper):
            return found
        return Result(list(found))

    def columns(self, query: Any, params: Any) -> Result[Any]:
        """Run any query for the rows of its columns, or its objects."""
        found = self.execute(_of_columns(query), params)
        return found if isinstance(found, Result) else Result([found])

    @exclusive
    def run_sql(self, sql: str, params: Sequence[Any] | Mapping[str, Any]) -> Result[Any]:
        """Run SQL and return its rows as named tuples. What may write begins a transaction."""
        self.prepare()
        cursor = self._fetch(with_marks(sql, params, self.database.param), params)
        rows: Any = peewee.NamedTupleCursorWrapper(cursor) if cursor.description else []
        result: Result[Any] = Result(list(rows))
        result.rowcount = cursor.rowcount
        return result

    @exclusive
    def run_plain(self, query: Query[Any]) -> Result[Any] | None:
        """Run a plain query by SQL that is kept for its shape; None when it has no such SQL."""
        loader = self.unit.loader
        mapper = loader.mapper(query.model)
        cursor = self._fetch_plain(mapper, query, "rows", lambda: query)
        return None if cursor is None else shaped(loader, mapper, query, cursor)

    @exclusive
    def plain_value(self, query: Query[Any], what: str, make: Callable[[], Any]) -> Any:
        """Return the one value of what is made of a plain query; None when it has no SQL that is kept."""
        cursor = self._fetch_plain(self.unit.loader.mapper(query.model), query, what, make)
        return None if cursor is None else cursor.rows[0][0]

    def _fetch_plain(self, mapper: Any, query: Query[Any], what: str, make: Callable[[], Any]) -> BufferedCursor | None:
        self._prepare()
        params = query.params(mapper.by_name)
        sql = mapper.shapes.sql((what, query.shape()), params, lambda: self.database.parse(make()))
        return None if sql is None else self.transaction.fetch(sql, params)

    def stream(self, query: Query[Any], size: int) -> Iterator[Any]:
        """Go through the rows of a query, `size` at a time, on a connection that is held meanwhile."""
        if query._load_tree:
            raise InvalidRequestError("with_related() needs all rows at once, and can't be used with yield_per().")
        self.prepare()
        sql, params = self.database.parse(query)
        if query.locks:
            self.transaction.begin()
        owner, root = self.unit.owner, self.transaction.root
        # What an open transaction has written can be seen on its connection only.
        reader = self.database.origin.private() if root is None and self.database.origin else self.database
        reader.acquire()
        cursor = None
        try:
            cursor = reader.open_stream(sql, params)
            if reader is self.database:
                self.transaction.streams.append(cursor)
            while rows := reader.next_rows(cursor, size):
                part = BufferedCursor(rows, cursor.description)
                part.load = self.load
                yield from list(query._get_cursor_wrapper(part))
                if self.unit.owner is not owner or (root is not None and self.transaction.root is not root):
                    raise ResourceClosedError(
                        "The session was closed, let go of its objects or ended its transaction during the iteration. "
                        "Commit after it, or take all rows before: query.all()."
                    )
        except peewee.PeeweeException as error:
            if reader is self.database:
                self.transaction.notice_end(error)
            raise
        finally:
            try:
                if cursor is not None:
                    self.transaction.forget_stream(cursor)
                    reader.close_stream(cursor)
            finally:
                if reader is not self.database:
                    reader.release()

    @exclusive
    def update(self, query: Query[Any], values: Mapping[Any, Any], synchronize: Any) -> int:
        self.transaction.check()
        return bulk.update(self.transaction, query, values, synchronize)

    @exclusive
    def delete(self, query: Query[Any], synchronize: Any) -> int:
        self.transaction.check()
        return bulk.delete(self.transaction, query, synchronize)

    def held(self, model: Any, key: Any) -> Any:
        """Return what `get` does, if that takes no more than a look into the identity map; else None.

        This is what a program does most of all: whatever is unusual is left to `get`.
        """
        unit, transaction = self.unit, self.transaction
        try:
            rows = unit.identity_map.models[model]
        except (KeyError, TypeError):
            return None
        reference = rows.get(key) if type(key) is rows.plain_key else None
        if reference is None or transaction.handle is not None or unit.deleted:
            return None
        instance = reference()
        # While listeners are told of the end of a transaction, when `get` is refused, no object is of this epoch.
        return instance if instance is not None and instance._epoch == unit.loader.epoch else None

    def get(self, model: Any, key: Any, with_for_update: bool = False) -> Any:
        """Return the object of a key; see `Session.get`, which has the lock."""
        self.transaction.check()
        mapper, unit = self.mapper(model), self.unit
        identity = mapper.identity(key) if key is not None else None
        if identity is None:
            return None
        instance = unit.identity_map.find(model, identity) or unit.pending_with(mapper, identity)
        if instance is not None and not with_for_update:
            unit.identity_map.rows(model).plain_key = mapper.plain_key
            if id(instance) in unit.deleted:
                return None
            if instance._epoch == unit.loader.epoch or id(instance) in unit.new:
                return instance
        if with_for_update:
            self.transaction.begin()
            self._refuse_stale(mapper, identity, instance)
        found = unit.loader.by_key(mapper, identity, with_for_update)
        if found is None and instance is not None and id(instance) not in unit.dirty and id(instance) not in unit.new:
            self._let_go(mapper, instance)
        return None if id(found) in unit.deleted else found

    def _refuse_stale(self, mapper: Any, key: Any, instance: Any) -> None:
        """Refuse to lock the row of an object that has a version, and another one than its row."""
        if instance is None or mapper.version is None:
            return
        version = instance.__data__.get(mapper.version)
        if version is not None and (changed_names(instance) or instance._epoch == self.unit.loader.epoch):
            column = mapper.by_name[mapper.version]
            sql = f"SELECT {column.sql} FROM {mapper.table} WHERE {mapper.where_key}"
            for (found,) in self.transaction.run(sql, mapper.key_params(key)).rows:
                if column.decoded(found) != version:
                    raise StaleDataError(
                        f"{instance!r} was loaded with {mapper.version} {version}, and its row has "
                        f"{column.decoded(found)} by now. Roll back, or session.refresh(obj, discard=True), and repeat "
                        "what was done with it.",
                        instance,
                    )

    def _let_go(self, mapper: Any, instance: Any) -> None:
        """Let go of an object whose row is gone; in a transaction, until a rollback brings it back."""
        if self.transaction.scopes:
            Settlement(self.unit, self.transaction.scopes[-1].log).deleted(mapper, [instance])
        else:
            self.unit.expunge(instance)

    @exclusive
    def related(self, instance: Any, field: Any, key: Any) -> Any:
        """Return the object that a foreign key refers to, or None; see `following`."""
        self.transaction.check()
        if not field.rel_field.primary_key:
            self.prepare()  # what is pending is known by its key only
        return following.follow(self.unit, instance, field, key)

    @exclusive
    def children(self, instance: Any, field: Any) -> list[Any]:
        """Return the objects that refer to an object by a foreign key; see `following`."""
        self.transaction.check()
        if self.unit.is_unsettled(field.model):
            self.prepare()
        found = following.answer(self.unit, instance, field)
        if found is None:
            self.prepare()
            found = following.load(self.unit, instance, field)
        return [child for child in found if id(child) not in self.unit.deleted]

    def dependents(self, instance: Any, delete_nullable: bool) -> list[tuple[Any, Any]]:
        """Return the objects that refer to an object, at any depth; see `following`."""
        self.prepare()
        return following.dependents(self.unit, instance, delete_nullable)

    def relate(self, instance: Any, relation: Relation) -> Related[Any]:
        """Return the query for what an attribute (`user.profiles`) stands for."""
        return Related.to(self, instance, relation)

    def mapper(self, model: Any) -> Any:
        """Return the mapper of a model. Raises `ArgumentError` for what is none."""
        if not isinstance(model, type) or not issubclass(model, ModelRoot):
            raise ArgumentError(f"{model!r} is no model; give a class that inherits from dbm.Base.")
        return self.unit.loader.mapper(model)

    def _fetch(self, sql: str, params: Any, locks: bool = False) -> BufferedCursor:
        code = without_strings(sql)
        is_write = not only_reads(code)
        if controls_transactions(code):
            raise InvalidRequestError(
                f"{shown(sql)} would end or begin transactions behind the session's back. Use its own verbs: commit(), "
                "rollback(), begin(), begin_nested()."
            )
        if is_write:
            self.transaction.refuse_if_read_only(shown(sql))
            if self.database.undoes_ddl or not commits_by_itself(code):
                self.transaction.begin()
            elif self.transaction.root is not None:
                raise InvalidRequestError(
                    f"{shown(sql)} would commit the session's transaction: MariaDB and MySQL can't undo it. Call "
                    "commit() before it, or rollback()."
                )
            self.unit.note_statement(is_done=False)
        elif locks or locks_rows(code):
            self.transaction.begin()
        cursor = self.transaction.fetch(sql, params)
        if is_write and changes_rows(code):
            self.unit.note_doubt(is_write=True)
        cursor.load = self.load
        return cursor

    @exclusive
    def load(self, query: Any, cursor: BufferedCursor) -> Result[Any]:
        """Make the objects of a query's rows."""
        loader = self.unit.loader
        return shaped(loader, loader.mapper(model_of(query.model)), query, cursor)


def _of_columns(query: Any) -> Any:
    """Return a select of some columns of a model as one that gives them, not objects that have just these."""
    if not isinstance(query, peewee.ModelSelect) or isinstance(query, Query):
        return query
    whole = query.model._meta.sorted_fields
    selected = [getattr(column, "field", column) for column in query.selected_columns]
    return query if all(map(operator.is_, whole, selected)) and len(selected) >= len(whole) else query.tuples()

"""Peewee's queries on a model: executed in a session, they give the session's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peewee

from .accessors import eager_loading

if TYPE_CHECKING:
    _ModelSelect = peewee.ModelSelect[Any]
else:
    _ModelSelect = peewee.ModelSelect


ROWS = (peewee.ROW.DICT, peewee.ROW.TUPLE, peewee.ROW.NAMED_TUPLE)  # the types of rows that are no objects


class _LoadsObjects:
    """Executed in a session, a query on a model gives the session's objects; elsewhere, what Peewee gives."""

    model: Any
    _database: Any
    _constructor: Any
    _row_type: Any

    def execute(self, database: Any = None) -> Any:
        """Run the query on a database, as Peewee's does. Raises `peewee.InterfaceError` when it is for none."""
        if database is None and self._database is None:
            raise peewee.InterfaceError(
                f"A query on {model_of(self.model).__name__} is bound to no database. Run it in a session, "
                "session.execute(query), or on an engine, query.execute(engine)."
            )
        return super().execute(database)  # type: ignore[misc]

    def _execute(self, database: Any) -> Any:
        with eager_loading():
            return super()._execute(database)  # type: ignore[misc]

    def prefetch(self, *subqueries: Any, **options: Any) -> Any:
        with eager_loading():
            return super().prefetch(*subqueries, **options)  # type: ignore[misc]

    def _get_cursor_wrapper(self, cursor: Any) -> Any:
        if getattr(cursor, "load", None) is not None and (self._row_type in ROWS or self._constructor is self.model):
            return cursor.load(self, cursor)  # objects() without a constructor: objects of the model
        return super()._get_cursor_wrapper(cursor)  # type: ignore[misc]

    def wrapper(self, cursor: Any) -> Any:
        """Return Peewee's own wrapper of a cursor, which knows what the columns of its rows are."""
        return super()._get_cursor_wrapper(cursor)  # type: ignore[misc]

    def _get_model_cursor_wrapper(self, cursor: Any) -> Any:
        if getattr(cursor, "load", None) is not None:
            return cursor.load(self, cursor)
        return super()._get_model_cursor_wrapper(cursor)  # type: ignore[misc]


class Select(_LoadsObjects, _ModelSelect):
    """A Peewee select on a model."""


class Alias(peewee.ModelAlias):
    """A model under another name in a query."""

    def select(self, *selection: Any) -> Any:
        return Select(self, selection or self.get_field_aliases())


class Raw(_LoadsObjects, peewee.ModelRaw):
    """A Peewee raw query on a model."""


def is_entity(entity: Any) -> bool:
    """Tell whether a query of this gives objects: it is a model or the alias of one."""
    return isinstance(entity, (peewee.ModelBase, peewee.ModelAlias))


def model_of(entity: Any) -> Any:
    """Return the model of an entity: itself, or what it is an alias of."""
    return entity.model if isinstance(entity, peewee.ModelAlias) else entity

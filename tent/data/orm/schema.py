"""Install and uninstall the tables of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peewee
from peewee import sort_models  # type: ignore[attr-defined]

from .engine import Engine, quoted
from .errors import ArgumentError, explain
from .model import Base, ModelRoot


def install_tables(engine: Engine, models: Any = None) -> list[str]:
    """Create the tables and indexes that are missing, in one transaction, and return the names of new tables.

    `models` says whose: a list of models, or a base class (all models of its registry). The default is `Base`, that
    is every model loaded so far. Tables that exist are left as they are, but for missing indexes.
    """
    wanted = _models(models)
    with _transaction(engine) as database:
        _check_names(database, wanted)
        existing = _existing(database, wanted)
        created = [model for model in sort_models(wanted) if _place(model) not in existing]
        _create(database, sort_models(wanted), created)
    return [model._meta.table_name for model in created]


def uninstall_tables(engine: Engine, models: Any = None) -> list[str]:
    """Drop the tables of models, with all that is in them, in one transaction, and return the names of those dropped.

    `models` is as in `install_tables`.
    """
    wanted = _models(models)
    with _transaction(engine) as database:
        existing = _existing(database, wanted)
        doomed = [model for model in reversed(sort_models(wanted)) if _place(model) in existing]
        for field in _deferred(doomed):
            if database.adds_foreign_keys:
                _drop_foreign_key(database, field)
            elif field.null:  # SQLite drops no foreign key, and no row that another refers to
                field.model.update({field: None}).execute(database)
        for model in doomed:
            _Schema(model, database).drop_table(safe=True)
    return [model._meta.table_name for model in doomed]


def _models(models: Any) -> list[type[ModelRoot]]:
    if models is None:
        models = Base
    if isinstance(models, type) and issubclass(models, ModelRoot):
        models = models.registry if models.__dict__.get("__abstract__") else [models]
    found = list(models) if isinstance(models, Iterable) else [models]
    for model in found:
        if not isinstance(model, type) or not issubclass(model, ModelRoot):
            raise ArgumentError(f"{model!r} is no model; give classes that inherit from dbm.Base.")
    return found


def _check_names(database: Engine, models: Iterable[Any]) -> None:
    """Raise `ArgumentError` for a name that the database would refuse, or cut off and then not find again."""
    for model in models:
        meta = model._meta
        for name in (meta.table_name, *(field.column_name for field in meta.sorted_fields)):
            problem = _problem_with(database, name)
            if problem:
                raise ArgumentError(
                    f"{name!r} of {model.__name__} {problem} for {database.kind}. Choose another one: a table's name "
                    "is set by __tablename__, and a column's by column_name of its field."
                )


def _problem_with(database: Engine, name: str) -> str | None:
    """Return why a name can't be that of a table or column, if so."""
    if "\0" in name or name != name.encode(errors="ignore").decode():
        return "has a NUL or half a surrogate pair, and is no name"
    if "%" in name and database.param == "%s":
        return "has a %, of which the driver makes a parameter, and is no name"
    return None if database.takes_name(name) else "is too long a name"


def _existing(database: Engine, models: Iterable[Any]) -> set[tuple[str | None, str]]:
    """Return the tables that there are, in the schemas (attached databases) of these models."""
    schemas = {model._meta.schema for model in models}
    return {(schema, table) for schema in schemas for table in database.get_tables(schema)}


def _place(model: Any) -> tuple[str | None, str]:
    return model._meta.schema, model._meta.table_name


@contextmanager
def _transaction(engine: Engine) -> Iterator[Engine]:
    """A transaction on a connection of its own, beside which nobody else installs."""
    if not isinstance(engine, Engine):
        raise ArgumentError(f"An engine is expected, as dbm.connect(config) gives, not {engine!r}.")
    database = engine.private()
    database.acquire()
    try:
        with database.installing():
            yield database
    finally:
        database.release()


def _create(database: Engine, models: Sequence[Any], new: Sequence[Any]) -> None:
    """Create new tables, and the missing indexes of all, in the order of their foreign keys.

    A foreign key can be to a column that an index makes unique: so each table has its indexes before the next is made.
    """
    with _postponing(database, new) as postponed:
        for model in models:
            schema = _Schema(model, database)
            try:
                if model in new:
                    schema.create_table(safe=True)
                schema.create_indexes(safe=True)
            except peewee.PeeweeException as error:
                raise explain(error, f"installing {model._meta.table_name}, the table of {model.__name__}") from None
    for field in postponed:
        _Schema(field.model, database).create_foreign_key(field)


@contextmanager
def _postponing(database: Engine, models: Iterable[Any]) -> Iterator[list[Any]]:
    """A block in which tables are made without the foreign keys that have to come after them, which it gives.

    SQLite takes a foreign key to a table yet to be made, and adds none to one that there is.
    """
    fields = [field for model in models for field in model._meta.refs if field.deferred or _is_to_own_column(field)]
    former = [field.deferred for field in fields]
    for field in fields:
        field.deferred = database.adds_foreign_keys
    try:
        yield fields if database.adds_foreign_keys else []
    finally:
        for field, deferred in zip(fields, former):
            field.deferred = deferred


def _is_to_own_column(field: Any) -> bool:
    """Tell whether a foreign key is to a column of its own table that is not the primary key."""
    return field.rel_model is field.model and not field.rel_field.primary_key


def _deferred(models: Iterable[Any]) -> list[Any]:
    """Return the foreign keys whose tables refer to each other, in a circle."""
    return [field for model in models for field in model._meta.refs if field.deferred]


def _drop_foreign_key(database: Engine, field: Any) -> None:
    meta = field.model._meta
    for key in database.get_foreign_keys(meta.table_name, meta.schema):
        if key.column == field.column_name and key.name:
            database.execute_sql(
                f"ALTER TABLE {quoted(database, *meta.entity._path)} DROP "
                f"{database.foreign_key} {quoted(database, key.name)}"
            )


class _Schema(peewee.SchemaManager):
    """Peewee's, with what an engine adds to the tables, and without the indexes that there are."""

    database: Engine

    def _create_table(self, safe: bool = True, **options: Any) -> Any:
        context = self._deferring(super()._create_table(safe, **options))  # type: ignore[misc]
        settings = self.database.table_settings
        return context.literal(f" {settings}") if settings and not self.model._meta.table_settings else context

    def _create_foreign_key(self, field: Any) -> Any:
        return self._deferring(super()._create_foreign_key(field))  # type: ignore[misc]

    def _deferring(self, context: Any) -> Any:
        """Leave DEFERRABLE out where the database has no such thing: what it checks at once needs no second check."""
        if not self.database.defers_foreign_keys:
            context._sql = [part for part in context._sql if not part.startswith("DEFERRABLE ")]
        return context

    def create_indexes(self, safe: bool = True) -> None:
        meta = self.model._meta
        known: set[str] = set()
        if not self.database.safe_create_index:
            known = {index.name for index in self.database.get_indexes(meta.table_name, meta.schema)}
        for index in meta.fields_to_index():
            if getattr(index, "_name", None) not in known:
                self.database.execute(self._create_index(index, safe))  # type: ignore[attr-defined]

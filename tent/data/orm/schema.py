"""Install and uninstall the tables of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import peewee
from peewee import sort_models  # type: ignore[attr-defined]

from .engine import Engine
from .errors import ArgumentError
from .model import Base, ModelRoot


def install_tables(engine: Engine, models: Any = None) -> list[str]:
    """Create the tables and indexes that are missing, in one transaction, and return the names of new tables.

    `models` says whose: a list of models, or a base class (all models of its registry). The default is `Base`, that
    is every model loaded so far. Tables that exist are left as they are, but for missing indexes.
    """
    wanted = _models(models)
    with _transaction(engine) as database:
        existing = _existing(database, wanted)
        created = [model for model in sort_models(wanted) if _place(model) not in existing]
        with _inline_foreign_keys(created):
            for model in created:
                _schema(model, database).create_table(safe=True)
        for model in wanted:
            _schema(model, database).create_indexes(safe=True)
    return [model._meta.table_name for model in created]


def uninstall_tables(engine: Engine, models: Any = None) -> list[str]:
    """Drop the tables of models, with all that is in them, in one transaction, and return the names of those dropped.

    `models` is as in `install_tables`.
    """
    wanted = _models(models)
    with _transaction(engine) as database:
        existing = _existing(database, wanted)
        doomed = [model for model in reversed(sort_models(wanted)) if _place(model) in existing]
        for model in doomed:
            _schema(model, database).drop_table(safe=True)
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


def _existing(database: Engine, models: Iterable[Any]) -> set[tuple[str | None, str]]:
    """Return the tables that there are, in the schemas (attached databases) of these models."""
    schemas = {model._meta.schema for model in models}
    return {(schema, table) for schema in schemas for table in database.get_tables(schema)}


def _place(model: Any) -> tuple[str | None, str]:
    return model._meta.schema, model._meta.table_name


@contextmanager
def _transaction(engine: Engine) -> Iterator[Engine]:
    """A transaction on a connection of its own, which no other process can write beside."""
    if not isinstance(engine, Engine):
        raise ArgumentError(f"An engine is expected, as dbm.connect(config) gives, not {engine!r}.")
    database = engine.private()
    database.acquire()
    try:
        with database.atomic():
            yield database
    finally:
        database.release()


@contextmanager
def _inline_foreign_keys(models: Iterable[Any]) -> Iterator[None]:
    """Let deferred foreign keys be part of CREATE TABLE: SQLite takes one to a table yet to be made, and adds none."""
    deferred = [field for model in models for field in model._meta.refs if field.deferred]
    for field in deferred:
        field.deferred = False
    try:
        yield
    finally:
        for field in deferred:
            field.deferred = True


def _schema(model: Any, database: Engine) -> Any:
    return peewee.SchemaManager(model, database)

"""One model on one kind of engine: its columns and its compiled statements."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import peewee

from .column import Column
from .engine import Engine, quoted
from .errors import InvalidRequestError, shown
from .rows import Row, columns_of, dicts
from .shapes import Shapes
from .version import Version

S = TypeVar("S")

_ROOM = 1_000  # statements of a model: a program may write any of its columns together, in any order
_NONE: Mapping[type, Mapper] = MappingProxyType({})


class Mapper:
    """A model on a kind of engine."""

    def __init__(self, model: Any, engine: Engine) -> None:
        meta = model._meta
        self.model = model
        self.columns = [Column(field, engine) for field in meta.sorted_fields]
        self.by_name = {column.name: column for column in self.columns}
        self.names = tuple(column.name for column in self.columns)
        self.blank = dict.fromkeys(self.names)
        self.table = quoted(engine, *meta.entity._path)
        self.mutable = [column.name for column in self.columns if column.is_mutable]
        self.shows_apart = any(column.shows_apart for column in self.columns)
        self.zoned = [column.name for column in self.columns if column.has_zones]
        self.decoded = [(place, column) for place, column in enumerate(self.columns) if column.decode is not None]
        self.key_columns = [self.by_name[field.name] for field in meta.get_primary_keys()]
        self.key_names = tuple(column.name for column in self.key_columns)
        self.plain_key = self._type_of_plain_keys()
        self.generated = self.key_names[0] if meta.auto_increment else None
        self.names_but_generated = tuple(name for name in self.names if name != self.generated)
        self.optional = [c.name for c in self.columns if c.is_made or c.name == self.generated]
        self.foreign_keys = [field for field in meta.sorted_fields if isinstance(field, peewee.ForeignKeyField)]
        self._foreign_key_names = frozenset(field.name for field in self.foreign_keys)
        self.own_foreign_keys = [field for field in self.foreign_keys if field.rel_model is model]  # to its own table
        self.version: str | None = next((c.name for c in self.columns if isinstance(c.field, Version)), None)
        self.unique = _unique_sets(meta)
        self.unique_names = frozenset(name for names in self.unique for name in names)
        self.referred = frozenset(field.rel_field.name for field in meta.backrefs)
        self.where_key = where_equal(self.key_columns)
        self.select = f"SELECT {', '.join(column.sql for column in self.columns)} FROM {self.table}"
        self.select_by_key = f"{self.select} WHERE {self.where_key}"
        self.lock_by_key = self.select_by_key + (" FOR UPDATE" if engine.for_update else "")
        self.keys_in = operator.itemgetter(*(self.names.index(name) for name in self.key_names or self.names))
        self.statements: dict[Any, Any] = {}
        self._ordered = functools.lru_cache(_ROOM)(lambda names: tuple(name for name in self.names if name in names))
        self.shapes = Shapes()  # of queries

    def _type_of_plain_keys(self) -> type | None:
        """Return the type, int or str, that a key has when it needs no conversion; None when each key may need one."""
        only = self.key_columns[0] if len(self.key_columns) == 1 else None
        return only.native[0] if only is not None and only.native in ((int,), (str,)) and not only.decode else None

    def in_order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return names of columns in the order of the columns."""
        return names if len(names) < 2 else self._ordered(names)

    def is_moved_by(self, names: Iterable[str]) -> bool:
        """Tell whether a change of these columns is one of what a row refers to."""
        return not self._foreign_key_names.isdisjoint(names)

    def statement(self, shape: Any, compile: Callable[[], S]) -> S:
        """Return the SQL of a shape of statement, compiled once."""
        sql: S | None = self.statements.get(shape)
        if sql is None:
            if len(self.statements) >= _ROOM:
                self.statements.clear()
            sql = self.statements[shape] = compile()
        return sql

    def read(self, rows: Sequence[Row]) -> tuple[Iterable[Any], list[dict[str, Any]]]:
        """Return the keys of rows, and what objects have of them: their values, by name."""
        if len(rows) == 1:
            data = self._read_one(rows[0])
            return (self.key_of(data),), [data]
        columns = columns_of(rows)
        for place, column in self.decoded:
            columns[place] = column.read(columns[place])
        keys = self.keys_in(columns)
        return keys if len(self.key_names) == 1 else zip(*keys), dicts(self.names, columns)

    def _read_one(self, row: Row) -> dict[str, Any]:
        data = dict(zip(self.names, row))
        for _, column in self.decoded:
            value = data[column.name]
            if value is not None or column.nulls[0]:
                data[column.name] = column.decode(value)  # type: ignore[misc]
        return data

    def key_of(self, data: Any) -> Any:
        """Return the key in a mapping of names to values: of several columns a tuple, None when a part is missing."""
        if len(self.key_names) == 1:
            return data.get(self.key_names[0])
        key = tuple(data.get(name) for name in self.key_names)
        return None if None in key or not key else key

    def key_given(self, data: Any) -> Any:
        """Return the key in a mapping of names to values, as the identity map has it; None when there is none yet."""
        key = data.get(self.generated) if self.generated is not None else self.key_of(data) if self.key_names else None
        if key is None or any(isinstance(data.get(name), peewee.Node) for name in self.key_names):
            return None
        return self.identity(key)

    def identity(self, key: Any) -> Any:
        """Return a key as the identity map has it, whatever type it was given in; None when a part of it is None.

        A key of several columns is a tuple in their order, or a mapping of their names. Raises
        `InvalidRequestError` for a key of other parts, or one that can't be a key.
        """
        if type(key) is self.plain_key:
            return key
        names = self.key_names
        if isinstance(key, dict):
            if set(key) != set(names):
                raise self._no_key(key)
            key = tuple(key[name] for name in names)
        elif len(names) == 1:
            key = key if isinstance(key, tuple) else (key,)
        if not isinstance(key, (tuple, list)) or len(key) != len(names) or not names:
            raise self._no_key(key)
        parts = tuple(column.normal(part) for column, part in zip(self.key_columns, key))
        return None if None in parts else parts if len(parts) > 1 else parts[0]

    def key_params(self, key: Any) -> list[Any]:
        """Return the parameters of `where_key` for a key."""
        if type(key) is self.plain_key:
            return [key]
        parts = key if len(self.key_columns) > 1 else (key,)
        return [column.encoded_one(part) for column, part in zip(self.key_columns, parts)]

    def _no_key(self, key: Any) -> InvalidRequestError:
        names = ", ".join(self.key_names) or "none: the model has no primary key"
        return InvalidRequestError(f"{shown(key)} is no key of {self.model.__name__}, whose key columns are {names}.")


def mapper_of(model: Any, engine: Engine) -> Mapper:
    """Return the mapper of a model on the kind of an engine, made once."""
    mappers: Mapping[type, Mapper] = getattr(model._meta, "mappers", _NONE)
    mapper = mappers.get(type(engine))
    if mapper is None:  # another thread may make one, too, before this one is made
        made = Mapper(model, engine)
        mapper = model._meta.__dict__.setdefault("mappers", {}).setdefault(type(engine), made)
    return mapper


def where_equal(columns: Iterable[Column]) -> str:
    """Return the condition that a row has a value in each of these columns."""
    return " AND ".join(f"{column.sql} = {column.placeholder}" for column in columns)


def chunks(engine: Engine, items: Sequence[Any], width: int, most: int | None = None) -> Iterable[Sequence[Any]]:
    """Cut items into parts of at most `most`, or what the engine takes best in a statement that writes.

    They are smaller when `width` parameters for each are too many for a statement.
    """
    if len(items) == 1:
        return (items,)
    size = max(1, min(most or engine.batch, engine.most_parameters // max(1, width)))
    if 0 < len(items) <= size:
        return (items,)
    return (items[start : start + size] for start in range(0, len(items), size))


def _unique_sets(meta: Any) -> list[tuple[str, ...]]:
    """Return the sets of fields whose values no two rows share, the key first."""
    sets = [tuple(field.name for field in meta.get_primary_keys())]
    for index in meta.fields_to_index():
        fields = getattr(index, "_expressions", ())
        if getattr(index, "_unique", False) and all(isinstance(field, peewee.Field) for field in fields):
            sets.append(tuple(field.name for field in fields))
    return [names for names in sets if names]

"""One model on one kind of engine: its columns, the conversion of their values, and its compiled statements."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import functools
import json
import operator
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import peewee

from .dialect import read_json
from .engine import Engine, quoted
from .errors import InvalidRequestError, article, shown
from .rows import ReadAll, Row, Values, columns_of, dicts, read_decimals, read_json_texts, read_present, reader_of
from .shapes import Shapes
from .tracking import MutableAccessor
from .version import Version

Convert = Callable[[Any], Any]
S = TypeVar("S")

_ROOM = 1_000  # statements of a model: a program may write any of its columns together, in any order

# Peewee's conversions, and the types that a value has when its conversion does nothing
_NATIVE: dict[Any, tuple[type, ...]] = {
    peewee.IntegerField.adapt: (int,),
    peewee.FloatField.adapt: (float,),
    peewee.CharField.adapt: (str,),
    peewee.BooleanField.adapt: (bool,),
    peewee.DateTimeField.adapt: (datetime.datetime, datetime.date),
    peewee.DateField.adapt: (datetime.date,),
    peewee.TimeField.adapt: (datetime.time,),
}
_READ_AS_IS = (peewee.Field.adapt, peewee.IntegerField.adapt, peewee.FloatField.adapt, peewee.CharField.adapt)
_ISO: dict[Any, Convert] = {
    peewee.DateTimeField: datetime.datetime.fromisoformat,
    peewee.DateField: datetime.date.fromisoformat,
    peewee.TimeField: datetime.time.fromisoformat,
}


# The types that values have as they come out of a row; one of another type that was set is converted by the flush
_TYPES: dict[Any, tuple[type, ...]] = {
    peewee.UUIDField: (uuid.UUID,),
    peewee.BinaryUUIDField: (uuid.UUID,),
    peewee.DecimalField: (decimal.Decimal,),
    peewee.BlobField: (bytes, bytearray),
    peewee.TimestampField: (),  # a datetime comes back cut to the field's resolution
}


def _type_in_rows(kind: Any) -> tuple[type, ...] | None:
    """Return the types of the values of a class of fields, which may be another's that converts them."""
    for base, types in _TYPES.items():
        if issubclass(kind, base) and (kind.db_value, kind.python_value) == (base.db_value, base.python_value):
            return types
    return None


class Column:
    """A field on an engine: how its values go into a statement, and come out of a row."""

    __slots__ = (
        "adapter", "array", "decode", "encode", "field", "has_default", "is_naive",
        "name", "native", "nulls", "placeholder", "read_all", "sql", "type",
    )  # fmt: skip

    def __init__(self, field: Any, engine: Engine) -> None:
        base = _converting(field)
        kind = type(base)
        own_db_value = kind.db_value is not peewee.Field.db_value
        own_python_value = kind.python_value is not peewee.Field.python_value
        adapt = None if isinstance(base, peewee.BareField) else kind.adapt
        self.name: str = field.name
        self.field = field
        self.sql = quoted(engine, field.column_name)
        self.native = None if own_db_value else _NATIVE.get(adapt)
        self.type = self.native or _type_in_rows(kind)
        self.placeholder, self.encode = _writer(field, base, engine)
        self.array = engine.array_type(base) if type(field).ddl_datatype is kind.ddl_datatype else None
        self.decode = None if not own_python_value and adapt in _READ_AS_IS else _reader(base, engine)
        self.adapter = engine.adapter
        # A server would take the zone off a time.
        self.is_naive = bool(engine.native_times) and field.field_type in ("DATETIME", "TIME")
        self.nulls = _is_users(kind.python_value), _is_users(kind.db_value)
        self.read_all = None if self.decode is None else _reader_of_all(base)
        self.has_default = any(
            isinstance(part, peewee.SQL) and part.sql.lstrip().upper().startswith("DEFAULT")
            for part in field.constraints or ()
        )

    def encoded(self, values: Sequence[Any], kinds: set[type]) -> Sequence[Any]:
        """Return values, which are of these types, as the driver takes them."""
        others = kinds - {type(None)}
        if not others and not self.nulls[1]:
            return values
        if self.is_naive and any(getattr(value, "tzinfo", None) for value in values):
            return [self.encoded_one(value) for value in values]
        if self.native is not None and others.issubset(self.native):
            return _mapped(self.adapter(*others) if len(others) == 1 else None, values, others != kinds)
        needs_care = self.native is not None or self.nulls[1] or self.is_naive
        if not needs_care and not any(issubclass(kind, peewee.Node) for kind in others):
            with contextlib.suppress(ValueError, TypeError, ArithmeticError):  # else one by one, to name the value
                return _mapped(self.encode, values, others != kinds)
        return [self.encoded_one(value) for value in values]

    def encoded_one(self, value: Any) -> Any:
        """Return a value as the driver takes it. Raises `peewee.DataError` for one that the column can't hold."""
        if (value is None and not self.nulls[1]) or (
            isinstance(value, peewee.Node) and not isinstance(value, peewee.Model)
        ):
            return value
        try:
            encoded = self.encode(value)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise peewee.DataError(f"{self} can't hold {shown(value)}: {error}") from error
        if self.is_naive and getattr(encoded, "tzinfo", None):
            other = ", or let the column be a DateTimeTZField (of playhouse.postgres_ext)"
            raise peewee.DataError(
                f"{self} can't hold {shown(value)}: the column has no time zones. Convert the time to UTC and take off "
                f"the zone{other if self.field.field_type == 'DATETIME' else ''}"
            )
        if self.native is not None and not isinstance(encoded, self.native) and not isinstance(encoded, peewee.Node):
            raise peewee.DataError(f"{self} can't hold {shown(value)}, a value of the type {type(value).__name__}")
        return encoded

    def __str__(self) -> str:
        return f"{self.field.model.__name__}.{self.name} ({type(self.field).__name__})"

    def decoded(self, value: Any) -> Any:
        """Return a row's value as the attribute has it."""
        if self.decode is not None and (value is not None or self.nulls[0]):
            value = self.decode(value)
        return bytes(value) if isinstance(value, (memoryview, bytearray)) else value

    def read(self, values: Values) -> Values:
        """Return what several rows have in the column, as the attribute has it."""
        decode = self.decode
        if decode is None:
            return values
        if self.read_all is not None:
            try:
                return read_present(self.read_all, values)
            except (ValueError, TypeError, ArithmeticError):
                pass  # there is one that is not as they all are
        takes_null = self.nulls[0]
        return [decode(value) if value is not None or takes_null else None for value in values]

    def converted(self, value: Any, encoded: Any) -> Any:
        """Return what an attribute has after a flush that encoded its value, which was of another type than a row's."""
        try:
            return self.decoded(encoded)
        except (ValueError, TypeError, ArithmeticError, AttributeError, OSError) as error:
            raise peewee.DataError(f"{self} can't hold {shown(value)}: {error}") from error

    def normal(self, value: Any) -> Any:
        """Return a value as it would come back from the database: "1" as 1 for an integer column."""
        return self.converted(value, self.encoded_one(value))


class Mapper:
    """A model on a kind of engine."""

    def __init__(self, model: Any, engine: Engine) -> None:
        meta = model._meta
        self.model = model
        self.param: str = engine.param
        self.columns = [Column(field, engine) for field in meta.sorted_fields]
        self.by_name = {column.name: column for column in self.columns}
        self.names = tuple(column.name for column in self.columns)
        self.table = quoted(engine, *meta.entity._path)
        self.mutable = [column.name for column in self.columns if column.field.accessor_class is MutableAccessor]
        self.decoded = [(place, column) for place, column in enumerate(self.columns) if column.decode is not None]
        self.key_columns = [self.by_name[field.name] for field in meta.get_primary_keys()]
        self.key_names = tuple(column.name for column in self.key_columns)
        self.plain_key = self._type_of_plain_keys()
        self.generated = self.key_names[0] if meta.auto_increment else None
        self.names_but_generated = tuple(name for name in self.names if name != self.generated)
        self.optional = [c.name for c in self.columns if c.has_default or c.name == self.generated]
        self.foreign_keys = [field for field in meta.sorted_fields if isinstance(field, peewee.ForeignKeyField)]
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
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.shapes = Shapes()  # of queries

    def _type_of_plain_keys(self) -> type | None:
        """Return the type, int or str, that a key has when it needs no conversion; None when each key may need one."""
        only = self.key_columns[0] if len(self.key_columns) == 1 else None
        return only.native[0] if only is not None and only.native in ((int,), (str,)) and not only.decode else None

    def in_order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return names of columns in the order of the columns."""
        if len(names) < 2:
            return names
        ordered = self._orders.get(names)
        if ordered is None:
            ordered = _keep(self._orders, names, tuple(name for name in self.names if name in names))
        return ordered

    def is_moved_by(self, names: Iterable[str]) -> bool:
        """Tell whether a change of these columns is one of what a row refers to."""
        return any(field.name in names for field in self.foreign_keys)

    def statement(self, shape: Any, compile: Callable[[], S]) -> S:
        """Return the SQL of a shape of statement, compiled once."""
        sql: S | None = self.statements.get(shape)
        return _keep(self.statements, shape, compile()) if sql is None else sql

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
    try:
        return model._meta.mappers[type(engine)]  # type: ignore[no-any-return]
    except (AttributeError, KeyError):
        mappers: dict[type, Mapper] = model._meta.__dict__.setdefault("mappers", {})
        mapper = mappers[type(engine)] = Mapper(model, engine)
        return mapper


def where_equal(columns: Iterable[Column]) -> str:
    """Return the condition that a row has a value in each of these columns."""
    return " AND ".join(f"{column.sql} = {column.placeholder}" for column in columns)


def chunks(engine: Engine, items: Sequence[Any], width: int, most: int | None = None) -> Iterable[Sequence[Any]]:
    """Cut items into parts of at most `most`, or what the engine takes best in a statement that writes.

    They are smaller when `width` parameters for each are too many for a statement.
    """
    size = max(1, min(most or engine.batch, engine.most_parameters // max(1, width)))
    return (items[start : start + size] for start in range(0, len(items), size))


def _keep(kept: dict[Any, S], key: Any, made: S) -> S:
    """Keep what was made, and begin anew when there is much of it."""
    if len(kept) >= _ROOM:
        kept.clear()
    kept[key] = made
    return made


def _mapped(convert: Convert | None, values: Sequence[Any], has_nulls: bool) -> Sequence[Any]:
    """Return converted values; None stays None."""
    if convert is None:
        return values
    if has_nulls:
        return [None if value is None else convert(value) for value in values]
    return list(map(convert, values))


def _is_users(method: Any) -> bool:
    """Tell whether a conversion is a user's own: it may make something of NULL, or NULL of something."""
    return str(method.__module__).partition(".")[0] not in ("peewee", "playhouse")


def _converting(field: Any) -> Any:
    """Return the field that converts a field's values: of a foreign key, the one at the end of its chain."""
    while isinstance(field, peewee.ForeignKeyField):
        field = field.rel_field
    return field


def _writer(field: Any, base: Any, engine: Engine) -> tuple[str, Convert]:
    """Return the placeholder of a column, and the function that makes its parameter."""
    if isinstance(base, peewee.BlobField) and type(base).db_value is peewee.BlobField.db_value:
        return engine.param, functools.partial(_bytes, field.db_value)
    if not isinstance(base, peewee.JSONField):
        return engine.param, field.db_value
    dumps: Convert = base._dumps  # type: ignore[attr-defined]
    if isinstance(engine, peewee.MySQLDatabase):  # MySQL's and MariaDB's casts differ, and neither's column needs one
        return engine.param, dumps
    return engine.parse(engine.json_methods(engine).make_value_wrapper(str)(""))[0], dumps


def _bytes(convert: Convert, value: Any) -> Any:
    """Return what a blob gets: SQLite and PyMySQL would take anything, and put its text there perhaps."""
    encoded = convert(value)
    if not isinstance(encoded, (bytes, bytearray)):
        raise TypeError(f"{article(type(value).__name__)} is no bytes")
    return encoded


def _reader(field: Any, engine: Engine) -> Convert | None:
    if isinstance(field, peewee.JSONField):
        return functools.partial(read_json, field._loads)  # type: ignore[attr-defined]
    convert: Convert = field.python_value
    parse = _iso_parser(field)
    if parse is not None and isinstance(field, engine.native_times):
        return None
    if parse is None or field.formats is not type(field).formats:
        return convert

    def read(value: Any) -> Any:
        # Ten times as fast as Peewee's strptime, which still gets what is in none of the ISO forms.
        try:
            return parse(value)
        except (TypeError, ValueError):
            return convert(value)

    return read


def _reader_of_all(field: Any) -> ReadAll | None:
    """Return what reads a whole column as `_reader` reads each value; None when each has to be read by itself."""
    kind: Any = type(field)
    if isinstance(field, peewee.JSONField):
        return read_json_texts if field._loads is json.loads else None  # type: ignore[attr-defined]
    if kind.python_value is peewee.DecimalField.python_value:
        return read_decimals
    if kind.python_value is peewee.Field.python_value and kind.adapt is bool:
        return reader_of(bool)
    parse = _iso_parser(field)
    return None if parse is None or field.formats is not kind.formats else reader_of(parse)


def _iso_parser(field: Any) -> Convert | None:
    """Return what reads a time as ISO writes it, of a field that does no more with it than Peewee's."""
    kind: Any = type(field)
    if kind.python_value is not peewee.Field.python_value:
        return None
    return next((parse for base, parse in _ISO.items() if isinstance(field, base) and kind.adapt is base.adapt), None)


def _unique_sets(meta: Any) -> list[tuple[str, ...]]:
    """Return the sets of fields whose values no two rows share, the key first."""
    sets = [tuple(field.name for field in meta.get_primary_keys())]
    for index in meta.fields_to_index():
        fields = getattr(index, "_expressions", ())
        if getattr(index, "_unique", False) and all(isinstance(field, peewee.Field) for field in fields):
            sets.append(tuple(field.name for field in fields))
    return [names for names in sets if names]

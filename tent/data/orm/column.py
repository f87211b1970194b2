"""One field on one kind of engine: how its values go into a statement, and come out of a row."""

from __future__ import annotations

import datetime
import decimal
import functools
import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import peewee

from .engine import Engine, quoted
from .errors import ArgumentError, article, shown
from .json_sql import read_json
from .mutable import is_changeable
from .rows import ReadAll, Values, read_decimals, read_json_texts, read_present, reader_of
from .tracking import MutableAccessor

Convert = Callable[[Any], Any]

EncodeAll = Callable[[Sequence[Any]], Sequence[Any]]

_ROOM = 100  # sets of types that a column knows the treatment of
_MADE = r"(?i)\s*(DEFAULT|GENERATED|AS)\b"  # how constraints begin that make a column's value
_BASIC = frozenset((int, float, str))  # which every driver takes as they are

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
    peewee.FixedCharField: (),  # a text, to the field's length
}


def _type_in_rows(field: Any) -> tuple[type, ...] | None:
    """Return the types of the values of a field, whose class may be another's that converts them."""
    kind: Any = type(field)
    if getattr(field, "auto_round", False):  # a decimal comes back rounded
        return ()
    for base, types in _TYPES.items():
        if issubclass(kind, base) and (kind.db_value, kind.python_value) == (base.db_value, base.python_value):
            return types
    return None


class Column:
    """A field on an engine: how its values go into a statement, and come out of a row."""

    def __init__(self, field: Any, engine: Engine) -> None:
        base = _converting(field)
        kind = type(base)
        if kind.__module__ == "playhouse.postgres_ext" and field.field_type in ("JSON", "JSONB"):
            raise ArgumentError(
                f"{field.model.__name__}.{field.name} is a {kind.__name__} of playhouse.postgres_ext, whose values "
                "only Peewee's own PostgresqlDatabase passes. Declare it as peewee.JSONField, whose column is JSONB."
            )
        own_db_value = kind.db_value is not peewee.Field.db_value
        own_python_value = kind.python_value is not peewee.Field.python_value
        adapt = None if isinstance(base, peewee.BareField) else kind.adapt
        self.name: str = field.name
        self.field = field
        self.sql = quoted(engine, field.column_name)
        self.native = None if own_db_value else _NATIVE.get(adapt)
        self.type = self.native or _type_in_rows(base)
        self.placeholder, self.encode = _writer(field, base, engine)
        self.typed = engine.typed(base, self.sql)
        self.array = engine.array_type(base) if type(field).ddl_datatype is kind.ddl_datatype else None
        self.decode = None if not own_python_value and adapt in _READ_AS_IS else _reader(base, engine)
        self.adapter = engine.adapter
        self.is_mutable = field.accessor_class is MutableAccessor
        # What is done to values of certain types, of which a program has few in a column
        self.treatment = functools.lru_cache(_ROOM)(functools.partial(Treatment, self))
        # A server would take the zone off a time.
        self.is_naive = bool(engine.native_times) and field.field_type in ("DATETIME", "TIME")
        self.nulls = _is_users(kind.python_value), _is_users(kind.db_value)
        # Whether values of rows that are equal may be others all the same: 1 and true in JSON, times of several zones
        self.shows_apart = self.type is None or self.nulls[0]
        self.has_zones = not engine.native_times and field.field_type in ("DATETIME", "TIME")
        self.read_all = None if self.decode is None else _reader_of_all(base)
        parts = [part.sql for part in field.constraints or () if isinstance(part, peewee.SQL)]
        self.is_made = any(re.match(_MADE, sql) for sql in parts)  # by the database, where no value is given

    def encoder(self, kinds: frozenset[type]) -> EncodeAll | None:
        """Return what makes values of these types be as the driver takes them; None when they are."""
        others = kinds - {type(None)}
        if not (others or self.nulls[1]) or (self.native and others.issubset(_BASIC.intersection(self.native))):
            return None
        encode = self._encoder(others, has_nulls=others != kinds)
        if not self.is_naive:
            return encode
        return lambda values: (self._encode_each if any(map(_has_zone, values)) else encode)(values)

    def _encoder(self, kinds: frozenset[type], has_nulls: bool) -> EncodeAll:
        if self.native is not None and kinds.issubset(self.native):
            kind = next(iter(kinds)) if len(kinds) == 1 else None
            # A program may register an adapter of its own at any time.
            return lambda values: _mapped(self.adapter(kind) if kind else None, values, has_nulls)
        if self.native is not None or self.nulls[1] or self.is_naive or any(issubclass(k, peewee.Node) for k in kinds):
            return self._encode_each

        convert = self.encode
        if isinstance(self.field, peewee.DecimalField) and any(issubclass(kind, (float, bool)) for kind in kinds):
            convert = functools.partial(_exact, convert)

        def encode(values: Sequence[Any]) -> Sequence[Any]:
            try:
                return _mapped(convert, values, has_nulls)
            except (ValueError, TypeError, ArithmeticError):
                return self._encode_each(values)  # which names the value

        return encode

    def _encode_each(self, values: Sequence[Any]) -> Sequence[Any]:
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

    def converted_all(self, values: Values, encoded: Values) -> Values:
        """Return what attributes have after a flush that encoded their values."""
        try:
            return self.read(encoded)
        except (ValueError, TypeError, ArithmeticError, AttributeError, OSError):
            return list(map(self.converted, values, encoded))  # which names the value

    def normal(self, value: Any) -> Any:
        """Return a value as it would come back from the database: "1" as 1 for an integer column."""
        return self.converted(value, self.encoded_one(value))

    def in_row(self, value: Any) -> Any:
        """Return a value that is to be written as its row will have it, or as it is when that can't be told yet."""
        if value is None or self.type is None or type(value) in self.type or isinstance(value, peewee.Node):
            return value
        try:
            return self.normal(value)
        except peewee.DataError:
            return value  # the column can't hold it, as the statement will tell


class Treatment:
    """What is done to values of a column, which are of certain types, when they are written."""

    __slots__ = ("converts", "encode", "is_nothing", "may_be_sql", "parts")

    def __init__(self, column: Column, kinds: frozenset[type]) -> None:
        self.encode = column.encoder(kinds)
        # A user's own field may make SQL of a value.
        self.may_be_sql = column.nulls[1] or any(issubclass(kind, peewee.Node) for kind in kinds)
        self.converts = column.type is not None and not kinds.issubset((*column.type, type(None)))
        self.parts = column.is_mutable and any(map(is_changeable, kinds))
        self.is_nothing = not (self.encode or self.may_be_sql or self.converts or self.parts)


def _mapped(convert: Convert | None, values: Sequence[Any], has_nulls: bool) -> Sequence[Any]:
    """Return converted values; None stays None."""
    if convert is None:
        return values
    if has_nulls:
        return [None if value is None else convert(value) for value in values]
    return list(map(convert, values))


def _has_zone(value: Any) -> bool:
    return getattr(value, "tzinfo", None) is not None


def is_sql(value: Any) -> bool:
    """Tell whether a value is an expression, which the database is to compute."""
    return isinstance(value, peewee.Node) and not isinstance(value, peewee.Model)


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


def _exact(convert: Convert, value: Any) -> Any:
    """Return what a decimal column gets of a number of another type, which Peewee leaves as it is.

    For one float MariaDB takes a whole column of a statement for floats, and PostgreSQL takes no bool for a number.
    """
    encoded = convert(value)
    if isinstance(encoded, bool):
        return decimal.Decimal(encoded)
    return decimal.Decimal(str(encoded)) if isinstance(encoded, float) else encoded


def _reader(field: Any, engine: Engine) -> Convert | None:
    if isinstance(field, peewee.JSONField):
        return functools.partial(read_json, field._loads)  # type: ignore[attr-defined]
    if type(field).python_value is peewee.DecimalField.python_value:
        return lambda value: field.python_value(int(value) if value is True else value)  # the flush may have it to read
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

"""JSON in the dialect of the engine that a statement is made for.

Models belong to no database, and Peewee's `JSONField` builds its expressions for the database of its model. What
stands in for one here gives it *late* pieces of SQL, which ask the engine for their text when a statement is made.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import peewee

from .mutable import plain

# Characters as they are: a path finds no key that is spelled by escapes, but on PostgreSQL and in SQLite from 3.45 on
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_chunks: Callable[[Any, int], Iterable[str]] | None
try:
    # What `_encoder.encode` makes anew for each value, which takes longer than the value: the standard library's, in C
    _chunks = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
        None, _encoder.default, json.encoder.encode_basestring, None, ": ", ", ", False, False, False
    )
except (AttributeError, TypeError):  # a Python that has none, or another one
    _chunks = None


def write_json(value: Any) -> str:
    """Return a value as JSON. Raises ValueError or TypeError for one that JSON has not."""
    if _chunks is None:
        return _encoder.encode(value)
    try:
        return "".join(_chunks(value, 0))
    except RecursionError:
        return _encoder.encode(value)  # which finds out whether it is in itself


_sqlite = peewee.SqliteDatabase(None)  # for SQL that is made for no engine, to be looked at
_speaking = threading.local()


class Late(peewee.ColumnBase):
    """A piece of SQL that a method of the engine's `json_methods` makes when the statement is made."""

    def __init__(self, method: str, *arguments: Any) -> None:
        self.method = method
        self.arguments: tuple[Any, ...] = plain(arguments)  # what a list in them is now, whatever becomes of it
        self._converter = arguments[0].python_value if method in _GIVE_JSON else None

    def made(self, methods: Any) -> Any:
        """Return the piece as an engine's JSON methods make it."""
        return getattr(methods, self.method)(*self.arguments)

    def __sql__(self, ctx: Any) -> Any:
        engine = ctx.state.engine or _sqlite
        methods = engine.json_methods(engine)
        ctx.sql(self.made(methods))
        _speaking.methods = methods
        return ctx


class LateText(Late):
    """The text of a JSON value, which the engine marks as JSON in its way."""

    def __init__(self, dumps: Callable[[Any], str], value: Any) -> None:
        super().__init__("make_value_wrapper", dumps(value))

    def made(self, methods: Any) -> Any:
        return methods.make_value_wrapper(str)(*self.arguments)


class LateType:
    """The name of a type to cast to. Peewee asks for it as text, right after the SQL of what is cast, a late piece."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __str__(self) -> str:
        return str(_speaking.methods.cast_type(self.kind))


class LateMethods(peewee.BaseJSONMethods):  # type: ignore[name-defined,misc]  # not in the stubs
    """Peewee's JSON methods, each of which gives a late piece of SQL."""

    def make_value_wrapper(self, dumps: Callable[[Any], str]) -> Callable[[Any], Late]:
        return functools.partial(LateText, dumps)

    def make_value_reader(self, loads: Callable[[str], Any]) -> Callable[[Any], Any]:
        return functools.partial(read_json, loads)

    def cast_type(self, kind: str) -> LateType:
        return LateType(kind)

    def has_keys(self, field: Any, keys: Any, names: Iterable[str]) -> Late:
        return Late("has_keys", field, keys, list(names))

    def has_any_keys(self, field: Any, keys: Any, names: Iterable[str]) -> Late:
        return Late("has_any_keys", field, keys, list(names))


_GIVE_JSON = ("set", "insert", "replace", "append", "remove", "update")
_GIVE_OTHERS = ("extract", "extract_text", "compare_value", "length", "contains", "contained_by", "has_key")
for _method in (*_GIVE_JSON, *_GIVE_OTHERS):
    setattr(LateMethods, _method, staticmethod(functools.partial(Late, _method)))


class AnyEngine:
    """What a field takes for the database of its model: whichever engine a statement will be made for."""

    json_methods = LateMethods

    def get_binary_type(self) -> type[bytes]:
        """Return how a blob is passed; bytes are what all drivers take."""
        return bytes


def read_json(loads: Callable[[str], Any], value: Any) -> Any:
    """Return the value of a JSON text as it comes out of a row; what is none, as it is."""
    if isinstance(value, str):
        try:
            return loads(value)
        except (TypeError, ValueError):
            pass
    return value


class PostgresqlJSON(peewee.PostgresqlJSONMethods):  # type: ignore[name-defined,misc]
    """PostgreSQL's JSON, passed as text: psycopg dumps what is passed otherwise in the middle of the statement."""

    def make_value_wrapper(self, dumps: Callable[[Any], str]) -> Callable[[Any], Any]:
        return lambda value: peewee.Cast(peewee.Value(dumps(value), converter=False), "JSONB")

    def make_value_reader(self, loads: Callable[[str], Any]) -> Callable[[Any], Any]:
        return functools.partial(read_json, loads)  # an engine's connections give text

    def _jsonb_wrap(self, field: Any, value: Any) -> Any:
        return value if isinstance(value, peewee.Node) else self.make_value_wrapper(field._dumps)(value)

    def _path_array(self, keys: Any) -> Any:
        return peewee.SQL(super()._path_array(keys).sql.replace("%", "%%"))  # a % begins a parameter

    def cast_type(self, kind: str) -> str:
        return "BIGINT" if kind == "int" else str(super().cast_type(kind))  # as long as other databases' integers


class MysqlJSON(peewee.MySQLJSONMethods):  # type: ignore[name-defined,misc]
    """MySQL's and MariaDB's JSON, whose parts as text are like other text, and NULL for null."""

    def extract_text(self, field: Any, keys: Any) -> Any:
        if not keys:
            return field
        null = self._as_json(peewee.Value("null", converter=False))
        text = peewee.fn.json_unquote(peewee.fn.NULLIF(self.extract(field, keys), null))
        return peewee.Cast(text, "CHAR")  # in the collation of the connection, else it compares with no literal

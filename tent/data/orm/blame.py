"""Which object's error it is, when a statement for many fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import peewee

from .change import Change
from .column import Column
from .cursor import BufferedCursor
from .engine import Engine
from .errors import FlushError, StaleDataError, explain, shown
from .mapper import Mapper, mapper_of, where_equal
from .statements import halves

_REMEDY = (
    "This typically happens when another session has changed or deleted the row meanwhile: roll back, load the object "
    "again and repeat the change."
)


def blaming(database: Engine, items: Sequence[Any], context: str, write: Callable[[Sequence[Any]], None]) -> None:
    """Write a batch of objects, or changes. If it fails, write them one by one to find the one whose error it is.

    Where the database takes no more statements after an error, the error of a batch has the attribute `is_blind`.
    After one that is no object's, as of a lock that was not free, nobody is looked for: each would wait for it again.
    """
    try:
        database.attempt(write, items)
    except (FlushError, MemoryError):
        raise
    except Exception as error:
        items = getattr(error, "part", items)
        if not database.has_transaction():
            # The database has undone everything by itself: what is repeated now would stay. Nobody can be blamed.
            raise explain(error, context.format("objects")) from error.__cause__
        is_nobodys = database.is_retryable(error) or database.is_interrupted(error)
        # What was written before the error is still there, if it came in the middle: written again, it meets itself.
        is_partial = getattr(error, "is_partial", False) and not database.is_careful
        if database.is_aborted() or is_nobodys or is_partial:
            named = len(items) == 1 and isinstance(error, (peewee.IntegrityError, peewee.OperationalError))
            error.is_blind = not named and not is_nobodys  # type: ignore[attr-defined]
            instance = _instance_of(items[0]) if named else None
            raise explain(error, context.format(repr(instance) if named else "objects"), instance) from error.__cause__
        item, error = _culprit(database, items, error, write)
        instance = _instance_of(item)
        error = _with_value(database, instance, error)
        raise explain(error, context.format(repr(instance)), instance) from error.__cause__


def _instance_of(item: Any) -> Any:
    return item.instance if isinstance(item, Change) else item


def in_parts(parts: Iterable[Sequence[Any]], write: Callable[[Sequence[Any]], None]) -> None:
    """Write the items of a batch in parts. An error has the attribute `part`; what came before is written already."""
    for part in parts:
        try:
            write(part)
        except Exception as error:
            error.part = getattr(error, "part", part)  # type: ignore[attr-defined]
            raise


def _with_value(database: Engine, instance: Any, error: Exception) -> Exception:
    """Return an error with the column and the value in its message, if it is that the driver can't take a value."""
    if isinstance(error, (peewee.IntegrityError, peewee.OperationalError)):
        return error
    mapper = mapper_of(type(instance), database)
    told = database.column_in(error)
    for column in [column for column in mapper.columns if told in (None, column.field.column_name)]:
        value = instance.__data__.get(column.name)
        its_own = error if told else _failure(database, mapper, column, value)
        if its_own is not None:
            if str(column) in str(error):
                return error
            named = peewee.DataError(f"{column} can't hold {shown(value)}: {_reason(its_own)}")
            named.__cause__ = error
            return named
    return error


def _reason(error: Exception) -> str:
    """Return the message of an error, without the number that some drivers' errors have."""
    return str(error.args[-1]) if error.args else type(error).__name__


def _failure(database: Engine, mapper: Mapper, column: Column, value: Any) -> Exception | None:
    """Return the error with which the database, or its driver, refuses a value for a column."""
    if not isinstance(value, peewee.Node):
        try:
            trial = database.trial(mapper.table, column)
            database.attempt(database.execute_sql, trial, [column.encoded_one(value)])
        except Exception as error:
            return error
    return None


def _culprit(
    database: Engine, items: Sequence[Any], error: Exception, write: Callable[[Sequence[Any]], None]
) -> tuple[Any, Exception]:
    """Return the item of a batch whose error it is. A statement that failed as a whole is repeated for its halves."""
    place = getattr(error, "place", None)
    while place is None and len(items) > 1:
        first, second = halves(items)
        try:
            database.attempt(write, first)
            items = second  # what is left to blame
        except Exception as its_own:
            items, error = getattr(its_own, "part", first), its_own
            place = getattr(error, "place", None)
    return items[place or 0], error


def name_stale(
    database: Engine, run: Callable[[str, Any], BufferedCursor], error: StaleDataError, changes: Sequence[Change]
) -> StaleDataError:
    """Return the error with the object named whose row is gone or has another version, now looked up."""
    # As the rows are now: a transaction at REPEATABLE READ may not see them so, unless it locks them.
    lock = " FOR UPDATE" if database.for_update else ""
    for change in changes:
        mapper = change.mapper
        checked = mapper.by_name[mapper.version or mapper.key_names[0]]
        sql = f"SELECT {checked.sql} FROM {mapper.table} WHERE {mapper.where_key}{lock}"
        rows = run(sql, mapper.key_params(change.key)).rows
        if not rows:
            return StaleDataError(f"{error} The row of {change.instance!r} is gone. {_REMEDY}", change.instance)
        version = checked.decoded(rows[0][0])
        if mapper.version and version != change.version:
            return StaleDataError(
                f"{error} {change.instance!r} was loaded with {mapper.version} {change.version}, and its row has "
                f"{version} now. {_REMEDY}",
                change.instance,
            )
    for change in changes if changes[0].mapper.version else ():
        mapper, version = change.mapper, change.mapper.by_name[change.mapper.version or ""]
        sql = f"SELECT {version.sql} FROM {mapper.table} WHERE {mapper.where_key} AND NOT {where_equal([version])}"
        for (stored,) in run(sql, [*mapper.key_params(change.key), version.encoded_one(change.version)]).rows:
            return StaleDataError(
                f"{error} The row of {change.instance!r} has its {version.name} in the notation of another program, "
                f"{shown(stored)}, which stands for the same and is not the same. Let that program write it as Peewee "
                "does.",
                change.instance,
            )
    return error

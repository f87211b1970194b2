"""Statements that write many rows at once, with the session's objects kept in agreement."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import peewee

from .cascading import Fallout, affected, foresee
from .cursor import BufferedCursor
from .errors import ArgumentError, InvalidRequestError
from .mapper import Mapper
from .settling import Settlement
from .tracking import is_same
from .unit_of_work import UnitOfWork
from .version import Version


def update(transaction: Any, query: Any, values: Mapping[Any, Any], synchronize: Any) -> int:
    """Update the rows of a query; see `Query.update`."""
    model = _refuse_unfit(query, "update", synchronize)
    if not values:
        return 0
    statement = model.update({_field(model, name): value for name, value in values.items()})
    return _run(transaction, statement, query._where, synchronize)


def delete(transaction: Any, query: Any, synchronize: Any) -> int:
    """Delete the rows of a query; see `Query.delete`."""
    return _run(transaction, _refuse_unfit(query, "delete", synchronize).delete(), query._where, synchronize)


def write(transaction: Any, statement: Any, synchronize: Any = "fetch") -> BufferedCursor:
    """Run a Peewee statement that writes, in the open transaction, and make the session's objects agree with it."""
    database = transaction.database
    if isinstance(statement, peewee.ModelUpdate):
        statement = _counting(statement)
    sql, params = database.parse(statement)
    if synchronize is not False and isinstance(statement, peewee.ModelDelete):
        return _delete(transaction, statement, sql, params)
    if synchronize is not False and isinstance(statement, peewee.ModelUpdate):
        return _update(transaction, statement, sql, params)
    is_plain = getattr(statement, "_on_conflict", None) is None  # else it may update rows, whichever these are
    return _fetch(transaction, getattr(statement, "model", None) if is_plain else None, sql, params)


def _counting(statement: Any) -> Any:
    """Return an update that gives its rows another version, if the model has one and the update sets none."""
    version = next((field for field in statement.model._meta.sorted_fields if isinstance(field, Version)), None)
    following = None if version is None or version in statement._update else version.following_in_bulk()
    if following is None:
        return statement
    counting = statement.clone()
    counting._update = {**statement._update, version: following}
    return counting


def _update(transaction: Any, statement: Any, sql: str, params: Any) -> BufferedCursor:
    unit, settlement = transaction.unit, Settlement(transaction.unit, transaction.scopes[-1].log)
    if not unit.identity_map.has(statement.model):
        return _fetch(transaction, statement.model, sql, params)
    mapper = unit.loader.mapper(statement.model)
    held = {}
    for row in _rows(transaction, mapper, mapper.key_names, statement._where):
        key = mapper.identity(row)
        instance = unit.identity_map.find(mapper.model, key)
        if instance is not None:
            held[key] = instance
    before = {key: (dict(instance.__data__), instance._reading) for key, instance in held.items()}
    try:
        cursor = _fetch(transaction, statement.model, sql, params)
        _read_back(unit, settlement, mapper, held, before)
        return cursor
    except BaseException:  # Ctrl-C, say: it may be done all the same, and then the objects have to know
        if transaction.scopes and not transaction.database.is_aborted():
            with contextlib.suppress(peewee.PeeweeException):
                _read_back(unit, settlement, mapper, held, before)
        raise


def _read_back(
    unit: UnitOfWork, settlement: Settlement, mapper: Mapper, held: Mapping[Any, Any], before: Mapping[Any, Any]
) -> None:
    """Read what an update has made of the rows of objects, by their keys; `before` is what a rollback gives them."""
    read = set(map(id, unit.loader.by_keys(mapper, list(held))))
    for key, instance in held.items():
        if id(instance) in read:
            values, instance._reading = before[key]
            former = {name: old for name, old in values.items() if not is_same(old, instance.__data__.get(name))}
            if former:
                settlement.updated(mapper, [instance], [former])
        else:  # its key was changed, by an expression perhaps: its row is known no more
            unit.expunge(instance)


def _delete(transaction: Any, statement: Any, sql: str, params: Any) -> BufferedCursor:
    unit, settlement = transaction.unit, Settlement(transaction.unit, transaction.scopes[-1].log)
    model = statement.model
    fallout: Fallout = {}
    if not any(map(unit.identity_map.has, [model, *affected(model)])):
        return _fetch(transaction, statement.model, sql, params)
    mapper = unit.loader.mapper(model)
    names = (*mapper.key_names, *sorted(mapper.referred - set(mapper.key_names)))
    rows = _rows(transaction, mapper, names, statement._where)
    doomed = [dict(zip(names, row)) for row in rows]
    foresee(transaction.database, transaction.run, unit.identity_map.has, model, doomed, fallout)
    cursor = _fetch(transaction, statement.model, sql, params)
    for row in rows if mapper.key_names else ():
        instance = unit.identity_map.find(model, mapper.identity(row[: len(mapper.key_names)]))
        if instance is not None:
            settlement.deleted(mapper, [instance])
    settlement.fallout(fallout)
    return cursor


def _run(transaction: Any, statement: Any, where: Any, synchronize: Any) -> int:
    transaction.refuse_if_read_only("write")
    statement._where = where
    if not transaction.is_flushing:
        transaction.flush()
    transaction.begin()
    return write(transaction, statement, synchronize).rowcount


def _fetch(transaction: Any, model: Any, sql: str, params: Any) -> BufferedCursor:
    try:
        cursor: BufferedCursor = transaction.fetch(sql, params)
    except BaseException:  # who knows whether it was done
        transaction.unit.note_statement(is_done=False)
        raise
    if model is None:
        transaction.unit.note_statement()
    else:
        transaction.unit.note_bulk(model)
    return cursor


def _rows(transaction: Any, mapper: Mapper, names: Sequence[str], where: Any) -> list[tuple[Any, ...]]:
    """Return the values in some columns of the rows that meet a condition."""
    columns = [mapper.by_name[name] for name in names]
    query = peewee.ModelSelect(mapper.model, [column.field for column in columns])
    if where is not None:
        query = query.where(where)
    rows = transaction.run(*transaction.database.parse(query)).rows
    return [tuple(column.decoded(value) for column, value in zip(columns, row)) for row in rows]


def _field(model: Any, name: Any) -> Any:
    field = model._meta.combined.get(name) if isinstance(name, str) else name
    if not isinstance(field, peewee.Field):
        raise ArgumentError(f"{model.__name__} has no column {name!r}.")
    return field


def _refuse_unfit(query: Any, verb: str, synchronize: Any) -> Any:
    if synchronize not in ("fetch", False):
        raise ArgumentError(f"synchronize_session is 'fetch' or False, not {synchronize!r}.")
    unfit = {
        "limit()": query._limit is not None,
        "offset()": query._offset is not None,
        "order_by()": bool(query._order_by),
        "group_by()": bool(query._group_by),
        "distinct()": bool(query._simple_distinct) or query._distinct is not None,
        "having()": query._having is not None,
        "with_cte()": bool(query._cte_list),
        "from_()": len(query._from_list) != 1 or query._from_list[0] is not query.model,
        "join()": bool(query._joins),
        "columns": query._entities is not None,
    }
    for what, has in unfit.items():
        if has:
            raise InvalidRequestError(
                f"{verb}() writes all rows that meet the query's conditions, and can't with {what}. Say which rows by "
                "filter(), for example filter(User.id.in_(subquery))."
            )
    if isinstance(query.model, peewee.ModelAlias):
        raise InvalidRequestError(f"{verb}() takes a query of the model itself, not of an alias of it.")
    return query.model

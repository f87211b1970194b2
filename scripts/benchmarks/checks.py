"""What each operation must have done: read with the bare driver, or of the rows that the peer gave."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.workload import Item

TYPES: dict[str, type] = {
    "datetime": datetime.datetime,
    "float": float,
    "smallint": int,
    "int": int,
    "bigint": int,
    "char": str,
    "text": str,
    "decimal": Decimal,
    "json": dict,
}


class CheckError(Exception):
    """A peer did not do what it was timed for."""


def check(is_right: bool, message: str) -> None:
    if not is_right:
        raise CheckError(message)


def check_pragmas(peer: Any) -> None:
    """Check that the peer's connection has the settings that all have."""
    found = {pragma: peer.scalar(f"PRAGMA {pragma}") for pragma in PRAGMAS}
    check(found == PRAGMAS, f"the connection has {found}, not {PRAGMAS}")


def check_inserted(stored: Sequence[Mapping[str, Any]], model: int, rows: Sequence[Item]) -> None:
    """Check that the last of the stored rows are these, with the defaults of all else, and parents.

    A unit of work may insert parents first: the rows that one operation inserts may be in any order.
    """
    check(len(stored) >= len(rows), f"{len(stored)} rows are stored, not {len(rows)}")
    inserted = {row["text"]: row for row in stored[-len(rows) :]}
    check(inserted.keys() == {text for _, text in rows}, "other rows are stored than those that were to be inserted")
    for place, (level, text) in enumerate(rows):
        expected = {**workload.defaults_of(model), "level": level, "text": text}
        if model == workload.RELATED:
            expected["parent_id"] = inserted[rows[0][1]]["id"] if workload.has_parent(place) else None
        timestamp = inserted[text]["timestamp"]
        check(isinstance(timestamp, datetime.datetime), f"the timestamp is {timestamp!r}")
        check_row(inserted[text], {**expected, "timestamp": timestamp})


def check_changed(database: Database, model: int, changes: Sequence[Mapping[str, Any]]) -> None:
    """Check that the rows of a table, in the order of their keys, have these values."""
    stored = stored_rows(database, model)
    check(len(stored) == len(changes), f"{len(stored)} rows are stored, not {len(changes)}")
    for row, change in zip(stored, changes):
        check_row(row, change)


def check_row(row: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        check(row[name] == value, f"{name} of row {row['id']} is {row[name]!r}, not {value!r}")


def check_count(database: Database, table: str, expected: int) -> None:
    [(count,)] = database.read(f"SELECT COUNT(*) FROM {table}")
    check(count == expected, f"{count} rows are in {table}, not {expected}")


def check_found(
    model: int, count: int, expected: int, found: Sequence[Any], row_type: type, are_converted: bool = True
) -> None:
    """Check how many rows were found, that the last is of a type, and its values too, unless they are the driver's."""
    check(count == expected, f"{count} rows were found, not {expected}")
    check(isinstance(found, Sequence) and len(found) > 0, f"the rows are in {found!r}, which is no list")
    row = found[-1]
    check(isinstance(row, row_type), f"{row!r} is no {row_type.__name__}")
    if are_converted:
        for column, value in zip(workload.COLUMNS[model], _values(model, row)):
            is_right = (value is None and column.is_null) or isinstance(value, TYPES[column.kind])
            check(is_right, f"{column.name} is read as {value!r}, which is no {TYPES[column.kind].__name__}")


def _values(model: int, row: Any) -> list[Any]:
    """Return the values of a row, without its key, in the order of the model's columns."""
    names = [column.name for column in workload.COLUMNS[model]]
    if isinstance(row, Mapping):
        return [row[name] for name in names]
    return list(row[1:]) if isinstance(row, Sequence) else [getattr(row, name) for name in names]


# What is stored


def stored_rows(database: Database, model: int) -> list[dict[str, Any]]:
    """Return all rows in the order of their keys, with Python's values whatever form a peer has stored them in."""
    names = ["id", *workload.names_of(model)]
    kinds = {column.name: column.kind for column in workload.COLUMNS[model]}
    rows = database.read(f"SELECT {', '.join(names)} FROM {workload.table_of(model)} ORDER BY id")
    return [{name: _plain(kinds.get(name, "int"), value) for name, value in zip(names, row)} for row in rows]


def _plain(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "decimal":
        return Decimal(str(value))
    if kind == "datetime" and isinstance(value, str):
        return datetime.datetime.fromisoformat(value)
    return json.loads(value) if kind == "json" and isinstance(value, str) else value

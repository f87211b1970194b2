"""What a query gives."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, TypeVar

import peewee

from .errors import MultipleResultsFound, NoResultFound

T = TypeVar("T")


class Result(peewee.CursorWrapper, Generic[T]):
    """The rows of a query, or their objects, all fetched: a sequence with the verbs of SQLAlchemy's `Result`."""

    # What Peewee's constructor would set on each
    cursor = None
    index = 0
    initialized = populated = True
    rowcount = -1  # of SQL that writes: how many rows it changed

    def __init__(self, rows: list[T], what: str = "row") -> None:
        self.row_cache = rows
        self.count = len(rows)
        self._what = what

    def __repr__(self) -> str:
        return f"<Result of {self.count}: {self.row_cache[:3]!r}{' …' if self.count > 3 else ''}>"

    def all(self) -> list[T]:
        """Return the rows as a list."""
        return self.row_cache

    def first(self) -> T | None:
        """Return the first row, or None when there is none."""
        return self.row_cache[0] if self.row_cache else None

    def one(self) -> T:
        """Return the one row. Raises `NoResultFound` or `MultipleResultsFound` when it is not exactly one."""
        if not self.row_cache:
            raise NoResultFound(f"No {self._what} was found when one was required.")
        return self.one_or_none()  # type: ignore[return-value]

    def one_or_none(self) -> T | None:
        """Return the one row, or None when there is none. Raises `MultipleResultsFound` for more."""
        if self.count > 1:
            raise MultipleResultsFound(f"More than one {self._what} was found when one at most was required.")
        return self.first()

    def scalars(self) -> Result[Any]:
        """Return the first column of each row (of rows that are objects: the objects)."""
        return Result([_first(row) for row in self.row_cache], self._what)

    def scalar(self) -> Any:
        """Return the first column of the first row, or None when there is no row."""
        return _first(self.row_cache[0]) if self.row_cache else None

    def scalar_one(self) -> Any:
        """Return the first column of the one row. Raises as `one`."""
        return _first(self.one())

    def scalar_one_or_none(self) -> Any:
        """Return the first column of the one row, or None when there is none. Raises as `one_or_none`."""
        return _first(self.one_or_none())

    def mappings(self) -> Result[dict[str, Any]]:
        """Return the rows as dicts, by the names of their columns; of an object, by the name of its model."""
        return Result(list(map(_mapping, self.row_cache)), self._what)

    def iterator(self) -> Generator[T, None, None]:
        yield from self.row_cache


def _first(row: Any) -> Any:
    """Return the first column of a row, whatever its kind; of an object, the object."""
    if isinstance(row, dict):
        return next(iter(row.values()))
    return row[0] if isinstance(row, tuple) else row


def _mapping(row: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    return dict(zip(row._fields, row)) if isinstance(row, tuple) else {type(row).__name__: row}  # type: ignore[attr-defined]

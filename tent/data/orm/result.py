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

    def scalars(self) -> list[Any]:
        """Return the first column of each row (of rows that are objects: the objects)."""
        return [_first(row) for row in self.row_cache]

    def scalar(self) -> Any:
        """Return the first column of the first row, or None when there is no row."""
        rows = self.scalars()
        return rows[0] if rows else None

    def iterator(self) -> Generator[T, None, None]:
        yield from self.row_cache


def _first(row: Any) -> Any:
    """Return the first column of a row, whatever its kind; of an object, the object."""
    if isinstance(row, dict):
        return next(iter(row.values()))
    return row[0] if isinstance(row, tuple) else row

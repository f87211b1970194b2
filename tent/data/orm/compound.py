"""What is common to the queries of a session, and two of them joined by UNION, INTERSECT or EXCEPT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import peewee

from .result import Result
from .select import model_of

T = TypeVar("T")


class Verbs(Generic[T]):
    """The verbs by which the rows of a query are taken: it runs anew each time, and holds on to none."""

    model: Any
    _entities: tuple[Any, ...] | None = None  # what each row has, when rows are not objects
    if TYPE_CHECKING:
        _cursor_wrapper: Any
        _database: Any
        _limit: Any
        execute: Any
        limit: Any

    def all(self) -> list[T]:
        """Return the rows as a list."""
        found = self.execute(self._database)
        return found.row_cache if isinstance(found, Result) else list(found)

    def first(self) -> T | None:
        """Return the first row, or None. One row is asked for."""
        rows = self._at_most(1).all()
        return rows[0] if rows else None

    def one(self) -> T:
        """Return the only row. Raises `NoResultFound` or `MultipleResultsFound`."""
        return Result(self._at_most(2).all(), self._what()).one()

    def one_or_none(self) -> T | None:
        """Return the only row, or None. Raises `MultipleResultsFound`."""
        return Result(self._at_most(2).all(), self._what()).one_or_none()

    def scalars(self) -> list[Any]:
        """Return the first column of each row; of a query for objects, the objects."""
        return Result(self.all()).scalars().all()

    def union_all(self, other: Any) -> Compound[T]:
        """Return the query for the rows of both."""
        return Compound(self, "UNION ALL", other)

    def union(self, other: Any) -> Compound[T]:
        """Return the query for the rows of both, each once."""
        return Compound(self, "UNION", other)

    def intersect(self, other: Any) -> Compound[T]:
        """Return the query for the rows that are in both."""
        return Compound(self, "INTERSECT", other)

    def except_(self, other: Any) -> Compound[T]:
        """Return the query for the rows that are not in the other one."""
        return Compound(self, "EXCEPT", other)

    __add__ = union_all
    __or__ = union
    __and__ = intersect
    __sub__ = except_

    def _execute(self, database: Any) -> Any:
        self._cursor_wrapper = None
        try:
            return super()._execute(database)  # type: ignore[misc]
        finally:
            self._cursor_wrapper = None

    def _at_most(self, count: int) -> Verbs[T]:
        """Return the query for the first rows, at most `count` of them."""
        limit = self._limit if isinstance(self._limit, int) else None
        return self if limit is not None and 0 <= limit <= count else self.limit(count)

    def _what(self) -> str:
        return model_of(self.model).__name__ if self._entities is None else "row"


class Compound(Verbs[T], peewee.ModelCompoundSelectQuery):  # type: ignore[misc]
    """Two queries of a session as one."""

    def __init__(self, one: Any, operation: str, other: Any) -> None:
        super().__init__(one.model, one, operation, other)
        self._database = one._database
        self._entities = one._entities

    def __iter__(self) -> Iterator[T]:
        return iter(self.execute())

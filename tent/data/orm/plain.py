"""Plain queries: those that can tell the shape of their SQL without compiling it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .select import Select
from .shapes import Condition, order

P = TypeVar("P", bound="Plain")


class Plain(Select):
    """A select that is plain as long as nothing is done to it but what `shape` tells of."""

    _is_plain = False  # made by the verbs of which `shape` tells
    _selected: tuple[str, ...] | None = None  # of a plain query: the fields, when these are not all
    _conditions: tuple[Condition, ...] = ()  # of a plain query; no expressions of the WHERE as long as nobody asks
    _where_clause: Any = None
    if TYPE_CHECKING:  # what Peewee's stubs leave out
        _limit: Any
        _offset: Any
        _order_by: Any
        _returning: Any

    def _plain_copy(self: P) -> P:
        """Return a copy of a plain query, to be a little different. The lists in it are not changed in place."""
        query: P = object.__new__(type(self))
        query.__dict__ = self.__dict__.copy()
        return query

    def clone(self: P) -> P:
        query: P = super().clone()
        query._is_plain = False
        return query

    @property
    def _hash(self) -> int:
        """What Peewee keeps: it is seldom asked for, and made anew for each query."""
        return int(self._get_hash())  # type: ignore[attr-defined]

    @_hash.setter
    def _hash(self, value: int) -> None:
        pass

    # The WHERE: conditions become expressions as soon as somebody wants these

    @property
    def _where(self) -> Any:
        clause = self._where_clause
        for name, _, value, expression in self._conditions:
            one = getattr(self.model, name) == value if expression is None else expression
            clause = one if clause is None else clause & one
        return clause

    @_where.setter
    def _where(self, clause: Any) -> None:
        self._where_clause = clause
        self._conditions = ()
        self._is_plain = False

    @property
    def selected_columns(self) -> Any:
        """What is selected, which Peewee lets be set."""
        return self._returning

    @selected_columns.setter
    def selected_columns(self, columns: Any) -> None:
        self._returning = columns
        self._is_plain = False

    def _with(self: P, **attributes: Any) -> P:
        query = self._plain_copy() if self._is_plain else self.clone()
        query.__dict__.update(attributes)
        return query

    # Running

    def shape(self) -> tuple[Any, ...]:
        """Return what tells the SQL of a plain query, but for the values in it."""
        return (
            self._selected,
            tuple([(name, operator, value is None) for name, operator, value, _ in self._conditions]),
            tuple([order(self.model, column) for column in self._order_by or ()]),
            self._limit is None,
            self._offset is None,
        )

    def params(self, columns: Mapping[str, Any]) -> list[Any]:
        """Return the parameters of a plain query, in the order of its SQL, as the columns of its model write them."""
        params = [columns[name].encode(value) for name, _, value, _ in self._conditions if value is not None]
        if self._limit is not None:
            params.append(self._limit)
        if self._offset is not None:
            params.append(self._offset)
        return params

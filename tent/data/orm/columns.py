"""Columns that are written together: their values are taken from objects, and treated as their types have it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from .column import Column, Treatment

Treated = Sequence[tuple[int, Column, Treatment]]  # the columns whose values are not the driver's already, by place

_ROOM = 100  # sets of types that are known: each column of a row that may be NULL doubles what there can be


class Columns:
    """Columns of a table, in the order in which a statement has them."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.names = tuple(column.name for column in columns)
        self._values = _getter(self.names)
        self._treated = functools.lru_cache(_ROOM)(self._compute_treated)

    def of(self, instances: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the values that objects have in each column; None where one has none."""
        rows = [instance.__data__ for instance in instances]
        try:
            return list(zip(*map(self._values, rows)))
        except KeyError:
            return [[row.get(name) for row in rows] for name in self.names]

    def treated(self, values: Sequence[Sequence[Any]]) -> Treated:
        """Return what is done to values, which are given by columns: that depends on their types alone."""
        if values and len(values[0]) == 1:  # a set for each value would take longer than all else
            return self._treated(tuple([type(value) for (value,) in values]))
        return self._treated(tuple([frozenset(map(type, some)) for some in values]))

    def _compute_treated(self, kinds: tuple[Any, ...]) -> Treated:
        sets = [frozenset((kind,)) if isinstance(kind, type) else kind for kind in kinds]
        return [
            (place, column, treatment)
            for place, (column, kind) in enumerate(zip(self.columns, sets))
            if not (treatment := column.treatment(kind)).is_nothing
        ]


def _getter(names: tuple[str, ...]) -> Callable[[Any], Sequence[Any]]:
    """Return what takes values by these names from a row, as a sequence. Raises `KeyError`."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda row: [row[name] for name in names]

"""Columns that are written together: their values are taken from objects, and treated as their types have it."""

from __future__ import annotations

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
        self._treated: dict[tuple[Any, ...], Treated] = {}

    def of(self, instances: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the values that objects have in each column; None where one has none."""
        rows = [instance.__data__ for instance in instances]
        try:
            return list(zip(*map(self._values, rows)))
        except KeyError:
            return [[row.get(name) for row in rows] for name in self.names]

    def treated(self, values: Sequence[Sequence[Any]]) -> Treated:
        """Return what is done to values, which are given by columns: that depends on their types alone."""
        is_one = bool(values) and len(values[0]) == 1
        kinds: tuple[Any, ...]
        if is_one:  # a set for each value would take longer than all else
            kinds = tuple([type(value) for (value,) in values])
        else:
            kinds = tuple([frozenset(map(type, some)) for some in values])
        found = self._treated.get(kinds)
        if found is None:
            if len(self._treated) >= _ROOM:
                self._treated.clear()
            found = self._treated[kinds] = [
                (place, column, treatment)
                for place, (column, kind) in enumerate(zip(self.columns, kinds))
                if not (treatment := column.treatment(frozenset((kind,)) if is_one else kind)).is_nothing
            ]
        return found


def _getter(names: tuple[str, ...]) -> Callable[[Any], Sequence[Any]]:
    """Return what takes values by these names from a row, as a sequence. Raises `KeyError`."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda row: [row[name] for name in names]

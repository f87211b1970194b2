"""Columns that are written together: which these are, and the values that objects have in them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from .column import Column, Treatment
from .engine import Engine
from .mapper import Mapper
from .statements import Insert, Update

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


class InsertedColumns(Columns):
    """The columns that an INSERT gives values to, and what the database makes of the others."""

    def __init__(self, database: Engine, mapper: Mapper, names: Sequence[str]) -> None:
        super().__init__([mapper.by_name[name] for name in names])
        self.made = [name for name in mapper.optional if name not in names]
        self.keys = keys_beside(mapper, self.made)
        # Without values a statement takes one row; and of several, nothing would tell whose a key is that came back.
        self.is_single = not names or any(n in mapper.key_names and n != mapper.generated for n in self.made)
        returned = [mapper.by_name[name].sql for name in self.keys + self.made]
        self.silent = Insert(mapper.table, self.columns, [], database.default_values)
        made_key = mapper.by_name[mapper.generated] if mapper.generated in self.made else None
        self.telling = Insert(mapper.table, self.columns, returned, database.default_values, made_key)


class UpdatedColumns(Columns):
    """The columns that an UPDATE gives values to."""

    def __init__(self, mapper: Mapper, names: Sequence[str]) -> None:
        super().__init__([mapper.by_name[name] for name in names])
        self.update = Update(mapper.table, self.columns, found_by(mapper))


def shapes_of(mapper: Mapper, instances: Sequence[Any]) -> dict[tuple[str, ...], list[Any]]:
    """Return new objects by the columns to write: all, except where the database makes the value."""
    if not mapper.optional:
        return {mapper.names: list(instances)}
    if mapper.optional == [mapper.generated]:
        given = [instance for instance in instances if instance.__data__.get(mapper.generated) is not None]
        if not given:
            return {mapper.names_but_generated: list(instances)}
    groups: dict[tuple[bool, ...], list[Any]] = {}
    for instance in instances:
        data = instance.__data__
        left_out = tuple(
            data.get(name) is None if name == mapper.generated else name not in data for name in mapper.optional
        )
        groups.setdefault(left_out, []).append(instance)
    shapes = {}
    for left_out, group in groups.items():
        absent = {name for name, out in zip(mapper.optional, left_out) if out}
        shapes[tuple(name for name in mapper.names if name not in absent)] = group
    # Given keys go first: the database would make one of them for another row, as they are still free.
    return dict(sorted(shapes.items(), key=lambda shape: mapper.generated not in shape[0]))


def keys_beside(mapper: Mapper, made: Sequence[str]) -> list[str]:
    """Return the columns of the key that tell the rows apart of which a statement returns what the database made."""
    return [name for name in mapper.key_names if name not in made] if made else []


def found_by(mapper: Mapper) -> list[Column]:
    """Return the columns by which a row is found that is to be written: a version must be the one that was known."""
    return [*mapper.key_columns, mapper.by_name[mapper.version]] if mapper.version else mapper.key_columns


def _getter(names: tuple[str, ...]) -> Callable[[Any], Sequence[Any]]:
    """Return what takes values by these names from a row, as a sequence. Raises `KeyError`."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda row: [row[name] for name in names]

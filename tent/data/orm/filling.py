"""What a flush puts into objects: keys, versions, and what the database has made of their rows."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from .cursor import BufferedCursor
from .engine import Engine
from .errors import FlushError
from .mapper import Mapper
from .tracking import MISSING, put


class Fill:
    """What a flush has put into a column of objects, and what they had before."""

    __slots__ = ("instances", "name", "new", "old")

    def __init__(self, instances: Sequence[Any], name: str, values: Sequence[Any]) -> None:
        self.instances = instances
        self.name = name
        self.old = [instance.__data__.get(name, MISSING) for instance in instances]
        self.new = values

    def undo(self) -> None:
        """Give the objects back what they had."""
        for instance, old in zip(self.instances, self.old):
            put(instance.__data__, self.name, old)


class Filling:
    """What is filled into the objects of one flush, and listed in `filled`, so that it can be taken back."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.filled: list[Fill] = []  # each of one table's objects, which are all new or all not

    def fill(self, instances: Sequence[Any], name: str, values: Sequence[Any]) -> None:
        """Put values that the flush has made into a column of objects."""
        self.filled.append(Fill(instances, name, values))
        for instance, value in zip(instances, values):
            instance.__data__[name] = value

    def undo(self) -> None:
        """Take back what was filled into objects."""
        for fill in reversed(self.filled):
            fill.undo()
        self.filled.clear()

    # What the database has made of new rows

    def read_back(
        self, mapper: Mapper, instances: Sequence[Any], returned: Sequence[str], cursor: BufferedCursor
    ) -> None:
        """Fill what the database made into the objects of inserted rows, where INSERT returns nothing.

        The generated keys of a statement follow each other: it is a "simple insert" of MySQL's, for which all numbers
        are taken at once, whatever innodb_autoinc_lock_mode says (https://dev.mysql.com/doc/refman/8.4/en/
        innodb-auto-increment-handling.html). LAST_INSERT_ID() is the first of them.
        """
        if mapper.generated is not None and mapper.generated in returned:
            _check_inserted(mapper, instances, cursor.rowcount)
            if not cursor.lastrowid:
                raise FlushError(
                    f"The keys of new rows in {mapper.table} come from no AUTO_INCREMENT, and {self.database.kind} "
                    "doesn't say what they are. Give the objects keys."
                )
            step = self.database.auto_increment
            keys = [cursor.lastrowid + n * step for n in range(len(instances))]
            self.fill(instances, mapper.generated, mapper.by_name[mapper.generated].read(keys))
        made = [name for name in returned if name != mapper.generated]
        for instance in instances if made else ():
            self.read(mapper, instance, made)

    def read(self, mapper: Mapper, instance: Any, names: Sequence[str]) -> None:
        """Fill what the database has made of an object's columns into it, by a query for its row."""
        key = None if set(names) & set(mapper.key_names) else mapper.key_given(instance.__data__)
        if key is None:
            raise FlushError(
                f"{instance!r} gets its key from an expression, and {self.database.kind} doesn't say what it has "
                "become. Compute it first: session.scalar(…)."
            )
        sql = f"SELECT {sql_of(mapper, names)} FROM {mapper.table} WHERE {mapper.where_key}"
        rows = self.database.fetch(sql, mapper.key_params(key)).rows
        if not rows:
            raise _lost(mapper, instance)
        for name, value in zip(names, rows[0]):
            self.fill([instance], name, [mapper.by_name[name].decoded(value)])

    def take(
        self, mapper: Mapper, instances: Sequence[Any], keys: list[str], returned: list[str], cursor: BufferedCursor
    ) -> None:
        """Fill what the database made into the objects of inserted rows."""
        rows = cursor.rows
        _check_inserted(mapper, instances, len(rows))
        # SQL promises no order of what RETURNING gives. Generated keys tell it; given ones are looked up.
        if mapper.generated is not None and mapper.generated in returned:
            rows = rows if cursor.is_in_order else self._in_order(mapper, rows, returned.index(mapper.generated))
        elif len(rows) > 1:
            parts = [mapper.by_name[name].decoded for name in keys]
            by_key = {mapper.identity(tuple(part(value) for part, value in zip(parts, row))): row for row in rows}
            rows = [by_key.get(mapper.identity(tuple(i.__data__[name] for name in keys))) for i in instances]
            if None in rows:
                raise _lost(mapper, instances[rows.index(None)])
        for place, name in enumerate(returned, len(keys)):
            values = [row[place] for row in rows]
            self.fill(instances, name, list(map(mapper.by_name[name].decoded, values)))

    def _in_order(self, mapper: Mapper, rows: Sequence[Any], place: int) -> Sequence[Any]:
        """Return what came back of several new rows in the order of these, in which generated keys grow."""
        if self.database.last_key is not None:
            rows = sorted(rows, key=operator.itemgetter(place))
            if rows[-1][place] - rows[0][place] >= len(rows):
                self._refuse_random_keys(mapper, self.database.last_key)
            return rows
        # A default of the table's own, or a trigger, may make keys that don't grow: sorted, they would be mixed up.
        keys = [row[place] for row in rows]
        if not all(map(operator.lt, keys, keys[1:])):
            raise FlushError(
                f"The keys that the database made for {len(rows)} new rows in {mapper.table} don't grow from one to "
                "the next, so nothing tells which is whose. Give the objects keys, or let those of the table grow."
            )
        return rows

    def _refuse_random_keys(self, mapper: Mapper, last: int) -> None:
        """Refuse rows whose keys may not be in their order, because one of the table has the last key that there is."""
        key = mapper.by_name[mapper.generated or ""].sql
        if self.database.fetch(f"SELECT 1 FROM {mapper.table} WHERE {key} = {last}", ()).rows:
            raise FlushError(
                f"A row in {mapper.table} has the highest key that there can be, {last}, so {self.database.kind} picks "
                "random ones for new rows, and doesn't say which is whose. Give the objects keys, or that row another."
            )


def sql_of(mapper: Mapper, names: Sequence[str]) -> str:
    """Return the SQL of a list of columns."""
    return ", ".join(mapper.by_name[name].sql for name in names)


def _check_inserted(mapper: Mapper, instances: Sequence[Any], count: int) -> None:
    """Refuse what a table has ignored (ON CONFLICT IGNORE, a trigger): its object would have no row."""
    if count != len(instances):
        raise FlushError(f"{len(instances)} rows were to be inserted into {mapper.table}, which took {count}.")


def _lost(mapper: Mapper, instance: Any) -> FlushError:
    """Return the error that a row would not be found by the key that its object has."""
    return FlushError(
        f"{mapper.table} keeps other keys than it is given, by a trigger perhaps: there is no row with that of "
        f"{instance!r}. Give the objects keys as the table keeps them."
    )

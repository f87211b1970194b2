"""Statements that write many rows: their SQL in the shapes that engines take them in, compiled once for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Marked(Protocol):
    """A column: its name in SQL, with the type of its values, their placeholder, and the type of an array of them."""

    sql: str
    typed: str
    placeholder: str
    array: str | None


class Insert:
    """An INSERT of rows that have values in the same columns, and the names of what it returns of each."""

    def __init__(
        self,
        table: str,
        columns: Sequence[Marked],
        returned: Sequence[str],
        default_values: str,
        made_key: Marked | None = None,
    ) -> None:
        self.table, self.columns = table, columns
        self.made_key = made_key  # that the database makes, and the statement returns
        self._row = f"({_marks(columns)})"
        self._into = f"INSERT INTO {table} ({_names(columns)})" if columns else f"INSERT INTO {table} {default_values}"
        self.returns = bool(returned)
        self._returning = f" RETURNING {', '.join(returned)}" if returned else ""
        self.kept: dict[int, str] = {}  # by the number of rows
        self._of_arrays: dict[Sequence[str], str] = {}

    def of_rows(self, count: int, is_often: bool) -> str:
        """Return the INSERT … VALUES of a number of rows, which is kept if it is wanted often."""
        sql = self.kept.get(count)
        if sql is None:
            values = f" VALUES {', '.join([self._row] * count)}" if self.columns else ""
            sql = f"{self._into}{values}{self._returning}"
            if is_often:
                self.kept[count] = sql
        return sql

    def of_arrays(self, types: Sequence[str]) -> str:
        """Return the INSERT … SELECT of any number of rows, in their order, from an array of values for each column."""
        if types not in self._of_arrays:
            values = f"SELECT {_places(self.columns)} FROM {_unnested(types)} ORDER BY n"
            self._of_arrays[types] = f"{self._into} {values}{self._returning}"
        return self._of_arrays[types]


class Update:
    """An UPDATE of rows that are found by keys, each with values of its own."""

    def __init__(self, table: str, columns: Sequence[Marked], keys: Sequence[Marked]) -> None:
        self.columns, self.table, self._count = [*columns, *keys], table, len(columns)
        self._of_arrays: dict[Sequence[str], str] = {}
        self.sql = f"UPDATE {table} SET {_equal(columns, ', ')} WHERE {_equal(keys, ' AND ')}"

    def of_joined_rows(self, count: int, row: str) -> str:
        """Return the UPDATE of a number of rows by a table of their values: MySQL's, whose rows begin with `row`."""
        # The SELECT gives the types. Of literals alone, MariaDB would make one that cuts long ones short. Keys have the
        # type of their column, so that its index is used.
        types = [column.typed for column in self.columns[: self._count]] + [c.sql for c in self.columns[self._count :]]
        typed = ", ".join(f"{sql} AS c{n}" for n, sql in enumerate(types))
        rows = ", ".join([f"{row}({_marks(self.columns)})"] * count)
        same = self._same(f"{self.table}.")
        values = f"SELECT {typed} FROM {self.table} WHERE FALSE UNION ALL VALUES {rows}"
        return (
            f"UPDATE {self.table} JOIN ({values}) AS v ON {' AND '.join(same[self._count :])} "
            f"SET {', '.join(same[: self._count])}"
        )

    def of_arrays(self, types: Sequence[str]) -> str:
        """Return the UPDATE of any number of rows, from an array of values for each column: PostgreSQL's."""
        if types not in self._of_arrays:
            found = self._same(f"{self.table}.")[self._count :]
            self._of_arrays[types] = (
                f"UPDATE {self.table} SET {', '.join(self._same('')[: self._count])} FROM {_unnested(types)} "
                f"WHERE {' AND '.join(found)}"
            )
        return self._of_arrays[types]

    def _same(self, prefix: str) -> list[str]:
        return [f"{prefix}{column.sql} = v.c{n}" for n, column in enumerate(self.columns)]


class Delete:
    """A DELETE of rows that are found by values in some columns."""

    def __init__(self, table: str, columns: Sequence[Marked]) -> None:
        self._table, self._columns = table, columns
        self.sql = f"DELETE FROM {table} WHERE {_equal(columns, ' AND ')}"

    def of_rows(self, count: int) -> str:
        """Return the DELETE of a number of rows."""
        return self.sql if count == 1 else f"DELETE FROM {self._table} WHERE {found_among(self._columns, count)}"


def found_among(columns: Sequence[Marked], count: int) -> str:
    """Return the condition that a row has one of `count` keys of these columns, whose parameters follow each other."""
    if len(columns) == 1:
        return f"{columns[0].sql} IN ({', '.join([columns[0].placeholder] * count)})"
    return " OR ".join([f"({_equal(columns, ' AND ')})"] * count)


def halves(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the two halves of a sequence."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def singles(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the items of a sequence, each in one of its own."""
    return [[item] for item in items]


def are_arrays(columns: Sequence[Marked], values: Sequence[Sequence[Any]]) -> bool:
    """Tell whether the values of columns can go as arrays, each of which has values of one type, and NULLs."""
    return all(column.array for column in columns) and all(
        len(set(map(type, some)) - {type(None)}) < 2 for some in values
    )


def _names(columns: Sequence[Marked]) -> str:
    return ", ".join(column.sql for column in columns)


def _marks(columns: Sequence[Marked]) -> str:
    return ", ".join(column.placeholder for column in columns)


def _places(columns: Sequence[Marked]) -> str:
    return ", ".join(f"v.c{n}" for n in range(len(columns)))


def _equal(columns: Sequence[Marked], glue: str) -> str:
    return glue.join(f"{column.sql} = {column.placeholder}" for column in columns)


def _unnested(types: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{kind}" for kind in types)
    return f"unnest({arrays}) WITH ORDINALITY AS v({', '.join(f'c{n}' for n in range(len(types)))}, n)"

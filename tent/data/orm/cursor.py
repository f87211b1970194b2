"""The rows of a statement, when its connection is free again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee


def close_quietly(cursor: Any) -> None:
    """Close a cursor, whose connection may be closed: each driver has an error of its own for that."""
    with contextlib.suppress(Exception):
        cursor.close()


class BufferedCursor:
    """The rows of a statement, all fetched, so that its connection is free again; what Peewee's wrappers expect."""

    __slots__ = ("_position", "description", "is_in_order", "lastrowid", "load", "rowcount", "rows")

    load: Callable[[Any, BufferedCursor], Any] | None

    def __init__(self, rows: Sequence[Any], description: Any, rowcount: int = -1, lastrowid: Any = None) -> None:
        self.rows = rows
        self.description = description
        self.rowcount = rowcount
        self.lastrowid = lastrowid
        self.load = None
        self.is_in_order = False  # as the rows of parameters that each came of
        self._position = 0

    @classmethod
    def drain(cls, cursor: Any, describe: Callable[[Any], Any]) -> BufferedCursor:
        """Take all rows of a driver's cursor, which are described by a function of the engine's, and close it."""
        try:
            description = describe(cursor)
            rows = cursor.fetchall() if description else []
            drained = cls(rows, description, cursor.rowcount, getattr(cursor, "lastrowid", None))
            cursor.close()
            return drained
        except BaseException:
            close_quietly(cursor)
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                raise

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def fetchone(self) -> Any:
        self._position += 1
        return self.rows[self._position - 1] if self._position <= len(self.rows) else None

    def fetchall(self) -> Sequence[Any]:
        rest, self._position = self.rows[self._position :], len(self.rows)
        return rest

    def fetchmany(self, size: int = 1) -> Sequence[Any]:
        start, self._position = self._position, min(self._position + size, len(self.rows))
        return self.rows[start : self._position]

    def close(self) -> None:
        """A buffered cursor holds nothing open."""

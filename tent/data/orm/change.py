"""Change sets: the difference to write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .mapper import Mapper
from .tracking import committed_value


class Change:
    """The change set of an object: which columns to write, and the key to find its row by.

    `verb` is "insert", "update", "delete", or "link": an update that completes what was written of the row
    before, and counts no version. `row` is the object that knows what the row has; it is another one than `instance`
    when a new object takes over the row of a deleted one.
    """

    __slots__ = ("instance", "key", "mapper", "names", "row", "verb", "version")

    def __init__(
        self, verb: str, instance: Any, mapper: Mapper, names: tuple[str, ...], key: Any = None, row: Any = None
    ) -> None:
        self.verb = verb
        self.instance = instance
        self.mapper = mapper
        self.names = names
        self.key = key
        self.row = instance if row is None else row
        self.version = committed_value(self.row, mapper.version) if mapper.version else None

    def new(self, names: Iterable[str]) -> tuple[Any, ...]:
        """Return the values that these columns will have, in the types that rows have them in."""
        data, columns = self.instance.__data__, self.mapper.by_name
        return tuple([columns[name].in_row(data.get(name)) for name in names])

    def old(self, names: Iterable[str]) -> tuple[Any, ...]:
        """Return the values that these columns have in the row."""
        return tuple(committed_value(self.row, name) for name in names)

    def __repr__(self) -> str:
        return f"<Change: {self.verb} {self.instance!r} ({', '.join(self.names)})>"


Groups = dict[tuple[Mapper, tuple[str, ...]], list[Change]]  # changes of the rows of one table, in the same columns


def grouped(changes: Iterable[Change]) -> Groups:
    """Return changes in groups."""
    groups: Groups = {}
    for change in changes:
        groups.setdefault((change.mapper, change.names), []).append(change)
    return groups

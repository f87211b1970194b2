"""The values of rows, a column at a time: what is done for a whole column costs a fraction of a call for each value."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

Row = Sequence[Any]
Values = Sequence[Any]
ReadAll = Callable[[Values], Values]  # one that is tried may raise, for values that want more care, each by itself


def columns_of(rows: Sequence[Row]) -> list[Values]:
    """Return the columns of rows: none, when there are no rows."""
    return list(zip(*rows))


def dicts(names: Sequence[str], columns: Sequence[Values]) -> list[dict[str, Any]]:
    """Return a dict for each row, of the values in its columns by their names."""
    # Copying a dict and setting its values is faster than making one; four at a time, faster than one by one.
    blank = dict.fromkeys(names)
    made: list[dict[str, Any]] = [blank.copy() for _ in range(len(columns[0]))]
    rest = len(names) % 4
    for name, values in zip(names[:rest], columns):
        for one, value in zip(made, values):
            one[name] = value
    for start in range(rest, len(names), 4):
        a, b, c, d = names[start : start + 4]
        for one, one[a], one[b], one[c], one[d] in zip(made, *columns[start : start + 4]):  # noqa: B007
            pass
    return made


def reader_of(convert: Callable[[Any], Any]) -> ReadAll:
    """Return what converts all values of a column by a function for one."""
    return lambda values: list(map(convert, values))


def read_decimals(values: Values) -> Values:
    """Return numbers as decimals, as they show. Those that come again, as prices and rates do, are read once."""
    kinds = set(map(type, values))
    if kinds == {decimal.Decimal}:
        return values
    distinct = set(values)
    if len(kinds) > 1 or 0 in distinct or 2 * len(distinct) > len(values):  # 1 is 1.0, and 0.0 is -0.0, but shows apart
        return list(map(decimal.Decimal, map(str, values)))
    read = dict(zip(distinct, map(decimal.Decimal, map(str, distinct))))
    return list(map(read.__getitem__, values))


def read_json_texts(values: Values) -> Values:
    """Return the values of JSON texts. Raises ValueError, or TypeError, unless each is nothing but one value."""
    found = list(map(_scan, values, repeat(0)))  # it ends at a text with no value at its start
    if [end for _, end in found] != list(map(len, values)):
        raise ValueError("one of the texts is no JSON, or has blanks around it")
    return [value for value, _ in found]


def read_present(read: ReadAll, values: Values) -> Values:
    """Return values converted, where NULL stays None."""
    if None not in values:
        return read(values)
    found: Iterable[Any] = iter(read([value for value in values if value is not None]))
    return [None if value is None else next(found) for value in values]  # type: ignore[call-overload]


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

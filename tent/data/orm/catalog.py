"""What PostgreSQL's catalog says of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Arrays and rows can't go in arrays: unnest() would take them apart. The number lets format_type() leave out lengths,
# to which a cast would cut. What counts upwards is an identity, or a default that is nothing but the nextval() of a
# sequence, if that one does.
SQL = r"""
SELECT a.attname,
    CASE WHEN t.typcategory NOT IN ('A', 'C') THEN format_type(t.oid, -1) || '[]' END,
    COALESCE(s.seqincrement > 0 AND NOT s.seqcycle, false)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_sequence s ON s.seqrelid = to_regclass(CASE
    WHEN a.attidentity <> '' THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)
    ELSE substring(pg_get_expr(d.adbin, d.adrelid) FROM '^nextval\(''([^'']*)''::regclass\)$') END)
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class Described:
    """What is known of a table, from the rows that the SQL above gives of it."""

    def __init__(self, rows: Iterable[Any]) -> None:
        found = list(rows)
        self.arrays: dict[str, str | None] = {name: array and array.replace("%", "%%") for name, array, _ in found}
        self.growing = frozenset(name for name, _, grows in found if grows)

"""What PostgreSQL's catalog says of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Counting upwards are identities, and a default that is nothing but the nextval() of a sequence, if that one does.
SQL = r"""
SELECT a.attname, COALESCE(s.seqincrement > 0 AND NOT s.seqcycle, false)
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_sequence s ON s.seqrelid = to_regclass(CASE
    WHEN a.attidentity <> '' THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)
    ELSE substring(pg_get_expr(d.adbin, d.adrelid) FROM '^nextval\(''([^'']*)''::regclass\)$') END)
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class Described:
    """What is known of a table, from the rows that the SQL above gives of it."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.growing = frozenset(name for name, grows in rows if grows)

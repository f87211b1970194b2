"""SQL as text: what a statement does, and its parameters in the notation of an engine's driver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# They are compiled when they are first used: to compile one takes as long as to import a room
_NO_CODE = r"(?s)--[^\n]*|/\*.*?(?:\*/|$)|'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]"
# On servers [ and ] are no quotes, but those of arrays; and PostgreSQL has E'it\'s' and $$it's$$
_NO_SERVER_CODE = (
    r"(?is)--[^\n]*|/\*.*?(?:\*/|$)|\bE'(?:[^'\\]|\\.|'')*'|'[^']*'|\"[^\"]*\"|`[^`]*`|"
    r"(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$"
)
_READS = r"(?i)\s*(select|values|explain|pragma|with|show|describe|desc|table)\b"
_CONTROLS = r"(?i)\s*(begin|start|commit|end|abort|rollback|savepoint|release)\b"
_COMMITS = (
    r"(?i)\s*(alter|analyze|check|flush|grant|lock|optimize|rename|repair|revoke|truncate|unlock|"
    r"(create|drop)(?!\s+(or\s+replace\s+)?temporary))\b"
)
_WRITES = r"(?i)\b(insert|update|delete|replace|merge)\b"
_CHANGES = r"(?i)\b(insert|update|delete|replace|merge|truncate|create|alter|drop|copy|load)\b"
_LOCKS = r"(?i)\bfor\s+(no\s+key\s+)?update\b|\bfor\s+(key\s+)?share\b|\block\s+in\b"
_NAMED = r"(?<![:\w]):([^\W\d]\w*)"  # and no cast, as in '1'::int


def without_strings(sql: str) -> str:
    """Return SQL without its strings, quoted names and comments."""
    return re.sub(_NO_CODE, " ", sql)


def only_reads(code: str) -> bool:
    """Tell whether a statement, without its strings, needs no transaction; one in doubt gets one."""
    first = re.match(_READS, code)
    if first is None or ";" in code.rstrip().rstrip(";"):  # PostgreSQL takes several statements at once
        return False
    return first[1].lower() != "with" or not re.search(_WRITES, re.sub(_LOCKS, " ", code))


def changes_rows(code: str) -> bool:
    """Tell whether a statement, without its strings, is sure to be undone by a rollback: SET and KILL are not."""
    return re.search(_CHANGES, re.sub(_LOCKS, " ", code)) is not None


def locks_rows(code: str) -> bool:
    """Tell whether a statement, without its strings, locks the rows that it reads."""
    return re.search(_LOCKS, code) is not None


def controls_transactions(code: str) -> bool:
    """Tell whether a statement, without its strings, begins or ends a transaction or savepoint."""
    statements = code.split(";") if re.match(_READS, code) else [code]  # what defines a trigger has an END of its own
    return any(re.match(_CONTROLS, statement) for statement in statements)


def commits_by_itself(code: str) -> bool:
    """Tell whether MariaDB and MySQL commit before and after a statement, which has no strings here."""
    return re.match(_COMMITS, code) is not None


def with_marks(sql: str, params: Sequence[Any] | Mapping[str, Any], mark: str) -> str:
    """Return SQL with its parameters as a driver has them that writes `%s`, for which SQL has SQLite's `?` and `:name`.

    What has as many `?` as there are parameters, or names of some of them only, is meant so; other SQL stays as it is,
    but that without parameters a `%` is one.
    """
    if mark != "%s":
        return sql
    code = re.sub(_NO_SERVER_CODE, " ", sql)
    if not params:
        return sql.replace("%", "%%")
    if isinstance(params, Mapping):
        names = set(re.findall(_NAMED, code))
        is_meant = bool(names) and names <= params.keys()
        pattern, marked = _NAMED, r"%(\1)s"
    else:
        is_meant = code.count("?") == len(params)
        pattern, marked = r"\?", "%s"
    if not is_meant or re.search(r"%s|%\(", code):
        return sql
    parts, end = [], 0
    for found in re.finditer(_NO_SERVER_CODE, sql):
        parts += [_marked(sql[end : found.start()], pattern, marked), found[0].replace("%", "%%")]
        end = found.end()
    return "".join([*parts, _marked(sql[end:], pattern, marked)])


def _marked(code: str, pattern: str, mark: str) -> str:
    return re.sub(pattern, mark, code.replace("%", "%%"))

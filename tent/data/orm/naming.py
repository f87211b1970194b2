"""The names of tables, guessed from those of classes, and names cut to what databases take."""

from __future__ import annotations

import hashlib

import peewee
from peewee import make_snake_case  # type: ignore[attr-defined]

from .errors import InvalidRequestError

_IRREGULAR = {"person": "people", "child": "children", "man": "men", "woman": "women", "mouse": "mice", "foot": "feet"}


def table_name(model: type[peewee.Model]) -> str:
    """Return the name of a model's table: its `__tablename__`, else its class name in snake_case and the plural."""
    given = model.__dict__.get("__tablename__")
    if given is None:
        return plural(make_snake_case(model.__name__))
    if not isinstance(given, str) or not given or "\0" in given:
        raise InvalidRequestError(f"{model.__name__}.__tablename__ must be a name, not {given!r}.")
    return given


def plural(noun: str) -> str:
    """Return the English plural of a noun in snake_case: `entity` -> `entities`.

    >>> plural("user"), plural("delivery_failure"), plural("entity"), plural("mail_address")
    ('users', 'delivery_failures', 'entities', 'mail_addresses')
    """
    start, _, last = noun.rpartition("_")
    prefix = f"{start}_" if start else ""
    if last in _IRREGULAR:
        return prefix + _IRREGULAR[last]
    if last.endswith("y") and last[-2:-1] not in ("", *"aeiou"):
        return f"{prefix}{last[:-1]}ies"
    return prefix + last + ("es" if last.endswith(("s", "x", "z", "ch", "sh")) else "s")


def shortened(name: str) -> str:
    """Return a name of at most 63 bytes, which all databases take; one that was cut ends in a hash of it."""
    if len(name.encode()) <= 63:
        return name
    start = name.encode()[:55].decode(errors="ignore")
    return f"{start}_{hashlib.md5(name.encode()).hexdigest()[:7]}"

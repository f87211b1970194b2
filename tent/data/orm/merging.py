"""Merging: the values of an object from elsewhere are copied to the session's own object of its row."""

from __future__ import annotations

from typing import Any

from . import mutable
from .errors import InvalidRequestError, StaleDataError
from .tracking import CLEAN, DELETED, changed_names


def merge(execution: Any, source: Any, load: bool) -> Any:
    """Return the session's own object of the row of `source`, with the values that are set on that one."""
    if source._along:
        raise InvalidRequestError(
            f"merge() copies the columns of {source!r}, and not what was given to it ({source._along[0]!r} …): merge "
            "these objects by themselves, and add them to the one that it returns."
        )
    unit = execution.unit
    mapper = unit.loader.mapper(type(source))
    parts = tuple(source.__data__.get(name) for name in mapper.key_names)
    key = None if None in parts or not parts else mapper.identity(parts)
    if not load:
        return _adopt(unit, mapper, key, source)
    execution.prepare()
    target = None if key is None else execution.get(mapper.model, key)
    values = {name: source.__data__[name] for name in _names_set(source)}
    if target is None:
        target = mapper.model.__new__(mapper.model)
        target.__data__, target.__rel__, target._given = mapper.model._meta.get_default_dict(), {}, set()
        unit.register_new(target)
    elif mapper.version in values and target.__data__.get(mapper.version) != values[mapper.version]:
        raise StaleDataError(
            f"{source!r} can't be merged: it has {mapper.version} {values[mapper.version]}, and its row has "
            f"{target.__data__.get(mapper.version)}.",
            source,
        )
    for name, value in values.items():
        setattr(target, name, mutable.plain(value))
    if target._committed is None:
        unit.register_key(target)
    return target


def _adopt(unit: Any, mapper: Any, key: Any, source: Any) -> Any:
    if key is None or source._committed is None or source._committed is DELETED or changed_names(source):
        raise InvalidRequestError(
            f"merge(load=False) takes an object that has a row and no unsaved changes, and {source!r} is none."
        )
    values = {name: mutable.plain(value) for name, value in source.__data__.items()}
    target = unit.identity_map.find(mapper.model, key)
    if target is None:
        target = mapper.model.__new__(mapper.model)
        target.__data__, target.__rel__, target._committed, target._owner = values, {}, CLEAN, unit.owner
        unit.identity_map.add(mapper.model, key, target)
    else:
        unit.loader.refresh(target, values, mapper)
    target._epoch = -1
    return target


def _names_set(source: Any) -> list[str]:
    """Return the names of the values of an object, except those that a new object was merely given by default."""
    if source._committed is not None or source._given is None:
        return list(source.__data__)
    return [name for name in source.__data__ if name in source._given]

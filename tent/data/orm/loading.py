"""Rows become objects: through the identity map, so that one row is one object whatever query it came by."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peewee

from . import mutable
from .cursor import BufferedCursor
from .engine import Engine
from .errors import explain, shown
from .identity import IdentityMap
from .mapper import Mapper, chunks, mapper_of
from .peers import GROUP, Peers
from .rows import Row
from .statements import found_among
from .tracking import CLEAN, Owner, Reading, is_same_content

_PART = 500  # rows that are worked on at a time: more of them don't stay in the processor's cache


class Loader:
    """Makes a session's objects of rows."""

    def __init__(self, engine: Engine, identity_map: IdentityMap, owner: Owner) -> None:
        self.engine = engine
        self.fetch: Callable[[str, Sequence[Any]], BufferedCursor] = engine.fetch  # a session's transaction has its own
        self.identity_map = identity_map
        self.owner = owner
        self.epoch = 0
        self.reading: Reading | None = None  # what is read now, when it may be undone
        self.moves: dict[Any, int] = {}

    def note_moves(self, model: Any) -> None:
        """Note that rows of a model have come, gone or moved: that they refer to others than they did."""
        self.moves[model] = self.moves.get(model, 0) + 1

    def mapper(self, model: Any) -> Mapper:
        return mapper_of(model, self.engine)

    # Whole rows, in the order of the model's columns

    def load(self, mapper: Mapper, rows: Sequence[Row]) -> list[Any]:
        """Return the objects of rows; those that are in the map are refreshed, except what was changed on them."""
        if not mapper.key_names:
            return [self._make_keyless(mapper, dict(zip(mapper.names, row))) for row in rows]
        if len(rows) > GROUP:
            parts = (self.load(mapper, rows[start : start + GROUP]) for start in range(0, len(rows), GROUP))
            return list(itertools.chain.from_iterable(parts))
        objects: list[Any] = []
        references: list[weakref.ref[Any]] = []
        for start in range(0, len(rows), _PART):
            self._load(mapper, rows[start : start + _PART] if len(rows) > _PART else rows, objects, references)
        if len(objects) > 1:
            peers = Peers(references)
            for instance in objects:
                instance._peers = peers
        elif objects and objects[0]._peers is not None:
            objects[0]._peers.forget(objects[0])
        if self.identity_map.is_indexed(mapper.model):
            for instance in objects:
                self.identity_map.note(instance)
        return objects

    def _load(self, mapper: Mapper, rows: Sequence[Row], objects: list[Any], references: list[Any]) -> None:
        """Add the objects of rows, and the references to them: without a call for each, as there may be a million."""
        model, owner, epoch, reading = mapper.model, self.owner, self.epoch, self.reading
        known, reference, new = self.identity_map.rows(model), weakref.ref, model.__new__
        for key, data in zip(*mapper.read(rows)):
            found = known.get(key)
            if found is not None and (instance := found()) is not None:
                self.refresh(instance, data, mapper)
            else:
                instance = new(model)
                instance.__data__ = data
                instance._owner = owner
                instance._committed = CLEAN
                instance._epoch = epoch
                if reading is not None:
                    instance._reading = reading
                known[key] = found = reference(instance)
            objects.append(instance)
            references.append(found)

    def _make_keyless(self, mapper: Mapper, data: dict[str, Any]) -> Any:
        """Return an object of a row without a key: it can't be told from others, and is detached."""
        instance = self._make(mapper.model, {name: mapper.by_name[name].decoded(data[name]) for name in mapper.names})
        instance._owner = None
        return instance

    def _make(self, model: Any, data: dict[str, Any]) -> Any:
        instance = model.__new__(model)
        instance.__data__ = data
        instance._owner = self.owner
        instance._committed = CLEAN
        instance._epoch = self.epoch
        if self.reading is not None:
            instance._reading = self.reading
        return instance

    def refresh(self, instance: Any, data: dict[str, Any], mapper: Mapper) -> None:
        """Give an object the values of its row, except where it has unsaved changes."""
        current, committed = instance.__data__, instance._committed
        related = instance.__rel__ if mapper.foreign_keys else {}
        instance._epoch = self.epoch
        if instance._reading is not self.reading:
            instance._reading = self.reading
        if related:
            self._forget_strangers(related, committed)
        if committed or current != data:
            self._compare(instance, data, mapper)
        elif not (mapper.shows_apart or (mapper.zoned and _have_zone(data, mapper.zoned))):
            return  # else values that are equal may be others all the same
        for name in mapper.mutable:
            if name in data and _stays(current.get(name), data[name]):
                del data[name]
        current.update(data)

    def _compare(self, instance: Any, data: dict[str, Any], mapper: Mapper) -> None:
        """See what is another in a row: take out what has unsaved changes, forget what it refers to no more."""
        current, committed = instance.__data__, instance._committed
        related = instance.__rel__ if mapper.foreign_keys else {}
        for name in committed or ():
            if name in data:
                committed[name] = data.pop(name)
        if committed and mapper.version is not None:
            data.pop(mapper.version, None)  # else the flush would not notice that the row was changed meanwhile
        for name in [name for name in related if name in data and data[name] != current.get(name)]:
            del related[name]
        if any(f.name in data and data[f.name] != current.get(f.name) for f in mapper.foreign_keys):
            self.note_moves(mapper.model)

    def _forget_strangers(self, related: dict[str, Any], committed: Mapping[str, Any]) -> None:
        """Forget related objects that the session has let go of, unless the program has set them."""
        for name, other in list(related.items()):
            if other is not None and other._owner is not self.owner and name not in committed:
                del related[name]

    def by_key(self, mapper: Mapper, key: Any, for_update: bool = False) -> Any:
        """Return the object of the row with a key, read now, or None."""
        params = mapper.key_params(key)
        sql = mapper.lock_by_key if for_update else mapper.select_by_key
        objects = self._read(mapper, sql, params, lambda: f" with the key {shown(key)}")
        return objects[0] if objects else None

    def by_keys(self, mapper: Mapper, keys: Sequence[Any]) -> list[Any]:
        """Return the objects of the rows with these keys, read now in a few statements."""
        objects = []
        for part in chunks(self.engine, keys, len(mapper.key_columns), most=GROUP):
            params = [param for key in part for param in mapper.key_params(key)]
            sql = f"{mapper.select} WHERE {found_among(mapper.key_columns, len(part))}"
            objects += self._read(mapper, sql, params, lambda: " by their keys")
        return objects

    def by_column(self, mapper: Mapper, name: str, values: Sequence[Any]) -> list[Any]:
        """Return the objects of the rows that have one of these values in a column, read now in a few statements."""
        objects, column = [], mapper.by_name[name]
        for part in chunks(self.engine, values, 1, most=GROUP):
            sql = f"{mapper.select} WHERE {found_among([column], len(part))}"
            objects += self._read(mapper, sql, list(map(column.encoded_one, part)), lambda: f" by {name}")
        return objects

    def _read(self, mapper: Mapper, sql: str, params: Sequence[Any], how: Callable[[], str]) -> list[Any]:
        try:
            rows = self.fetch(sql, params).rows
        except peewee.PeeweeException as error:
            raise explain(error, f"reading {mapper.model.__name__}{how()}") from error.__cause__
        return self.load(mapper, rows)

    # Some columns of a row

    def load_partial(self, mapper: Mapper, values: dict[str, Any]) -> Any:
        """Return the object of some of the columns of a row, by name; without its key it is not in the map."""
        if values and all(value is None for value in values.values()):
            return None
        data = {name: mapper.by_name[name].decoded(value) for name, value in values.items()}
        key = mapper.key_of(data)
        instance = None if key is None else self.identity_map.find(mapper.model, key)
        if instance is not None:
            epoch, reading = instance._epoch, instance._reading
            self.refresh(instance, data, mapper)
            self.identity_map.note(instance)
            instance._epoch = epoch  # it was not read as a whole
            if reading is not None and reading.is_undone:
                instance._reading = reading
            return instance
        instance = self._make(mapper.model, data)
        instance._epoch = -1
        if key is None:
            instance._owner = None
        else:
            self.identity_map.add(mapper.model, key, instance)
        return instance


def _stays(old: Any, value: Any) -> bool:
    """Tell whether a dict or list that was handed out stays the object's own: it says what the row says."""
    return mutable.is_tied(old) and is_same_content(old, value)


def _have_zone(data: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Tell whether one of a row's times has a zone."""
    for name in names:  # noqa: SIM110  # any() takes three times as long, and this is done for each row
        if getattr(data.get(name), "tzinfo", None) is not None:
            return True
    return False

"""The identity map: one row, one object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import peewee

from .tracking import committed_value

Index = dict[Any, dict[int, "weakref.ref[Any]"]]  # the objects that refer to something, by its key and their `id`

_ROOM = 1_000


class Rows(dict[Any, "weakref.ref[Any]"]):
    """The references to the objects of a model, by key."""

    __slots__ = ("plain_key", "room")

    def __init__(self) -> None:
        self.room = _ROOM  # for how many there is room, until the dead ones are swept out
        self.plain_key: type | None = None  # the type of which a key needs no conversion, once that is known

    def sweep(self) -> None:
        """Take the dead references out."""
        for key in [key for key, reference in self.items() if reference() is None]:
            del self[key]
        self.room = max(_ROOM, 2 * len(self))


class Indexes(dict[str, Index]):
    """Who refers to what, for each foreign key that was asked for, and how often that was noted since."""

    __slots__ = ("noted",)

    def __init__(self) -> None:
        self.noted = 0


class IdentityMap(Mapping[tuple[type, Any], Any]):
    """The objects of a session by their identity key: `(model, key)`, where a key of several columns is a tuple.

    Objects are held weakly. A dead reference stays until there are as many as living ones, then all are swept out at
    once: adding an object costs no callback.
    """

    def __init__(self) -> None:
        self.models: dict[type, Rows] = {}
        self._indexes: dict[type, Indexes] = {}

    def rows(self, model: type) -> Rows:
        """Return the references to the objects of a model, by key, with room made for more."""
        rows = self.models.get(model)
        if rows is None:
            rows = self.models[model] = Rows()
        elif len(rows) > rows.room:
            rows.sweep()
            self._indexes.pop(model, None)
        return rows

    def find(self, model: type, key: Any) -> Any:
        """Return the object of a key, or None."""
        rows = self.models.get(model)
        reference = None if rows is None else rows.get(key)
        return None if reference is None else reference()

    def add(self, model: type, key: Any, instance: Any) -> None:
        """Enter an object, in the place of any that has its key."""
        self.rows(model)[key] = weakref.ref(instance)
        self.note(instance)

    def discard(self, model: type, key: Any, instance: Any) -> None:
        """Take an object out, unless another one has its key by now."""
        if self.find(model, key) is instance:
            del self.models[model][key]

    def clear(self) -> None:
        """Let go of all objects."""
        self.models.clear()
        self._indexes.clear()

    def objects(self, model: type | None = None) -> Iterator[Any]:
        """Go through the living objects, of a model or of all; they may change meanwhile."""
        for rows in list(self.models.values()) if model is None else [self.models.get(model, Rows())]:
            for reference in list(rows.values()):
                instance = reference()
                if instance is not None:
                    yield instance

    def has(self, model: type) -> bool:
        """Return whether there may be objects of a model."""
        return bool(self.models.get(model))

    def referring(self, model: type, name: str, values: Iterable[Any]) -> list[Any]:
        """Return objects of a model whose rows have, or had, one of these values in a foreign key.

        Some may be in the map no more. The first time they are looked for among all, later in an index: the cost grows
        with what is found, and with what has been loaded since.
        """
        indexes = self._indexes.setdefault(model, Indexes())
        if name not in indexes:
            indexes[name] = {}
            for instance in self.objects(model):
                _enter(indexes[name], name, instance)
        found = {}
        for value in values:
            for reference in list(indexes[name].get(value, {}).values()):
                instance = reference()
                if instance is not None and committed_value(instance, name) == value:
                    found[id(instance)] = instance
        return list(found.values())

    def is_indexed(self, model: type) -> bool:
        """Return whether `note` has to be told of new objects of a model, and of those that refer to others now."""
        return model in self._indexes

    def note(self, instance: Any) -> None:
        """Note what the row of an object refers to."""
        model = type(instance)
        indexes = self._indexes.get(model)
        if indexes is None:
            return
        for name, index in indexes.items():
            _enter(index, name, instance)
        indexes.noted += 1
        if indexes.noted > max(_ROOM, 2 * len(self.models.get(model, ()))):
            del self._indexes[model]  # what objects once referred to would be in it for ever

    def __getitem__(self, identity: tuple[type, Any]) -> Any:
        instance = self.find(*identity)
        if instance is None:
            raise KeyError(identity)
        return instance

    def __iter__(self) -> Iterator[tuple[type, Any]]:
        for model, rows in list(self.models.items()):
            for key, reference in list(rows.items()):
                if reference() is not None:
                    yield model, key

    def __len__(self) -> int:
        return sum(1 for _ in self.objects())

    def __contains__(self, identity: object) -> bool:
        return isinstance(identity, tuple) and len(identity) == 2 and self.find(*identity) is not None

    def __repr__(self) -> str:
        models = {
            model.__name__: len(rows) for model, rows in self.models.items() if isinstance(model, peewee.ModelBase)
        }
        return f"<IdentityMap {models}>"


def _enter(index: Index, name: str, instance: Any) -> None:
    value = committed_value(instance, name)
    if value is not None:
        index.setdefault(value, {})[id(instance)] = weakref.ref(instance)

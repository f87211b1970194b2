"""What the flushes of a transaction did to the objects, and how to take it back.

Each step can be undone in two ways. In a rollback, objects get their former values back. When the database has lost
what was flushed (a commit failed), the changes are kept on the objects, as changes that the next flush writes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peewee

from .filling import Fill
from .mapper import Mapper
from .mutable import plain
from .tracking import CLEAN, DELETED, IMMUTABLE, MISSING, Reading, is_same, known, put, session_of

Keeps = Callable[[Any], bool]


class Step:
    """What a flush did to some objects of one model."""

    inserted = False
    is_write = False  # that a close which undoes it has to warn of, as no object tells of it

    def __init__(self, mapper: Any, instances: Sequence[Any]) -> None:
        self.mapper = mapper
        self.instances = instances

    def undo(self, unit: Any, keeps: Keeps) -> None:
        """Take it back; `keeps` tells of which objects the changes stay on them, yet to be flushed."""
        raise NotImplementedError


class Scope:
    """An open transaction or savepoint: how the database knows it, and what was flushed in it."""

    __slots__ = ("context", "is_block", "is_flush", "log")

    def __init__(self, context: Any, is_flush: bool = False, is_block: bool = False) -> None:
        self.context = context
        self.is_flush = is_flush
        self.is_block = is_block  # of engine.atomic(), which has begun since, and is not the session's to end
        self.log: list[Step] = []


class Inserted(Step):
    """Objects got a row, and keys and other values were filled into them."""

    inserted = True

    def __init__(self, mapper: Mapper, instances: Sequence[Any], filled: Sequence[Fill]) -> None:
        super().__init__(mapper, instances)
        self.given = [instance._given for instance in instances]
        self.along = {id(instance): instance._along for instance in instances if instance._along}
        self.keys: Sequence[Any] = ()
        self.gone: set[int] = set()  # those that had been deleted in the transaction before
        self.filled = filled

    def undo(self, unit: Any, keeps: Keeps) -> None:
        undone = set()
        for instance, given, key in zip(self.instances, self.given, self.keys):
            unit.identity_map.discard(self.mapper.model, key, instance)
            if instance._owner is unit.owner or (session_of(instance) is None and instance._committed is not None):
                self._renew(unit, instance, given)
                undone.add(id(instance))
        for fill in reversed(self.filled):
            for instance, old, new in zip(fill.instances, fill.old, fill.new):
                if id(instance) in undone and instance.__data__.get(fill.name) == new:
                    put(instance.__data__, fill.name, old)

    def _renew(self, unit: Any, instance: Any, given: Any) -> None:
        """Let an object be new again; one that was expunged meanwhile has no row either."""
        was_deleted = id(instance) in unit.deleted
        for books in (unit.dirty, unit.deleted, unit.gone):
            books.pop(id(instance), None)
        instance._committed, instance._given = None, given
        instance._along = self.along.get(id(instance))
        if was_deleted and id(instance) in self.gone:
            instance._committed, instance._given = DELETED, None  # inserted and deleted, it is as it was before that
            unit.gone[id(instance)] = instance
        elif was_deleted:
            instance._owner = None  # inserted and deleted, it comes to nothing
        elif instance._owner is unit.owner:
            unit.new[id(instance)] = instance
            if id(instance) in self.gone:
                unit.gone[id(instance)] = instance


class Updated(Step):
    """The rows of objects got their values. `formers` have those that they had before, of what changed."""

    def __init__(self, mapper: Mapper, instances: Sequence[Any], formers: Sequence[dict[str, Any]]) -> None:
        super().__init__(mapper, instances)
        self.formers = formers
        self.moved: dict[int, tuple[Any, Any]] = {}  # keys, before and after, by the place of the object
        if not set(mapper.key_names).isdisjoint(set().union(*formers)):
            for place, (instance, former) in enumerate(zip(instances, formers)):
                if not former.keys().isdisjoint(mapper.key_names):
                    data = instance.__data__
                    old = mapper.identity(tuple(known(former.get(name, data.get(name))) for name in mapper.key_names))
                    self.moved[place] = old, mapper.identity(mapper.key_of(data))

    def undo(self, unit: Any, keeps: Keeps) -> None:
        for place in reversed(range(len(self.instances))):
            instance, former = self.instances[place], self.formers[place]
            if instance._owner is not unit.owner:
                continue  # it was expunged meanwhile
            if place in self.moved:
                unit.rekey(self.mapper, instance, *reversed(self.moved[place]))
            if keeps(instance):
                instance._committed = {**instance._committed, **former}
                unit.dirty[id(instance)] = instance
            else:
                restore(instance, former)
            unit.identity_map.note(instance)


class Deleted(Step):
    """The rows of objects were deleted."""

    def __init__(self, mapper: Mapper, instances: Sequence[Any], keys: Sequence[Any]) -> None:
        super().__init__(mapper, instances)
        self.keys = keys
        self.contents = [_contents(instance, mapper.mutable) for instance in instances]

    def undo(self, unit: Any, keeps: Keeps) -> None:
        for instance, key, contents in reversed(list(zip(self.instances, self.keys, self.contents))):
            if instance._owner is unit.owner:
                self._restore(unit, instance, key, contents, keeps(instance))

    def _restore(self, unit: Any, instance: Any, key: Any, contents: Any, keep: bool) -> None:
        data, related, committed = contents
        added_again = unit.new.pop(id(instance), None) is not None
        unit.gone.pop(id(instance), None)
        instance._committed, instance._given = committed, None
        unit.identity_map.add(self.mapper.model, key, instance)
        if keep and added_again:
            # Deleted and inserted again, it comes to a change of its row.
            now = instance.__data__
            changed = {n: old for n, old in data.items() if not is_same(old, now.get(n, MISSING))}
            instance._committed = {**changed, **(committed or {})} or CLEAN
        else:
            instance.__data__.clear()
            instance.__data__.update(data)
            instance.__rel__.clear()
            instance.__rel__.update(related)
            if keep:
                unit.deleted[id(instance)] = instance
        if instance._committed:
            unit.dirty[id(instance)] = instance
            if not keep:
                unit.revert(instance)


def _contents(instance: Any, mutable: Sequence[str]) -> tuple[dict[str, Any], Mapping[str, Any], Any]:
    """Return the values, related objects and committed values that an object has."""
    data, committed = instance.__data__.copy(), instance._committed
    for name in mutable:
        value = data.get(name)
        # A plain dict or list that came from the row was handed out to nobody: what is handed out is tied.
        if type(value) not in IMMUTABLE and (type(value) not in (dict, list) or name in (committed or ())):
            data[name] = plain(value)
    return data, dict(instance.__rel__) if instance.__rel__ else {}, committed


class Unseen(Step):
    """Rows were written of which the session may have had no objects: what is read of them since is in doubt."""

    def __init__(self, loader: Any) -> None:
        super().__init__(None, [])
        self._loader = loader
        self._former = loader.reading
        self._reading = loader.reading = Reading()

    def undo(self, unit: Any, keeps: Keeps) -> None:
        self._reading.is_undone = True
        self._loader.reading = self._former


class Snapshot:
    """The new, changed and deleted objects of a session as they are before listeners may change them."""

    def __init__(self, unit: Any) -> None:
        self._unit = unit
        self._books = [dict(books) for books in (unit.new, unit.dirty, unit.deleted, unit.pending)]
        self._states = [_State(instance) for instance in {**unit.new, **unit.dirty, **unit.deleted}.values()]
        unit.journal = {}

    def restore(self) -> None:
        """Let all be as it was, what listeners have added, changed or let go of included."""
        unit = self._unit
        new, dirty, *_ = self._books
        moved, unit.journal = list(unit.journal.values()), None
        for instance in [instance for instance, was_in in moved if not was_in and instance._owner is unit.owner]:
            unit.expunge(instance)
        for instance in [instance for number, instance in unit.new.items() if number not in new]:
            unit.cancel_new(instance)
        for instance in [instance for number, instance in unit.dirty.items() if number not in dirty]:
            unit.revert(instance)
        for books, former in zip((unit.new, unit.dirty, unit.deleted, unit.pending), self._books):
            books.clear()
            books.update(former)
        for state in self._states:
            state.restore(unit.owner)
        for instance in [instance for instance, was_in in moved if was_in and id(instance) not in new]:
            self._put_back(instance, is_clean=id(instance) not in dirty)

    def _put_back(self, instance: Any, is_clean: bool) -> None:
        unit = self._unit
        instance._owner = unit.owner
        if is_clean:
            unit.revert(instance)
        mapper, key = unit.identity_of(instance)
        other = unit.identity_map.find(mapper.model, key)
        if other is not None and other is not instance:
            unit.expunge(other)
        unit.identity_map.add(mapper.model, key, instance)


class _State:
    """What an object is."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._data = {name: _copied(value) for name, value in instance.__data__.items()}
        self._related = dict(instance.__rel__)
        committed, given = instance._committed, instance._given
        self._committed = dict(committed) if committed else committed
        self._given = None if given is None else set(given)

    def restore(self, owner: Any) -> None:
        instance, now = self._instance, self._instance.__data__
        kept = {name: now[name] for name, value in self._data.items() if name in now and is_same(value, now[name])}
        now.clear()
        now.update({**self._data, **kept})
        instance.__rel__.clear()
        instance.__rel__.update(self._related)
        instance._committed, instance._given, instance._owner = self._committed, self._given, owner


def _copied(value: Any) -> Any:
    """Return a value that stays as it is when the one that it was copied of is changed in place."""
    return value if type(value) in IMMUTABLE or isinstance(value, peewee.Node) else copy.deepcopy(value)


def take_back(unit: Any, log: Sequence[Step], keep: bool = False) -> None:
    """Undo the steps of a log, the last first; unless `keep`, also what is yet to be flushed.

    Objects that the log inserted are as they were before it, but with the values that they have now.
    """
    fresh = _first_inserted(log)
    if not keep:
        for instance in [instance for number, instance in unit.dirty.items() if number not in fresh]:
            unit.revert(instance)
        unit.deleted.clear()

    def keeps(instance: Any) -> bool:
        return keep or id(instance) in fresh

    for step in reversed(log):
        step.undo(unit, keeps)
    if not keep:
        for number, instance in unit.new.items():
            if number in unit.gone:
                instance._committed = DELETED
            else:
                instance._owner = None
        unit.new.clear()
        unit.pending.clear()


def restore(instance: Any, values: Mapping[str, Any]) -> None:
    """Give an object values that it had; related objects are found again by their keys."""
    for name, value in values.items():
        instance.__rel__.pop(name, None)
        put(instance.__data__, name, value)


def _first_inserted(log: Sequence[Step]) -> set[int]:
    """Return the objects, by `id`, that had no row before the log."""
    first: dict[int, bool] = {}
    for step in log:
        for instance in step.instances:
            first.setdefault(id(instance), step.inserted)
    return {number for number, inserted in first.items() if inserted}

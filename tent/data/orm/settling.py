"""Settling: the objects of a session are made to agree with rows that were written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .cascading import CASCADE, SET_DEFAULT, Fallout, action
from .change import Change
from .history import Deleted, Inserted, Step, Updated
from .mapper import Mapper
from .ordering import Plan
from .peers import Peers
from .persister import Fill, Persister
from .tracking import CLEAN, DELETED
from .unit_of_work import UnitOfWork


class Settlement:
    """Makes the books and the objects of a session agree with what was written.

    How to take it back is put into the log, each step before it is done: an interrupt may come at any moment.
    """

    def __init__(self, unit: UnitOfWork, log: list[Step]) -> None:
        self._unit = unit
        self._log = log

    def flushed(self, plan: Plan, persister: Persister) -> None:
        """Settle what a flush has written."""
        unit = self._unit
        switched = set(map(id, plan.switched))
        for change in plan.switched:
            plan.new.setdefault(change.mapper, []).append(change.instance)
        unit.note_flush(plan)
        filled, former = self._sorted(plan, persister)
        for change in [*plan.deletes, *plan.switched]:
            self.deleted(change.row, change.mapper)
        moved: dict[Any, dict[Any, Any]] = {}
        for change in plan.updates:
            if id(change) not in switched:
                committed = change.instance._committed
                values = former.get(id(change.instance), {})
                values.update((name, committed[name]) for name in change.names if name in committed)
                self.updated(change.instance, change.mapper, values)
                _note_moves(moved, change, values)
        self._follow(moved)
        for mapper, instances in plan.new.items():
            self.inserted(mapper, instances, filled.get(mapper, ()))
        self.fallout(persister.fallout)
        unit.settled()

    def _sorted(self, plan: Plan, persister: Persister) -> tuple[dict[Mapper, list[Fill]], dict[int, dict[str, Any]]]:
        """Return what was filled into new objects, by mapper, and what others had before, by `id`."""
        new = {id(instance) for instances in plan.new.values() for instance in instances}
        filled: dict[Mapper, list[Fill]] = {}
        former: dict[int, dict[str, Any]] = {}
        for instance, name, old in persister.filled:
            if id(instance) in new:
                filled.setdefault(self._unit.loader.mapper(type(instance)), []).append((instance, name, old))
            else:
                former.setdefault(id(instance), {}).setdefault(name, old)
        return filled, former

    def inserted(self, mapper: Mapper, instances: Sequence[Any], filled: Sequence[Fill]) -> None:
        """Note that objects have a row."""
        unit, step = self._unit, Inserted(mapper, instances, filled)
        self._log.append(step)
        for instance in instances:
            data, number = instance.__data__, id(instance)
            if len(data) < len(mapper.names):
                for name in mapper.names:
                    data.setdefault(name)
            _take_copies(data, mapper, mapper.mutable)
            key = mapper.identity(mapper.key_of(data)) if mapper.key_names else None
            if key is not None:
                stale = unit.identity_map.find(mapper.model, key)
                if stale is not None:  # SQLite gives the key of a last row that somebody deleted to the next one
                    unit.expunge(stale)
            step.keys.append(key)
            if key is not None:
                unit.identity_map.add(mapper.model, key, instance)
            instance._committed, instance._given, instance._epoch = CLEAN, None, unit.loader.epoch
            if instance._along is not None:
                instance._along = None
            del unit.new[number]
            if unit.gone.pop(number, None) is not None:
                step.gone.add(number)
        if len(instances) > 1 and mapper.key_names:
            Peers.of(instances)

    def updated(self, instance: Any, mapper: Mapper, former: dict[str, Any]) -> None:
        """Note that the row has an object's values now; `former` has those that it had before, of what changed."""
        unit, step = self._unit, Updated(mapper, instance, former)
        self._log.append(step)
        _take_copies(instance.__data__, mapper, [name for name in mapper.mutable if name in former])
        if step.keys is not None:
            unit.rekey(mapper, instance, *step.keys)
        committed = instance._committed
        instance._committed = {name: value for name, value in committed.items() if name not in former} or CLEAN
        instance._epoch = unit.loader.epoch
        unit.identity_map.note(instance)

    def deleted(self, instance: Any, mapper: Mapper) -> None:
        """Note that the row of an object is deleted."""
        unit, step = self._unit, Deleted(mapper, instance, self._unit.identity_of(instance)[1])
        self._log.append(step)
        unit.loader.note_moves(mapper.model)
        unit.identity_map.discard(mapper.model, step.key, instance)
        for books in (unit.dirty, unit.deleted):
            books.pop(id(instance), None)
        instance._committed = DELETED
        unit.gone[id(instance)] = instance

    # What the database has done by itself

    def _follow(self, moved: Mapping[Any, Mapping[Any, Any]]) -> None:
        """Let objects follow the rows that they refer to, when the key that they do it by has changed."""
        for field, keys in moved.items():
            mapper = self._unit.loader.mapper(field.model)
            self._unit.loader.note_moves(field.model)
            for child in self._unit.referring(field, keys):
                key = child.__data__[field.name]
                if field.name not in child._committed:
                    child.__data__[field.name] = keys[key]
                    self.updated(child, mapper, {field.name: key})

    def fallout(self, fallout: Fallout) -> None:
        """Note what became of the rows that referred to deleted ones."""
        unit = self._unit
        for field, values in fallout.items():
            unit.loader.note_moves(field.model)
            children = unit.referring(field, values)
            if action(field) != CASCADE:
                self._parted(field, children)
                unit.note_doubt()  # a row of which there is no object yet has its key no more
                continue
            for child in children:
                self.deleted(child, unit.loader.mapper(field.model))

    def _parted(self, field: Any, children: Sequence[Any]) -> None:
        """Note that a foreign key has become NULL, or its default, in the rows of objects."""
        unit, mapper, name = self._unit, self._unit.loader.mapper(field.model), field.name
        children = [child for child in children if name not in child._committed]
        former = [child.__data__[name] for child in children]
        if action(field) == SET_DEFAULT:
            unit.loader.by_keys(mapper, [unit.identity_of(child)[1] for child in children])
        else:
            for child in children:
                child.__data__[name] = None
                child.__rel__.pop(name, None)
        for child, key in zip(children, former):
            self.updated(child, mapper, {name: key})


def _take_copies(data: dict[str, Any], mapper: Mapper, names: Iterable[str]) -> None:
    """Part the values that were written from the dicts and lists that the program may go on changing."""
    for name in names:
        if type(data[name]) in (dict, list, tuple):
            data[name] = {} if data[name] == {} else mapper.by_name[name].normal(data[name])


def _note_moves(moved: dict[Any, dict[Any, Any]], change: Change, former: Mapping[str, Any]) -> None:
    """Note the keys, before and after, by which the database lets other rows follow an updated one."""
    for field in change.mapper.model._meta.backrefs:
        name = field.rel_field.name
        if name in former and (field.on_update or "").upper() == "CASCADE":
            moved.setdefault(field, {})[former[name]] = change.instance.__data__[name]

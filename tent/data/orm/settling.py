"""Settling: the objects of a session are made to agree with rows that were written."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .cascading import CASCADE, SET_DEFAULT, Fallout, action, follows
from .change import grouped
from .column import Column
from .filling import Fill
from .history import Deleted, Inserted, Step, Updated
from .mapper import Mapper
from .mutable import is_changeable
from .peers import Peers
from .persister import Persister
from .planning import Plan
from .tracking import CLEAN, DELETED, known
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
        for change in plan.switched:
            plan.new.setdefault(change.mapper, []).append(change.instance)
        unit.note_flush(plan)
        if persister.written:
            _part(persister.written)
        filled, former = self._sorted(persister.filled)
        if plan.deletes or plan.switched:
            for (mapper, _), changes in [*plan.deletes.items(), *grouped(plan.switched).items()]:
                self.deleted(mapper, [change.row for change in changes])
        moved = self._updates(plan, former) if plan.updates else {}
        for mapper, instances in plan.new.items():
            self.inserted(mapper, instances, filled.get(mapper.model, ()))
        if persister.fallout:
            self.fallout(persister.fallout, persister.spared)
        if moved:  # last, as what follows may come to a value that a deleted row had
            self._follow(moved, persister.spared)
        unit.settled()

    def _updates(self, plan: Plan, filled: Mapping[int, dict[str, Any]]) -> dict[Any, dict[Any, Any]]:
        """Note that rows have new values, and return the keys, before and after, that others follow."""
        switched = set(map(id, plan.switched))
        moved: dict[Any, dict[Any, Any]] = {}
        for (mapper, names), changes in plan.updates.items():
            instances = [change.instance for change in changes if id(change) not in switched]
            formers = [_former(instance, names, filled.get(id(instance))) for instance in instances]
            self.updated(mapper, instances, formers)
            _note_moves(moved, mapper, instances, formers)
        for change in plan.switched:
            shared = sorted(change.mapper.referred)
            former = {name: old for name, old, new in zip(shared, change.old(shared), change.new(shared)) if old != new}
            _note_moves(moved, change.mapper, [change.instance], [former])
        return moved

    def _sorted(self, fills: Sequence[Fill]) -> tuple[dict[Any, list[Fill]], dict[int, dict[str, Any]]]:
        """Return what was filled into new objects, by model, and what others had before, by `id`."""
        filled: dict[Any, list[Fill]] = {}
        former: dict[int, dict[str, Any]] = {}
        for fill in fills:
            if fill.instances[0]._committed is None:
                filled.setdefault(type(fill.instances[0]), []).append(fill)
            else:
                for instance, old in zip(fill.instances, fill.old):
                    former.setdefault(id(instance), {}).setdefault(fill.name, old)
        return filled, former

    def inserted(self, mapper: Mapper, instances: Sequence[Any], filled: Sequence[Fill]) -> None:
        """Note that objects have a row."""
        unit, step = self._unit, Inserted(mapper, instances, filled)
        step.gone = unit.gone.keys() & set(map(id, instances)) if unit.gone else set()
        self._log.append(step)
        epoch, known = unit.loader.epoch, unit.identity_map.rows(mapper.model)
        step.keys = _keys(mapper, instances)
        for instance, key in zip(instances, step.keys):
            if key is not None:
                stale = known.get(key)
                if stale is not None and (other := stale()) is not None:
                    unit.expunge(other)  # SQLite gives the key of a last row that somebody deleted to the next one
                known[key] = weakref.ref(instance)
            instance._committed, instance._given, instance._epoch = CLEAN, None, epoch
            if instance._along is not None:
                instance._along = None
            del unit.new[id(instance)]
        for number in step.gone:
            del unit.gone[number]
        for instance in instances if unit.identity_map.is_indexed(mapper.model) else ():
            unit.identity_map.note(instance)
        if mapper.key_names:
            Peers.of(instances)

    def updated(self, mapper: Mapper, instances: Sequence[Any], formers: Sequence[dict[str, Any]]) -> None:
        """Note that rows have the values of their objects now, which had the former ones before, of what changed."""
        unit, step = self._unit, Updated(mapper, instances, formers)
        self._log.append(step)
        for place, keys in step.moved.items():
            unit.rekey(mapper, instances[place], *keys)
        epoch, is_indexed = unit.loader.epoch, unit.identity_map.is_indexed(mapper.model)
        for instance, former in zip(instances, formers):
            committed = instance._committed
            if committed is not former:
                committed = {name: value for name, value in committed.items() if name not in former}
            instance._committed = CLEAN if committed is former else committed or CLEAN
            instance._epoch = epoch
            if instance._committed is CLEAN:
                unit.dirty.pop(id(instance), None)
            if is_indexed:
                unit.identity_map.note(instance)

    def deleted(self, mapper: Mapper, instances: Sequence[Any]) -> None:
        """Note that the rows of objects are deleted."""
        unit = self._unit
        step = Deleted(mapper, instances, unit.keys_of(mapper, instances))
        self._log.append(step)
        unit.loader.note_moves(mapper.model)
        known: dict[Any, Any] = unit.identity_map.models.get(mapper.model, {})
        for instance, key in zip(instances, step.keys):
            number, reference = id(instance), known.get(key)
            if reference is not None and reference() is instance:
                del known[key]
            unit.dirty.pop(number, None)
            unit.deleted.pop(number, None)
            instance._committed = DELETED
            unit.gone[number] = instance

    # What the database has done by itself

    def _follow(self, moved: Mapping[Any, Mapping[Any, Any]], spared: Collection[tuple[int, str]]) -> None:
        """Let objects follow the rows that they refer to, when the key that they do it by has changed."""
        for field, keys in moved.items():
            mapper = self._unit.loader.mapper(field.model)
            self._unit.loader.note_moves(field.model)
            for child in self._unit.referring(field, keys):
                key = child.__data__[field.name]
                if field.name not in child._committed and (id(child), field.name) not in spared:
                    child.__data__[field.name] = keys[key]
                    self.updated(mapper, [child], [{field.name: key}])

    def fallout(self, fallout: Fallout, spared: Collection[tuple[int, str]] = ()) -> None:
        """Note what became of the rows that referred to deleted ones, but for the foreign keys that were spared."""
        unit = self._unit
        for field, values in fallout.items():
            unit.loader.note_moves(field.model)
            children = unit.referring(field, values)
            if spared:
                children = [child for child in children if (id(child), field.name) not in spared]
            if action(field) != CASCADE:
                self._parted(field, children)
                unit.note_doubt()  # a row of which there is no object yet has its key no more
                continue
            self.deleted(unit.loader.mapper(field.model), children)

    def _parted(self, field: Any, children: Sequence[Any]) -> None:
        """Note that a foreign key has become NULL, or its default, in the rows of objects."""
        unit, mapper, name = self._unit, self._unit.loader.mapper(field.model), field.name
        children = [child for child in children if name not in child._committed]
        former = [child.__data__[name] for child in children]
        if action(field) == SET_DEFAULT:
            unit.loader.by_keys(mapper, unit.keys_of(mapper, children))
        else:
            for child in children:
                child.__data__[name] = None
                child.__rel__.pop(name, None)
        self.updated(mapper, children, [{name: key} for key in former])


def _part(written: Iterable[tuple[Column, Sequence[Any], Sequence[Any]]]) -> None:
    """Part the values that were written from those that the program may go on changing.

    A dict or list becomes what its row has; what a user's own field takes (a set, say), a copy of it.
    """
    for column, instances, texts in written:
        name, rows = column.name, [instance.__data__ for instance in instances]
        kinds = [type(data.get(name)) for data in rows]
        changeable = set(filter(is_changeable, set(kinds)))
        containers = {kind for kind in changeable if issubclass(kind, (dict, list, tuple))}
        have = [kind in containers for kind in kinds]
        former = [data[name] for data in itertools.compress(rows, have)]
        values = column.converted_all(former, list(itertools.compress(texts, have)))
        for data, value in zip(itertools.compress(rows, have), values):
            data[name] = value
        others = changeable - containers
        for data in itertools.compress(rows, [kind in others for kind in kinds] if others else ()):
            data[name] = copy.deepcopy(data[name])


def _former(instance: Any, names: Iterable[str], filled: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an object had before a flush, in columns that it wrote, or filled."""
    committed: dict[str, Any] = instance._committed
    if not filled and committed.keys() == set(names):
        return committed
    return {**(filled or {}), **{name: committed[name] for name in names if name in committed}}


def _keys(mapper: Mapper, instances: Sequence[Any]) -> list[Any]:
    """Return the keys of objects, as the identity map has them, and complete what was not set of the other columns."""
    for instance in instances:
        if len(instance.__data__) < len(mapper.names):
            instance.__data__ = {**mapper.blank, **instance.__data__}
    rows = [instance.__data__ for instance in instances]
    if mapper.plain_key is not None:
        keys = [data[mapper.key_names[0]] for data in rows]
        if set(map(type, keys)) == {mapper.plain_key}:
            return keys
    return [mapper.identity(mapper.key_of(data)) if mapper.key_names else None for data in rows]


def _note_moves(
    moved: dict[Any, dict[Any, Any]], mapper: Mapper, instances: Sequence[Any], formers: Sequence[Mapping[str, Any]]
) -> None:
    """Note the keys, before and after, by which the database lets other rows follow updated ones."""
    for field in mapper.model._meta.backrefs:
        if follows(field):
            name = field.rel_field.name
            for instance, former in zip(instances, formers):
                if name in former:
                    moved.setdefault(field, {})[known(former[name])] = instance.__data__[name]

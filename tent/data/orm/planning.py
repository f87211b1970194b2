"""Planning a flush: what it has to write of the changes in a session. The objects are looked at, and not changed."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .change import Change, Groups
from .errors import FlushError
from .mapper import Mapper
from .tracking import changed_names

K = TypeVar("K")


class Plan:
    """What one flush writes: new objects by their tables, and changes in groups.

    A new object with the key of a deleted one takes over its row: it is in `updates`, and in `switched`. When it leaves
    values to the database, which gives them to new rows only, the one row is deleted and the other inserted.
    """

    def __init__(self, new: dict[Mapper, list[Any]], updates: Groups, deletes: Groups) -> None:
        self.new = new
        self.updates = updates
        self.deletes = deletes
        self.switched: list[Change] = []
        if new and deletes:
            self._switch_rows()

    def __bool__(self) -> bool:
        return bool(self.new or self.updates or self.deletes)

    def inserts(self) -> Iterator[Change]:
        """Go through the new objects, as changes."""
        for mapper, instances in self.new.items():
            for instance in instances:
                yield Change("insert", instance, mapper, mapper.names)

    def updated(self) -> Iterator[Change]:
        """Go through the changes of rows."""
        return itertools.chain.from_iterable(self.updates.values())

    def deleted(self) -> Iterator[Change]:
        """Go through the deletions of rows."""
        return itertools.chain.from_iterable(self.deletes.values())

    def operations(self) -> list[Change]:
        """Return all that is to be written."""
        return [*self.inserts(), *self.updated(), *self.deleted()]

    def _switch_rows(self) -> None:
        deleted = {(change.mapper.model, change.key): change for change in self.deleted()}
        gone: set[int] = set()
        for insert in self.inserts():
            mapper = insert.mapper
            data = insert.instance.__data__
            former = deleted.pop((mapper.model, mapper.key_given(data)), None)
            if former is not None and all(name in data for name in mapper.optional):
                given = insert.instance._given or ()
                left = {*mapper.key_names, *({mapper.version} - set(given))}
                names = tuple(name for name in mapper.names if name not in left) or mapper.key_names
                change = Change("update", insert.instance, mapper, names, former.key, row=former.instance)
                self.switched.append(change)
                self.updates.setdefault((mapper, names), []).append(change)
                gone |= {id(former), id(insert.instance)}
        if gone:
            self.deletes = _without(gone, self.deletes)
            self.new = _without(gone, self.new)


def compute_plan(unit: Any) -> Plan:
    """Return what a flush has to write."""
    new: dict[Mapper, list[Any]] = {}
    for model, instances in itertools.groupby(unit.new.values(), type):
        new.setdefault(unit.loader.mapper(model), []).extend(instances)
    updates = _compute_updates(unit) if unit.dirty else {}
    plan = Plan(new, updates, _compute_deletes(unit) if unit.deleted else {})
    if new:
        _refuse_collisions(unit, plan)
    return plan


def _compute_deletes(unit: Any) -> Groups:
    deleted: dict[tuple[Mapper, tuple[str, ...]], list[Any]] = {}
    for model, instances in itertools.groupby(unit.deleted.values(), type):
        deleted.setdefault((unit.loader.mapper(model), ()), []).extend(instances)
    return _changes(unit, "delete", deleted)


def _compute_updates(unit: Any) -> Groups:
    changed: dict[tuple[Mapper, tuple[str, ...]], list[Any]] = {}
    for model, instances in itertools.groupby(unit.dirty.values(), type):
        mapper = unit.loader.mapper(model)
        for instance in instances:
            names = tuple(changed_names(instance))
            if names and id(instance) not in unit.deleted:
                changed.setdefault((mapper, mapper.in_order(names)), []).append(instance)
    groups = _changes(unit, "update", changed)
    for changes in groups.values():
        if len(changes) > 1:
            with contextlib.suppress(TypeError):
                # In the order of their keys, so that two sessions don't lock rows crosswise; where keys of several
                # types have no order, in that of the changes.
                changes.sort(key=operator.attrgetter("key"))
    if len(groups) < 2:
        return groups
    return {key: groups[key] for key in sorted(groups, key=lambda key: (key[0].table, key[1]))}


def _changes(unit: Any, verb: str, groups: Mapping[tuple[Mapper, tuple[str, ...]], Sequence[Any]]) -> Groups:
    return {
        (mapper, names): [
            Change(verb, instance, mapper, names, key)
            for instance, key in zip(instances, unit.keys_of(mapper, instances))
        ]
        for (mapper, names), instances in groups.items()
    }


def _refuse_collisions(unit: Any, plan: Plan) -> None:
    """Refuse a new object whose key another object of the session has: the database would, less clearly."""
    taken = []
    for mapper, instances in plan.new.items():
        for instance in instances:
            if mapper.generated is None or instance.__data__.get(mapper.generated) is not None:
                key = mapper.key_given(instance.__data__)
                known = None if key is None else unit.identity_map.find(mapper.model, key)
                if known is not None:
                    taken.append((instance, known))
    leaving = {id(change.instance) for change in [*plan.updated(), *plan.deleted()]} if taken else set()
    for instance, known in taken:
        if id(known) not in leaving:
            raise FlushError(
                f"{instance!r} is new and has the key of {known!r}, which is in the session and has a row. "
                "Change that one, or use session.merge(obj)."
            )


def _without(gone: set[int], groups: dict[K, list[Any]]) -> dict[K, list[Any]]:
    left = {key: [one for one in some if id(one) not in gone] for key, some in groups.items()}
    return {key: some for key, some in left.items() if some}

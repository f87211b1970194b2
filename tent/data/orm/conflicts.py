"""Unique values that are freed and taken in one flush: who has to be written before whom.

A row can take a unique value only when the row that had it is deleted, or has another by then. The default order
(inserts, updates, deletes) does not see to that. This module finds such cases among the changes and changes the plan:
what frees a value goes first, and where two rows wait for each other, one is first given a value on the way.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import peewee

from .commit_order import Edge, levels
from .errors import FlushError
from .mapper import Mapper
from .persister import Change

Slot = tuple[Any, tuple[str, ...], tuple[Any, ...]]


class Plan:
    """What one flush writes, in the order of its fields."""

    def __init__(self, new: dict[Mapper, list[Any]], updates: list[Change], deletes: list[Change]) -> None:
        self.vacated: list[tuple[Change, str, Any]] = []
        self.early_deletes: list[Change] = []
        self.early_updates: list[list[Change]] = []
        self.new = new
        self.updates: list[list[Change]] = [updates] if updates else []
        self.deletes = deletes
        self.switched: list[tuple[Any, Change]] = []  # new objects that take over the row of a deleted one

    def inserts(self) -> Iterator[tuple[Mapper, Any]]:
        """Go through the new objects, with their mappers."""
        return ((mapper, instance) for mapper, instances in self.new.items() for instance in instances)

    def __bool__(self) -> bool:
        return bool(self.new or self.updates or self.early_updates or self.deletes or self.early_deletes)


def resolve(plan: Plan) -> None:
    """Change the plan so that each unique value is freed before it is taken."""
    changes = [change for level in plan.updates for change in level]
    freed = _freed(plan.deletes, changes)
    if not freed:
        return
    _switch_rows(plan, freed)
    changes = [change for level in plan.updates for change in level]
    early: dict[int, Change] = {}
    edges: list[Edge[int]] = []
    slots: dict[tuple[int, int], Slot] = {}
    by_id = {id(change): change for change in changes}
    for mapper, instance in plan.inserts():
        for slot in _slots(mapper, mapper.unique, _values_of(instance)):
            if slot in freed:
                early[id(freed[slot])] = freed[slot]
                slots[0, id(freed[slot])] = slot
    for change in changes:
        for slot in _slots(change.mapper, _touched(change), change.new):
            freer = freed.get(slot)
            if freer is not None and freer is not change:
                slots[id(change), id(freer)] = slot
                if id(freer) in by_id:
                    edges.append(Edge(id(change), id(freer), optional=True))
                else:
                    early[id(freer)] = freer
    if early or edges:
        _reorder(plan, changes, early, edges, slots)


def _reorder(
    plan: Plan, changes: list[Change], early: dict[int, Change], edges: list[Edge[int]], slots: dict[Any, Slot]
) -> None:
    by_id = {id(change): change for change in changes}
    deleted = {id(change): change for change in plan.deletes}
    pending = {id(instance) for _, instance in plan.inserts()}
    # A row can't go, or change, before what depends on it: such a one keeps its place, and only gives up its value.
    stuck = {
        number
        for number, change in early.items()
        if (_awaits(change, pending) if number in by_id else _is_referred_to(change, changes))
    }
    ordered, broken = levels(by_id, edges)
    for edge in broken:
        _vacate(plan, by_id[edge.needs], slots[edge.node, edge.needs])
    for number in stuck:
        slot = next(slot for (_, freer), slot in slots.items() if freer == number)
        _vacate(plan, early.pop(number), slot)
    first = _with_needs(early, edges)
    plan.early_deletes = _with_children([deleted[number] for number in early if number in deleted], plan.deletes)
    gone = set(map(id, plan.early_deletes))
    plan.deletes = [change for change in plan.deletes if id(change) not in gone]
    in_levels = [[by_id[number] for number in level] for level in ordered]
    plan.early_updates = [[c for c in level if id(c) in first] for level in in_levels]
    plan.updates = [[c for c in level if id(c) not in first] for level in in_levels]


def _freed(deletes: Iterable[Change], updates: Iterable[Change]) -> dict[Slot, Change]:
    freed = {slot: change for change in deletes for slot in _slots(change.mapper, change.mapper.unique, change.old)}
    freed.update((slot, change) for change in updates for slot in _slots(change.mapper, _touched(change), change.old))
    return freed


def _switch_rows(plan: Plan, freed: dict[Slot, Change]) -> None:
    """A deleted row and a new one with the same key are one row: it is updated, as a whole."""
    for mapper, instance in list(plan.inserts()):
        slot = next(iter(_slots(mapper, mapper.unique[:1], _values_of(instance))), None)
        former = None if slot is None else freed.get(slot)
        if former is None or former not in plan.deletes:
            continue
        plan.deletes.remove(former)
        names = [name for name in mapper.names if name not in mapper.key_names]
        change = Change(instance, mapper, names, former.key)
        change.version = former.version
        plan.switched.append((former.instance, change))
        plan.new[mapper] = [other for other in plan.new[mapper] if other is not instance]
        plan.updates = [[change, *(plan.updates[0] if plan.updates else [])]]
    plan.new = {mapper: instances for mapper, instances in plan.new.items() if instances}


def _touched(change: Change) -> list[tuple[str, ...]]:
    return [names for names in change.mapper.unique if not set(names).isdisjoint(change.names)]


def _slots(mapper: Mapper, sets: Iterable[tuple[str, ...]], values_of: Any) -> Iterable[Slot]:
    for names in sets:
        values = values_of(names)
        if None not in values and not any(isinstance(value, peewee.Node) for value in values):
            try:
                hash(values)
            except TypeError:
                continue
            yield mapper.model, names, values


def _values_of(instance: Any) -> Any:
    return lambda names: tuple(instance.__data__.get(name) for name in names)


def _awaits(change: Change, pending: set[int]) -> bool:
    """Tell whether an update needs the key of an object that is yet to be inserted."""
    return any(id(change.instance.__rel__.get(name)) in pending for name in change.names)


def _is_referred_to(deleted: Change, changes: Iterable[Change]) -> bool:
    """Tell whether a row that an update takes its reference from is this one."""
    for change in changes:
        for field in change.mapper.foreign_keys:
            moved = field.name in change.names and field.rel_model is deleted.mapper.model
            if moved and change.old([field.name]) == deleted.old([field.rel_field.name]):
                return True
    return False


def _with_needs(early: dict[int, Change], edges: Iterable[Edge[int]]) -> set[int]:
    needs: dict[int, list[int]] = {}
    for edge in edges:
        needs.setdefault(edge.node, []).append(edge.needs)
    first, waiting = set(early), list(early)
    while waiting:
        for number in needs.get(waiting.pop(), ()):
            if number not in first:
                first.add(number)
                waiting.append(number)
    return first


def _with_children(early: list[Change], deletes: list[Change]) -> list[Change]:
    """Return deletes, with those of the rows that refer to them."""
    chosen = {id(change): change for change in early}
    waiting = list(early)
    while waiting:
        parent = waiting.pop()
        for change in deletes:
            if id(change) not in chosen and _refers(change, parent):
                chosen[id(change)] = change
                waiting.append(change)
    return list(chosen.values())


def _refers(child: Change, parent: Change) -> bool:
    return any(
        field.rel_model is parent.mapper.model and child.old([field.name]) == parent.old([field.rel_field.name])
        for field in child.mapper.foreign_keys
    )


def _vacate(plan: Plan, change: Change, slot: Slot) -> None:
    """Plan to give a row a value on the way, so that another can take its value."""
    if any(done is change for done, _, _ in plan.vacated):
        return
    mapper, names = change.mapper, slot[1]
    for name in sorted(names, key=lambda name: not mapper.by_name[name].field.null):
        value = _value_on_the_way(mapper.by_name[name].field)
        if value is not None or mapper.by_name[name].field.null:
            plan.vacated.append((change, name, value))
            return
    raise FlushError(
        f"{change.instance!r} has to give up its {', '.join(names)} before another object can take it, and waits for "
        "that one itself. Give it another value, flush, and then the one that it shall have."
    )


def _value_on_the_way(field: Any) -> Any:
    if field.null or isinstance(field, peewee.ForeignKeyField):
        return None
    unique = uuid.uuid4()
    if isinstance(field, peewee.UUIDField):
        return unique
    if isinstance(field, (peewee.CharField, peewee.TextField)):
        return f"~{unique.hex}"[: getattr(field, "max_length", None) or None]
    if isinstance(field, peewee.IntegerField):
        return -(unique.int >> 97)  # 31 bits, which every kind of integer but the smallest holds
    return None

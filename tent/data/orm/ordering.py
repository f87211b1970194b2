"""What has to be written before what: foreign keys, and unique values that one row frees and another takes."""

from __future__ import annotations

import datetime
import itertools
import random
import string
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import peewee

from .cascading import CASCADE, SET_DEFAULT, SET_NULL, action, follows
from .change import Change
from .column import Column
from .commit_order import Edge, components
from .mapper import Mapper
from .planning import Plan

Slot = tuple[Any, tuple[str, ...], tuple[Any, ...]]  # a model, the names of unique columns, and their values


def groups_of_tables(mappers: Iterable[Mapper]) -> list[list[Mapper]]:
    """Return mappers in groups, each after those that it refers to; tables that refer to each other share a group."""
    by_model = {mapper.model: mapper for mapper in mappers}
    if len(by_model) < 2:
        return [[mapper] for mapper in by_model.values()]
    edges = [
        Edge(mapper.model, field.rel_model)
        for mapper in by_model.values()
        for field in mapper.foreign_keys
        if field.rel_model in by_model and field.rel_model is not mapper.model
    ]
    groups = components(by_model, edges) if edges else [[model] for model in by_model]
    return [[by_model[model] for model in group] for group in groups]


def is_free(group: Sequence[Mapper], instances: Sequence[Any]) -> bool:
    """Tell whether new rows of a group can be written in any order: one table's, which need none of each other."""
    if len(group) > 1:
        return False
    own = group[0].own_foreign_keys
    return not own or (
        len(instances) == 1 and all(instances[0].__rel__.get(key.name) is not instances[0] for key in own)
    )


def leaves_freely(group: Sequence[Mapper]) -> bool:
    """Tell whether rows of a group can be deleted in any order: what refers to one of them lets go of it by itself."""
    return len(group) == 1 and all(action(field) in (SET_NULL, SET_DEFAULT) for field in group[0].own_foreign_keys)


def needs_order_of_rows(plan: Plan) -> bool:
    """Tell whether rows have to wait for each other beyond the order of their tables: inserts, updates, deletes."""
    moves = bool(plan.deletes and plan.new)  # unique values may have to be freed by some rows, and taken by others
    for mapper, names in plan.updates:
        if not mapper.referred.isdisjoint(names):
            return True
        moves = moves or not mapper.unique_names.isdisjoint(names)
    return moves and any(_slots_taken(plan.operations()))


def edges_of(operations: Sequence[Change]) -> list[Edge[int]]:
    """Return which operation, by `id`, comes after which.

    The label of an edge is ("key", name), the foreign key that it is for, or ("slot", names), the unique columns. One
    for a key that may be NULL is optional, since the key can be set later; so is one for unique columns, since the row
    that has the values can be given others on the way.
    """
    return [*_references(operations), *_departures(operations), *_slots_taken(operations)]


def _references(operations: Sequence[Change]) -> Iterator[Edge[int]]:
    """What refers to a row comes after the operation that makes the row, or gives it the key that is referred to."""
    makers = [
        change
        for change in operations
        if change.verb == "insert" or (change.verb == "update" and not change.mapper.referred.isdisjoint(change.names))
    ]
    by_object = {id(change.instance): change for change in makers}
    by_value = {
        (change.mapper.model, name, value): change
        for change in makers
        for name, value in zip(change.mapper.referred, change.new(change.mapper.referred))
        if _is_hashable(value)
    }
    for change in operations:
        for field in _foreign_keys(change):
            data, target = change.instance.__data__, field.rel_field.name
            maker = by_object.get(id(change.instance.__rel__.get(field.name)))
            if maker is None and data.get(field.name) is not None:
                [value] = change.new([field.name])
                maker = by_value.get((field.rel_model, target, value)) if _is_hashable(value) else None
            if maker is None or (maker is change and data.get(target) is not None):
                continue  # a row that refers to itself by a key that it has can be written as it is
            yield Edge(id(change), id(maker), field.null, ("key", field.name))


def _departures(operations: Sequence[Change]) -> Iterator[Edge[int]]:
    """A row is deleted after the rows that refer to it have been deleted, or written for the last time."""
    by_row = {
        (change.mapper.model, name, change.old([name])): change
        for change in operations
        if change.verb == "delete"
        for name in change.mapper.referred
    }
    if not by_row:
        return
    for change in operations:
        if change.verb == "insert":
            continue
        for field in change.mapper.foreign_keys:
            deleted = by_row.get((field.rel_model, field.rel_field.name, change.old([field.name])))
            if deleted is not None and deleted is not change:
                can_wait = change.verb == "delete" and (field.null or action(field) == CASCADE)
                yield Edge(id(deleted), id(change), can_wait, ("key", field.name))


def _slots_taken(operations: Sequence[Change]) -> Iterator[Edge[int]]:
    """What takes a unique value comes after what frees it."""
    freed = {slot: change for change in operations if change.verb != "insert" for slot in _slots(change, change.old)}
    if not freed:
        return
    for change in operations:
        if change.verb != "delete":
            for slot in _slots(change, change.new):
                if slot in freed and freed[slot] is not change:
                    yield Edge(id(change), id(freed[slot]), True, ("slot", slot[1]))


def _foreign_keys(change: Change) -> Iterator[Any]:
    if change.verb != "delete":
        yield from (field for field in change.mapper.foreign_keys if field.name in change.names)


def _slots(change: Change, values_of: Callable[[Iterable[str]], tuple[Any, ...]]) -> Iterator[Slot]:
    for names in change.mapper.unique:
        if change.verb == "update" and set(names).isdisjoint(change.names):
            continue
        values = values_of(names)
        if None not in values and all(map(_is_hashable, values)):
            yield change.mapper.model, names, values


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return not isinstance(value, peewee.Node)


class ValuesOnTheWay:
    """Makes values that a row can have for a moment, so that another can take those that it has."""

    def __init__(self) -> None:
        self._used: set[Any] = set()

    def column(self, change: Change, names: Iterable[str]) -> tuple[str, Any] | None:
        """Return a column among the unique ones that a change is to write anyway, and a value; None if none will do."""
        columns = [change.mapper.by_name[name] for name in names if self._can_write(change, name)]
        for column in columns:
            # Rows that follow a value to NULL would not come back from there.
            if column.field.null and not _is_followed(change, column) and _takes(column, None):
                return column.name, None
        for column in columns:
            make = None if isinstance(column.field, peewee.ForeignKeyField) else _maker(column.field)
            if make is not None:
                value = next(value for value in iter(make, None) if value not in self._used)
                if _takes(column, value):
                    self._used.add(value)
                    return column.name, value
        return None

    def _can_write(self, change: Change, name: str) -> bool:
        return name in change.names if change.verb == "update" else name not in change.mapper.key_names


def _is_followed(change: Change, column: Column) -> bool:
    """Tell whether the database lets other rows follow when a column changes that they refer to."""
    backrefs = change.mapper.model._meta.backrefs
    return any(follows(field) for field in backrefs if field.rel_field is column.field)


def _takes(column: Column, value: Any) -> bool:
    """Tell whether a column takes a value on the way: a user's own field may know no values but its own."""
    try:
        column.encoded_one(value)
    except Exception:
        return False
    return True


def _maker(field: Any) -> Callable[[], Any] | None:
    """Return the function that makes values for a column, which no other row is likely to have."""
    if isinstance(field, peewee.UUIDField):
        return uuid.uuid4
    if isinstance(field, (peewee.CharField, peewee.TextField)):
        length = min(getattr(field, "max_length", None) or 16, 16)
        if length > 7:  # of ASCII, which columns of all character sets hold
            return lambda: "".join(random.choices(string.ascii_lowercase + string.digits, k=length))
        # Of many characters, so that one is enough for a column that has room for no more.
        return lambda: "".join(chr(random.randrange(0x4E00, 0x9FA6)) for _ in range(length))
    if isinstance(field, peewee.IntegerField):
        # 31 bits, or 15: what the columns of all databases hold
        return lambda: -random.randrange(2**14, 2 ** (15 if isinstance(field, peewee.SmallIntegerField) else 31))
    if isinstance(field, peewee.FloatField):
        return lambda: -random.random() * 2**100
    if isinstance(field, peewee.DateTimeField):
        return lambda: datetime.datetime(1, 1, 1) + datetime.timedelta(seconds=random.randrange(2**34))
    if isinstance(field, peewee.DateField):
        return lambda: datetime.date.fromordinal(random.randrange(1, 2**19))
    return None


def by(key: Callable[[Any], Any], items: Iterable[Any]) -> dict[Any, list[Any]]:
    """Return items in groups of one key, in the order in which they came."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def path(cycle: Sequence[int], edges: Iterable[Edge[int]]) -> list[tuple[int, int, str]]:
    """Return the steps of a cycle: what needs what, and for which column."""
    labels: dict[Any, Any] = {(edge.node, edge.needs): edge.label for edge in edges}
    return [(a, b, labels[a, b][1]) for a, b in itertools.pairwise(cycle)]

"""The order in which a flush writes: what foreign keys and unique values allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .commit_order import CycleError, Edge, components, levels
from .conflicts import Plan
from .errors import CircularDependencyError
from .mapper import Mapper
from .persister import Change, Persister, committed_value

Mappers = Mapping[Any, Mapper]
Links = dict[tuple[int, int], list[str]]  # the foreign keys by which one object, by `id`, refers to another


def write(plan: Plan, persister: Persister) -> None:
    """Run the statements of a plan."""
    for change, name, value in plan.vacated:
        persister.vacate(change, name, value)
    _delete(persister, plan.early_deletes)
    for level in plan.early_updates:
        persister.update(level)
    _insert(persister, plan.new)
    for level in plan.updates:
        persister.update(level)
    # Deletions come last: until then, what refers to the rows may have been moved to others.
    _delete(persister, plan.deletes)


def _insert(persister: Persister, new: Mapping[Mapper, list[Any]]) -> None:
    mappers = {mapper.model: mapper for mapper in new}
    for group in _in_order(mappers):
        instances = [instance for model in group for instance in new[mappers[model]]]
        if _refer_to_each_other(group, mappers):
            _insert_rows_in_order(persister, {model: mappers[model] for model in group}, instances)
        else:
            persister.insert(mappers[group[0]], instances)


def _insert_rows_in_order(persister: Persister, mappers: Mappers, instances: list[Any]) -> None:
    """Insert rows of tables that refer to each other, or to themselves, each after those that it refers to.

    Where rows refer to each other, a key that may be NULL is written as such, and set by a second update.
    """
    by_id = {id(instance): instance for instance in instances}
    edges, links = _edges(instances, mappers, lambda instance, name: instance.__data__.get(name))
    ordered, broken = _levels(by_id, edges, links)
    postponed = [(by_id[edge.node], name) for edge in broken for name in links[edge.node, edge.needs]]
    with persister.postponing(postponed):
        for level in ordered:
            for model, rows in _by(type, (by_id[number] for number in level)).items():
                persister.insert(mappers[model], rows)
    extra = _by(lambda item: id(item[0]), postponed)
    persister.update([_extra_update(by_id[n], mappers, [name for _, name in items]) for n, items in extra.items()])


def _delete(persister: Persister, deletes: Sequence[Change]) -> None:
    by_model = _by(lambda change: change.mapper.model, deletes)
    mappers = {change.mapper.model: change.mapper for change in deletes}
    for group in reversed(_in_order(mappers)):
        changes = [change for model in group for change in by_model[model]]
        if _refer_to_each_other(group, mappers):
            _delete_rows_in_order(persister, {model: mappers[model] for model in group}, changes)
        else:
            persister.delete(mappers[group[0]], changes)


def _delete_rows_in_order(persister: Persister, mappers: Mappers, changes: list[Change]) -> None:
    """Delete rows of tables that refer to each other, or to themselves, each after those that refer to it."""
    by_id = {id(change.instance): change for change in changes}
    instances = {number: change.instance for number, change in by_id.items()}
    edges, links = _edges(list(instances.values()), mappers, committed_value)
    ordered, broken = _levels(instances, [edge for edge in edges if edge.node != edge.needs], links)
    for edge in broken:
        for name in links[edge.node, edge.needs]:
            persister.put(by_id[edge.node], name, None)
    for level in reversed(ordered):
        for mapper, rows in _by(lambda change: change.mapper, (by_id[number] for number in level)).items():
            persister.delete(mapper, rows)


def _in_order(mappers: Mappers) -> list[list[Any]]:
    """Return models in groups, each after those that it refers to; models that refer to each other share one."""
    if len(mappers) < 2:
        return [list(mappers)] if mappers else []
    edges = [
        Edge(model, field.rel_model)
        for model, mapper in mappers.items()
        for field in mapper.foreign_keys
        if field.rel_model in mappers and field.rel_model is not model
    ]
    return components(mappers, edges)


def _refer_to_each_other(group: Sequence[Any], mappers: Mappers) -> bool:
    return len(group) > 1 or any(field.rel_model is group[0] for field in mappers[group[0]].foreign_keys)


def _edges(
    instances: Sequence[Any], mappers: Mappers, value_of: Callable[[Any, str], Any]
) -> tuple[list[Edge[int]], Links]:
    """Return which of the objects refers to which, and through which fields."""
    targets = {
        (field.rel_model, field.rel_field.name)
        for mapper in mappers.values()
        for field in mapper.foreign_keys
        if field.rel_model in mappers
    }
    by_value = {
        (model, name, value_of(instance, name)): instance
        for model, name in targets
        for instance in instances
        if type(instance) is model and value_of(instance, name) is not None
    }
    present = set(map(id, instances))
    edges: list[Edge[int]] = []
    links: Links = {}
    for instance in instances:
        for field in mappers[type(instance)].foreign_keys:
            related = None if value_of is committed_value else instance.__rel__.get(field.name)
            if related is None or id(related) not in present:
                related = by_value.get((field.rel_model, field.rel_field.name, value_of(instance, field.name)))
            if related is None or (related is instance and value_of(instance, field.rel_field.name) is not None):
                continue  # a row that refers to itself by a key that it has can be written as it is
            edges.append(Edge(id(instance), id(related), optional=field.null))
            links.setdefault((id(instance), id(related)), []).append(field.name)
    return edges, links


def _levels(
    by_id: Mapping[int, Any], edges: Sequence[Edge[int]], links: Links
) -> tuple[list[list[int]], list[Edge[int]]]:
    try:
        return levels(by_id, edges)
    except CycleError as error:
        numbers: list[Any] = list(error.cycle)
        needs = [
            f"{by_id[a]!r} needs {by_id[b]!r} for its {' and '.join(links[a, b])}"
            for a, b in itertools.pairwise(numbers)
        ]
        raise CircularDependencyError(
            f"Rows need each other before they can be written: {'; '.join(needs)}. Let one of these foreign keys be "
            "null (null=True), or set it later.",
            [by_id[number] for number in numbers],
        ) from None


def _extra_update(instance: Any, mappers: Mappers, names: Iterable[str]) -> Change:
    mapper = mappers[type(instance)]
    return Change(instance, mapper, sorted(names), mapper.identity(mapper.key_of(instance.__data__)))


def _by(key: Callable[[Any], Any], items: Iterable[Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups

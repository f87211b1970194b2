"""Writing a plan: in the order of its tables where that is enough, else row after row in levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .change import Change, grouped
from .commit_order import CycleError, Edge, levels
from .errors import CircularDependencyError, FlushError
from .ordering import (
    ValuesOnTheWay,
    by,
    edges_of,
    groups_of_tables,
    is_free,
    leaves_freely,
    needs_order_of_rows,
    path,
)
from .persister import Persister
from .planning import Plan

_SHOWN = 4  # rows of a cycle in a message


def write(plan: Plan, persister: Persister) -> None:
    """Run the statements of a plan."""
    if needs_order_of_rows(plan):
        _write_in_levels(plan.operations(), persister)
        return
    for group in groups_of_tables(plan.new):
        if is_free(group, plan.new[group[0]]):
            persister.insert(group[0], plan.new[group[0]])
        else:
            _write_in_levels([change for change in plan.inserts() if change.mapper in group], persister)
    if plan.updates:
        persister.update(plan.updates)
    if plan.deletes:
        _delete(plan, persister)


def _delete(plan: Plan, persister: Persister) -> None:
    """Delete rows, which comes last: until then, what refers to them may have been moved to others."""
    deletes = {mapper: changes for (mapper, _), changes in plan.deletes.items()}
    for group in reversed(groups_of_tables(deletes)):
        if leaves_freely(group):
            persister.delete(group[0], deletes[group[0]])
        else:
            _write_in_levels([change for mapper in group for change in deletes[mapper]], persister)


def _write_in_levels(changes: Sequence[Change], persister: Persister) -> None:
    """Write what waits for nothing, then what waited for that, and so on.

    Where operations wait for each other, a foreign key is left NULL and set by a second update, or a row is given a
    unique value on the way.
    """
    operations = {id(change): change for change in changes}
    ordered, broken = _levels(operations, edges_of(list(operations.values())))
    waiting = _break(persister, operations, broken)
    with persister.postponing([(change.instance, name) for change, name in waiting]):
        for level in ordered:
            _write_level(persister, [operations[number] for number in level])
    extra = by(lambda item: id(item[0]), waiting)
    persister.update(grouped(_second_update(operations[number], [n for _, n in i]) for number, i in extra.items()))


def _write_level(persister: Persister, changes: Sequence[Change]) -> None:
    by_verb = by(lambda change: change.verb, changes)
    for mapper, deletes in by(lambda change: change.mapper, by_verb.get("delete", ())).items():
        persister.delete(mapper, deletes)
    persister.update(grouped(by_verb.get("update", ())))
    for mapper, inserts in by(lambda change: change.mapper, by_verb.get("insert", ())).items():
        persister.insert(mapper, [change.instance for change in inserts])


def _break(
    persister: Persister, operations: dict[int, Change], broken: Sequence[Edge[int]]
) -> list[tuple[Change, str]]:
    """Do what makes the broken edges needless, and return the foreign keys that have to be set at the end."""
    waiting, values, vacated = [], ValuesOnTheWay(), set()
    for edge in broken:
        label: Any = edge.label
        kind, name = label
        change, needed = operations[edge.node], operations[edge.needs]
        if kind == "slot":
            if (edge.needs, name) not in vacated:
                vacated.add((edge.needs, name))
                _vacate(persister, needed, name, values)
        elif change.verb == "delete":
            if needed.mapper.by_name[name].field.null:
                persister.part(needed, name)  # else the database deletes the one with the other
        else:
            waiting.append((change, name))
    return waiting


def _vacate(persister: Persister, change: Change, names: tuple[str, ...], values: ValuesOnTheWay) -> None:
    found = values.column(change, names)
    if found is None:
        raise FlushError(
            f"{change.instance!r} has to give up its {', '.join(names)} before another object can take it, and waits "
            "for that one itself. Give it another value, flush, and then the one that it shall have."
        )
    persister.vacate(change, *found)


def _levels(operations: dict[int, Change], edges: Sequence[Edge[int]]) -> tuple[list[list[int]], list[Edge[int]]]:
    try:
        return levels(operations, edges)
    except CycleError as error:
        numbers: list[Any] = list(error.cycle)
        needs = [
            f"{operations[a].instance!r} needs {operations[b].instance!r} for its {name}"
            for a, b, name in path(numbers, edges)
        ]
        if len(needs) > _SHOWN:
            needs[_SHOWN:] = [f"and so on, {len(needs)} rows in all"]
        raise CircularDependencyError(
            f"Rows need each other before they can be written: {'; '.join(needs)}. Let one of these foreign keys be "
            "null (null=True), or set it later.",
            [operations[number].instance for number in numbers],
        ) from None


def _second_update(change: Change, names: Sequence[str]) -> Change:
    instance, mapper = change.instance, change.mapper
    second = Change("link", instance, mapper, tuple(sorted(names)), mapper.key_given(instance.__data__))
    if mapper.version is not None:
        second.version = instance.__data__.get(mapper.version)  # the first write has put it into the row
    return second

"""What a database does by itself to rows that refer to others (`on_delete`, `on_update`): the session has to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .cursor import BufferedCursor
from .engine import Engine
from .mapper import Mapper, chunks, mapper_of
from .peers import GROUP
from .statements import found_among

CASCADE, SET_NULL, SET_DEFAULT = "CASCADE", "SET NULL", "SET DEFAULT"

Run = Callable[[str, Any], BufferedCursor]
Fallout = dict[Any, set[Any]]  # foreign keys, and the values by which rows referred to what was deleted, or renamed


def action(field: Any) -> str | None:
    """Return what the database does to rows whose foreign key refers to a deleted row; None if it does nothing."""
    what = (field.on_delete or "").upper()
    return what if what in (CASCADE, SET_NULL, SET_DEFAULT) else None


def follows(field: Any) -> bool:
    """Tell whether the database lets rows follow when the key changes that their foreign key refers to."""
    return (field.on_update or "").upper() == CASCADE


def affected(model: Any) -> set[Any]:
    """Return the models whose rows the database may delete or change when rows of a model are deleted."""
    found: set[Any] = set()
    waiting = [model]
    while waiting:
        for field in waiting.pop()._meta.backrefs:
            if action(field) and field.model not in found:
                found.add(field.model)
                if action(field) == CASCADE:
                    waiting.append(field.model)
    return found


def foresee(
    database: Engine,
    run: Run,
    has: Callable[[Any], bool],
    model: Any,
    rows: Iterable[Mapping[str, Any]],
    fallout: Fallout,
) -> None:
    """Add to a fallout what comes of deleting rows of a model, which are about to be deleted.

    Of the rows only the columns count that others refer to. `has` tells whether objects of a model may be concerned:
    only if some refer to rows that go along with these, something is read by `run`, namely the keys of those rows.
    """
    if not database.enforces_foreign_keys:
        return
    waiting: list[tuple[Any, Iterable[Mapping[str, Any]]]] = [(model, list(rows))]
    while waiting:
        model, rows = waiting.pop()
        for field in filter(action, model._meta.backrefs):
            fresh = {row[field.rel_field.name] for row in rows} - fallout.get(field, set()) - {None}
            if fresh:
                fallout.setdefault(field, set()).update(fresh)
                if action(field) == CASCADE and any(map(has, affected(field.model))):
                    waiting.append((field.model, list(_rows(database, run, field, list(fresh)))))


def fell(change: Any, fallout: Fallout, spared: Collection[tuple[int, str]]) -> bool:
    """Tell whether the database deletes a row by itself, with another that it refers to."""
    for field in change.mapper.foreign_keys:
        if field in fallout and action(field) == CASCADE and (id(change.instance), field.name) not in spared:
            parent, own = change.old([field.name, field.rel_field.name])
            if parent in fallout[field] and not (parent == own and field.rel_model is change.mapper.model):
                return True
    return False


def _rows(database: Engine, run: Run, field: Any, values: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Go through the rows that refer to these values, with the columns by which others refer to them."""
    mapper: Mapper = mapper_of(field.model, database)
    columns = [mapper.by_name[name] for name in sorted(mapper.referred)]
    key = mapper.by_name[field.name]
    for part in chunks(database, values, 1, most=GROUP):
        sql = f"SELECT {', '.join(c.sql for c in columns)} FROM {mapper.table} WHERE {found_among([key], len(part))}"
        for row in run(sql, list(map(key.encoded_one, part))).rows:
            yield {column.name: column.decoded(value) for column, value in zip(columns, row)}

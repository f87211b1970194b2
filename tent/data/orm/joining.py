"""What a query can be joined with: a model, or a relation, which names the model and the columns that are compared."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import peewee

from .errors import ArgumentError, shown
from .select import is_entity, model_of


def steps(source: Any, dest: Any, on: Any) -> Sequence[tuple[Any, Any]]:
    """Return what is joined to a source, one after the other, and on what, as Peewee's `join` takes them."""
    relation = dest.field if isinstance(dest, peewee.FieldAlias) else dest
    found: Sequence[tuple[Any, Any]]
    if isinstance(relation, peewee.ForeignKeyField):
        found = [(relation.rel_model, dest)]
    elif isinstance(relation, peewee.BackrefAccessor):
        found = [(relation.field.model, relation.field)]
    elif isinstance(relation, peewee.ManyToManyField):
        through = inspect.getattr_static(relation.model, relation.name).relation
        found = [(through.source.model, through.source), (through.model, through.target)]
    elif is_entity(dest) or isinstance(dest, peewee.Source):
        return [(dest, on)]
    else:
        raise ArgumentError(
            f"join() takes a model, a query, or a relation such as Note.author or User.notes, not {shown(dest)}."
        )
    model = found[-1][0]
    if on is not None:
        raise ArgumentError(f"A relation says what it is joined on. With a condition, join {model.__name__} itself.")
    if is_entity(source) and model_of(source) is model:
        raise ArgumentError(
            f"{model.__name__} refers to itself: join it under another name, as in other = {model.__name__}.alias(), "
            "join(other, on=…)."
        )
    return found

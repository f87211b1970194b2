"""What the verbs of a query are given: which model and field is meant, and what can't be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import peewee

from .errors import ArgumentError, InvalidRequestError, article, shown
from .json_sql import Late
from .select import is_entity, model_of
from .tracking import ColumnAccessor


def field_of(entity: Any, name: str) -> Any:
    """Return the field of a keyword of filter_by, which names it or its column."""
    model = model_of(entity)
    field = model._meta.combined.get(name)
    if field is None:
        raise InvalidRequestError(
            f"{model.__name__} has no column {name!r}. Its columns: {', '.join(model._meta.sorted_field_names)}."
        )
    return field


def refuse_no_conditions(verb: str, expressions: Iterable[Any]) -> None:
    """Refuse what the database would take for true, or false, whatever the rows have."""
    for expression in expressions:
        if isinstance(expression, str):
            raise ArgumentError(f"{verb}() takes expressions, such as User.name == 'Joe', not text: {expression!r}.")
        if isinstance(expression, bool):
            raise ArgumentError(
                f"{verb}() takes expressions, not {expression}, which Python makes of `in`, `is`, `not`, `and` and "
                "`or`. Write User.name.in_(…), User.name.is_null(), ~(…), &, |."
            )


def refuse_no_value(field: Any, value: Any) -> None:
    """Refuse what a column can't be equal to."""
    if isinstance(value, peewee.Model) and isinstance(field, peewee.ForeignKeyField):
        if not isinstance(value, field.rel_model):
            raise ArgumentError(f"{field.name} is {article(field.rel_model.__name__)}, or its key, not {value!r}.")
    elif isinstance(value, (list, tuple, set)) and field.accessor_class is ColumnAccessor:
        raise ArgumentError(f"{field.name} is one value, not {shown(value)}. For any of these: {field.name}.in_(…).")


def model_in(nodes: Iterable[Any]) -> Any:
    """Return the model, or the alias of one, that the first column of these belongs to."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if is_entity(node):
            return node
        if isinstance(node, peewee.Field):
            return node.model
        if isinstance(node, peewee.WrappedNode):
            waiting.append(node.node)
        elif isinstance(node, peewee.JSONPath):
            waiting.append(node._field)  # type: ignore[attr-defined]
        elif isinstance(node, (peewee.Function, Late)):
            waiting.extend(node.arguments or ())
        elif isinstance(node, peewee.Expression):
            waiting.extend((node.lhs, node.rhs))
        elif isinstance(node, peewee.NodeList):
            waiting.extend(node.nodes)
        elif isinstance(node, peewee.Case):
            waiting.extend((node.predicate, *itertools.chain(*node.expression_tuples), node.default))
        elif isinstance(node, peewee.Window):
            waiting.extend((*(node.partition_by or ()), *(node.order_by or ())))
    raise ArgumentError(
        "query() takes models and their columns, or expressions of them; it found none here. "
        "For other selections use session.execute() with a Peewee query."
    )

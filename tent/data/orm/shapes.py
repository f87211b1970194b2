"""SQL that is compiled once for all queries of a shape: those that differ in nothing but the values they compare with.

Peewee takes ten times as long to compile a short query as the database to run it. A query tells its own shape as long
as it is *plain*: made by verbs that it knows all about (`Query.clone`, which every other one calls, ends that). The
SQL of a shape is what Peewee makes of the first query that has it, and counts only if its parameters are those that
are expected; what is not plain, or has a shape that can't be used, goes Peewee's way.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee

_ROOM = 500  # shapes of a model: a program that puts its queries together by what a user picks may have many
_VALUES = frozenset(
    (bool, int, float, str, bytes, decimal.Decimal, uuid.UUID, datetime.datetime, datetime.date, datetime.time)
)
_OP = peewee.OP
_OF_VALUES = frozenset((_OP.EQ, _OP.NE, _OP.LT, _OP.LTE, _OP.GT, _OP.GTE, _OP.LIKE, _OP.ILIKE))
_OF_NULL = frozenset((_OP.IS, _OP.IS_NOT))

# A condition is a field's name, an operator, a value, and the expression that said so, if it was one
Condition = tuple[str, str, Any, Any]


def condition(field: Any, operator: str, value: Any, expression: Any = None) -> Condition | None:
    """Return the condition that a field has a value; None when the SQL may depend on which value that is."""
    if value is None:
        is_plain = operator in _OF_NULL
    else:
        is_plain = operator in _OF_VALUES and (type(value) in _VALUES or _is_target(field, value))
    return (field.name, operator, value, expression) if is_plain and not isinstance(field, peewee.JSONField) else None


def equal(field: Any, value: Any) -> Condition | None:
    """Return the condition that a field has a value, or is NULL for None; None as above."""
    return condition(field, _OP.IS if value is None else _OP.EQ, value)


def conditions(model: Any, expression: Any) -> Iterator[Condition | None]:
    """Go through the conditions that an expression joins by AND; None stands for what is none."""
    if type(expression) is not peewee.Expression:
        yield None
        return
    node: Any = expression
    if node.op == _OP.AND:
        yield from conditions(model, node.lhs)
        yield from conditions(model, node.rhs)
    else:
        yield condition(node.lhs, node.op, node.rhs, node) if is_field_of(model, node.lhs) else None


def order(model: Any, node: Any) -> tuple[str, str] | None:
    """Return the name of the field that rows are ordered by, and the direction; None when it is no field."""
    if type(node) is not peewee.Ordering:
        return (node.name, "") if is_field_of(model, node) else None
    if node.collation or node.nulls or not is_field_of(model, node.node):
        return None
    return node.node.name, node.direction


def is_field_of(model: Any, node: Any) -> bool:
    """Tell whether something is a field of a model: not of an alias of it, nor one that is converted otherwise."""
    return isinstance(node, peewee.Field) and model._meta.fields.get(node.name) is node


def _is_target(field: Any, value: Any) -> bool:
    return isinstance(field, peewee.ForeignKeyField) and isinstance(value, field.rel_model)


class Shapes:
    """The SQL of the plain queries of a model, by their shapes."""

    def __init__(self) -> None:
        self._kept: dict[Any, str | None] = {}

    def sql(self, shape: Any, params: Sequence[Any], compile: Callable[[], tuple[str, Sequence[Any]]]) -> str | None:
        """Return the SQL of the queries of a shape; None when it must be compiled for each of them.

        `params` are those of one of them, which `compile` compiles, if need be.
        """
        for param in params:
            if isinstance(param, peewee.Node):  # which a user's field has made of a value
                return None
        try:
            return self._kept[shape]
        except KeyError:
            sql, made = compile()
            if len(self._kept) >= _ROOM:
                self._kept.clear()
            as_expected = list(map(type, made)) == list(map(type, params)) and list(made) == list(params)
            kept = self._kept[shape] = sql if as_expected else None
            return kept

"""What a query gives: objects, objects with others attached to them, or named rows."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import peewee

from .cursor import BufferedCursor
from .errors import ArgumentError
from .loading import Loader
from .mapper import Mapper
from .peers import Peers
from .result import Result
from .rows import ReadAll, Row, Values, columns_of, dicts, reader_of
from .select import ROWS, is_entity, model_of


def shaped(loader: Loader, mapper: Mapper, query: Any, cursor: BufferedCursor) -> Result[Any]:
    """Return what a query on a model gives, of the rows of its cursor."""
    is_whole = getattr(query, "_is_default", False) and not query._joins and len(query._from_list) == 1
    if query._row_type in ROWS:
        columns = list(_columns_of_model(mapper) if is_whole else _columns_of_query(loader, query, cursor))
        return Result(_rows(query._row_type, columns, cursor.rows))
    if is_whole:
        return Result(loader.load(mapper, cursor.rows), mapper.model.__name__)
    entities = getattr(query, "_entities", None)
    if entities is not None:
        return _RowPlan(loader, entities)(cursor.rows)
    return _GraphPlan(loader, query, cursor.description)(cursor.rows)


def _columns_of_model(mapper: Mapper) -> Iterator[tuple[str, ReadAll | None]]:
    """Go through the columns of a model's whole rows: their names, and what reads their values, if they need it."""
    return ((column.name, column.read if column.decode is not None else None) for column in mapper.columns)


def _columns_of_query(loader: Loader, query: Any, cursor: BufferedCursor) -> Iterator[tuple[str, ReadAll | None]]:
    """Go through the columns of any query, as Peewee understands them."""
    if not cursor.rows:
        return
    wrapper = query.wrapper(cursor)
    wrapper.initialize()
    names = wrapper.dedupe_columns(wrapper.columns, valid_identifiers=query._row_type == peewee.ROW.NAMED_TUPLE)
    for name, field, convert in zip(names, wrapper.fields, wrapper.converters):
        if isinstance(field, peewee.Field) and convert == field.python_value:
            yield name, _reader(loader, field)
        else:
            yield name, None if convert is None else reader_of(convert)


def _rows(kind: Any, columns: Sequence[tuple[str, ReadAll | None]], rows: Sequence[Row]) -> list[Any]:
    """Return rows as dicts, tuples or named tuples."""
    if not rows:
        return []
    names = tuple(name for name, _ in columns)
    readers = [(place, read) for place, (_, read) in enumerate(columns) if read is not None]
    if kind != peewee.ROW.DICT and not readers:
        tuples: Iterable[Row] = rows
    else:
        values = columns_of(rows)
        for place, read in readers:
            values[place] = read(values[place])
        if kind == peewee.ROW.DICT:
            return dicts(names, values)
        tuples = zip(*values)
    return list(map(_row_class(names)._make if kind == peewee.ROW.NAMED_TUPLE else tuple, tuples))


def _reader(loader: Loader, field: Any) -> ReadAll | None:
    """Return what reads a column of a field's values."""
    own = field.field if isinstance(field, peewee.FieldAlias) else field
    column = loader.mapper(own.model).by_name[own.name]
    return None if column.decode is None else column.read


class _Part:
    """The columns of a row that belong to one model, or alias: they make one object."""

    def __init__(self, loader: Loader, source: Any) -> None:
        self.loader = loader
        self.mapper = loader.mapper(model_of(source))
        self.positions: list[int] = []
        self.names: list[str] = []

    def add(self, position: int, name: str) -> None:
        self.positions.append(position)
        self.names.append(name)

    def objects(self, rows: Sequence[Row]) -> list[Any]:
        """Return the object in each row: None where an outer join found none."""
        mapper, names, positions = self.mapper, tuple(self.names), self.positions
        parts = [[row[position] for position in positions] for row in rows]
        if names == mapper.names and mapper.key_names:
            keys = [names.index(name) for name in mapper.key_names]
            present = [part for part in parts if all(part[position] is not None for position in keys)]
            found = iter(self.loader.load(mapper, present))
            return [next(found) if all(part[i] is not None for i in keys) else None for part in parts]
        partial = [self.loader.load_partial(mapper, dict(zip(names, part))) for part in parts]
        Peers.of([instance for instance in partial if instance is not None and instance._owner is not None])
        return partial


class _GraphPlan:
    """Peewee's way: each row gives an object of the query's model, to which joined objects and values are attached."""

    def __init__(self, loader: Loader, query: Any, description: Any) -> None:
        self.query = query
        self.parts: dict[Any, _Part] = {query.model: _Part(loader, query.model)}
        self.values: list[tuple[int, str, Callable[[Any], Any] | None]] = []
        names, fields, converters, _, _ = peewee._resolve_model_columns(  # type: ignore[attr-defined]
            BufferedCursor([], description), model_of(query.model), getattr(query, "_returning", None) or ()
        )
        for position, (name, field, convert) in enumerate(zip(names, fields, converters)):
            if field is None or field.name != name:
                _refuse_name_of_field(model_of(query.model), name)
                self.values.append((position, name, convert))
            else:
                source = field.source if isinstance(field, peewee.FieldAlias) else field.model
                if source not in self.parts:
                    self.parts[source] = _Part(loader, source)
                self.parts[source].add(position, name)

    def __call__(self, rows: Sequence[Row]) -> Result[Any]:
        found = {source: part.objects(rows) for source, part in self.parts.items()}
        objects = found[self.query.model]
        for source, attribute, joined in self._links(found):
            for owner, related in zip(found[source], found[joined]):
                if owner is not None:
                    _attach(owner, attribute, related)
        for position, name, convert in self.values:
            for owner, row in zip(objects, rows):
                setattr(owner, name, row[position] if convert is None else convert(row[position]))
        return Result(objects, model_of(self.query.model).__name__)

    def _links(self, found: dict[Any, Any]) -> Iterator[tuple[Any, str, Any]]:
        for source, joins in getattr(self.query, "_joins", {}).items():
            for joined, attribute, _, _ in joins:
                if source in found and joined in found:
                    yield source, attribute, joined


class _RowPlan:
    """SQLAlchemy's way: each row is a named tuple of the objects and values that were asked for."""

    def __init__(self, loader: Loader, entities: Sequence[Any]) -> None:
        self.makers: list[Callable[[Sequence[Row], Sequence[Values]], Values]] = []
        names, position = [], 0
        for entity in entities:
            if is_entity(entity):
                part = _Part(loader, entity)
                for name in part.mapper.names:
                    part.add(position, name)
                    position += 1
                self.makers.append(lambda rows, columns, part=part: part.objects(rows))  # type: ignore[misc]
                names.append((entity.alias if entity is not part.mapper.model else None) or part.mapper.model.__name__)
            else:
                self.makers.append(_values(position, _converter(loader, entity)))
                names.append(_name_of(entity))
                position += 1
        self.row = _row_class(tuple(names))

    def __call__(self, rows: Sequence[Row]) -> Result[Any]:
        if not rows:
            return Result([])
        columns = columns_of(rows)
        return Result(list(map(self.row._make, zip(*(make(rows, columns) for make in self.makers)))))


def _attach(owner: Any, attribute: str, related: Any) -> None:
    field = owner._meta.fields.get(attribute)
    if not isinstance(field, peewee.ForeignKeyField):
        setattr(owner, attribute, related)
    elif attribute not in (owner._committed or ()) and (related is not None or attribute not in owner.__rel__):
        owner.__rel__[attribute] = related


def _refuse_name_of_field(model: Any, name: str) -> None:
    if name in model._meta.fields:
        raise ArgumentError(
            f"The query gives an expression the name of the column {model.__name__}.{name}: on the session's objects "
            "that would be a change of it. Give it another alias, or take rows: query.tuples(), query.dicts()."
        )


def _values(position: int, read: ReadAll | None) -> Callable[[Sequence[Row], Sequence[Values]], Values]:
    if read is None:
        return lambda rows, columns: columns[position]
    return lambda rows, columns: read(columns[position])


def _converter(loader: Loader, node: Any) -> ReadAll | None:
    """Return the conversion of a selected column: its field's, or the one that Peewee gives an expression."""
    inner = node.unwrap() if isinstance(node, peewee.Node) else node
    if isinstance(inner, peewee.Field):
        return _reader(loader, inner)
    convert = getattr(inner, "_python_value", None) or getattr(node, "_converter", None)
    if isinstance(inner, peewee.Function) and inner._python_value is None and inner.arguments and _coerces(inner):
        first = inner.arguments[0]
        first = first.unwrap() if isinstance(first, peewee.Node) else first
        if isinstance(first, peewee.Field):
            convert = peewee.safe_python_value(first.python_value)
    return None if convert is None else reader_of(convert)


def _coerces(function: Any) -> bool:
    return bool(function._coerce)


def _name_of(node: Any) -> str:
    if isinstance(node, (peewee.Alias, peewee.SelectBase)) and node._alias:  # type: ignore[union-attr]
        return str(node._alias)  # type: ignore[union-attr]
    if isinstance(node, peewee.Field):
        return str(node.name)
    return str(getattr(node, "name", None) or "value").lower()


@functools.lru_cache(maxsize=1_000)
def _row_class(names: tuple[str, ...]) -> Any:
    base: Any = namedtuple("Row", _distinct(names), rename=True)  # type: ignore[misc]
    return type("Row", (base,), {"__slots__": (), "__reduce__": lambda self: (_row, (names, tuple(self)))})


def _row(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """Make a row; what a pickled one is made by."""
    return _row_class(names)._make(values)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names with a number added to those that came before."""
    counts: dict[str, int] = {}
    distinct = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        distinct.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return distinct

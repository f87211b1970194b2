"""Queries that run in a session: Peewee's, with the verbs of SQLAlchemy's `Query`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import peewee

from .arguments import field_of, model_in, refuse_no_conditions, refuse_no_value
from .compound import Verbs
from .errors import ArgumentError, InvalidRequestError
from .joining import steps
from .plain import Plain
from .select import Select, is_entity
from .shapes import conditions, equal, is_field_of, order
from .tracking import MISSING

T = TypeVar("T")


class Query(Verbs[T], Plain):  # type: ignore[misc]  # Peewee's first() and scalars() are others
    """A query of a session: every method of Peewee's `ModelSelect`, and SQLAlchemy's verbs.

    A query is immutable: each method returns a new one. It runs when it is iterated or asked for its rows, each time
    anew. Where the two libraries disagree on a verb it follows SQLAlchemy: `order_by` adds to the order there is, and
    a query with a limit can't be filtered.
    """

    _session: Any = None
    _chunk: int | None = None
    locks = False
    if TYPE_CHECKING:  # what Peewee's stubs leave out
        _count_can_project_one: Any
        _database: Any
        _is_default: bool
        _join_ctx: Any
        _joins: Any
        _load_tree: Any

    @classmethod
    def of(cls, session: Any, *entities: Any) -> Query[Any]:
        """Return the query of a session for a model, an alias of one, or several of them and columns."""
        if len(entities) == 1 and is_entity(entities[0]):
            query = cls._of_entity(entities[0])
        else:
            query = cls._of_nodes(entities)
        query._session = session
        query._database = session._execution.database
        return query

    @classmethod
    def _of_entity(cls, entity: Any) -> Query[Any]:
        if isinstance(entity, peewee.ModelAlias):
            return cls(entity, entity.get_field_aliases(), is_default=True)
        try:
            kept = entity._meta.query
        except AttributeError:
            made: Query[Any] = Query(entity, entity._meta.sorted_fields, is_default=True)
            made._is_plain = True
            kept = entity._meta.query = made.__dict__
        query = object.__new__(cls)
        query.__dict__ = kept.copy()
        return query

    @classmethod
    def _of_nodes(cls, entities: tuple[Any, ...]) -> Query[Any]:
        if not entities:
            raise ArgumentError("query() takes what to query: a model, or columns, as in query(User.id, User.name).")
        model = model_in(entities)
        query = cls(model, entities)
        query._entities = entities
        if isinstance(model, type) and all(is_field_of(model, entity) for entity in entities):
            query._is_plain, query._selected = True, tuple(entity.name for entity in entities)
        return query

    # Building

    def select(self, *columns: Any) -> Query[Any]:
        """Return the query for other columns: of a model, objects that have just these, as with Peewee; else rows."""
        query: Any = super().select(*columns)
        if self._entities is not None and columns:
            query._entities = columns
        return query  # type: ignore[no-any-return]

    def columns(self, *columns: Any) -> Query[Any]:
        """As `select`."""
        return self.select(*columns)

    def select_extend(self, *columns: Any) -> Query[Any]:
        """Return the query for more columns."""
        query: Query[Any] = super().select_extend(*columns)
        if self._entities is not None:
            query._entities = (*self._entities, *columns)
        return query

    def where(self, *expressions: Any) -> Query[T]:
        self._refuse_after_limit("where")
        refuse_no_conditions("where", expressions)
        if self._is_plain:
            found = [one for expression in expressions for one in conditions(self.model, expression)]
            if None not in found:
                return self._with(_conditions=(*self._conditions, *found))
        return super().where(*expressions) if expressions else self.clone()

    def filter(self, *expressions: Any, **django: Any) -> Query[T]:
        """Return the query with conditions added: expressions, or Peewee's keywords (`name__ilike="jo%"`)."""
        self._refuse_after_limit("filter")
        refuse_no_conditions("filter", expressions)
        if django or any(isinstance(expression, peewee.DQ) for expression in expressions):
            return super().filter(*expressions, **django)
        return self.where(*expressions)

    def with_for_update(self, nowait: bool = False, skip_locked: bool = False, of: Any = None) -> Query[T]:
        """Return the query with its rows locked until the transaction ends, which it begins if need be.

        It waits for rows that another transaction has locked, unless `nowait` (an error then) or `skip_locked` (rows
        left out) says otherwise. `of` names the models whose rows are meant, in a join. SQLite locks the database.
        """
        if self._database.for_update:
            clause: Any = f"FOR UPDATE{' SKIP LOCKED' * skip_locked}"
            query = self.for_update(clause, of=of, nowait=nowait)
        else:
            query = self.clone()
        query.locks = True
        return query

    def filter_by(self, **values: Any) -> Query[T]:
        """Return the query with conditions `column = value` added; None means IS NULL, an object means its key."""
        self._refuse_after_limit("filter_by")
        model = self._join_ctx if self._joins and is_entity(self._join_ctx) else self.model
        fields = [(field_of(model, name), value) for name, value in values.items()]
        for field, value in fields:
            refuse_no_value(field, value)
        if self._is_plain:
            found = [equal(field, value) for field, value in fields]
            if None not in found:
                return self._with(_conditions=(*self._conditions, *found))
        return self.where(*(getattr(model, field.name) == value for field, value in fields))

    def order_by(self, *columns: Any) -> Query[T]:
        """Return the query with columns added to its order; `order_by(None)` clears the order."""
        if not columns or columns[0] is None:
            return super().order_by()
        self._refuse_after_limit("order_by")
        self._refuse_names("order_by", columns)
        ordered = (*(self._order_by or ()), *columns)
        is_plain = self._is_plain and all(order(self.model, column) is not None for column in columns)
        return self._with(_order_by=ordered) if is_plain else super().order_by(*ordered)

    def group_by(self, *columns: Any) -> Query[T]:
        """Return the query with a row for each group of rows that have the same values in these columns."""
        self._refuse_names("group_by", columns)
        return super().group_by(*columns)

    def having(self, *expressions: Any) -> Query[T]:
        """Return the query with conditions added that the groups are to meet."""
        refuse_no_conditions("having", expressions)
        return super().having(*expressions)

    def limit(self, value: Any = None) -> Query[T]:
        """Return the query with at most so many rows."""
        is_plain = self._is_plain and (value is None or type(value) is int)
        return self._with(_limit=value) if is_plain else super().limit(value)

    def offset(self, value: Any = None) -> Query[T]:
        """Return the query without so many of its first rows."""
        is_plain = self._is_plain and (value is None or type(value) is int)
        return self._with(_offset=value) if is_plain else super().offset(value)

    def dicts(self, as_dict: bool = True) -> Query[T]:
        """Return the query for dicts of the columns' values, by their names."""
        return self._with(_row_type=peewee.ROW.DICT if as_dict else None)

    def tuples(self, as_tuple: bool = True) -> Query[T]:
        """Return the query for tuples of the columns' values."""
        return self._with(_row_type=peewee.ROW.TUPLE if as_tuple else None)

    def namedtuples(self, as_namedtuple: bool = True) -> Query[T]:
        """Return the query for tuples of the columns' values, which have their names."""
        return self._with(_row_type=peewee.ROW.NAMED_TUPLE if as_namedtuple else None)

    def join(  # type: ignore[override]
        self, dest: Any, join_type: Any = peewee.JOIN.INNER, on: Any = None, src: Any = None, attr: Any = None
    ) -> Query[T]:
        """Return the query with another model, or query, joined: `session.query(User).join(Profile)`.

        A relation names both, and the columns that are compared: `join(User.profiles)`, `join(Profile.user)`,
        `join(Post.tags)`. Any condition can do so: `join(Profile, on=…)`, or `join(Profile, User.id == Profile.user)`.
        """
        self._refuse_after_limit("join")
        if isinstance(join_type, peewee.Node):
            on, join_type = join_type, peewee.JOIN.INNER
        query: Any = self
        *between, (last, condition) = steps(self._join_ctx if src is None else src, dest, on)
        for through, key in between:
            query, src = peewee.ModelSelect.join(query, through, join_type, key, src), None
        return peewee.ModelSelect.join(query, last, join_type, condition, src, attr)

    def outerjoin(self, dest: Any, on: Any = None, src: Any = None, attr: Any = None) -> Query[T]:
        """Return the query with another model joined, where rows that have none of it are kept; `left_outer_join`."""
        return self.join(dest, peewee.JOIN.LEFT_OUTER, on, src, attr)

    def yield_per(self, count: int) -> Query[T]:
        """Return the query so that iterating it loads `count` rows at a time, in constant memory."""
        if not isinstance(count, int) or count < 1:
            raise ArgumentError(f"yield_per() takes a number of rows from 1 up, not {count!r}.")
        query: Query[T] = self.clone()
        query._chunk = count
        return query

    def prefetch(self, *subqueries: Any, **options: Any) -> Any:
        """Run the query and others for what its objects refer to, as Peewee's `prefetch`: models or queries."""
        bound = [(q.select() if is_entity(q) else q.clone()).bind(self._database) for q in subqueries]
        # Peewee goes through the objects twice, and so needs a query that keeps them.
        keeping = Select(self.model, self._returning, is_default=self._is_default)
        keeping.__dict__.update(self.__dict__, _where=self._where)
        return keeping.prefetch(*bound, **options)

    # Running

    def get(self, key: Any = MISSING, database: Any = None) -> Any:  # type: ignore[override]
        """With a key, as `session.get`; without, as in Peewee: the first row, or raise the model's `DoesNotExist`."""
        if key is not MISSING:
            if self._where is not None or self._joins:
                raise InvalidRequestError("get(key) on a query with conditions would ignore them: use session.get().")
            return self._session.get(self.model, key)
        return super().get(self._database if database is None else database)

    def scalar(self, as_tuple: bool = False, as_dict: bool = False) -> Any:  # type: ignore[override]
        """Return the first column of the only row (of a query for objects: the object), or None.

        Raises `MultipleResultsFound` when there are more rows.
        """
        if as_tuple or as_dict:
            return super().scalar(self._database, as_tuple, as_dict)
        row: Any = self.one_or_none()
        return row[0] if isinstance(row, tuple) else row

    def count(self, clear_limit: bool = False) -> int:  # type: ignore[override]
        """Return the number of rows, as SQL counts them; a limit counts."""
        if self._is_plain and not clear_limit:
            found = self._session._execution.plain_value(self, "count", self._counting)
            if found is not None:
                return int(found)
        counted = self if self._count_can_project_one() else self._with_names()
        return int(peewee.ModelSelect.count(counted, self._database, clear_limit))

    def _counting(self) -> Any:
        rows = self.order_by(None).alias("_wrapped").select(peewee.SQL("1"))
        return peewee.Select([rows], [peewee.fn.COUNT(peewee.SQL("1"))])

    def _with_names(self) -> Query[T]:
        """Return the query with a name of its own for each column: MariaDB and MySQL count no rows without."""
        query: Query[T] = self.clone()
        names = [getattr(column, "column_name", getattr(column, "name", None)) for column in query._returning]
        query._returning = [
            column.alias(f"column_{place}") if isinstance(column, peewee.Field) and names.count(name) > 1 else column
            for place, (column, name) in enumerate(zip(query._returning, names))
        ]
        return query

    def exists(self) -> bool:  # type: ignore[override]
        """Return whether there is a row."""
        if self._is_plain:
            found = self._session._execution.plain_value(self, "exists", self._looking)
            if found is not None:
                return bool(found)
        return bool(super().exists(self._database))

    def _looking(self) -> Any:
        return peewee.Select(columns=[peewee.fn.EXISTS(self.select(peewee.SQL("1")))])

    def update(self, values: Mapping[Any, Any], synchronize_session: Any = "fetch") -> int:
        """Update the rows of the query in one statement, and the session's objects with them.

        `values` maps columns (or their names) to values or expressions, such as `{User.age: User.age + 1}`. Returns
        the number of rows. With `synchronize_session=False` the objects are left as they are.
        """
        return int(self._session._execution.update(self, values, synchronize_session))

    def delete(self, synchronize_session: Any = "fetch") -> int:
        """Delete the rows of the query in one statement, and take their objects out of the session.

        Returns the number of rows. With `synchronize_session=False` the objects are left as they are.
        """
        return int(self._session._execution.delete(self, synchronize_session))

    def __iter__(self) -> Iterator[T]:
        if self._chunk is not None:
            return self._session._execution.stream(self, self._chunk)  # type: ignore[no-any-return]
        return iter(self.execute())

    @overload
    def __getitem__(self, item: int) -> T: ...

    @overload
    def __getitem__(self, item: slice) -> list[T]: ...

    def __getitem__(self, item: Any) -> Any:
        start, stop = (item.start, item.stop) if isinstance(item, slice) else (item, item + 1)
        if (start or 0) < 0 or (stop is not None and stop < 0):
            raise IndexError("A query has no negative indexes: the number of its rows is not known.")
        if isinstance(item, slice) and stop is not None and stop <= (start or 0):
            return []
        query = self._slice(start or 0, stop)
        rows = query.all()
        if isinstance(item, slice):
            return rows[:: item.step]
        if not rows:
            raise IndexError(f"The query has no row {item}.")
        return rows[0]

    def __len__(self) -> int:
        raise TypeError("A query has no len(), which would run it: use query.count(), or len(query.all()).")

    def __bool__(self) -> bool:
        return True

    def _execute(self, database: Any) -> Any:
        if self._is_plain and database is self._database:
            found = self._session._execution.run_plain(self)
            if found is not None:
                return found
        return super()._execute(database)

    def _slice(self, start: int, stop: int | None) -> Query[T]:
        """Return the query for the rows from `start` to `stop` of the rows that it has now."""
        rest = None if self._limit is None else max(0, self._limit - start)
        wanted = None if stop is None else stop - start
        query = self.limit(min((n for n in (rest, wanted) if n is not None), default=None))
        return query.offset((self._offset or 0) + start) if start or self._offset else query

    def _refuse_names(self, verb: str, columns: Iterable[Any]) -> None:
        for column in columns:
            if isinstance(column, str):
                raise ArgumentError(f"{verb}() takes columns, such as {self._what()}.{column}, not {column!r}.")

    def _refuse_after_limit(self, verb: str) -> None:
        if self._limit is not None or self._offset is not None:
            raise InvalidRequestError(
                f"{verb}() on a query that has a limit or an offset would change which rows those are. "
                f"Call {verb}() first, then limit() and offset()."
            )

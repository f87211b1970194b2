"""The queries that attributes stand for: `user.profiles` by a backref, `post.tags` by a many-to-many field."""

from __future__ import annotations

from typing import Any, TypeVar

from .query import Query
from .relation import Relation, along, give, items
from .result import Result

T = TypeVar("T")


class Related(Query[T]):
    """The query for the objects that are related to one, with `add`, `remove` and `clear`.

    Iterating it as it is loads those of all objects that came by the same result, in one statement. What is made of it
    (by `where`, `order_by`, `limit` …) is a query as every other. It is true when there is an object.
    """

    _owner: Any
    _relation: Relation
    _is_whole = False

    @classmethod
    def to(cls, execution: Any, instance: Any, relation: Relation) -> Related[Any]:
        """Return the query for what an attribute of an object stands for."""
        model, source, target = relation.model, relation.source, relation.target
        query: Any = cls._of_entity(model)
        query._session, query._database = execution.unit.session(), execution.database
        query._owner, query._relation = instance, relation
        if target is None:
            query = query.where(source == instance)
        else:
            query = query.join(source.model, on=(target == target.rel_field)).switch(model).where(source == instance)
        query._is_whole = target is None or bool(source.model._meta.primary_key)
        return query  # type: ignore[no-any-return]

    def clone(self) -> Related[T]:
        query: Any = super().clone()
        query._is_whole = False
        return query  # type: ignore[no-any-return]

    def _plain_copy(self) -> Related[T]:
        query: Any = super()._plain_copy()
        query._is_whole = False
        return query  # type: ignore[no-any-return]

    def _execute(self, database: Any) -> Any:
        if self._is_whole and database is self._database:
            relation = self._relation
            children = self._session._execution.children(self._owner, relation.source)
            return Result(relation.related(children), self._what())
        return super()._execute(database)

    def __bool__(self) -> bool:
        return bool(self.all()) if self._is_whole else True

    def add(self, *values: Any) -> None:
        """Relate objects to this one, and put them into its session.

        Each value is an object, or several: a list, a query. Many-to-many takes keys, too.
        """
        for value in items(values):
            child = self._relation.join(self._owner, value)
            if self._owner._committed is None:
                give(self._owner, child)  # so that it comes along again when a rollback has made the owner new
            self._session.add(child)

    def remove(self, *values: Any) -> int:
        """Let objects be related to this one no more, and return how many were.

        By a backref their foreign key becomes None; raises `InvalidRequestError` if it can't be. Many-to-many deletes
        the rows in between, which it reads for that, and takes keys, too.
        """
        relation, wanted = self._relation, items(values)
        if relation.target is None:
            relation.part(self._owner, wanted)
            return len(wanted)
        marks = set().union(*map(relation.marks, wanted))
        return self._drop([link for link in self._links() if relation.marks(link) & marks])

    def clear(self) -> int:
        """Remove all, and return how many there were."""
        return self.remove(self._links()) if self._relation.target is None else self._drop(self._links())

    def replace(self, values: Any) -> None:
        """Have these objects in the place of those that there are; those that are in both are left as they are."""
        relation, wanted = self._relation, items([values])
        if relation.target is None:
            kept = set(map(id, wanted))
            self.remove([child for child in self._links() if id(child) not in kept])
            self.add(wanted)
            return
        links, marks = self._links(), set().union(*map(relation.marks, wanted))
        self._drop([link for link in links if not relation.marks(link) & marks])
        known = set().union(*map(relation.marks, links))
        self.add([value for value in wanted if not relation.marks(value) & known])

    def _links(self) -> list[Any]:
        """Return what refers to the object, pending ones included."""
        if self._owner._committed is None and self._relation.source.model._meta.is_hidden:
            return [child for child in along(self._owner) if self._relation.refers(child, self._owner)]
        found = self._session._execution.children(self._owner, self._relation.source)
        return [*found, *(child for child in self._session.new if self._relation.refers(child, self._owner))]

    def _drop(self, links: list[Any]) -> int:
        for link in links:
            self._session.delete(link)
        return len(links)

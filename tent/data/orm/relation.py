"""What refers to an object: by a foreign key of its own, or, many-to-many, through the rows of a model in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import peewee

from .errors import ArgumentError, InvalidRequestError


class Relation:
    """How the objects that an attribute (`user.profiles`, `post.tags`) stands for are known.

    `source` is the foreign key to the object that has the attribute. It is a key of the objects themselves or, when
    there is a `target`, of links: objects of a model in between, whose other foreign key `target` is.
    """

    __slots__ = ("name", "source", "target")

    def __init__(self, name: str, source: Any, target: Any = None) -> None:
        self.name = name
        self.source = source
        self.target = target

    @property
    def model(self) -> Any:
        """The model of the related objects."""
        return self.source.model if self.target is None else self.target.rel_model

    def join(self, instance: Any, value: Any) -> Any:
        """Relate something to an object, and return what has to be saved for it: the thing itself, or a new link."""
        if self.target is not None:
            if isinstance(value, peewee.Model) and not isinstance(value, self.model):
                raise self._unfit(instance, value)
            return self.source.model(**{self.source.name: instance, self.target.name: value})
        if not isinstance(value, self.model):
            raise self._unfit(instance, value)
        setattr(value, self.source.name, instance)
        return value

    def part(self, instance: Any, children: Iterable[Any]) -> None:
        """Let objects refer to one no more: all, or none when one of them can't."""
        children = list(children)
        for child in children:
            if not self.refers(child, instance):
                raise ArgumentError(f"{child!r} can't be removed from {instance!r}.{self.name}: it is not in it.")
            if not self.source.null and child._committed is not None:
                raise InvalidRequestError(
                    f"{child!r} can't be removed from {instance!r}.{self.name}: its {self.source.name} can't be null. "
                    "Delete it (session.delete(obj)), or let it refer to another one."
                )
        for child in children:
            setattr(child, self.source.name, None)

    def related(self, children: Iterable[Any]) -> list[Any]:
        """Return the objects themselves, of objects or links that refer to one."""
        if self.target is None:
            return list(children)
        found = (getattr(link, self.target.name) for link in children)
        return [instance for instance in found if instance is not None]

    def refers(self, child: Any, instance: Any) -> bool:
        """Tell whether an object, or a link, refers to an object."""
        if not isinstance(child, self.source.model):
            return False
        related = child.__rel__.get(self.source.name)
        if related is not None:
            return related is instance
        key = child.__data__.get(self.source.name)
        return key is not None and bool(key == instance.__data__.get(self.source.rel_field.name))

    def marks(self, value: Any) -> set[Any]:
        """Return what tells that a link is one to this object, or key; of a link, what it is one to."""
        if isinstance(value, self.source.model):
            value = value.__rel__.get(self.target.name) or value.__data__.get(self.target.name)
        if not isinstance(value, peewee.Model):
            return {("key", self.target.rel_field.python_value(value))}
        key = value.__data__.get(self.target.rel_field.name)
        return {("object", id(value)), ("key", key)} if key is not None else {("object", id(value))}

    def _unfit(self, instance: Any, value: Any) -> ArgumentError:
        return ArgumentError(
            f"{type(instance).__name__}.{self.name} takes objects of {self.model.__name__}, not {value!r}."
        )


class Along:
    """What a new object is given before it is in a session, and comes along when it is added to one.

    It stands for `user.profiles`, or `post.tags`, until then.
    """

    def __init__(self, instance: Any, relation: Relation) -> None:
        self._instance = instance
        self._relation = relation

    def __iter__(self) -> Iterator[Any]:
        later = self._later()
        return iter(self._relation.related(self._children()) if later is None else later)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{type(self._instance).__name__}.{self._relation.name} of a new object: {list(self)!r}>"

    def __getattr__(self, name: str) -> Any:
        owner = type(self._instance).__name__
        raise AttributeError(
            f"{owner}.{self._relation.name} of an object that is in no session has no {name!r}, which a query has: add "
            "the object to a session first."
        )

    def add(self, *values: Any) -> None:
        """Add objects."""
        later = self._later()
        if later is not None:
            later.add(*values)
            return
        for value in items(values):
            give(self._instance, self._relation.join(self._instance, value))

    def remove(self, *values: Any) -> int:
        """Take objects out again, and return how many there were."""
        relation, wanted, later = self._relation, items(values), self._later()
        if later is not None:
            return int(later.remove(*wanted))
        if relation.target is not None:
            marks = set().union(*map(relation.marks, wanted))
            wanted = [link for link in self._children() if relation.marks(link) & marks]
        return self._drop(wanted)

    def clear(self) -> int:
        """Take all out again, and return how many there were."""
        later = self._later()
        return self._drop(self._children()) if later is None else int(later.clear())

    def replace(self, values: Any) -> None:
        """Have these objects in the place of those that there are."""
        self.clear()
        self.add(values)

    def _later(self) -> Any:
        """Return what stands for the relation since the object is not new any more, or in a session."""
        is_new = self._instance._committed is None and self._instance._owner is None
        return None if is_new else getattr(self._instance, self._relation.name)

    def _children(self) -> list[Any]:
        return [child for child in along(self._instance) if self._relation.refers(child, self._instance)]

    def _drop(self, children: list[Any]) -> int:
        if self._relation.target is None:
            self._relation.part(self._instance, children)
        dropped = set(map(id, children))
        self._instance._along = [child for child in self._instance._along or () if id(child) not in dropped]
        return len(children)


class Loaded(list[Any]):
    """What Peewee has loaded for a relation: a list, with the verbs of the query that it stands in for."""

    def __init__(self, found: Iterable[Any], query: Any) -> None:
        super().__init__(found)
        self._query = query

    def add(self, *values: Any) -> None:
        """As of the query."""
        self._query.add(*values)

    def remove(self, *values: Any) -> int:  # type: ignore[override]
        """As of the query."""
        return int(self._query.remove(*values))

    def clear(self) -> int:  # type: ignore[override]
        """As of the query."""
        return int(self._query.clear())


def give(instance: Any, child: Any) -> None:
    """Let an object come along with a new one that it refers to."""
    if instance._along is None:
        instance._along = []
    instance._along.append(child)


def along(instance: Any) -> list[Any]:
    """Return the objects that were given to a new object, and refer to it still."""
    given = {id(child): child for child in instance._along or ()}
    return [child for child in given.values() if any(related is instance for related in child.__rel__.values())]


def items(values: Iterable[Any]) -> list[Any]:
    """Return arguments as one list: each may be an object, a key, or several of them (a list, a query …)."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (peewee.Model, str, bytes)) or not isinstance(value, Iterable):
            found.append(value)
        else:
            found.extend(value)
    return found

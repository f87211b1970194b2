"""Objects that came together: what is loaded for one of them is loaded for all."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

GROUP = 10_000  # objects at most: their keys go into one statement


class Peers:
    """A group of objects that one statement read, or one flush inserted. They are held weakly, and share it."""

    __slots__ = ("_start", "absent", "answers", "references")

    def __init__(self, references: list[weakref.ref[Any]]) -> None:
        self.references = references
        self.answers: dict[Any, Answer] = {}  # what refers to the peers, by foreign key
        self.absent: dict[Any, Absent] = {}  # what the peers' own foreign keys lead to nothing by
        self._start = 0

    @classmethod
    def of(cls, objects: Sequence[Any]) -> None:
        """Let objects be peers from now on."""
        for start in range(0, len(objects) if len(objects) > 1 else 0, GROUP):
            part = objects[start : start + GROUP]
            peers = cls(list(map(weakref.ref, part)))
            for instance in part:
                instance._peers = peers

    def beginning_with(self, instance: Any) -> Iterator[Any]:
        """Go through the living objects from one of them on, to the end and then from the start."""
        references = self.references
        places: Iterable[int] = chain(range(self._start, len(references)), range(self._start))
        self._start = next((place for place in places if references[place]() is instance), 0)
        for reference in chain(islice(references, self._start, None), islice(references, self._start)):
            peer = reference()
            if peer is not None:
                yield peer

    def forget(self, instance: Any) -> None:
        """Forget what refers to an object, whose row was just read by itself: it wants to know what is new."""
        for field, answer in self.answers.items():
            answer.found.pop(instance.__data__.get(field.rel_field.name), None)


class Absent:
    """The keys for which there was no row at a moment."""

    __slots__ = ("keys", "moment")

    def __init__(self, moment: Any, keys: set[Any]) -> None:
        self.moment = moment
        self.keys = keys


class Answer:
    """The objects that refer to some peers by one foreign key, as they were at a moment: lists, by the key."""

    __slots__ = ("__weakref__", "found", "given", "moment")

    def __init__(self, moment: Any) -> None:
        self.moment = moment
        self.found: dict[Any, list[Any]] = {}
        self.given = 0

    def room(self) -> int:
        """Return for how many peers to load the next time, which starts the count anew.

        Twice as many as were asked about since the last time: one that goes through all of them takes few statements,
        and one that writes or commits after each of them does not load all of them each time.
        """
        room, self.given = 2 * self.given + 1, 0
        return room


def peers_of(instance: Any) -> Iterator[Any]:
    """Go through an object and its peers, itself first."""
    peers = instance._peers
    return iter((instance,)) if peers is None else peers.beginning_with(instance)

"""The unit of work: what is new, dirty and deleted in a session.

A flush goes one way: `planning` looks at the objects and changes nothing, `writing` runs the statements, and a
`Settlement` makes the objects agree with the rows, with a log by which a rollback takes it all back.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import peewee

from .cascading import affected
from .engine import Engine
from .errors import FlushError, InvalidRequestError
from .history import Unseen, restore
from .identity import IdentityMap
from .loading import Loader
from .mapper import Mapper
from .peers import Answer
from .planning import Plan
from .relation import along
from .tracking import CLEAN, DELETED, Owner, changed_names, committed_value, has_row, session_of

Books = dict[int, Any]


class UnitOfWork:
    """The books of a session. Objects are in them by `id`, since the hash of a model's object changes with its key."""

    def __init__(self, session: Any, engine: Engine) -> None:
        self.session = weakref.ref(session)
        self.owner = Owner(session)
        self.identity_map = IdentityMap()
        self.loader = Loader(engine, self.identity_map, self.owner)
        self.new: Books = {}
        self.dirty: Books = {}
        self.deleted: Books = {}  # marked; a flush deletes their rows
        self.gone: Books = {}  # their rows are deleted, in the open transaction
        self.journal: dict[int, tuple[Any, bool]] | None = None  # in a flush: what came or went, was it in
        self.unsettled: set[Any] = set()  # models of which what is pending lets rows come or move
        self.leaving: set[Any] = set()  # models of which rows are marked to be deleted
        self._writings = 0
        self.scopes: list[Any] = []  # the open transaction, and the savepoints in it
        self.answers: weakref.WeakSet[Answer] | None = None  # what is known of relations
        self.pending: dict[Any, Any] = {}  # new objects that were added with a key, by model and key

    # Registering

    def register_new(self, *instances: Any) -> list[Any]:
        """Take in transient objects and those that they refer to, all or none, and return them."""
        found: Books = {}
        waiting = list(instances)
        for one in waiting:  # it grows on the way
            if id(one) not in found:
                if one._owner is not None:
                    self._refuse_owned_elsewhere(one)
                found[id(one)] = one
                if one.__rel__:
                    waiting.extend(self._reachable(one, one.__rel__))
                if one._along is not None:
                    waiting.extend(self._coming_along(one))
        for number, one in found.items():
            one._owner = self.owner
            if one._committed is not None:
                one._committed = None
            if one._peers is not None:
                one._peers = None
            if one._given is None:
                one._given = set(one.__data__)
            self.new[number] = one
            self.unsettled.add(type(one))
            self.register_key(one)
        return list(found.values())

    def register_key(self, instance: Any) -> None:
        """Let `get` find a new object by the key that it was given."""
        mapper = self.loader.mapper(type(instance))
        if mapper.generated is not None and instance.__data__.get(mapper.generated) is None:
            return
        with contextlib.suppress(peewee.DataError):  # a key that the column can't hold: the flush tells
            key = mapper.key_given(instance.__data__)
            if key is not None:
                self.pending[mapper.model, key] = instance

    def pending_with(self, mapper: Mapper, key: Any) -> Any:
        """Return the new object that was added with a key, and still has it, or None."""
        instance = self.pending.get((mapper.model, key))
        if instance is None or id(instance) not in self.new:
            return None
        return instance if mapper.key_given(instance.__data__) == key else None

    def register_persistent(self, instance: Any) -> None:
        """Take in a detached object; what was changed on it while it was detached stays changed."""
        mapper, key = self.identity_of(instance)
        known = self.identity_map.find(mapper.model, key)
        if known is not None and known is not instance:
            raise InvalidRequestError(
                f"{instance!r} can't be added: another object with its key is in the session. Use session.merge(obj), "
                "which copies its values to that one."
            )
        self._refuse_owned_elsewhere(instance)
        self._note_in_journal(instance, was_in=False)
        instance._owner, instance._epoch, instance._peers = self.owner, -1, None
        self.identity_map.add(mapper.model, key, instance)
        if instance._committed:
            self.dirty[id(instance)] = instance
            self.register_moved(instance)

    def register_dirty(self, instance: Any) -> None:
        self.dirty[id(instance)] = instance

    def register_moved(self, instance: Any) -> None:
        """Note that a foreign key of an object was set."""
        self.unsettled.add(type(instance))

    def is_unsettled(self, model: Any) -> bool:
        """Return whether what is pending lets rows of a model come, go or move, but for those that are deleted."""
        return model in self.unsettled or any(model in affected(other) for other in self.leaving)

    def register_deleted(self, instance: Any) -> None:
        self.deleted[id(instance)] = instance
        self.leaving.add(type(instance))

    def register_reachable(self) -> list[Any]:
        """Take in the transient objects that objects of the session refer to by now, and return them."""
        found = []
        for instance in [one for books in (self.new, self.dirty) for one in books.values() if one.__rel__]:
            found += self._reachable(instance, instance.__rel__ if instance._committed is None else instance._committed)
        return self.register_new(*found) if found else []

    def _note_in_journal(self, instance: Any, was_in: bool) -> None:
        if self.journal is not None:
            self.journal.setdefault(id(instance), (instance, was_in))

    def drop_new(self, instance: Any) -> None:
        """Let go of a pending object and of what came along with it: else it would be reached again from there."""
        waiting = [instance]
        for one in waiting:  # it grows on the way
            if id(one) in self.new:
                self.cancel_new(one)
                waiting += along(one)

    def cancel_new(self, instance: Any) -> None:
        """Let go of a pending object; one whose row was deleted in the transaction is as it was then."""
        with contextlib.suppress(peewee.DataError):  # it has a key that the column can't hold, and is under none
            mapper = self.loader.mapper(type(instance))
            identity = mapper.model, mapper.key_given(instance.__data__)
            if self.pending.get(identity) is instance:
                del self.pending[identity]
        if id(instance) in self.gone:
            del self.new[id(instance)]
            instance._committed, instance._given = DELETED, None
        else:
            self.expunge(instance)

    def expunge(self, instance: Any) -> None:
        """Let go of an object: a pending one is transient again, another one detached."""
        if has_row(instance):
            mapper, key = self.identity_of(instance)
            self.identity_map.discard(mapper.model, key, instance)
            self._note_in_journal(instance, was_in=True)
            self.note_doubt()  # what was written of its row may be read by another object
        for books in (self.new, self.dirty, self.deleted, self.gone):
            books.pop(id(instance), None)
        instance._owner = None
        self.loader.note_moves(type(instance))

    def expunge_all(self) -> None:
        """Let go of all objects, in a few steps however many there are."""
        for instance in self.new.values():
            instance._owner = None
        for books in (self.new, self.dirty, self.deleted, self.gone, self.pending, self.unsettled, self.leaving):
            books.clear()
        self.forget_answers()
        self.owner.let_go()
        self.owner = self.loader.owner = Owner(self.session())
        self.identity_map.clear()

    def _refuse_owned_elsewhere(self, instance: Any) -> None:
        session = session_of(instance)
        if session is not None and session is not self.session():
            raise InvalidRequestError(
                f"{instance!r} is already attached to another open session. Use session.merge(obj), or let go of it "
                "there first: other.expunge(obj)."
            )

    def _reachable(self, instance: Any, names: Iterable[str]) -> list[Any]:
        found = []
        for name in names:
            related = instance.__rel__.get(name)
            if not isinstance(related, peewee.Model):
                continue
            session = session_of(related)
            if session is not None and session is not self.session():
                raise InvalidRequestError(
                    f"{instance!r}.{name} is {related!r}, which is attached to another open session. Merge it into "
                    "this one (session.merge(obj)), or set the key in its place."
                )
            if session is None and related._committed is None:  # type: ignore[attr-defined]
                found.append(related)
        return found

    def _coming_along(self, instance: Any) -> list[Any]:
        """Return the transient objects that a new one was given; of the others, the detached ones are taken in."""
        found = []
        for child in along(instance):
            self._refuse_owned_elsewhere(child)
            if session_of(child) is None:
                if has_row(child):
                    self.register_persistent(child)
                else:
                    found.append(child)
        return found

    def identity_of(self, instance: Any) -> tuple[Mapper, Any]:
        """Return the mapper of an object, and the key that its row has."""
        mapper = self.loader.mapper(type(instance))
        if mapper.plain_key is not None and mapper.key_names[0] not in (instance._committed or ()):
            key = instance.__data__.get(mapper.key_names[0])
            if type(key) is mapper.plain_key:
                return mapper, key
        parts = tuple(committed_value(instance, name) for name in mapper.key_names)
        key = None if None in parts or not parts else mapper.identity(parts)
        if key is None:
            raise FlushError(f"{instance!r} has no key, by which its row could be found.")
        return mapper, key

    def keys_of(self, mapper: Mapper, instances: Sequence[Any]) -> list[Any]:
        """Return the keys that the rows of a model's objects have."""
        if mapper.plain_key is not None:
            name = mapper.key_names[0]
            keys = [None if name in (one._committed or ()) else one.__data__.get(name) for one in instances]
            if set(map(type, keys)) == {mapper.plain_key}:
                return keys
        return [self.identity_of(instance)[1] for instance in instances]

    def has_pending(self) -> bool:
        """Return whether there may be something to flush."""
        return bool(self.new or self.dirty or self.deleted)

    def unflushed(self) -> Books:
        """Return the objects that have changes which no flush has written."""
        changed = {number: instance for number, instance in self.dirty.items() if changed_names(instance)}
        return {**self.new, **changed, **self.deleted}

    # Keeping in agreement

    def settled(self) -> None:
        """Note that nothing is pending any more."""
        self.tidy()
        self.pending.clear()
        self.unsettled.clear()
        self.leaving.clear()

    def tidy(self) -> None:
        """Take those out of the dirty objects that have their committed values again."""
        for instance in [instance for instance in self.dirty.values() if not changed_names(instance)]:
            self.dirty.pop(id(instance))._committed = CLEAN

    def rekey(self, mapper: Mapper, instance: Any, old: Any, new: Any) -> None:
        """Enter an object under another key."""
        self.identity_map.discard(mapper.model, old, instance)
        self.identity_map.add(mapper.model, new, instance)

    def revert(self, instance: Any) -> None:
        """Give an object its committed values back."""
        restore(instance, instance._committed)
        instance._committed = CLEAN
        self.dirty.pop(id(instance), None)

    # What is known of relations, and until when

    def note_statement(self, is_done: bool = True) -> None:
        """Note that rows were written, whichever these are: what was read of any is not what is read from now on.

        Unless `is_done`, what was written is undone, or that it failed is all that is known.
        """
        self.loader.epoch += 1
        self.note_doubt(is_write=is_done)

    def note_bulk(self, model: Any) -> None:
        """Note that rows of a model were written, of which some may have no objects."""
        self._writings += 1
        self.note_doubt(is_write=True)
        for one in (model, *affected(model)):
            self.loader.note_moves(one)

    def note_doubt(self, is_write: bool = False) -> None:
        """Note that a row which is read from now on may be another one once the transaction is rolled back."""
        if self.scopes:
            log = self.scopes[-1].log
            if not (log and isinstance(log[-1], Unseen)):
                log.append(Unseen(self.loader))
            log[-1].is_write |= is_write

    def note_flush(self, plan: Plan) -> None:
        """Note that a flush has written rows."""
        self._writings += 1
        for mapper in plan.new:
            self.loader.note_moves(mapper.model)
        for mapper, names in plan.updates:
            if mapper.is_moved_by(names):
                self.loader.note_moves(mapper.model)
        for mapper, _ in plan.deletes:
            self.loader.note_moves(mapper.model)

    def moment(self) -> tuple[Any, ...]:
        """Return what changes whenever something is written, or a transaction ends."""
        return self.owner, self.loader.epoch, self._writings

    def moment_of(self, model: Any) -> tuple[Any, ...]:
        """Return what changes whenever rows of a model may have come, gone or moved, or a transaction ends."""
        return self.owner, self.loader.epoch, self.loader.moves.get(model, 0)

    def referring(self, field: Any, values: Iterable[Any]) -> list[Any]:
        """Return the objects whose rows have one of these values in a foreign key."""
        if not self.identity_map.has(field.model):
            return []
        found = self.identity_map.referring(field.model, field.name, values)
        return [one for one in found if one._owner is self.owner and has_row(one)]

    def end_transaction(self) -> None:
        """What was read or written until now may be out of date from now on."""
        for number, instance in self.gone.items():
            if number not in self.new:
                instance._owner = None
        self.gone.clear()
        self.loader.epoch += 1
        self.loader.reading = None
        self.forget_answers()

    def open_answer(self, moment: Any) -> Answer:
        """Return a new answer, which counts until something comes, goes or moves, or the transaction ends."""
        answer = Answer(moment)
        if self.answers is None:
            self.answers = weakref.WeakSet()
        self.answers.add(answer)
        return answer

    def forget_answers(self) -> None:
        """Forget what is known of relations, and hold on to no objects for it."""
        for answer in self.answers or ():
            answer.found.clear()
        self.answers = None

"""The unit of work: what is new, dirty and deleted in a session.

A flush goes one way: `plan` looks at the objects and changes nothing, `flush.write` runs the statements, `settle` makes
the objects agree with the rows, and returns the log by which a rollback takes it all back.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import peewee

from .cascading import CASCADE, SET_DEFAULT, Fallout, action, affected
from .change import Change
from .engine import Engine
from .errors import FlushError, InvalidRequestError
from .history import Deleted, Inserted, Step, Updated, restore
from .identity import IdentityMap
from .loading import Loader
from .mapper import Mapper
from .ordering import Plan
from .peers import Peers
from .persister import Fill, Persister
from .relation import along
from .tracking import CLEAN, DELETED, Owner, changed_names, committed_value, session_of

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
        self.unsettled: set[Any] = set()  # models of which what is pending lets rows come, go or move
        self._writings = 0
        self._statements = 0
        self._moves: dict[Any, int] = {}
        self.pending: dict[Any, Any] = {}  # new objects that were added with a key, by model and key

    # Registering

    def register_new(self, *instances: Any) -> list[Any]:
        """Take in transient objects and those that they refer to, all or none, and return them."""
        found: Books = {}
        waiting = list(instances)
        for one in waiting:  # it grows on the way
            if id(one) not in found:
                self._refuse_owned_elsewhere(one)
                found[id(one)] = one
                if one.__rel__:
                    waiting.extend(self._reachable(one, one.__rel__))
                if one._along is not None:
                    waiting.extend(along(one))
        for one in found.values():
            one._owner, one._committed = self.owner, None
            if one._given is None:
                one._given = set(one.__data__)
            self.new[id(one)] = one
            self.unsettled.add(type(one))
            self.register_key(one)
        return list(found.values())

    def register_key(self, instance: Any) -> None:
        """Let `get` find a new object by the key that it was given."""
        mapper = self.loader.mapper(type(instance))
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
        instance._owner, instance._epoch = self.owner, -1
        self.identity_map.add(mapper.model, key, instance)
        if instance._committed:
            self.dirty[id(instance)] = instance

    def register_dirty(self, instance: Any) -> None:
        self.dirty[id(instance)] = instance

    def register_moved(self, instance: Any) -> None:
        """Note that a foreign key of an object was set."""
        self.unsettled.add(type(instance))

    def is_unsettled(self, model: Any) -> bool:
        """Return whether what is pending lets rows of a model come, go or move, but for those that are deleted."""
        return model in self.unsettled

    def register_deleted(self, instance: Any) -> None:
        self.deleted[id(instance)] = instance
        self.unsettled |= affected(type(instance))

    def register_reachable(self) -> list[Any]:
        """Take in the transient objects that objects of the session refer to by now, and return them."""
        found = []
        for instance in [*self.new.values(), *self.dirty.values()]:
            names = instance.__rel__ if instance._committed is None else instance._committed
            found += self._reachable(instance, names) if instance.__rel__ else []
        return self.register_new(*found)

    def cancel_new(self, instance: Any) -> None:
        """Let go of a pending object; one whose row was deleted in the transaction is as it was then."""
        if id(instance) in self.gone:
            del self.new[id(instance)]
            instance._committed, instance._given = DELETED, None
        else:
            self.expunge(instance)

    def expunge(self, instance: Any) -> None:
        """Let go of an object: a pending one is transient again, another one detached."""
        if instance._committed is not None and instance._committed is not DELETED:
            mapper, key = self.identity_of(instance)
            self.identity_map.discard(mapper.model, key, instance)
        for books in (self.new, self.dirty, self.deleted, self.gone):
            books.pop(id(instance), None)
        instance._owner = None
        self.note_moves(type(instance))

    def expunge_all(self) -> None:
        """Let go of all objects, in a few steps however many there are."""
        for instance in self.new.values():
            instance._owner = None
        for books in (self.new, self.dirty, self.deleted, self.gone, self.pending):
            books.clear()
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

    def identity_of(self, instance: Any) -> tuple[Mapper, Any]:
        """Return the mapper of an object, and the key that its row has."""
        mapper = self.loader.mapper(type(instance))
        parts = tuple(committed_value(instance, name) for name in mapper.key_names)
        key = None if None in parts or not parts else mapper.identity(parts)
        if key is None:
            raise FlushError(f"{instance!r} has no key, by which its row could be found.")
        return mapper, key

    # Planning: nothing changes

    def has_pending(self) -> bool:
        """Return whether there may be something to flush."""
        return bool(self.new or self.dirty or self.deleted)

    def unflushed(self) -> Books:
        """Return the objects that have changes which no flush has written."""
        changed = {number: instance for number, instance in self.dirty.items() if changed_names(instance)}
        return {**self.new, **changed, **self.deleted}

    def plan(self) -> Plan:
        """Return what a flush has to write."""
        new: dict[Mapper, list[Any]] = {}
        for instance in self.new.values():
            new.setdefault(self.loader.mapper(type(instance)), []).append(instance)
        updates = self._compute_updates()
        deletes = [self._change("delete", instance) for instance in self.deleted.values()]
        plan = Plan(new, updates, deletes)
        self._refuse_collisions(plan)
        return plan

    def _compute_updates(self) -> list[Change]:
        dirty = [instance for number, instance in self.dirty.items() if number not in self.deleted]
        changes = [self._change("update", instance, names) for instance in dirty if (names := changed_names(instance))]
        with contextlib.suppress(TypeError):
            # In the order of their keys, so that two sessions don't lock rows crosswise; where keys of several types
            # have no order, in that of the changes.
            changes.sort(key=lambda change: change.key)
        return changes

    def _change(self, verb: str, instance: Any, names: Sequence[str] = ()) -> Change:
        mapper, key = self.identity_of(instance)
        return Change(verb, instance, mapper, [name for name in mapper.names if name in names], key)

    def _refuse_collisions(self, plan: Plan) -> None:
        """Refuse a new object whose key another object of the session has: the database would, less clearly."""
        leaving = {id(change.instance) for change in [*plan.updates, *plan.deletes]}
        for mapper, instances in plan.new.items():
            for instance in instances:
                key = mapper.key_given(instance.__data__)
                known = None if key is None else self.identity_map.find(mapper.model, key)
                if known is not None and id(known) not in leaving:
                    raise FlushError(
                        f"{instance!r} is new and has the key of {known!r}, which is in the session and has a row. "
                        "Change that one, or use session.merge(obj)."
                    )

    # Settling: the objects agree with their rows

    def settle(self, plan: Plan, persister: Persister, log: list[Step]) -> None:
        """Make the books and the objects agree with what was written.

        How to take it back is put into the log, each step before it is done: an interrupt may come at any moment.
        """
        switched = set(map(id, plan.switched))
        updates = [change for change in plan.updates if id(change) not in switched]
        self._note_plan(plan)
        for change in plan.switched:
            plan.new.setdefault(change.mapper, []).append(change.instance)
        new = {id(instance) for instances in plan.new.values() for instance in instances}
        filled: dict[Mapper, list[Fill]] = {}
        former: dict[int, dict[str, Any]] = {}
        for instance, name, old in persister.filled:
            if id(instance) in new:
                filled.setdefault(self.loader.mapper(type(instance)), []).append((instance, name, old))
            else:
                former.setdefault(id(instance), {}).setdefault(name, old)
        for change in [*plan.deletes, *plan.switched]:
            self.settle_deleted(change.row, change.mapper, log)
        moved: dict[Any, dict[Any, Any]] = {}
        for change in updates:
            committed = change.instance._committed
            values = former.get(id(change.instance), {})
            values.update((name, committed[name]) for name in change.names if name in committed)
            self.settle_updated(change.instance, change.mapper, values, log)
            _note_moves(moved, change, values)
        self._follow(moved, log)
        for mapper, instances in plan.new.items():
            self._settle_new(mapper, instances, filled.get(mapper, ()), log)
        self.settle_fallout(persister.fallout, log)
        self.tidy()
        self.pending.clear()
        self.unsettled.clear()

    def tidy(self) -> None:
        """Take those out of the dirty objects that have their committed values again."""
        for instance in [instance for instance in self.dirty.values() if not changed_names(instance)]:
            self.dirty.pop(id(instance))._committed = CLEAN

    def _settle_new(self, mapper: Mapper, instances: Sequence[Any], filled: Sequence[Fill], log: list[Step]) -> None:
        step = Inserted(mapper, instances, filled)
        log.append(step)
        for instance in instances:
            data, number = instance.__data__, id(instance)
            if len(data) < len(mapper.names):
                for name in mapper.names:
                    data.setdefault(name)
            self._take_copies(data, mapper, mapper.mutable)
            key = mapper.identity(mapper.key_of(data)) if mapper.key_names else None
            if key is not None:
                stale = self.identity_map.find(mapper.model, key)
                if stale is not None:  # SQLite gives the key of a last row that somebody deleted to the next one
                    self.expunge(stale)
            step.keys.append(key)
            if key is not None:
                self.identity_map.add(mapper.model, key, instance)
            instance._committed, instance._given, instance._epoch = CLEAN, None, self.loader.epoch
            if instance._along is not None:
                instance._along = None
            del self.new[number]
            if self.gone.pop(number, None) is not None:
                step.gone.add(number)
        if len(instances) > 1 and mapper.key_names:
            Peers.of(instances)

    def settle_updated(self, instance: Any, mapper: Mapper, former: dict[str, Any], log: list[Step]) -> None:
        """Note that the row has an object's values now; `former` has those that it had before, of what changed."""
        step = Updated(mapper, instance, former)
        log.append(step)
        self._take_copies(instance.__data__, mapper, [name for name in mapper.mutable if name in former])
        if step.keys is not None:
            self.rekey(mapper, instance, *step.keys)
        committed = instance._committed
        instance._committed = {name: value for name, value in committed.items() if name not in former} or CLEAN
        instance._epoch = self.loader.epoch

    def _follow(self, moved: Mapping[Any, Mapping[Any, Any]], log: list[Step]) -> None:
        """Let objects follow the rows that they refer to, when the key that they do it by has changed."""
        for field, keys in moved.items():
            mapper = self.loader.mapper(field.model)
            for child in self.identity_map.referring(field.model, field.name, keys):
                key = child.__data__[field.name]
                if field.name not in child._committed:
                    child.__data__[field.name] = keys[key]
                    self.settle_updated(child, mapper, {field.name: key}, log)

    def settle_deleted(self, instance: Any, mapper: Mapper, log: list[Step]) -> None:
        """Note that the row of an object is deleted."""
        step = Deleted(mapper, instance, self.identity_of(instance)[1])
        log.append(step)
        self.note_moves(mapper.model)
        self.identity_map.discard(mapper.model, step.key, instance)
        for books in (self.dirty, self.deleted):
            books.pop(id(instance), None)
        instance._committed = DELETED
        self.gone[id(instance)] = instance

    def settle_fallout(self, fallout: Fallout, log: list[Step]) -> None:
        """Note what the database has done to the rows that referred to deleted ones."""
        for field, values in fallout.items():
            self.note_moves(field.model)
            children = self.identity_map.referring(field.model, field.name, values)
            if action(field) == CASCADE:
                for child in children:
                    self.settle_deleted(child, self.loader.mapper(field.model), log)
            else:
                self._settle_parted(field, children, log)

    def _settle_parted(self, field: Any, children: Sequence[Any], log: list[Step]) -> None:
        """Note that the database has put NULL, or the default, into a foreign key of objects."""
        mapper, name = self.loader.mapper(field.model), field.name
        children = [child for child in children if name not in child._committed]
        former = [child.__data__[name] for child in children]
        if action(field) == SET_DEFAULT:
            self.loader.by_keys(mapper, [self.identity_of(child)[1] for child in children])
        else:
            for child in children:
                child.__data__[name] = None
                child.__rel__.pop(name, None)
        for child, key in zip(children, former):
            self.settle_updated(child, mapper, {name: key}, log)

    def _take_copies(self, data: dict[str, Any], mapper: Mapper, names: Iterable[str]) -> None:
        """Part the values that were written from the dicts and lists that the program may go on changing."""
        for name in names:
            if type(data[name]) in (dict, list, tuple):
                data[name] = {} if data[name] == {} else mapper.by_name[name].normal(data[name])

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

    def note_statement(self) -> None:
        """Note that a statement of the program's own has written rows, whichever these are."""
        self._statements += 1

    def note_moves(self, model: Any) -> None:
        """Note that rows of a model have come, gone or moved."""
        self._moves[model] = self._moves.get(model, 0) + 1

    def _note_plan(self, plan: Plan) -> None:
        self._writings += 1
        moving = {change.mapper.model for change in plan.updates if change.mapper.is_moved_by(change.names)}
        for model in {mapper.model for mapper in plan.new} | {c.mapper.model for c in plan.deletes} | moving:
            self.note_moves(model)

    def moment(self) -> tuple[int, int, int]:
        """Return what changes whenever something is written, or a transaction ends."""
        return self.loader.epoch, self._statements, self._writings

    def moment_of(self, model: Any) -> tuple[int, int, int]:
        """Return what changes whenever rows of a model may have come, gone or moved, or a transaction ends."""
        return self.loader.epoch, self._statements, self._moves.get(model, 0)

    def end_transaction(self) -> None:
        """What was read or written until now may be out of date from now on."""
        for instance in self.gone.values():
            instance._owner = None
        self.gone.clear()
        self.loader.epoch += 1


def _note_moves(moved: dict[Any, dict[Any, Any]], change: Change, former: Mapping[str, Any]) -> None:
    """Note the keys, before and after, by which the database lets other rows follow an updated one."""
    for field in change.mapper.model._meta.backrefs:
        name = field.rel_field.name
        if name in former and (field.on_update or "").upper() == "CASCADE":
            moved.setdefault(field, {})[former[name]] = change.instance.__data__[name]

"""The unit of work: what is new, dirty and deleted in a session, and how it is written.

A flush goes one way: `plan` looks at the objects and changes nothing, `flush.write` runs the statements, `settle` makes
the objects agree with the rows, and returns the log by which a rollback takes it all back.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import peewee

from . import conflicts
from .conflicts import Plan
from .engine import Engine
from .errors import FlushError, InvalidRequestError
from .identity import IdentityMap
from .loading import Loader
from .mapper import Mapper
from .persister import Change, Persister, committed_value
from .tracking import CLEAN, DELETED, MISSING, Owner, changed_names, session_of

Books = dict[int, Any]
Filled = list[tuple[Any, str, Any, Any]]  # object, name, the value before and the one that was filled in


class Step:
    """A part of a flush, of some objects, and how to take it back.

    `undo(keep)` gives the objects their former values back; with `keep` the changes stay on them, yet to be flushed.
    """

    __slots__ = ("inserted", "instances", "undo")

    def __init__(self, instances: Sequence[Any], undo: Callable[[bool], None], inserted: bool = False) -> None:
        self.instances = instances
        self.undo = undo
        self.inserted = inserted


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
        self.pending: dict[Any, Any] = {}  # new objects that were added with a key, by model and key

    # Registering

    def register_new(self, instance: Any) -> None:
        """Take in a transient object, and the transient objects that it refers to."""
        found, waiting = {}, [instance]
        while waiting:
            one = waiting.pop()
            if id(one) not in found:
                self._refuse_owned_elsewhere(one)
                found[id(one)] = one
                if one.__rel__:
                    waiting.extend(self._reachable(one, one.__rel__))
        for one in found.values():
            one._owner, one._committed = self.owner, None
            if one._given is None:
                one._given = dict.fromkeys(one.__data__)
            self.gone.pop(id(one), None)
            self.new[id(one)] = one
            self.register_key(one)

    def register_key(self, instance: Any) -> None:
        """Let `get` find a new object by the key that it was given."""
        mapper = self.loader.mapper(type(instance))
        key = mapper.key_of(instance.__data__)
        if key is not None and not isinstance(key, peewee.Node):
            with contextlib.suppress(TypeError, InvalidRequestError):
                self.pending[mapper.model, mapper.identity(key)] = instance

    def pending_with(self, mapper: Mapper, key: Any) -> Any:
        """Return the new object that was added with a key, and still has it, or None."""
        instance = self.pending.get((mapper.model, key))
        if instance is None or id(instance) not in self.new:
            return None
        return instance if mapper.identity(mapper.key_of(instance.__data__)) == key else None

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

    def register_deleted(self, instance: Any) -> None:
        self.deleted[id(instance)] = instance

    def register_reachable(self) -> None:
        """Take in the transient objects that were assigned to objects of the session since they were added."""
        for instance in [*self.new.values(), *self.dirty.values()]:
            names = instance.__rel__ if instance._committed is None else instance._committed
            for related in self._reachable(instance, names):
                self.register_new(related)

    def expunge(self, instance: Any) -> None:
        """Let go of an object: a pending one is transient again, another one detached."""
        if instance._committed is not None and instance._committed is not DELETED:
            mapper, key = self.identity_of(instance)
            self.identity_map.discard(mapper.model, key, instance)
        for books in (self.new, self.dirty, self.deleted, self.gone):
            books.pop(id(instance), None)
        instance._owner = None

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

    def unflushed(self) -> Books:
        """Return the objects that have changes which no flush has written."""
        changed = {number: instance for number, instance in self.dirty.items() if changed_names(instance)}
        return {**self.new, **changed, **self.deleted}

    def plan(self) -> Plan:
        """Return what a flush has to write."""
        self.register_reachable()
        new: dict[Mapper, list[Any]] = {}
        for instance in self.new.values():
            new.setdefault(self.loader.mapper(type(instance)), []).append(instance)
        updates = self._compute_updates()
        deletes = [self._change(instance, ()) for instance in self.deleted.values()]
        plan = Plan(new, updates, deletes)
        if updates or deletes:
            conflicts.resolve(plan)
        self._refuse_collisions(plan)
        return plan

    def _compute_updates(self) -> list[Change]:
        dirty = [instance for number, instance in self.dirty.items() if number not in self.deleted]
        changes = [self._change(instance, names) for instance in dirty if (names := changed_names(instance))]
        with contextlib.suppress(TypeError):
            # In the order of their keys, so that two sessions don't lock rows crosswise; where keys of several types
            # have no order, in that of the changes.
            changes.sort(key=lambda change: change.key)
        return changes

    def _change(self, instance: Any, names: Sequence[str]) -> Change:
        mapper, key = self.identity_of(instance)
        return Change(instance, mapper, [name for name in mapper.names if name in names], key)

    def _refuse_collisions(self, plan: Plan) -> None:
        """Refuse a new object whose key another object of the session has: the database would, less clearly."""
        leaving = {id(change.instance) for level in plan.updates for change in level}
        leaving |= {id(c.instance) for level in plan.early_updates for c in level}
        leaving |= {id(c.instance) for c in plan.early_deletes}
        for mapper, instance in plan.inserts():
            key = mapper.key_of(instance.__data__)
            if key is None or isinstance(key, peewee.Node):
                continue
            known = self.identity_map.find(mapper.model, mapper.identity(key))
            if known is not None and known is not instance and id(known) not in leaving:
                raise FlushError(
                    f"{instance!r} is new and has the key of {known!r}, which is in the session and has a row. "
                    "Change that one, or use session.merge(obj)."
                )

    # Settling: the objects agree with their rows

    def settle(self, plan: Plan, persister: Persister) -> list[Step]:
        """Make the books and the objects agree with what was written, and return how to take it back."""
        switched = {id(change): change for _, change in plan.switched}
        new = {id(instance) for _, instance in plan.inserts()} | {id(c.instance) for c in switched.values()}
        filled: Filled = []
        former: dict[int, dict[str, Any]] = {}
        for instance, name, old in persister.filled:
            if id(instance) in new:
                filled.append((instance, name, old, instance.__data__[name]))
            else:
                former.setdefault(id(instance), {}).setdefault(name, old)
        log = [self.settle_deleted(c.instance, c.mapper) for c in [*plan.early_deletes, *plan.deletes]]
        for deleted, change in plan.switched:
            log.append(self.settle_deleted(deleted, change.mapper))
            plan.new.setdefault(change.mapper, []).append(change.instance)
        for change in itertools.chain(*plan.early_updates, *plan.updates):
            if id(change) not in switched:
                committed = change.instance._committed
                values = former.get(id(change.instance), {})
                values.update((name, committed[name]) for name in change.names if name in committed)
                log.append(self.settle_updated(change.instance, change.mapper, values))
        log += [self._settle_new(mapper, instances, filled) for mapper, instances in plan.new.items()]
        self.tidy()
        self.pending.clear()
        return log

    def tidy(self) -> None:
        """Take those out of the dirty objects that have their committed values again."""
        for instance in [instance for instance in self.dirty.values() if not changed_names(instance)]:
            self.dirty.pop(id(instance))._committed = CLEAN

    def _settle_new(self, mapper: Mapper, instances: Sequence[Any], filled: Filled) -> Step:
        given, keys = [instance._given for instance in instances], []
        for instance in instances:
            data = instance.__data__
            if len(data) < len(mapper.names):
                for name in mapper.names:
                    data.setdefault(name)
            self._take_copies(data, mapper, mapper.mutable)
            keys.append(mapper.identity(mapper.key_of(data)) if mapper.key_names else None)
            self.identity_map.add(mapper.model, keys[-1], instance)
            instance._committed, instance._given, instance._epoch = CLEAN, None, self.loader.epoch
            self.new.pop(id(instance), None)

        def undo(keep: bool) -> None:
            restored = set()
            for instance, former, key in zip(instances, given, keys):
                self.identity_map.discard(mapper.model, key, instance)
                if instance._owner is self.owner or (instance._owner is None and instance._committed is not None):
                    self._renew(instance, former, keep)
                    restored.add(id(instance))
            for instance, name, old, new in reversed(filled):
                if id(instance) in restored and instance.__data__.get(name) == new:
                    _put(instance.__data__, name, old)

        return Step(instances, undo, inserted=True)

    def _renew(self, instance: Any, given: Any, keep: bool) -> None:
        """Make an inserted object new again, or transient; one that was expunged meanwhile has no row either."""
        for books in (self.dirty, self.deleted, self.gone):
            books.pop(id(instance), None)
        instance._committed, instance._given = None, given
        if not keep:
            instance._owner = None
        elif instance._owner is self.owner:
            self.new[id(instance)] = instance

    def settle_updated(self, instance: Any, mapper: Mapper, former: dict[str, Any]) -> Step:
        """Note that the row has an object's values now; `former` has those that it had before, of what changed."""
        data, committed = instance.__data__, instance._committed
        self._take_copies(data, mapper, [name for name in mapper.mutable if name in former])
        old = new = None
        if not former.keys().isdisjoint(mapper.key_names):
            old = mapper.identity(tuple(former.get(name, data.get(name)) for name in mapper.key_names))
            new = mapper.identity(mapper.key_of(data))
            self._rekey(instance, mapper, old, new)
        instance._committed = {name: value for name, value in committed.items() if name not in former} or CLEAN
        instance._epoch = self.loader.epoch

        def undo(keep: bool) -> None:
            if instance._owner is not self.owner:
                return  # it was expunged meanwhile
            if new is not None:
                self._rekey(instance, mapper, new, old)
            if keep:
                instance._committed = {**instance._committed, **former}
                self.dirty[id(instance)] = instance
            else:
                _restore(instance, former)

        return Step([instance], undo)

    def settle_deleted(self, instance: Any, mapper: Mapper) -> Step:
        """Note that the row of an object is deleted."""
        committed, key = instance._committed, self.identity_of(instance)[1]
        self.identity_map.discard(mapper.model, key, instance)
        for books in (self.dirty, self.deleted):
            books.pop(id(instance), None)
        instance._committed = DELETED
        self.gone[id(instance)] = instance

        def undo(keep: bool) -> None:
            if instance._owner is not self.owner:
                return
            for books in (self.new, self.gone):
                books.pop(id(instance), None)
            instance._committed, instance._given = committed, None
            self.identity_map.add(mapper.model, key, instance)
            if keep:
                self.deleted[id(instance)] = instance
            if committed:
                self.dirty[id(instance)] = instance
                if not keep:
                    self.revert(instance)

        return Step([instance], undo)

    def _take_copies(self, data: dict[str, Any], mapper: Mapper, names: Iterable[str]) -> None:
        """Part the values that were written from the dicts and lists that the program may go on changing."""
        for name in names:
            if type(data[name]) is dict or type(data[name]) is list:
                data[name] = mapper.by_name[name].normal(data[name]) if data[name] else type(data[name])()

    def _rekey(self, instance: Any, mapper: Mapper, old: Any, new: Any) -> None:
        self.identity_map.discard(mapper.model, old, instance)
        self.identity_map.add(mapper.model, new, instance)

    # Taking back

    def undo(self, log: Sequence[Step], keep: bool = False) -> None:
        """Take back what flushes have written, and with `keep` False also what is yet to be flushed.

        Objects that the log inserted are as they were before it, but with the values that they have now.
        """
        fresh = {id(instance) for step in log if step.inserted for instance in step.instances}
        if not keep:
            for instance in [instance for number, instance in self.dirty.items() if number not in fresh]:
                self.revert(instance)
            self.deleted.clear()
        for step in reversed(log):
            step.undo(keep or (not step.inserted and id(step.instances[0]) in fresh))
        if not keep:
            for instance in self.new.values():
                instance._owner = None
            self.new.clear()
            self.pending.clear()

    def revert(self, instance: Any) -> None:
        """Give an object its committed values back."""
        _restore(instance, instance._committed)
        instance._committed = CLEAN
        self.dirty.pop(id(instance), None)

    def end_transaction(self) -> None:
        """What was read or written until now may be out of date from now on."""
        for instance in self.gone.values():
            instance._owner = None
        self.gone.clear()
        self.loader.epoch += 1


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    if value is MISSING:
        data.pop(name, None)
    else:
        data[name] = value


def _restore(instance: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        instance.__rel__.pop(name, None)
        _put(instance.__data__, name, value)

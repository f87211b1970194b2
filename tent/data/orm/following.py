"""Following relations: what one object of a result is asked for is loaded for all of them, in one statement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from .mapper import Mapper
from .ordering import by
from .peers import Absent, Answer, Peers, peers_of
from .tracking import committed_value, has_row
from .unit_of_work import UnitOfWork


def follow(unit: UnitOfWork, instance: Any, field: Any, key: Any) -> Any:
    """Return the object that a foreign key of an object refers to, or None when there is no such row.

    If it is in the session, no SQL runs; else it is loaded together with those that the object's peers refer to.
    """
    mapper, moment = unit.loader.mapper(field.rel_model), unit.moment_of(field.rel_model)
    found = _in_session(unit, mapper, field, key)
    if found is not None:
        instance.__rel__[field.name] = found
        return found
    known = None if instance._peers is None else instance._peers.absent.get(field)
    if known is not None and known.moment == moment and key in known.keys:
        return None
    absent = _load_targets(unit, mapper, instance, field)
    if instance._peers is not None:
        instance._peers.absent[field] = Absent(moment, absent)
    if field.name not in instance.__rel__ and isinstance(key, str):
        # The database may take for equal what Python does not: "Joe" and "joe".
        found = next(iter(_read(unit, mapper, field.rel_field.name, [key])), None)
        if found is not None:
            instance.__rel__[field.name] = found
    return instance.__rel__.get(field.name)


def _load_targets(unit: UnitOfWork, mapper: Mapper, instance: Any, field: Any) -> set[Any]:
    """Load what an object and its peers refer to and is not known, and return the keys for which there is no row."""
    name, target = field.name, field.rel_field.name
    column, plain = mapper.by_name[target], mapper.plain_key if mapper.key_names == (target,) else None
    waiting: dict[Any, list[Any]] = {}
    for peer in peers_of(instance):
        if peer is instance or _can_follow(unit, peer, name):
            key = peer.__data__[name]
            waiting.setdefault(key if type(key) is plain else column.normal(key), []).append(peer)
    targets = {key: _in_session(unit, mapper, field, key) for key in waiting}
    for found in _read(unit, mapper, target, [key for key, found in targets.items() if found is None]):
        targets[committed_value(found, target)] = found
    for key, found in targets.items():
        for peer in waiting.get(key, ()) if found is not None else ():
            peer.__rel__[name] = found
    Peers.of([found for found in targets.values() if found is not None])
    return {key for key, found in targets.items() if found is None and not isinstance(key, str)}


def _can_follow(unit: UnitOfWork, peer: Any, name: str) -> bool:
    """Tell whether a peer has a foreign key as its row has it, which was not followed yet."""
    return (
        peer._owner is unit.owner
        and name not in peer.__rel__
        and peer.__data__.get(name) is not None
        and name not in (peer._committed or ())
    )


def _read(unit: UnitOfWork, mapper: Mapper, target: str, keys: list[Any]) -> list[Any]:
    if mapper.key_names == (target,):
        return unit.loader.by_keys(mapper, keys)
    return unit.loader.by_column(mapper, target, keys)


def _in_session(unit: UnitOfWork, mapper: Mapper, field: Any, key: Any) -> Any:
    """Return the object that a key refers to, if it is known in the session without SQL."""
    if mapper.key_names != (field.rel_field.name,):
        return None
    identity = mapper.identity(key)
    found = unit.identity_map.find(mapper.model, identity)
    return unit.pending_with(mapper, identity) if found is None and unit.pending else found


def answer(unit: UnitOfWork, instance: Any, field: Any) -> list[Any] | None:
    """Return the objects that refer to an object by a foreign key, if they are known; None when they are not.

    They are when they were loaded together with those of its peers, and nothing has come, gone or moved since then.
    """
    peers = instance._peers
    known = None if peers is None else peers.answers.get(field)
    if known is None or known.moment != unit.moment_of(field.model):
        return None
    found = known.found.get(instance.__data__.get(field.rel_field.name))
    if found is None:
        return None
    known.given += 1
    return list(found)


def load(unit: UnitOfWork, instance: Any, field: Any) -> list[Any]:
    """Return the objects that refer to an object by a foreign key, having loaded them for its peers too."""
    key, target = instance.__data__.get(field.rel_field.name), field.rel_field.name
    moment, mapper = unit.moment_of(field.model), unit.loader.mapper(field.model)
    answers = {} if instance._peers is None else instance._peers.answers
    former = answers.get(field)
    room = None if former is None else former.room()
    known = former if former is not None and former.moment == moment else unit.open_answer(moment)
    asking = (peer for peer in peers_of(instance) if _is_asking(unit, peer, target, known))
    keys = dict.fromkeys([key, *(peer.__data__[target] for peer in islice(asking, room))])
    keys.pop(None, None)
    found: dict[Any, list[Any]] = {key: [] for key in keys}
    for child in unit.loader.by_column(mapper, field.name, list(keys)):
        found.setdefault(committed_value(child, field.name), []).append(child)
    answers[field] = known
    if len(found) > len(keys):
        # The database takes for equal what Python does not ("Joe" and "joe"): it has to say itself which is which.
        return unit.loader.by_column(mapper, field.name, [key])
    known.found.update(found)
    known.given += 1
    return found.get(key, [])


def _is_asking(unit: UnitOfWork, peer: Any, target: str, known: Answer) -> bool:
    """Tell whether a peer has a row, and a key about which nothing is known."""
    if peer._owner is not unit.owner or not has_row(peer):
        return False
    return peer.__data__.get(target) is not None and peer.__data__[target] not in known.found


def dependents(unit: UnitOfWork, instance: Any, delete_nullable: bool) -> list[tuple[Any, Any]]:
    """Return the objects that refer to an object, and to these, with the foreign keys; read now, level by level.

    Those whose key can be null are followed no further, unless they are to be deleted all the same.
    """
    found: list[tuple[Any, Any]] = []
    followed, level = {id(instance)}, [instance]
    while level:
        referring = [(child, field) for child, field in _referring(unit, level) if id(child) not in followed]
        found += referring
        level = list({id(child): child for child, field in referring if delete_nullable or not field.null}.values())
        followed.update(map(id, level))
    return found


def _referring(unit: UnitOfWork, instances: list[Any]) -> Iterator[tuple[Any, Any]]:
    for model, parents in by(type, instances).items():
        for field in model._meta.backrefs:
            keys = [parent.__data__.get(field.rel_field.name) for parent in parents]
            mapper = unit.loader.mapper(field.model)
            for child in unit.loader.by_column(mapper, field.name, [key for key in keys if key is not None]):
                yield child, field

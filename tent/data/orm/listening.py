"""Listening to events: of one session, of all sessions of an engine, of the objects of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import hooks
from .engine import Engine
from .errors import ArgumentError
from .hooks import MODEL_EVENTS, SESSION_EVENTS, Listener, Listeners
from .keys import nearest
from .model import ModelRoot
from .session import Session

F = TypeVar("F", bound=Callable[..., Any])


def listen(target: Any, name: str, function: Listener) -> None:
    """Have a function called at an event of a session, of all sessions of an engine, or of the objects of a model.

    The events of sessions: `before_flush`, `after_flush`, `before_commit`, `after_commit` and `after_rollback`. The
    function takes the session, or what SQLAlchemy passes.

    The events of a model, and of those that inherit from it: `before_insert`, `before_update`, `before_delete`, and
    `after_insert`, `after_update`, `after_delete`. The function takes the object, or, as in SQLAlchemy, `(mapper,
    connection, target)`: the model, the session's database, the object.

    What listeners change, add or delete before a flush, or before a row is written, is part of the flush; what they do
    after it is written by the next one, and a commit goes on until nothing is left. One that raises makes the flush
    fail, and all is as it was; one of `before_commit` keeps the commit from happening. While `after_commit` and
    `after_rollback` are told, nothing can be read or written in the session. Nobody is told of rows that the database
    changes by itself, nor of statements for many rows.

    Raises `ArgumentError` for another target, event or function.
    """
    _events_of(target, name)
    if isinstance(target, type):
        hooks.models.add(target, name, function)
    else:
        _listeners_of(target).add(name, function, SESSION_EVENTS[name])


def listens_for(target: Any, name: str) -> Callable[[F], F]:
    """`@dbm.listens_for(target, name)` above a function has it called at an event; see `listen`."""

    def decorate(function: F) -> F:
        listen(target, name, function)
        return function

    return decorate


def unlisten(target: Any, name: str, function: Listener) -> None:
    """Have a function called no more. Raises `ArgumentError` if it did not listen to the event."""
    _events_of(target, name)
    is_model = isinstance(target, type)
    removed = hooks.models.remove(target, name, function) if is_model else _listeners_of(target).remove(name, function)
    if not removed:
        raise ArgumentError(f"{function!r} does not listen to {name!r} of {target!r}.")


def _listeners_of(target: Session | Engine) -> Listeners:
    return target._events.listeners if isinstance(target, Session) else target.listeners


def _events_of(target: Any, name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the events that a target has. Raises `ArgumentError` if it has not the one of this name."""
    events: Mapping[str, tuple[str, ...]]
    if isinstance(target, (Session, Engine)):
        events = SESSION_EVENTS
    elif isinstance(target, type) and issubclass(target, ModelRoot):
        events = MODEL_EVENTS
    else:
        raise ArgumentError(
            f"Listen to a session, to an engine (for all its sessions, scoped ones too) or to a model; {target!r} is "
            "none of them."
        )
    if name not in events:
        raise ArgumentError(
            f"{target!r} has no event {name!r}{nearest(name, events)}; it has {', '.join(map(repr, events))}."
        )
    return events

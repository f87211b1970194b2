"""The events of a session: its listeners, those of its engine and those of its objects' models are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import hooks
from .engine import Engine
from .errors import FlushError, InvalidRequestError
from .hooks import Listeners
from .planning import Plan
from .tracking import changed_names
from .unit_of_work import UnitOfWork

ROUNDS = 100  # of flushes in a commit
_ROUNDS = 1_000  # in which listeners may add or change objects before a flush


class Events:
    """Calls what waits for the events of a session."""

    def __init__(self, unit: UnitOfWork, database: Engine) -> None:
        self.listeners = Listeners()
        self._unit = unit
        self._database = database
        self.flushed: dict[str, list[Any]] = {}  # what was inserted, updated and deleted, while after_flush is called
        self._ended: str | None = None  # "committed" or "rolled back", while listeners are told so

    def __bool__(self) -> bool:
        return bool(self.listeners.calls or self._database.listeners.calls or hooks.models.own)

    def check(self) -> None:
        """Refuse work in the middle of the end of a transaction."""
        if self._ended is not None:
            raise InvalidRequestError(
                f"The transaction was just {self._ended}, and its listeners are being told: nothing can be done in the "
                "session until they have returned. Do it afterwards, or in before_commit."
            )

    def fire(self, name: str, *arguments: Any) -> None:
        """Call what waits for an event of the session; the listeners of the engine come first."""
        if not (self.listeners.calls or self._database.listeners.calls):
            return
        session = self._unit.session()
        if session is not None:
            for call in [*self._database.listeners.of(name), *self.listeners.of(name)]:
                call(session, *arguments)

    def fire_end(self, name: str, how: str) -> None:
        """Tell that a transaction has ended."""
        self._ended = how
        try:
            self.fire(name)
        finally:
            self._ended = None

    def before_flush(self) -> None:
        """Call what waits for the flush, then for each row that it writes, until nothing more comes of that."""
        self.fire("before_flush", self._unit, None)
        if not hooks.models.own:
            return
        told: dict[tuple[str, int], Any] = {}
        for _ in range(_ROUNDS):
            self._unit.register_reachable()
            untold = [(verb, one) for verb, one in self._pending() if (verb, id(one)) not in told]
            if not untold:
                return
            told.update(((verb, id(one)), one) for verb, one in untold)
            for verb, instance in untold:
                self._tell("before", verb, instance)
        raise FlushError(
            f"Listeners added or changed objects in each of {_ROUNDS} rounds, and so the flush would never end. "
            "Let before_insert and the like add nothing that makes them add again."
        )

    def after_flush(self, plan: Plan) -> None:
        """Call what waits for the rows that were written, then for the flush."""
        switched = set(map(id, plan.switched))
        self.flushed = {
            "insert": [instance for instances in plan.new.values() for instance in instances],
            "update": [change.instance for change in plan.updated() if id(change) not in switched],
            "delete": [change.row for change in [*plan.deleted(), *plan.switched]],
        }
        try:
            for verb, instances in self.flushed.items() if hooks.models.own else ():
                for instance in instances:
                    self._tell("after", verb, instance)
            self.fire("after_flush", self._unit)
        finally:
            self.flushed = {}

    def _pending(self) -> Iterator[tuple[str, Any]]:
        unit = self._unit
        yield from (("insert", instance) for instance in unit.new.values())
        for number, instance in unit.dirty.items():
            if number not in unit.deleted and changed_names(instance):
                yield "update", instance
        yield from (("delete", instance) for instance in unit.deleted.values())

    def _tell(self, when: str, verb: str, instance: Any) -> None:
        for call in hooks.models.of(type(instance), f"{when}_{verb}"):
            call(type(instance), self._database, instance)

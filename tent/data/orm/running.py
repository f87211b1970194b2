"""Sessions opened for a piece of work: a transaction, one that is repeated when need be, one for each context."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import peewee

from .engine import Engine
from .errors import ArgumentError, InvalidRequestError, StaleDataError
from .session import Session

T = TypeVar("T")

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5
_LONGEST_IN_OUTAGE = 0.2  # so that little is lost when a server is there again


def open_session(
    engine: Engine, autoflush: bool = True, isolation_level: str | None = None, read_only: bool = False
) -> Session:
    """Return a new session on an engine. Close it when done, or use it in a `with` statement.

    With `autoflush=False` its queries do not write pending changes first. `isolation_level` is that of its
    transactions: "READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ" or "SERIALIZABLE"; the database's own unless
    given (SQLite's are serializable, whatever is asked for). With `read_only=True` it refuses to write, and reads from
    a replica if the config names some.
    """
    return Session(engine, autoflush, isolation_level, read_only)


@contextmanager
def transaction(engine: Engine, **options: Any) -> Iterator[Session]:
    """`with dbm.transaction(engine) as session:` commits at the end of the block, or rolls back on an error.

    The options are those of `open_session`.
    """
    with open_session(engine, **options) as session:
        yield session
        session.commit()


def run_transaction(
    engine: Engine, callback: Callable[[Session], T], attempts: int = 10, patience: float = 60, **options: Any
) -> T:
    """Call `callback(session)` in a transaction, commit, and return what it returned.

    When the database could not do it at that moment (it was locked, it found a deadlock or a conflict of transactions
    or nodes, a row was changed meanwhile: `StaleDataError`), all is undone and the callback is called again with a new
    session, at most `attempts` times in all, after pauses that grow. When the server was lost, and while none can be
    reached, as until another one has taken over, it is called again for `patience` seconds, which are no attempts. So
    the callback must do nothing that can't be repeated, and hand out no objects but by its return. Its own errors are
    not repeated, nor is `CommitInDoubtError`. The options are those of `open_session`.
    """
    if not isinstance(attempts, int) or attempts < 1:
        raise ArgumentError(f"attempts is a number from 1 up, not {attempts!r}.")
    if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not patience >= 0:
        raise ArgumentError(f"patience is a number of seconds, 0 or more, not {patience!r}.")
    pause, longest = _FIRST_PAUSE, _LONGEST_PAUSE
    gives_up: float | None = None  # when an outage has lasted for too long
    begun: Any = None
    while True:
        try:
            with open_session(engine, **options) as session:
                with session.begin() as begun:
                    result = callback(session)
            return result
        except (peewee.PeeweeException, StaleDataError) as error:
            if begun is not None and begun.is_committed:
                raise
            if not isinstance(error, StaleDataError) and not engine.is_retryable(error):
                raise
            if engine.is_outage(error):
                gives_up, longest = gives_up or time.monotonic() + patience, _LONGEST_IN_OUTAGE
                if time.monotonic() >= gives_up:
                    raise
            else:
                attempts, gives_up, longest = attempts - 1, None, _LONGEST_PAUSE
                if attempts == 0:
                    raise
        # Two that wait for each other must not meet again: hence the chance in it.
        time.sleep(min(pause, longest) * (0.5 + random.random()))
        pause = min(2 * pause, _LONGEST_PAUSE)


class ScopedSession:
    """One session for each thread, or asynchronous task, behind one name: `session = dbm.scoped_session(engine)`.

    It has all that a `Session` has. The first use in a thread or task opens its session, `remove()` closes it: at the
    end of a request, say. `session(autoflush=False)` gives options to the session that it opens.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._current: ContextVar[tuple[int, Session | None]] = ContextVar("tent.data session", default=(0, None))

    def __call__(self, **options: Any) -> Session:
        """Return the session of this thread or task. Raises `InvalidRequestError` for options when it is open."""
        session = self._own()
        if session is None:
            session = open_session(self._engine, **options)
            self._current.set((_here(), session))
        elif options:
            raise InvalidRequestError("The session is open already: give it options at its first use, or remove() it.")
        return session

    def remove(self) -> None:
        """Close the session of this thread or task, if there is one; the next use opens another."""
        session = self._own()
        if session is not None:
            self._current.set((0, None))
            session.close()

    def _own(self) -> Session | None:
        """Return the session that was opened here; a task may have started with a copy of another's context."""
        place, session = self._current.get()
        return session if place == _here() else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self(), name, value)

    def __contains__(self, instance: object) -> bool:
        return instance in self()

    def __iter__(self) -> Iterator[Any]:
        return iter(self())


def _here() -> int:
    """Return a number of the running asynchronous task, or else of the thread."""
    asyncio = sys.modules.get("asyncio")  # a program that has not imported it has no tasks
    try:
        task = asyncio.current_task() if asyncio is not None else None
    except RuntimeError:
        task = None
    return threading.get_ident() if task is None else id(task)


def scoped_session(engine: Engine) -> ScopedSession:
    """Return a name for one session in each thread or asynchronous task; see `ScopedSession`."""
    return ScopedSession(engine)

"""One thread at a time: a session may be handed from thread to thread, but not used by two at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ConcurrentUseError

F = TypeVar("F", bound=Callable[..., Any])


def exclusive(method: F) -> F:
    """Let one thread at a time into the methods of a session; a second one, in the middle of a call, is refused.

    `self.lock` must be a `threading.RLock`, which the thread that holds it can take again.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        if not self.lock.acquire(False):
            raise used_at_once()
        try:
            return method(self, *args, **options)
        finally:
            self.lock.release()

    return call  # type: ignore[return-value]


def used_at_once() -> ConcurrentUseError:
    """Return the error for a second thread."""
    return ConcurrentUseError(
        "Another thread is using this session. A session belongs to one thread at a time: open one for each, "
        "dbm.open_session(engine)."
    )

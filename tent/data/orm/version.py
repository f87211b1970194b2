"""Versions: columns that change with each update of their row, so that a stale write is noticed."""

from __future__ import annotations

import datetime
from typing import Any

import peewee


class Version:
    """Mixed into a field it makes a version of it, of which a model can have one.

    An update sets it to what `following` returns, and an update or delete of an object whose row has another version
    than the object raises `StaleDataError`::

        class ETagField(dbm.Version, peewee.UUIDField):
            def following(self, version):
                return uuid.uuid4()
    """

    def following(self, version: Any) -> Any:
        """Return the version after one. If it is the same, the program itself has to set another."""
        raise NotImplementedError(f"{type(self).__name__} is a version, and needs a method `following(self, version)`.")

    def following_in_bulk(self) -> Any:
        """Return the value, or expression, that a statement for many rows sets, whatever versions these have.

        None leaves them as they are. Unless a class says otherwise it is what follows None.
        """
        return self.following(None)


class VersionField(Version, peewee.IntegerField):
    """A version that counts the updates of its row, from 1 on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", 1)
        super().__init__(*args, **kwargs)

    def following(self, version: Any) -> int:
        return int(version) + 1

    def following_in_bulk(self) -> Any:
        return self + 1


class UpdatedAtField(Version, peewee.DateTimeField):
    """A version that is the local time at which its row was last written; on an object it never stands still."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", datetime.datetime.now)
        super().__init__(*args, **kwargs)

    def following(self, version: Any) -> Any:
        try:
            former = _as_time(self.python_value(version))  # type: ignore[no-untyped-call]
            return max(datetime.datetime.now(former.tzinfo), former + datetime.timedelta.resolution)
        except (TypeError, OverflowError) as error:
            raise peewee.DataError(f"{self.model.__name__}.{self.name} has no time after {version!r}.") from error

    def following_in_bulk(self) -> Any:
        return datetime.datetime.now()


def _as_time(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value if hasattr(value, "tzinfo") else datetime.datetime.combine(value, datetime.time())
    raise TypeError(f"{value!r} is no time")

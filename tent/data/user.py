"""Users of a Tent server, and their profiles.

The facts about Tent are those of its protocol, version 0.1: a person is an entity, known by a URL, and has profile
infos of several types, each named by a URI.
"""

from __future__ import annotations

import unicodedata
from typing import Any
from urllib.parse import quote

import peewee

from tent.data import dbm

CORE = "https://tent.io/types/info/core/v0.1.0"
BASIC = "https://tent.io/types/info/basic/v0.1.0"

HOME = "http://localhost/"


class User(dbm.TableMixin):
    """A person. `User("Joe Public")` has the `entity_id` `http://localhost/joe.public`, unless another is given."""

    id = peewee.AutoField()
    entity_id = peewee.CharField(max_length=700, unique=True)
    name = peewee.CharField(null=True)
    avatar_url = peewee.TextField(null=True)
    birthdate = peewee.DateField(null=True)
    location = peewee.TextField(null=True)
    gender = peewee.CharField(null=True)
    bio = peewee.TextField(null=True)
    licenses = peewee.JSONField(default=list)
    servers = peewee.JSONField(default=list)

    def __init__(self, name: str | None = None, **values: Any) -> None:
        """Make a user of a name, and of other columns by keyword.

        Raises `ValueError` when the `entity_id` is not given and can't be derived from the name.
        """
        if name is not None:
            values["name"] = name
        is_loaded = "__no_default__" in values
        super().__init__(**values)
        if self.entity_id is None and not is_loaded:
            self.entity_id = entity_id(name)


class Profile(dbm.TableMixin):
    """A profile info of a user: `content` of a `type`, of which a user has one at most, such as `CORE` or `BASIC`.

    `permissions` says who may read it. `version` counts its updates.
    """

    id = peewee.AutoField()
    user = peewee.ForeignKeyField(User, backref="profiles", on_delete="CASCADE")
    type = peewee.CharField()
    content = peewee.JSONField(default=dict)
    permissions = peewee.JSONField(default=dict)
    version = dbm.VersionField()

    class Meta:
        indexes = ((("user", "type"), True),)


def entity_id(name: Any) -> str:
    """Return the URL that a person of a name has on this machine.

    >>> entity_id("Joe Public"), entity_id("José Ñuñez")
    ('http://localhost/joe.public', 'http://localhost/jos%C3%A9.%C3%B1u%C3%B1ez')

    Raises `ValueError` for a name of which nothing is left in a URL, and one that is no Unicode text.
    """
    if not isinstance(name, str):
        raise ValueError(f"A user needs a name (text), from which the entity_id is derived, or an entity_id: {name!r}.")
    words = unicodedata.normalize("NFC", name).lower().split()
    try:
        path = quote(".".join(words).strip("."), safe="")
    except UnicodeEncodeError:
        raise ValueError(f"The name {name!r} is no Unicode text: it has half a character, a lone surrogate.") from None
    if not path:
        raise ValueError(f"No entity_id can be derived from the name {name!r}. Give another name, or an entity_id.")
    return HOME + path

"""A URL turned into a config, and shown without its password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .keys import ALIASES, DRIVERS, PORTS, SERVER

# They are compiled when they are first used: to compile one takes as long as to import a room
_URL = r"(?s)(?P<place>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
# What can be a password in a URL, well-formed or not: what is before the last "@", what follows "user:" where the "@"
# was forgotten, unless it is a port, and the values of some keys
_URL_SECRETS = (
    (r"(?i)((?:pass\w*|pwd|secret|token)=)[^&]*", r"\1***"),
    (r"(?is)((?:://[^/?#]*?|(?<!sqlite)://.*?)(?::|%3a)).*@", r"\1***@"),
    (r"(?s)\A(?!\w+://).*@", r"***@"),
    (r"(?s)(://[^@/?#:\[]*:)(?!\d*(?:[/?#,]|\Z))[^@/?#]*(?!.*@)", r"\1***"),
)


def masked_url(url: str) -> str:
    """Return a URL, or what was meant as one, that can be shown: passwords are replaced by `***`."""
    for pattern, shown in _URL_SECRETS:
        url = re.sub(pattern, shown, url)
    return url


def read_url(url: str) -> Mapping[str, Any]:
    """Return the config that a URL stands for, unchecked. Raises `ValueError`."""
    # Only when a URL is read: the one imports every driver that is installed, the other what reads addresses
    from urllib.parse import parse_qsl, unquote

    from playhouse import db_url

    scheme, separator, rest = url.partition("://")
    if not separator or "@" in scheme:
        is_server = "@" in url or re.match(rf"(?:{'|'.join(PORTS)})\b", url)
        remedy = (
            "'postgresql://user:password@host/database'" if is_server else f"for a file 'sqlite:///{masked_url(url)}'"
        )
        raise ValueError(
            f"{masked_url(url)!r} is no database URL. Write {remedy}, or a mapping: {{'driver': 'sqlite', 'path': …}}."
        )
    scheme = ALIASES.get(scheme, scheme)
    if scheme not in DRIVERS:
        return {"driver": scheme}
    if any(ord(character) < 32 for character in rest):
        raise ValueError(f"{masked_url(url)!r} has a tab or a line break. In a URL they are written '%09' and '%0A'.")
    # Not by urlsplit(), which takes brackets in a password for an address, and says the password in its errors
    parts = re.fullmatch(_URL, rest)
    assert parts is not None
    place, path, query = parts["place"], unquote(parts["path"].removeprefix("/")), parts["query"] or ""
    if scheme != "sqlite" and "@" not in place and "@" in url:
        raise ValueError(
            f"{masked_url(url)!r} has a '/', '?' or '#' before its '@'. In a user or a password they are written "
            "'%2F', '%3F' and '%23'."
        )
    if parts["fragment"] or {"driver", "path", "database"} & dict(parse_qsl(query)).keys():
        raise ValueError(
            f"{masked_url(url)!r} says the path or database in two ways. A '#' or '?' in one is written '%23' or '%3F'."
        )
    try:
        arguments = db_url.parse(f"sqlite:///?{query}")
    except ValueError as problem:
        raise ValueError(f"{masked_url(url)!r} can't be read as a URL: {problem}.") from None
    del arguments["database"]
    return (_sqlite_url if scheme == "sqlite" else _server_url)(url, scheme, place, path, arguments)


def _sqlite_url(url: str, scheme: str, place: str, path: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
    if place == ":memory:":
        raise ValueError("A database in memory takes three slashes, too: 'sqlite:///:memory:'.")
    if place:
        raise ValueError(
            f"{masked_url(url)!r} has a host, and SQLite has none: a path takes three slashes ('sqlite:///tent.db'), "
            "an absolute one four ('sqlite:////home/user/tent.db')."
        )
    pragmas = {key[7:]: arguments.pop(key) for key in list(arguments) if key.startswith("pragma_")}
    return {"driver": scheme, "path": path, **arguments, **({"pragmas": pragmas} if pragmas else {})}


def _server_url(url: str, scheme: str, place: str, database: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
    from urllib.parse import unquote

    login, _, hosts = place.rpartition("@")
    user, _, password = login.partition(":")
    found = {
        "user": unquote(user),
        "password": unquote(password),
        "host": [unquote(host) for host in hosts.split(",")] if hosts else None,
        "database": database,
    }
    twice = found.keys() & arguments.keys()
    if twice:
        raise ValueError(
            f"{masked_url(url)!r} has the key {min(twice)!r} behind its '?'. It stands before: "
            f"'{scheme}://user:password@host/database'."
        )
    # libpq has an option of the name "options", too, and in a URL that is meant
    keys = {key: arguments.pop(key) for key in list(arguments) if key in SERVER and key != "options"}
    return {"driver": scheme, **found, **keys, **({"options": arguments} if arguments else {})}

"""The keys of a config: for each driver, what they are and what their values may be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import article, shown

# Compiled when they are first used: to compile them takes longer than to import the room
_HOST = (
    r"(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)"  # an IPv6 address, which has colons of its own
    r"|(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^\[\]:]*))(?::(?P<port>.*))?"
)
_LONGEST = 2_000_000  # seconds
_WORD = r"-?[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z"


def nearest(word: Any, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question for the word that one is perhaps meant for, if there is any."""
    if not isinstance(word, str):
        return ""
    import difflib  # slow to import, and only needed for a config that is refused

    close = difflib.get_close_matches(word.lower(), words, 1, cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _path(value: Any) -> str:
    if value is None or value == "":
        raise ValueError(
            "The config has no 'path'. Give the path of the database file, or ':memory:' for a database in memory."
        )
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"'path' must be a string or a path, not {article(type(value).__name__)}.")
    path = os.fsdecode(value)
    if "\0" in path or path != path.encode(errors="ignore").decode():
        raise ValueError(f"'path' has a character that no path can have, a NUL or half a surrogate pair: {path!r}.")
    if path == ":memory:":
        return path
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise ValueError(f"'path' is a directory: {path!r}. Give the path of a file in it.")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ValueError(f"The directory {folder!r} does not exist. Create it, or correct 'path'.")
    return path


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**63


def _echo(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValueError(f"'echo' must be True or False, not {value!r}.")


def _pragmas(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"'pragmas' must be a mapping of names to values, not {article(type(value).__name__)}.")
    for name, setting in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} is no name of a pragma.")
        if not _is_number(setting) and not (isinstance(setting, str) and re.match(_WORD, setting)):
            raise ValueError(f"The pragma {name!r} must be a number or a word, not {shown(setting)}.")
    return {name.lower(): int(setting) if isinstance(setting, bool) else setting for name, setting in value.items()}


def _text(name: str, is_needed: bool = False) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if value is None or value == "":
            if is_needed:
                raise ValueError(f"The config has no {name!r}. Add it: {name!r}: '…'.")
            return None
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a string, not {article(type(value).__name__)}.")
        if "\0" in value or value != value.encode(errors="ignore").decode():
            raise ValueError(f"{name!r} has a character that it can't have: a NUL or half a surrogate pair.")
        return value

    return check


def _hosts(name: str, has_sockets: bool = True) -> Callable[[Any], list[tuple[str, int | None]]]:
    """Return the check of a host or several, each with a port of its own perhaps: "db1:5433", ["db1", "[::1]:5432"]."""

    def check(value: Any) -> list[tuple[str, int | None]]:
        if value is None:
            return [] if name == "replicas" else [("", None)]
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(host, str) for host in value):
            raise ValueError(f"{name!r} must be a name or a list of names, not {shown(value)}.")
        return list(map(split, value.split(",") if isinstance(value, str) else value))

    def split(text: str) -> tuple[str, int | None]:
        text = text.strip()
        found = re.fullmatch(_HOST, text)
        # What is no name is not shown: of a URL that is not well-formed it may be the password.
        if "@" in text:
            raise ValueError(f"{name!r} has an '@'. In a URL the '@' before the host is not written '%40'.")
        if not text or any(ord(character) < 33 for character in text):
            raise ValueError(f"{name!r} has a host without a name, or one with blanks in it: {text!r}.")
        if text.startswith("/"):  # the directory of a Unix socket
            if not has_sockets:
                raise ValueError(f"{name!r} is a path. A socket is an option: 'options': {{'unix_socket': {text!r}}}.")
            return text, None
        if found is None or set(text) & set(",/?#"):
            raise ValueError(f"{name!r} has a character that no host has. Write 'db1', 'db1:5433' or '[::1]:5432'.")
        host, port = found["bare"] or found["address"] or found["name"], found["port"]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            raise ValueError(f"{name!r} has a port that is no number from 1 to 65535, behind the colon after {host!r}.")
        return host, int(port) if port else None

    return check


# Which are keys of the config itself, or said by the library, which reads what the driver gives in its way
_OWN = {"host", "port", "user", "password", "passwd", "database", "db", "dbname", "conninfo", "dsn", "autocommit"} | {
    *("charset", "client_encoding", "use_unicode", "conv", "cursorclass", "cursor_factory", "row_factory"),
    *("client_flag", "collation", "defer_connect"),
}


def _options(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("'options' must be a mapping of names to values, which the driver gets as they are.")
    own = _OWN & value.keys()
    if own:
        raise ValueError(
            f"'options' can't have {min(own)!r}: a key of the config, or the library, says it. Leave it out."
        )
    return dict(value)


def _number(
    name: str, what: str, fits: Callable[[Any], bool], default: Any, kind: type[int] | type[float] = float
) -> Callable[[Any], Any]:
    """Return the check of a number that `fits`; `what` says which ones do."""

    def check(value: Any) -> Any:
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not fits(value):
            raise ValueError(f"{name!r} must be a number {what}, not {shown(value)}.")
        return kind(value)

    return check


def _seconds(name: str, default: float | None) -> Callable[[Any], Any]:
    return _number(name, "of seconds, more than 0", lambda n: 0 < n < _LONGEST, default)


SERVER: dict[str, Callable[[Any], Any]] = {
    "host": _hosts("host"),
    "port": _number("port", "from 1 to 65535", lambda n: 0 < n < 65536, None, int),
    "user": _text("user"),
    "password": _text("password"),
    "database": _text("database", is_needed=True),
    "options": _options,
    "replicas": _hosts("replicas"),
    "pool_size": _number("pool_size", "of connections, from 1 on", lambda n: 0 < n < 100_000, 20, int),
    "pool_timeout": _seconds("pool_timeout", 30.0),
    "pool_recycle": _seconds("pool_recycle", None),
    "echo": _echo,
}
_MYSQL = {**SERVER, "host": _hosts("host", has_sockets=False), "replicas": _hosts("replicas", has_sockets=False)}

#: The known drivers: for each, the keys of its config and the function that checks a value or gives the default.
DRIVERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "sqlite": {
        "path": _path,
        "echo": _echo,
        "timeout": _number("timeout", "of seconds from 0 to 2,000,000", lambda n: 0 <= n < _LONGEST, 5.0),
        "pragmas": _pragmas,
    },
    "postgresql": SERVER,
    "cockroachdb": SERVER,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}
#: The ports that servers listen on, unless told otherwise.
PORTS = {"postgresql": 5432, "cockroachdb": 26257, "mysql": 3306, "mariadb": 3306}
ALIASES: dict[str, str] = {"postgres": "postgresql"}

"""A config, mapping or URL, checked and turned into the arguments of an engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import DBConfigurationException, article

Checked = dict[str, Any]

_SECRET = re.compile(r"pass|secret|token", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^/?#]*?:)(.*)(@)", re.DOTALL)
_WORD = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
MASK = "***"


def read_config(config: Any) -> Checked:
    """Return the checked settings of a config: a mapping or a URL.

    The result has the key `driver` and, for each key that the driver knows, the value of the config or its default.
    Raises `DBConfigurationException` for whatever can't work, with the remedy.
    """
    settings = _as_mapping(config)
    driver = settings.get("driver")
    driver = _ALIASES.get(driver, driver) if isinstance(driver, str) else driver
    if driver is None:
        _refuse(config, f"The config has no 'driver'. Add one, for example 'driver': 'sqlite'; known: {_known()}.")
    if not isinstance(driver, str) or driver not in DRIVERS:
        _refuse(config, f"Unknown driver {driver!r}{_nearest(driver, DRIVERS)}; known: {_known()}.")
    keys = DRIVERS[driver]
    for key in settings:
        if key != "driver" and key not in keys:
            _refuse(
                config,
                f"Unknown key {key!r} for the driver {driver!r}{_nearest(key, keys)}; known: "
                + ", ".join(sorted(keys))
                + ".",
            )
    checked: Checked = {"driver": driver}
    for key, check in keys.items():
        try:
            checked[key] = check(settings.get(key))
        except ValueError as problem:
            _refuse(config, str(problem))
    if driver in PORTS:
        port = checked.pop("port") or PORTS[driver]
        for key, name in (("host", "hosts"), ("replicas", "replicas")):
            found: Any = checked.pop(key)
            checked[name] = [(host, own or port) for host, own in found]
    return checked


def masked(config: Any) -> Any:
    """Return a copy of a config that can be shown: passwords are replaced by `***`."""
    if isinstance(config, str):
        return _URL_PASSWORD.sub(rf"\1{MASK}\3", re.sub(r"(?i)((?:pass\w*|secret|token)=)[^&]*", rf"\1{MASK}", config))
    if isinstance(config, Mapping):
        return {key: masked(value) if _is_open(key, config) else MASK for key, value in config.items()}
    return config


def _is_open(key: Any, config: Mapping[Any, Any]) -> bool:
    """Tell whether the value of a key can be shown: it is no secret, nor perhaps a misspelt one."""
    known = "driver" not in config or key == "driver" or any(key in keys for keys in DRIVERS.values())
    return known and not _SECRET.search(str(key))


def _as_mapping(config: Any) -> Mapping[Any, Any]:
    if isinstance(config, str):
        try:
            return read_url(config)
        except ValueError as problem:
            _refuse(config, str(problem))
    if not isinstance(config, Mapping):
        _refuse(
            config,
            f"A config is a mapping such as {{'driver': 'sqlite', 'path': ':memory:'}} or a URL such as "
            f"'sqlite:///tent.db', not {article(type(config).__name__)}.",
        )
    return config


def places(settings: Checked) -> str:
    """Return the hosts and ports of checked settings, as a message shows them."""
    return ", ".join(
        host if host.startswith("/") else f"{host or 'localhost'}:{port}" for host, port in settings["hosts"]
    )


def _refuse(config: Any, message: str) -> NoReturn:
    raise DBConfigurationException(message, masked(config)) from None


def _known() -> str:
    return ", ".join(map(repr, sorted(DRIVERS)))


def _nearest(word: Any, words: Iterable[str]) -> str:
    import difflib  # slow to import, and only needed for a config that is refused

    close = difflib.get_close_matches(str(word).lower(), words, n=1)
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


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python shows
        return article(type(value).__name__)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**63


def _echo(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValueError(f"'echo' must be True or False, not {value!r}.")


def _timeout(value: Any) -> float:
    if value is None:
        return 5.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2_000_000:
        raise ValueError(f"'timeout' must be a number of seconds from 0 to 2,000,000, not {value!r}.")
    return float(value)


def _pragmas(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"'pragmas' must be a mapping of names to values, not {article(type(value).__name__)}.")
    for name, setting in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} is no name of a pragma.")
        if not _is_number(setting) and not (isinstance(setting, str) and _WORD.match(setting)):
            raise ValueError(f"The pragma {name!r} must be a number or a word, not {_shown(setting)}.")
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


def _port(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError(f"'port' must be a number from 1 to 65535, not {_shown(value)}.")
    return value


def _hosts(name: str) -> Callable[[Any], list[tuple[str, int | None]]]:
    """Return the check of a host or several, each with a port of its own perhaps: "db1:5433", ["db1", "[::1]:5432"]."""

    def check(value: Any) -> list[tuple[str, int | None]]:
        if value is None:
            return [] if name == "replicas" else [("", None)]
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(host, str) for host in value):
            raise ValueError(f"{name!r} must be a name or a list of names, not {_shown(value)}.")
        return list(map(split, value.split(",") if isinstance(value, str) else value))

    def split(text: str) -> tuple[str, int | None]:
        text = text.strip()
        if not text or any(ord(character) < 33 for character in text):
            raise ValueError(f"{name!r} has a host without a name, or one with blanks in it: {text!r}.")
        if text.startswith("/"):  # the directory of a Unix socket
            return text, None
        bracketed, _, rest = text.partition("]")
        host, colon, port = (bracketed[1:], *rest.partition(":")[1:]) if text[0] == "[" else text.rpartition(":")
        if not colon or (":" in host and text[0] != "["):  # an IPv6 address has colons of its own
            return host if text[0] == "[" else text, None
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{name!r} has a port that is no number from 1 to 65535: {text!r}.")
        return host, int(port)

    return check


_OWN = frozenset(("host", "port", "user", "password", "database", "dbname", "conninfo", "dsn")) | frozenset(
    ("autocommit", "charset", "collation", "cursor_factory", "cursorclass", "row_factory")
)


def _options(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("'options' must be a mapping of names to values, which the driver gets as they are.")
    own = _OWN & value.keys()
    if own:
        raise ValueError(
            f"'options' can't have {sorted(own)[0]!r}: it is a key of the config itself, or the library's."
        )
    return dict(value)


def _seconds(name: str, default: float | None) -> Callable[[Any], float | None]:
    def check(value: Any) -> float | None:
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2_000_000:
            raise ValueError(f"{name!r} must be a number of seconds, more than 0, not {_shown(value)}.")
        return float(value)

    return check


def _pool_size(value: Any) -> int:
    if value is None:
        return 20
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 100_000:
        raise ValueError(f"'pool_size' must be a number of connections, from 1 on, not {_shown(value)}.")
    return value


_SERVER: dict[str, Callable[[Any], Any]] = {
    "host": _hosts("host"),
    "port": _port,
    "user": _text("user"),
    "password": _text("password"),
    "database": _text("database", is_needed=True),
    "options": _options,
    "replicas": _hosts("replicas"),
    "pool_size": _pool_size,
    "pool_timeout": _seconds("pool_timeout", 30.0),
    "pool_recycle": _seconds("pool_recycle", None),
    "echo": _echo,
}

#: The known drivers: for each, the keys of its config and the function that checks a value or gives the default.
DRIVERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "sqlite": {"path": _path, "echo": _echo, "timeout": _timeout, "pragmas": _pragmas},
    "postgresql": _SERVER,
    "cockroachdb": _SERVER,
    "mysql": _SERVER,
    "mariadb": _SERVER,
}
#: The ports that servers listen on, unless told otherwise.
PORTS = {"postgresql": 5432, "cockroachdb": 26257, "mysql": 3306, "mariadb": 3306}
_ALIASES: dict[str, str] = {"postgres": "postgresql"}


# URLs


def read_url(url: str) -> Mapping[str, Any]:
    """Return the config that a URL stands for, unchecked. Raises `ValueError`."""
    from playhouse import db_url  # imports every driver that is installed, so only when a URL is read

    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(
            f"{masked(url)!r} is no database URL. For a file write 'sqlite:///{masked(url)}', or a mapping: "
            "{'driver': 'sqlite', 'path': …}."
        )
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in DRIVERS:
        return {"driver": scheme}
    try:
        parts = urlsplit(url)
        # Playhouse reads what follows the host, of which it takes only one.
        arguments = db_url.parse(f"{scheme}:///{parts.path.removeprefix('/')}?{parts.query}")
    except ValueError as problem:
        raise ValueError(f"{masked(url)!r} can't be read as a URL: {problem}.") from None
    if scheme != "sqlite" and "@" not in parts.netloc and "@" in url:
        raise ValueError(
            f"{masked(url)!r} has a '/', '?' or '#' before its '@'. In a user or a password they are written '%2F', "
            "'%3F' and '%23'."
        )
    if parts.fragment or {"driver", "path", "database"} & dict(parse_qsl(parts.query)).keys():
        raise ValueError(
            f"{masked(url)!r} says the path or database in two ways. A '#' or '?' in one is written '%23' or '%3F'."
        )
    database = unquote(arguments.pop("database"))
    return (_sqlite_url if scheme == "sqlite" else _server_url)(url, scheme, parts.netloc, database, arguments)


def _sqlite_url(url: str, scheme: str, place: str, path: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
    if place:
        raise ValueError(
            f"{masked(url)!r} has a host, and SQLite has none: a path takes three slashes ('sqlite:///tent.db'), "
            "an absolute one four ('sqlite:////home/user/tent.db')."
        )
    pragmas = {key[7:]: arguments.pop(key) for key in list(arguments) if key.startswith("pragma_")}
    return {"driver": scheme, "path": path, **arguments, **({"pragmas": pragmas} if pragmas else {})}


def _server_url(url: str, scheme: str, place: str, database: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
    login, _, hosts = place.rpartition("@")
    user, _, password = login.partition(":")
    found = {
        "user": unquote(user),
        "password": unquote(password),
        "host": [unquote(host) for host in hosts.split(",")] if hosts else None,
        "database": database,
    }
    keys = {key: arguments.pop(key) for key in list(arguments) if key in _SERVER and key not in found}
    return {"driver": scheme, **found, **keys, **({"options": arguments} if arguments else {})}

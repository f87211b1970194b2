"""A config, mapping or URL, checked and turned into the arguments of an engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from .errors import DBConfigurationException, article

Checked = dict[str, Any]

_SECRET = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)
_URL = re.compile(r"(?P<place>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?", re.DOTALL)
# What can be a password in a URL, well-formed or not: what is before the last "@", what follows "user:" where the "@"
# was forgotten, unless it is a port, and the values of some keys
_URL_SECRETS = (
    (re.compile(r"(?i)((?:pass\w*|pwd|secret|token)=)[^&]*"), r"\1***"),
    (re.compile(r"(?is)((?:://[^/?#]*?|(?<!sqlite)://.*?)(?::|%3a)).*@"), r"\1***@"),
    (re.compile(r"(?s)\A(?!\w+://).*@"), r"***@"),
    (re.compile(r"(?s)(://[^@/?#:\[]*:)(?!\d*(?:[/?#,]|\Z))[^@/?#]*(?!.*@)"), r"\1***"),
)
_HOST = re.compile(
    r"(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)"  # an IPv6 address, which has colons of its own
    r"|(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^\[\]:]*))(?::(?P<port>.*))?"
)
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
        _refuse(config, f"Unknown driver {driver!r}{nearest(driver, DRIVERS)}; known: {_known()}.")
    keys = DRIVERS[driver]
    for key in settings:
        if key != "driver" and key not in keys:
            _refuse(
                config,
                f"Unknown key {key!r} for the driver {driver!r}{nearest(key, keys)}; known: "
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
        for pattern, shown in _URL_SECRETS:
            config = pattern.sub(shown, config)
        return config
    if isinstance(config, Mapping):
        return {key: masked(value) if _is_open(key, config) else MASK for key, value in config.items()}
    return config


def secrets(settings: Checked) -> list[str]:
    """Return the secrets of checked settings, none of which a message may show."""
    options = settings.get("options", {})
    found = [settings.get("password"), *(value for key, value in options.items() if _SECRET.search(key))]
    return [str(value) for value in found if value]


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
        host if host.startswith("/") else f"{f'[{host}]' if ':' in host else host or 'localhost'}:{port}"
        for host, port in settings["hosts"]
    )


def _refuse(config: Any, message: str) -> NoReturn:
    raise DBConfigurationException(message, masked(config)) from None


def _known() -> str:
    return ", ".join(map(repr, sorted(DRIVERS)))


def nearest(word: Any, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question for the word that one is perhaps meant for, if there is any."""
    import difflib  # slow to import, and only needed for a config that is refused

    close = difflib.get_close_matches(str(word).lower(), words, 1, cutoff)
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


def _hosts(name: str, has_sockets: bool = True) -> Callable[[Any], list[tuple[str, int | None]]]:
    """Return the check of a host or several, each with a port of its own perhaps: "db1:5433", ["db1", "[::1]:5432"]."""

    def check(value: Any) -> list[tuple[str, int | None]]:
        if value is None:
            return [] if name == "replicas" else [("", None)]
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(host, str) for host in value):
            raise ValueError(f"{name!r} must be a name or a list of names, not {_shown(value)}.")
        return list(map(split, value.split(",") if isinstance(value, str) else value))

    def split(text: str) -> tuple[str, int | None]:
        text = text.strip()
        found = _HOST.fullmatch(text)
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
_MYSQL = {**_SERVER, "host": _hosts("host", has_sockets=False), "replicas": _hosts("replicas", has_sockets=False)}

#: The known drivers: for each, the keys of its config and the function that checks a value or gives the default.
DRIVERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "sqlite": {"path": _path, "echo": _echo, "timeout": _timeout, "pragmas": _pragmas},
    "postgresql": _SERVER,
    "cockroachdb": _SERVER,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}
#: The ports that servers listen on, unless told otherwise.
PORTS = {"postgresql": 5432, "cockroachdb": 26257, "mysql": 3306, "mariadb": 3306}
_ALIASES: dict[str, str] = {"postgres": "postgresql"}


# URLs


def read_url(url: str) -> Mapping[str, Any]:
    """Return the config that a URL stands for, unchecked. Raises `ValueError`."""
    from playhouse import db_url  # imports every driver that is installed, so only when a URL is read

    scheme, separator, rest = url.partition("://")
    if not separator or "@" in scheme:
        is_server = "@" in url or re.match(rf"(?:{'|'.join(PORTS)})\b", url)
        remedy = "'postgresql://user:password@host/database'" if is_server else f"for a file 'sqlite:///{masked(url)}'"
        raise ValueError(
            f"{masked(url)!r} is no database URL. Write {remedy}, or a mapping: {{'driver': 'sqlite', 'path': …}}."
        )
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in DRIVERS:
        return {"driver": scheme}
    if any(ord(character) < 32 for character in rest):
        raise ValueError(f"{masked(url)!r} has a tab or a line break. In a URL they are written '%09' and '%0A'.")
    # Not by urlsplit(), which takes brackets in a password for an address, and says the password in its errors
    parts = _URL.fullmatch(rest)
    assert parts is not None
    place, path, query = parts["place"], unquote(parts["path"].removeprefix("/")), parts["query"] or ""
    if scheme != "sqlite" and "@" not in place and "@" in url:
        raise ValueError(
            f"{masked(url)!r} has a '/', '?' or '#' before its '@'. In a user or a password they are written '%2F', "
            "'%3F' and '%23'."
        )
    if parts["fragment"] or {"driver", "path", "database"} & dict(parse_qsl(query)).keys():
        raise ValueError(
            f"{masked(url)!r} says the path or database in two ways. A '#' or '?' in one is written '%23' or '%3F'."
        )
    try:
        arguments = db_url.parse(f"sqlite:///?{query}")
    except ValueError as problem:
        raise ValueError(f"{masked(url)!r} can't be read as a URL: {problem}.") from None
    del arguments["database"]
    return (_sqlite_url if scheme == "sqlite" else _server_url)(url, scheme, place, path, arguments)


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
    twice = found.keys() & arguments.keys()
    if twice:
        raise ValueError(
            f"{masked(url)!r} has the key {min(twice)!r} behind its '?'. It stands before: "
            f"'{scheme}://user:password@host/database'."
        )
    # libpq has an option of the name "options", too, and in a URL that is meant
    keys = {key: arguments.pop(key) for key in list(arguments) if key in _SERVER and key != "options"}
    return {"driver": scheme, **found, **keys, **({"options": arguments} if arguments else {})}

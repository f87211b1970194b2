"""A config, mapping or URL, checked and turned into the arguments of an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import DBConfigurationException, article, shown
from .keys import ALIASES, DRIVERS, PORTS, nearest
from .url import masked_url, read_url

Checked = dict[str, Any]

_SECRET = r"(?i)pass|pwd|secret|token"
MASK = "***"


def read_config(config: Any) -> Checked:
    """Return the checked settings of a config: a mapping or a URL.

    The result has the key `driver` and, for each key that the driver knows, the value of the config or its default.
    Raises `DBConfigurationException` for whatever can't work, with the remedy.
    """
    settings = _as_mapping(config)
    driver = settings.get("driver")
    driver = ALIASES.get(driver, driver) if isinstance(driver, str) else driver
    if driver is None:
        refuse(config, f"The config has no 'driver'. Add one, for example 'driver': 'sqlite'; known: {_known()}.")
    if not isinstance(driver, str) or driver not in DRIVERS:
        name = driver.partition("+")[0] if isinstance(driver, str) else driver  # SQLAlchemy's "mysql+pymysql"
        refuse(config, f"Unknown driver {shown(driver)}{nearest(name, DRIVERS)}; known: {_known()}.")
    keys = DRIVERS[driver]
    for key in settings:
        if key != "driver" and key not in keys:
            refuse(
                config,
                f"Unknown key {shown(key)} for the driver {driver!r}{nearest(key, keys)}; known: "
                + ", ".join(sorted(keys))
                + ".",
            )
    checked: Checked = {"driver": driver}
    for key, check in keys.items():
        try:
            checked[key] = check(settings.get(key))
        except ValueError as problem:
            refuse(config, str(problem))
    if driver in PORTS:
        port = checked.pop("port") or PORTS[driver]
        for key, name in (("host", "hosts"), ("replicas", "replicas")):
            found: Any = checked.pop(key)
            checked[name] = [(host, own or port) for host, own in found]
    return checked


def masked(config: Any) -> Any:
    """Return a copy of a config that can be shown: passwords are replaced by `***`."""
    if isinstance(config, str):
        return masked_url(config)
    if isinstance(config, Mapping):
        return {key: masked(value) if _is_open(key, config) else MASK for key, value in config.items()}
    return config


def secrets(settings: Checked) -> list[str]:
    """Return the secrets of checked settings, none of which a message may show."""
    options = settings.get("options", {})
    found = [settings.get("password"), *(value for key, value in options.items() if re.search(_SECRET, key))]
    return [str(value) for value in found if value]


def _is_open(key: Any, config: Mapping[Any, Any]) -> bool:
    """Tell whether the value of a key can be shown: it is no secret, nor perhaps a misspelt one."""
    known = "driver" not in config or key == "driver" or any(key in keys for keys in DRIVERS.values())
    return known and not re.search(_SECRET, str(key))


def _as_mapping(config: Any) -> Mapping[Any, Any]:
    if isinstance(config, str):
        try:
            return read_url(config)
        except ValueError as problem:
            refuse(config, str(problem))
    if not isinstance(config, Mapping):
        refuse(
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


def refuse(config: Any, message: str, cause: BaseException | None = None) -> NoReturn:
    """Raise the error for a config that can't work, without its secrets."""
    raise DBConfigurationException(message, masked(config)) from cause


def _known() -> str:
    return ", ".join(map(repr, sorted(DRIVERS)))

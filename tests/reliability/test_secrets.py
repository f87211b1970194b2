"""No failure of a connection shows the password that it was tried with: in no error with all that caused it, no log.

tests/test_config.py and tests/test_server_config.py have what dbm.connect() says; this is about engines that worked.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import peewee
import pytest
import servers
from conftest import Person

from tent.data import dbm

pytestmark = pytest.mark.databases("servers")

PASSWORD = "hünter2 /?#@:%+&='\"\\"
SHOWN = [PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), repr(PASSWORD)[1:-1], repr(PASSWORD.encode())[2:-1]]


def change(engine: Any, host: str | None = None, port: int | None = None, **others: Any) -> None:
    """Let an engine's next connections be other ones, with a password that its server doesn't know."""
    engine.connect_params.update(password=PASSWORD if engine.kind == "postgresql" else PASSWORD.encode(), **others)
    if engine.kind == "postgresql":
        engine.connect_params.update({"host": host} if host else {}, **({"port": port} if port else {}))
    else:
        engine.hosts = [(host or old_host, port or old_port) for old_host, old_port in engine.hosts]
    engine.close_idle()


FAILURES: dict[str, Callable[[Any], None]] = {
    "another password": lambda engine: change(engine),
    "no server": lambda engine: change(engine, port=1),
    "no host": lambda engine: change(engine, host="no.such.host.invalid"),
    "an unknown option": lambda engine: change(engine, no_such_option=1),
    "a wrong option": lambda engine: change(engine, connect_timeout="soon"),
}

USES: dict[str, Callable[[Any], Any]] = {
    "query": lambda engine: dbm.open_session(engine).query(Person).all(),
    "stream": lambda engine: list(dbm.open_session(engine).query(Person).yield_per(1)),
    "begin": lambda engine: dbm.open_session(engine).begin(),
    "transaction": lambda engine: dbm.run_transaction(engine, lambda session: session.add(Person()), 1, 0),
    "tables": lambda engine: dbm.install_tables(engine),
    "peewee": lambda engine: engine.execute_sql("SELECT 1"),
}


def shown_in(text: str) -> list[str]:
    """Return the passages of a text that show the password, in whatever spelling."""
    return [text[max(0, text.index(secret) - 100) :][:200] for secret in SHOWN if secret in text]


def check(error: BaseException, *others: Any) -> None:
    """Check that neither an error, with all that came before it, nor anything else shows the password."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    seen: BaseException | None = error
    while seen is not None:
        told += f"{seen!r} {seen.args!r}"
        seen = seen.__cause__ or seen.__context__
    told += "".join(map(repr, others))
    assert not shown_in(told)


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
@pytest.mark.parametrize("fail", FAILURES.values(), ids=list(FAILURES))
def test_a_connection_that_can_not_be_made_shows_no_password(
    connect: Callable[..., Any],
    fail: Callable[[Any], None],
    use: Callable[[Any], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = connect()
    engine.close()
    caplog.set_level(logging.DEBUG)
    fail(engine)
    with pytest.raises(Exception) as caught:
        use(engine)
    check(caught.value, engine, dbm.open_session(engine))
    assert not shown_in(caplog.text)
    assert not engine._in_use


def test_a_connection_that_is_lost_and_comes_not_back_shows_no_password(
    connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = connect()
    engine.close()
    caplog.set_level(logging.DEBUG)
    with dbm.open_session(engine) as session:
        session.add(Person(name="Joe"))
        session.flush()
        number = session.scalar(f"SELECT {servers.CONNECTION_ID[engine.kind]}")
        change(engine)
        servers.end_connections(engine, [number])
        for _ in range(2):  # the transaction is lost, and there is no connection for another one
            session.add(Person(name="Ann"))
            with pytest.raises((peewee.PeeweeException, dbm.CommitInDoubtError)) as caught:
                session.commit()
            check(caught.value, session, engine, session.new)
        session.rollback()
    assert not shown_in(caplog.text)


def test_a_pool_that_is_used_up_shows_no_password(
    connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = connect(pool_size=1, pool_timeout=0.01)
    engine.close()
    caplog.set_level(logging.DEBUG)
    with dbm.open_session(engine) as holder:
        holder.begin()
        change(engine)
        with pytest.raises(peewee.OperationalError, match="No connection was free") as caught:
            dbm.open_session(engine).query(Person).all()
    check(caught.value, engine)
    assert not shown_in(caplog.text)

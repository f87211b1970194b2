"""Ctrl-C comes, by a real signal at a random moment of a commit: objects and rows agree, whatever was being done."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import peewee
import pytest

from tent.data import dbm

Model = dbm.declarative_base()
pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX has it, Windows has not"),
    # Ctrl-C would meet coverage itself with its lock, which it would never let go of: .ci/run runs this without it.
    pytest.mark.skipif("coverage.collector" in sys.modules, reason="not under coverage"),
]
NAMES = [f"c{number}" for number in range(12)]  # more columns than PostgreSQL gets as arrays


class Narrow(Model):
    label = peewee.TextField()


class Wide(Model):
    label = peewee.TextField()
    locals().update({name: peewee.TextField(null=True) for name in NAMES})


def interrupt(after: float, work: Callable[[], None]) -> BaseException | None:
    """Do something, let Ctrl-C come after some seconds, and return it unless the work was done before."""
    is_waiting = True

    def strike(*_: Any) -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        work()
        is_waiting = False
    except (KeyboardInterrupt, peewee.PeeweeException) as error:  # psycopg's own C code has made one of the other once
        return error
    finally:
        is_waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    return None


def put(items: Sequence[Any], value: str) -> None:
    for item in items:
        item.label = value
        for name in NAMES if isinstance(item, Wide) else ():
            setattr(item, name, value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a callback Python swallows it
@pytest.mark.parametrize("model", [Narrow, Wide])
@pytest.mark.parametrize("verb", ["insert", "update"])
def test_objects_and_rows_agree_when_ctrl_c_comes_at_any_moment_of_a_commit(
    engine: Any, model: Any, verb: str, chance: random.Random, is_long: bool, report: Callable[..., None]
) -> None:
    dbm.install_tables(engine, models=Model)
    with dbm.open_session(engine) as session:

        def begin(value: str) -> list[Any]:
            items = [model(label="before") for _ in range(200)]
            session.add_all(items)
            if verb == "update":
                session.commit()
            put(items, value)
            return items

        begin("the first one")
        start = time.perf_counter()
        session.commit()
        duration, interrupts, doubts = time.perf_counter() - start, 0, 0
        for number in range(500 if is_long else 25):
            items = begin(f"round {number}")
            start = time.perf_counter()
            error = interrupt(chance.uniform(0, duration), session.commit)
            if error is None:
                duration = min(duration, time.perf_counter() - start)  # the first ones take longer
            session.rollback()
            is_in_doubt = error is not None and isinstance(error.__cause__, dbm.CommitInDoubtError)
            interrupts, doubts = interrupts + (error is not None), doubts + is_in_doubt
            found = session.query(model).filter_by(label=f"round {number}").count()
            assert found in (0, 200)
            is_done = found == 200 and not is_in_doubt
            if verb == "insert":
                assert {session.state(item) for item in items} == {"persistent" if is_done else "transient"}
            else:
                assert {item.label for item in items} == {f"round {number}" if is_done else "before"}
    report(interrupts=interrupts, in_doubt=doubts)
    assert interrupts


@pytest.mark.databases("postgresql")
def test_a_commit_that_ctrl_c_has_cancelled_is_not_taken_for_done(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)
    engine.execute_sql("CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); END'")
    engine.execute_sql(
        "CREATE CONSTRAINT TRIGGER waiting AFTER INSERT ON narrows DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    with dbm.open_session(engine) as session:
        item = Narrow(label="a")
        session.add(item)
        session.flush()
        error = interrupt(0.5, session.commit)
        assert isinstance(error, KeyboardInterrupt)
        assert isinstance(error.__cause__, dbm.CommitInDoubtError)
        assert session.state(item) == "transient"
        assert session.query(Narrow).count() == 0

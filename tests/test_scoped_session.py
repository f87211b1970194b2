"""SEMANTICS TH2: one session for each thread or asynchronous task, behind one name."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from conftest import Person

from tent.data import dbm


def test_a_thread_has_one_session(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    assert scoped() is scoped()
    scoped.remove()


def test_another_thread_has_another_session(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    found: list[dbm.Session] = []

    def note() -> None:
        found.append(scoped())
        scoped.remove()

    thread = threading.Thread(target=note)
    thread.start()
    thread.join()
    assert found[0] is not scoped()
    scoped.remove()


def test_each_asynchronous_task_has_its_own_session(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)

    async def own() -> dbm.Session:
        session = scoped()
        await asyncio.sleep(0)
        assert scoped() is session
        return session

    async def both() -> list[dbm.Session]:
        return list(await asyncio.gather(own(), own()))

    first, second = asyncio.run(both())
    assert first is not second
    first.close()
    second.close()


def test_it_does_what_a_session_does(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    person = Person(name="Jo")
    scoped.add(person)
    assert person in scoped
    assert list(scoped) == scoped.new
    scoped.commit()
    assert scoped.query(Person).one() is person
    scoped.remove()


def test_an_attribute_that_is_set_is_the_sessions(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    scoped.autoflush = False
    assert scoped().autoflush is False
    scoped.remove()


def test_remove_closes_the_session_and_the_next_use_opens_another(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    first = scoped()
    person = Person(name="Jo")
    first.add(person)
    first.commit()
    scoped.remove()
    assert first.state(person) == "detached"
    assert scoped() is not first
    scoped.remove()
    scoped.remove()


def test_options_go_to_the_session_that_is_opened(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    assert scoped(autoflush=False).autoflush is False
    scoped.remove()


def test_options_for_an_open_session_are_refused(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)
    scoped()
    with pytest.raises(dbm.InvalidRequestError, match="open already"):
        scoped(autoflush=False)
    scoped.remove()


def test_a_task_does_not_take_over_the_session_of_the_task_that_started_it(engine: Any) -> None:
    scoped = dbm.scoped_session(engine)

    async def child() -> dbm.Session:
        return scoped()

    async def parent() -> list[dbm.Session]:
        return [scoped(), *(await asyncio.gather(child(), child())), await asyncio.to_thread(scoped), scoped()]

    first, *others, last = asyncio.run(parent())
    assert first is last
    assert len({id(session) for session in (first, *others)}) == 4
    for session in (first, *others):
        session.close()

"""A session within blocks of `engine.atomic()`: however they nest and end, its objects agree with the rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import hypothesis
import pytest
from conftest import Model, Person, install_tables_with_keys_that_do_not_come_again
from hypothesis import strategies as st

from tent.data import dbm

WHO = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("set"), WHO, st.sampled_from("abcdef")),
    st.tuples(st.sampled_from(["add", "delete"]), WHO),
    st.tuples(st.sampled_from(["flush", "commit", "rollback"])),
    st.tuples(st.just("other"), st.sampled_from(["set", "flush", "commit", "rollback"])),
)
PROGRAMS = st.recursive(
    st.lists(STEPS, max_size=4),
    lambda inner: st.lists(
        st.one_of(STEPS, st.tuples(st.just("block"), inner, st.sampled_from(["ends", "fails", "rolls back"]))),
        max_size=5,
    ),
    max_leaves=8,
)


class Failure(Exception):
    pass


def run(session: dbm.Session, other: dbm.Session, people: list[Person], program: list[Any]) -> None:
    """Run a program on the people of a session but for the last, who is the other one's."""
    for what, *rest in program:
        if what == "block":
            with suppress(Failure), session.engine.atomic() as block:
                run(session, other, people, rest[0])
                if rest[1] == "fails":
                    raise Failure
                if rest[1] == "rolls back":
                    block.rollback()
        elif what == "set":
            people[rest[0]].name = rest[1]
        elif what == "other" and rest[0] == "set":
            people[-1].name += "x"
        elif what == "other":
            with suppress(dbm.InvalidRequestError):
                getattr(other, rest[0])()
        elif what == "add":
            if people[rest[0]] not in session:
                session.add(people[rest[0]])
        elif what == "delete":
            if session.state(people[rest[0]]) == "persistent":
                session.delete(people[rest[0]])
        else:
            with suppress(dbm.InvalidRequestError):  # the transaction was begun outside of what is open
                getattr(session, what)()


@pytest.mark.databases("memory", "servers")
def test_objects_agree_with_the_rows_however_blocks_nest_and_end(engine: Any, database: str) -> None:
    install_tables_with_keys_that_do_not_come_again(engine, Model)

    @hypothesis.settings(
        max_examples=150 if database == "memory" else 30,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(program=PROGRAMS)
    def tried(program: list[Any]) -> None:
        engine.execute_sql("DELETE FROM people")
        people = [Person(name=f"p{number}") for number in range(5)]
        with dbm.open_session(engine) as session, dbm.open_session(engine) as other:
            session.add_all(people[:2])
            session.commit()
            other.add(people[-1])
            other.commit()
            run(session, other, people, [("block", program, "ends")])
            assert not session.in_transaction()
            assert not other.in_transaction()
            known = [person for person in people if session.state(person) == "persistent"]
            pending = [*session.dirty, *session.deleted, *other.dirty]
            assert {p.id: p.name for p in known if p not in pending}.items() <= rows(engine).items()
            assert {p.id for p in known} == set(rows(engine))
            # and the sessions go on: what they say is what is written
            session.commit()
            other.commit()
            assert rows(engine) == {p.id: p.name for p in people if session.state(p) == "persistent"}

    tried()


def rows(engine: Any) -> dict[int, str]:
    return dict(Person.select(Person.id, Person.name).tuples().execute(engine))

"""CockroachDB, without the server, which was not to be had: this shows less than the tests of the other databases do.

Its engine runs on a PostgreSQL database with a `unique_rowid()` of its own, so that its SQL is run. What CockroachDB
answers differently is taken from its documentation:

- retry errors are 40001, an ambiguous commit 40003 (/docs/stable/transaction-retry-error-reference, /common-errors);
- changes of the schema belong in no transaction (/docs/stable/online-schema-changes);
- there is no pg_advisory_xact_lock before 26.3 (https://github.com/cockroachdb/cockroach/pull/168353);
- SERIAL is unique_rowid(), whose numbers are unique and not in a row (/docs/stable/serial);
- savepoints nest from 20.1 on (/docs/stable/savepoint).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peewee
import pytest
import servers
from blog import Model as Blog
from blog import Post, User, fill
from conftest import Node, Note, Person, collected

from tent.data import dbm
from tent.data.orm.config import read_config

psycopg = pytest.importorskip("psycopg")
postgresql = pytest.importorskip("tent.data.orm.postgresql")

on_postgresql = pytest.mark.databases("postgresql")


class CockroachEngine(postgresql.CockroachEngine):  # type: ignore[name-defined,misc]
    """The engine on a PostgreSQL, which says another version."""

    def _set_server_version(self, connection: Any) -> None:
        self.server_version = 240100


def settings(**others: Any) -> Any:
    return read_config({"driver": "cockroachdb", "database": "tent_test", **others})


@pytest.fixture
def bare_engine(config: Any) -> Iterator[Any]:
    """An engine of a database that gives out keys as CockroachDB does: unique ones, in no order."""
    engine = CockroachEngine(settings(**{**servers.mapping(config), "driver": "cockroachdb"}))
    engine.execute_sql("CREATE SEQUENCE rows_so_far")
    engine.execute_sql(
        "CREATE FUNCTION unique_rowid() RETURNS bigint LANGUAGE sql "
        "AS 'SELECT nextval(''rows_so_far'') * 7919 %% 1000003'"
    )
    yield engine
    engine.close_all()


# Its SQL, on PostgreSQL


@on_postgresql
def test_tables_are_installed_without_a_transaction_or_a_lock(bare_engine: Any) -> None:
    with collected(bare_engine) as ran:
        dbm.install_tables(bare_engine, models=Blog)
        dbm.uninstall_tables(bare_engine, models=Blog)
    assert sum(sql.startswith("CREATE TABLE") for sql in ran) == len(list(Blog.registry))
    assert not [sql for sql in ran if sql.startswith(("BEGIN", "COMMIT", "SAVEPOINT")) or "advisory" in sql]


@on_postgresql
def test_installing_twice_makes_nothing_new(bare_engine: Any) -> None:
    assert dbm.install_tables(bare_engine, models=Blog)
    assert dbm.install_tables(bare_engine, models=Blog) == []


@on_postgresql
def test_rows_get_keys_that_were_taken_before_they_are_inserted(engine: Any) -> None:
    people = [Person(name=f"{place}") for place in range(1200)]
    with collected(engine) as ran, dbm.transaction(engine) as session:
        session.add_all(people)
    assert [sql.split(" ")[0] for sql in ran] == ["BEGIN", "SELECT", "INSERT", "COMMIT"]
    assert "unique_rowid()" in ran[1]
    with dbm.open_session(engine) as session:
        rows = dict(session.execute("SELECT id, name FROM people").all())
    assert rows == {person.id: person.name for person in people}
    assert sorted(rows) != list(rows)


@on_postgresql
def test_an_object_with_a_key_of_its_own_keeps_it(engine: Any) -> None:
    with dbm.transaction(engine) as session:
        session.add_all([Person(id=7, name="Joe"), Person(name="Ann")])
    with dbm.open_session(engine) as session:
        assert session.get_one(Person, 7).name == "Joe"


@on_postgresql
def test_objects_that_all_have_keys_of_their_own_need_none(engine: Any) -> None:
    with collected(engine) as ran, dbm.transaction(engine) as session:
        session.add_all([Person(id=7, name="Joe"), Person(id=8, name="Ann")])
    assert [sql.split(" ")[0] for sql in ran] == ["BEGIN", "INSERT", "COMMIT"]


@on_postgresql
def test_rows_that_refer_to_each_other_are_written(engine: Any) -> None:
    nodes = [Node(name="root")]
    for place in range(20):
        nodes.append(Node(name=f"{place}", parent=nodes[place // 2]))
    with dbm.transaction(engine) as session:
        session.add_all(reversed(nodes))
    with dbm.open_session(engine) as session:
        assert {node.name: node.parent and node.parent.name for node in session.query(Node)} == {
            node.name: node.parent and node.parent.name for node in nodes
        }


@on_postgresql
def test_a_session_leads_its_ordinary_life(engine: Any) -> None:
    with dbm.open_session(engine) as session:
        joe = Person(name="Joe", tags=["a"])
        session.add_all([joe, Note(person=joe, text="first"), Person(name="Ann")])
        session.commit()
        joe.age = 30
        joe.tags.append("b")
        session.query(Person).filter_by(name="Ann").one().age = 31
        session.commit()
        with pytest.raises(ZeroDivisionError):
            with session.begin_nested():
                joe.age = 99
                session.flush()
                raise ZeroDivisionError
        assert joe.age == 30
        assert session.query(Person).filter_by(name="Joe").with_for_update().one() is joe
        session.rollback()
        assert [note.text for note in joe.notes] == ["first"]
        assert [person.name for person in session.query(Person).order_by(Person.age).yield_per(1)] == ["Joe", "Ann"]
        session.delete(joe)
        session.commit()
        assert session.query(Note).count() == 0
    with dbm.open_session(engine, isolation_level="SERIALIZABLE", read_only=True) as session:
        assert [(person.name, person.age) for person in session.query(Person)] == [("Ann", 31)]


@on_postgresql
def test_a_whole_blog_is_written_and_read(bare_engine: Any) -> None:
    dbm.install_tables(bare_engine, models=Blog)
    with dbm.transaction(bare_engine) as session:
        fill(session)
    with dbm.open_session(bare_engine) as session:
        posts = session.query(Post).all()
        assert {post.author.name for post in posts} == {user.name for user in session.query(User)}
        assert all(len(list(post.tags)) == len(set(post.tags)) > 0 for post in posts)


@on_postgresql
def test_a_refused_row_is_named_and_the_session_goes_on(engine: Any) -> None:
    with dbm.open_session(engine) as session:
        people = [Person(email="a"), Person(email="b"), Person(email="a")]
        session.add_all(people)
        with pytest.raises(peewee.IntegrityError) as caught:
            session.commit()
        assert caught.value.object in (people[0], people[2])
        people[2].email = "c"
        session.commit()
        assert session.query(Person).count() == 3


@on_postgresql
def test_connect_refuses_a_server_that_is_another(config: Any) -> None:
    with pytest.raises(dbm.DBConfigurationException, match=r"is PostgreSQL .*: use the driver 'postgresql'"):
        dbm.connect({**servers.mapping(config), "driver": "cockroachdb"})


# Its errors


def refused(state: str) -> peewee.PeeweeException:
    """Return Peewee's error of a driver's, as the driver makes it of the server's."""
    try:
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            raise psycopg.errors.lookup(state)("restart transaction")
    except peewee.PeeweeException as error:
        return error


@pytest.fixture
def unconnected() -> Any:
    return CockroachEngine(settings())


@pytest.mark.parametrize("state", ["40001", "57P01", "08006", "53300"])
def test_what_is_repeated(unconnected: Any, state: str) -> None:
    assert unconnected.is_retryable(refused(state))
    assert not unconnected.is_in_doubt(refused(state))


@pytest.mark.parametrize("state", ["40003", "23505", "42P01", "25P02"])
def test_what_is_not_repeated(unconnected: Any, state: str) -> None:
    assert not unconnected.is_retryable(refused(state))


def test_an_ambiguous_commit_is_in_doubt(unconnected: Any) -> None:
    assert unconnected.is_in_doubt(refused("40003"))


@on_postgresql
def test_a_session_says_that_its_commit_is_in_doubt(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CockroachEngine, "commit", lambda self: (_ for _ in ()).throw(refused("40003")))
    with dbm.open_session(engine) as session:
        session.add(Person(name="Joe"))
        with pytest.raises(dbm.CommitInDoubtError):
            session.commit()
        assert not session.in_transaction()


@on_postgresql
def test_a_commit_that_met_a_conflict_is_repeated(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, refusals = CockroachEngine.commit, [refused("40001"), refused("40001")]

    def once_more(self: Any) -> None:
        if refusals:
            raise refusals.pop()
        commit(self)

    monkeypatch.setattr(CockroachEngine, "commit", once_more)
    dbm.run_transaction(engine, lambda session: session.add(Person(name="Joe")))
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1


# Its hosts


def test_all_nodes_take_writes_and_none_is_asked(unconnected: Any) -> None:
    several = CockroachEngine(settings(host=["a", "b:26258"]))
    assert (several.connect_params["host"], several.connect_params["port"]) == ("a,b", "26257,26258")
    assert "target_session_attrs" not in several.connect_params


@on_postgresql
def test_a_priority_that_there_is_not_is_refused(engine: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="priority is 'low', 'normal' or 'high'"):
        with engine.atomic(priority="urgent"):
            pass
    assert not engine.has_transaction()

"""Users and their profiles, and the documented example."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import peewee
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tent.data import dbm, user
from tent.data.user import Profile, User

EXAMPLE = """\
from tent.data import dbm
from tent.data.user import User

config = {'driver': 'sqlite', 'path': ':memory:'}      # or a file: '/home/user/tent.db'
engine = dbm.connect(config)                           # a peewee.SqliteDatabase
dbm.install_tables(engine)                             # tables of every model loaded so far
session = dbm.open_session(engine)
u = User("Joe Public")
session.add(u)
session.commit()
session.close()
"""


@pytest.fixture
def engine(bare_engine: Any) -> Any:
    dbm.install_tables(bare_engine, models=[User, Profile])
    return bare_engine


# The documented example


def test_the_documented_example_runs() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    rows = names["engine"].execute_sql("SELECT name, entity_id FROM users").fetchall()
    names["engine"].close_all()
    assert rows == [("Joe Public", "http://localhost/joe.public")]


def test_the_documented_example_is_in_the_manual() -> None:
    manual = re.sub(r"^    ", "", dbm.__doc__ or "", flags=re.MULTILINE)
    assert EXAMPLE in manual


def test_what_the_example_stores_in_a_file_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = str(tmp_path / "tent.db")
    written = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLE.replace("':memory:'", repr(path))], capture_output=True, text=True
    )
    assert (written.returncode, written.stderr) == (0, "")
    reader = (
        "import sys\nfrom tent.data import dbm\nfrom tent.data.user import User\n"
        "with dbm.open_session(dbm.connect({'driver': 'sqlite', 'path': sys.argv[1]})) as session:\n"
        "    print(session.query(User).one().entity_id)\n"
    )
    read = subprocess.run([sys.executable, "-c", reader, path], capture_output=True, text=True, check=True)
    assert read.stdout == "http://localhost/joe.public\n"


def test_a_user_can_be_queried_before_any_commit(session: dbm.Session) -> None:
    u = User("Joe Public")
    session.add(u)
    assert session.query(User).filter_by(name="Joe Public").first() is u
    session.rollback()


# Users


def test_a_user_takes_the_name_by_position_or_by_keyword() -> None:
    assert User("Joe Public").name == User(name="Joe Public").name == "Joe Public"


def test_a_name_twice_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        User("Joe Public", name="Jane")  # type: ignore[misc]


def test_a_user_has_the_columns_of_the_design(session: dbm.Session) -> None:
    values = {
        "entity_id": "https://joe.example/",
        "name": "Joe",
        "avatar_url": "https://joe.example/joe.png",
        "birthdate": datetime.date(1990, 2, 28),
        "location": "Here",
        "gender": "m",
        "bio": "Hello.",
        "licenses": ["https://creativecommons.org/licenses/by/3.0/"],
        "servers": ["https://tent.example/joe"],
    }
    session.add(User(**values))
    session.commit()
    session.expunge_all()
    joe = session.query(User).one()
    assert {name: getattr(joe, name) for name in values} == values
    assert set(User._meta.sorted_field_names) == {"id", *values}


def test_lists_are_empty_by_default() -> None:
    joe = User("Joe")
    assert (joe.licenses, joe.servers) == ([], [])


def test_two_users_of_one_entity_id_are_refused(session: dbm.Session) -> None:
    session.add_all([User("Joe Public"), User("Joe Public")])
    with pytest.raises(peewee.IntegrityError, match=r"<User .*users"):
        session.commit()
    session.rollback()


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="User has no column 'nickname'"):
        User("Joe", nickname="J")


def test_users_can_be_selected_by_peewee_itself(engine: Any) -> None:
    with dbm.transaction(engine) as session:
        session.add(User("Joe", bio="Hello."))
    assert [found.entity_id for found in User.select().execute(engine)] == ["http://localhost/joe"]
    assert [found.bio for found in User.select(User.bio).execute(engine)] == ["Hello."]


# entity_id


@pytest.mark.parametrize(
    "name, entity_id",
    [
        ("Joe Public", "http://localhost/joe.public"),
        ("joe", "http://localhost/joe"),
        ("  Joe \t Q.\n Public ", "http://localhost/joe.q..public"),
        ("José Ñuñez", "http://localhost/jos%C3%A9.%C3%B1u%C3%B1ez"),
        ("李雷", "http://localhost/%E6%9D%8E%E9%9B%B7"),
        ("O'Brien", "http://localhost/o%27brien"),
        ("🦊", "http://localhost/%F0%9F%A6%8A"),
        ('"Joe"', "http://localhost/%22joe%22"),
        ("a/b?c#d%e&f", "http://localhost/a%2Fb%3Fc%23d%25e%26f"),
        ("..joe..", "http://localhost/joe"),
        ("Straße", "http://localhost/stra%C3%9Fe"),
        ("a\0b", "http://localhost/a%00b"),
    ],
)
def test_an_entity_id_is_derived_from_the_name(name: str, entity_id: str) -> None:
    assert User(name).entity_id == user.entity_id(name) == entity_id


def test_one_name_in_two_unicode_forms_has_one_entity_id() -> None:
    assert User("Jos\u00e9").entity_id == User("Jose\u0301").entity_id


def test_an_entity_id_that_is_given_is_kept() -> None:
    assert User("Joe", entity_id="https://joe.example/").entity_id == "https://joe.example/"
    assert User("", entity_id="https://joe.example/").name == ""
    assert User(entity_id="https://joe.example/").name is None


@pytest.mark.parametrize("name", ["", " ", "\t\n", ".", "...", ". . .", "\u3000"])
def test_a_name_that_gives_an_empty_entity_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="No entity_id can be derived from the name"):
        User(name)


@pytest.mark.parametrize("name", [None, 3, b"Joe", ["Joe"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        User(name)


@pytest.mark.parametrize("name", ["\ud800", "Joe \udcff"])
def test_a_name_with_half_a_character_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        User(name)


@given(name=st.text(st.characters(), max_size=30))
@example(name="..")
@example(name="a/../b")
@example(name="İ")
def test_an_entity_id_is_a_valid_url_or_the_name_is_refused(name: str) -> None:
    try:
        url = User(name).entity_id
    except ValueError:
        return
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("http", "localhost", "", "")
    assert re.fullmatch(r"/([A-Za-z0-9._~-]|%[0-9A-F]{2})+", parts.path)
    assert unquote(parts.path[1:]).strip(".") != ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
@example(name="Joe ")
@example(name="%s ? :name \\")
def test_any_name_comes_back_as_it_was(engine: Any, name: str) -> None:
    with dbm.transaction(engine) as session:
        session.query(User).delete()
        session.add(User(name, entity_id="https://joe.example/"))
    with dbm.open_session(engine) as session:
        assert session.query(User).filter_by(name=name).one().name == name


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_a_name_with_a_zero_byte_comes_back_as_it_was(session: dbm.Session) -> None:
    session.add(User("a\0b"))
    session.commit()
    session.expunge_all()
    assert session.query(User).filter_by(name="a\0b").one().name == "a\0b"


@pytest.mark.databases("postgresql")
def test_postgresql_refuses_a_name_with_a_zero_byte(session: dbm.Session) -> None:
    joe = User("a\0b")
    session.add(joe)
    with pytest.raises(peewee.DataError, match=r"User\.name .*NUL") as caught:
        session.flush()
    assert caught.value.object is joe  # type: ignore[attr-defined]
    session.rollback()


# Profiles


def test_the_types_of_profiles_are_those_of_tent() -> None:
    assert user.CORE == "https://tent.io/types/info/core/v0.1.0"
    assert user.BASIC == "https://tent.io/types/info/basic/v0.1.0"


def test_a_profile_brings_its_user_along(session: dbm.Session) -> None:
    joe = User("Joe")
    session.add(Profile(user=joe, type=user.BASIC, content={"name": "Joe"}, permissions={"public": True}))
    session.commit()
    session.expunge_all()
    profile = session.query(Profile).one()
    assert (profile.user.name, profile.content, profile.permissions) == ("Joe", {"name": "Joe"}, {"public": True})


def test_a_user_has_its_profiles(session: dbm.Session) -> None:
    joe = User("Joe")
    profiles = [Profile(user=joe, type=user.CORE), Profile(user=joe, type=user.BASIC)]
    session.add_all(profiles)
    session.commit()
    assert joe.profiles.order_by(Profile.id).all() == profiles


def test_a_profile_is_empty_and_of_version_1_by_default(session: dbm.Session) -> None:
    profile = Profile(user=User("Joe"), type=user.CORE)
    session.add(profile)
    session.commit()
    assert (profile.content, profile.permissions, profile.version) == ({}, {}, 1)


def test_the_version_of_a_profile_counts_its_updates(session: dbm.Session) -> None:
    profile = Profile(user=User("Joe"), type=user.CORE)
    session.add(profile)
    session.commit()
    profile.content["name"] = "Joe"
    session.commit()
    assert profile.version == 2


def test_a_user_has_one_profile_of_a_type(session: dbm.Session) -> None:
    joe = User("Joe")
    session.add_all([Profile(user=joe, type=user.CORE), Profile(user=joe, type=user.CORE)])
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    session.rollback()


def test_two_users_can_have_profiles_of_one_type(session: dbm.Session) -> None:
    session.add_all([Profile(user=User(name), type=user.CORE) for name in ("Joe", "Jane")])
    session.commit()
    assert session.query(Profile).filter_by(type=user.CORE).count() == 2


def test_profiles_are_deleted_with_their_user(session: dbm.Session) -> None:
    joe, jane = User("Joe"), User("Jane")
    session.add_all([Profile(user=person, type=kind) for person in (joe, jane) for kind in (user.CORE, user.BASIC)])
    session.commit()
    session.delete(joe)
    session.commit()
    assert [profile.user for profile in session.query(Profile)] == [jane, jane]


def test_a_profile_needs_a_user_that_exists(session: dbm.Session) -> None:
    session.add(Profile(user=4711, type=user.CORE))
    with pytest.raises(peewee.IntegrityError, match=r"(?is)foreign key.*<Profile "):
        session.commit()
    session.rollback()

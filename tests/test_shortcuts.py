"""To and from dicts, by `playhouse.shortcuts`: no statement runs that the program did not expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blog
import pytest
from blog import POSTS, Comment, Post, Tag, User
from playhouse.shortcuts import dict_to_model, model_to_dict, update_model_from_dict

from tent.data import dbm

Statements = Callable[[], Any]


def plain(sql: str) -> str:
    """Return SQL without what each database writes in its own way."""
    return sql.replace('"', "").replace("`", "").replace("%s", "?")


@pytest.fixture(autouse=True)
def full(engine: Any) -> None:
    dbm.install_tables(engine, models=blog.Model)
    with dbm.open_session(engine) as session:
        blog.fill(session)


def test_columns_alone_take_no_statement(session: Any, statements: Statements) -> None:
    posts = session.query(Post).all()
    with statements() as ran:
        found = [model_to_dict(post, recurse=False) for post in posts]
    assert ran == []
    assert found[0] == {"id": 1, "author": 1, "editor": 2, "title": "user 0, post 0"}


def test_what_objects_refer_to_takes_a_statement_for_all(session: Any, statements: Statements) -> None:
    posts = session.query(Post).all()
    with statements() as ran:
        found = [model_to_dict(post) for post in posts]
    assert len(ran) == 1
    assert found[0]["author"] == {"id": 1, "name": "user 0"}


def test_what_refers_to_objects_takes_a_statement_a_relation(session: Any, statements: Statements) -> None:
    users = session.query(User).all()
    with statements() as ran:
        found = [
            model_to_dict(user, backrefs=True, max_depth=1, exclude=[Comment.author, Post.editor]) for user in users
        ]
    assert len(ran) == 1
    assert {len(user["posts"]) for user in found} == {POSTS}


def test_many_to_many_takes_a_statement_for_links_and_one_for_objects(session: Any, statements: Statements) -> None:
    posts = session.query(Post).all()
    with statements() as ran:
        found = [model_to_dict(post, recurse=False, manytomany=True) for post in posts]
    assert len(ran) == 2
    assert sorted(tag["word"] for tag in found[0]["tags"]) == ["tag 0", "tag 1"]


def test_a_detached_object_takes_its_columns_only(session: Any) -> None:
    post = session.query(Post).first()
    session.close()
    assert model_to_dict(post, recurse=False)["title"] == post.title
    with pytest.raises(dbm.DetachedInstanceError, match="'author' can't be loaded"):
        model_to_dict(post)


def test_an_object_is_made_of_a_dict_with_what_it_refers_to(session: Any) -> None:
    post = dict_to_model(Post, {"title": "new", "author": {"name": "Ann"}})
    session.add(post)
    session.commit()
    assert session.query(Post).filter_by(title="new").one().author.name == "Ann"


def test_an_object_is_made_of_a_dict_with_what_refers_to_it(session: Any) -> None:
    user = dict_to_model(User, {"name": "Ann", "posts": [{"title": "one"}, {"title": "two"}]})
    session.add(user)
    session.commit()
    assert sorted(post.title for post in user.posts) == ["one", "two"]


def test_an_update_from_a_dict_writes_what_differs(session: Any, statements: Statements) -> None:
    post = session.query(Post).first()
    with statements() as ran:
        update_model_from_dict(post, {"title": post.title, "editor": None})
        session.commit()
    assert [plain(sql) for sql in ran if sql.startswith("UPDATE")] == ["UPDATE posts SET editor_id = ? WHERE id = ?"]


def test_a_dict_of_an_object_makes_a_copy_of_it(session: Any) -> None:
    tag = session.query(Tag).first()
    row = model_to_dict(tag)
    del row["id"]
    twin = dict_to_model(Tag, {**row, "word": "another"})
    session.add(twin)
    session.commit()
    assert twin.id != tag.id

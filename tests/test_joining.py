"""What a query is joined with: a model, or a relation, which says what is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

from tent.data import dbm

Root = dbm.declarative_base()


class Author(Root):  # type: ignore[misc,valid-type]
    name = peewee.CharField()
    mentor = peewee.ForeignKeyField("self", null=True, backref="pupils")


class Post(Root):  # type: ignore[misc,valid-type]
    author = peewee.ForeignKeyField(Author, backref="posts")
    editor = peewee.ForeignKeyField(Author, backref="edited", null=True)
    title = peewee.CharField()


class Label(Root):  # type: ignore[misc,valid-type]
    name = peewee.CharField()
    posts = peewee.ManyToManyField(Post, backref="labels")


MODELS = [Author, Post, Label, Label.posts.get_through_model()]


@pytest.fixture
def blog(engine: Any, session: dbm.Session) -> Iterator[dbm.Session]:
    """Ann's posts "a" and "b", the first of which Bob edited and has the label "new"; Bob, and the label "old"."""
    dbm.install_tables(engine, models=MODELS)
    ann, bob = Author(name="Ann"), Author(name="Bob")
    new, old = Label(name="new"), Label(name="old")
    first = Post(author=ann, editor=bob, title="a", labels=[new])
    session.add_all([ann, bob, first, Post(author=ann, title="b"), new, old])
    session.commit()
    yield session
    session.close()
    dbm.uninstall_tables(engine, models=MODELS)


def test_a_foreign_key_joins_what_it_refers_to(blog: dbm.Session) -> None:
    query = blog.query(Post).join(Post.editor).where(Author.name == "Bob")
    assert [post.title for post in query] == ["a"]


def test_a_backref_joins_what_refers_to_the_object(blog: dbm.Session) -> None:
    assert [(row.Author.name, row.Post.title) for row in blog.query(Author, Post).join(Author.edited)] == [("Bob", "a")]


def test_a_many_to_many_field_joins_through_the_links(blog: dbm.Session) -> None:
    assert [post.title for post in blog.query(Post).join(Post.labels).where(Label.name == "new")] == ["a"]
    assert [label.name for label in blog.query(Label).join(Label.posts).where(Post.title == "a")] == ["new"]


def test_the_next_join_goes_on_from_the_related_model(blog: dbm.Session) -> None:
    query = blog.query(Label.name, Author.name.alias("author")).join(Label.posts).join(Post.author)
    assert [(row.name, row.author) for row in query] == [("new", "Ann")]


def test_filter_by_is_about_the_related_model(blog: dbm.Session) -> None:
    assert [post.title for post in blog.query(Post).join(Post.labels).filter_by(name="new")] == ["a"]


def test_an_outer_join_keeps_rows_without_related_ones(blog: dbm.Session) -> None:
    for joined in (
        blog.query(Label, Post).left_outer_join(Label.posts),
        blog.query(Label, Post).outerjoin(Label.posts),
        blog.query(Label, Post).join(Label.posts, peewee.JOIN.LEFT_OUTER),
    ):
        found = {row.Label.name: row.Post and row.Post.title for row in joined}
        assert found == {"new": "a", "old": None}


def test_a_foreign_key_of_an_alias_joins_it(blog: dbm.Session) -> None:
    other = Post.alias()
    query = blog.query(other).join(other.author).where(Author.name == "Ann").order_by(other.title)
    assert [post.title for post in query] == ["a", "b"]


def test_a_condition_can_come_second(blog: dbm.Session) -> None:
    query = blog.query(Post).join(Author, Post.author == Author.id).where(Author.name == "Ann")
    assert query.count() == 2


def test_a_join_leaves_the_query_that_it_is_made_of_as_it_is(blog: dbm.Session) -> None:
    query = blog.query(Post)
    query.join(Post.labels)
    assert query.count() == 2


@pytest.mark.parametrize("nothing", ["posts", Author.name, 1, None], ids=str)
def test_what_can_not_be_joined_is_refused(blog: dbm.Session, nothing: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"join\(\) takes a model, a query, or a relation"):
        blog.query(Author).join(nothing)


def test_a_relation_with_a_condition_of_its_own_is_refused(blog: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="join Author itself"):
        blog.query(Post).join(Post.author, on=(Post.editor == Author.id))


@pytest.mark.parametrize("relation", [lambda: Author.mentor, lambda: Author.pupils], ids=["foreign key", "backref"])
def test_a_relation_to_the_same_model_wants_an_alias(blog: dbm.Session, relation: Callable[[], Any]) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"other = Author\.alias\(\)"):
        blog.query(Author).join(relation())


@pytest.mark.parametrize("query", ["named", "compared"])
def test_an_error_for_want_of_a_join_says_so(blog: dbm.Session, query: str) -> None:
    wrong = {
        "named": blog.query(Author, Label),
        "compared": blog.query(Author).where(Label.name == "new"),
    }[query]
    with pytest.raises(peewee.DatabaseError, match="a query names a model that it does not join"):
        wrong.all()

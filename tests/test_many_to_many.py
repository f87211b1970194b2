"""Peewee's many-to-many fields take part in the unit of work and the rollback."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import blog
import peewee
import pytest
from blog import Post, Tag, User

from tent.data import dbm

Statements = Callable[[], Any]
Local = dbm.declarative_base()


class Member(Local):
    """Has friends of its own kind, through a model with a column more."""

    name = peewee.CharField()


class Friendship(Local):
    member = peewee.ForeignKeyField(Member, backref="friendships", on_delete="CASCADE")
    friend = peewee.ForeignKeyField(Member, backref="+", on_delete="CASCADE")
    since = peewee.IntegerField(default=2026)


Member._meta.add_field("friends", peewee.ManyToManyField(Member, backref="friend_of", through_model=Friendship))


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=blog.Model)
    dbm.install_tables(engine, models=Local)


@pytest.fixture
def ann(session: Any) -> User:
    ann = User(name="Ann")
    session.add(ann)
    session.flush()
    return ann


@pytest.fixture
def post(session: Any, ann: User) -> Post:
    """A post with the tags a and b; there is a tag c, too."""
    post = Post(author=ann, title="one", tags=[Tag(word="a"), Tag(word="b")])
    session.add_all([post, Tag(word="c")])
    session.commit()
    return post


def words(post: Post) -> list[str]:
    return sorted(tag.word for tag in post.tags)


def tag(session: Any, word: str) -> Any:
    return session.query(Tag).filter_by(word=word).one()


def links(engine: Any) -> list[Any]:
    sql = "SELECT title, word FROM posts_tags_through t JOIN posts p ON p.id = post_id JOIN tags g ON g.id = tag_id"
    return sorted(engine.execute_sql(sql).fetchall())


# The tables


def test_the_table_in_between_is_installed_with_the_others(engine: Any) -> None:
    assert "posts_tags_through" in engine.get_tables()
    unique = [index.columns for index in engine.get_indexes("posts_tags_through") if index.unique]
    assert [columns for columns in unique if columns != ["id"]] == [["post_id", "tag_id"]]


def test_a_model_is_related_to_itself_through_a_model_only() -> None:
    base = dbm.declarative_base()

    class Page(base):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(dbm.ArgumentError, match="Page needs a through_model"):
        Page._meta.add_field("links", peewee.ManyToManyField(Page))


def test_a_model_in_between_must_be_one_of_a_session() -> None:
    class Through(peewee.Model):
        pass

    with pytest.raises(dbm.ArgumentError, match=r"Photo\.tags needs a through_model that inherits from dbm\.Base"):

        class Photo(dbm.declarative_base()):  # type: ignore[misc]
            tags = peewee.ManyToManyField(Tag, through_model=Through)


# A new object


def test_a_new_object_takes_its_relations_along(session: Any, engine: Any, ann: User) -> None:
    red, blue = Tag(word="red"), Tag(word="blue")
    post = Post(author=ann, title="new")
    post.tags.add(red, blue)
    post.tags.remove(blue)
    assert list(post.tags) == [red]
    session.add(post)
    assert blue not in session
    session.commit()
    assert links(engine) == [("new", "red")]


def test_a_new_object_can_be_assigned_a_list(session: Any, ann: User) -> None:
    post = Post(author=ann)
    post.tags = [Tag(word="red"), Tag(word="blue")]
    post.tags = [Tag(word="green")]
    session.add(post)
    assert words(post) == ["green"]


def test_the_other_side_takes_along_too(session: Any, engine: Any, ann: User) -> None:
    session.add(Tag(word="red", posts=[Post(author=ann, title="1"), Post(author=ann, title="2")]))
    session.commit()
    assert links(engine) == [("1", "red"), ("2", "red")]


def test_relations_of_a_new_object_travel_in_a_pickle(session: Any, ann: User) -> None:
    session.add(pickle.loads(pickle.dumps(Post(author_id=ann.id, tags=[Tag(word="red")]))))
    session.commit()
    assert words(session.query(Post).one()) == ["red"]


# In a session


def test_nothing_is_written_before_a_flush(session: Any, post: Post, statements: Statements) -> None:
    red, held = Tag(word="red"), list(post.tags)
    with statements() as ran:
        post.tags.remove(held[0])
        post.tags.add(red)
    assert [sql for sql in ran if not sql.startswith("SELECT")] == []


def test_add_takes_objects_keys_lists_and_queries(session: Any, engine: Any, post: Post) -> None:
    session.add_all([Tag(word=word) for word in "defg"])
    post.tags.add(tag(session, "c"), tag(session, "d").id)
    post.tags.add([tag(session, "e")])
    post.tags.add(session.query(Tag).filter(Tag.word > "e"))
    session.commit()
    assert words(post) == list("abcdefg")


def test_remove_takes_objects_keys_lists_and_queries(session: Any, engine: Any, post: Post) -> None:
    assert post.tags.remove(tag(session, "a"), tag(session, "c")) == 1
    assert words(post) == ["b"]
    assert post.tags.remove(str(tag(session, "b").id)) == 1
    session.rollback()
    assert post.tags.remove(session.query(Tag)) == 2
    session.commit()
    assert links(engine) == []


def test_clear_removes_all_and_leaves_the_objects(session: Any, engine: Any, post: Post) -> None:
    assert post.tags.clear() == 2
    session.commit()
    assert links(engine) == []
    assert session.query(Tag).count() == 3


def test_what_is_assigned_replaces_what_differs(session: Any, engine: Any, post: Post, statements: Statements) -> None:
    a, c = tag(session, "a"), tag(session, "c")
    with statements() as ran:
        post.tags = [a, c]
        session.flush()
    assert [sql.split()[0] for sql in ran if "through" in sql] == ["SELECT", "INSERT", "DELETE"]
    assert words(post) == ["a", "c"]


def test_assigning_to_a_pending_object_flushes_nothing(session: Any, ann: User, statements: Statements) -> None:
    red = Tag(word="red")
    session.add(red)
    session.commit()
    with statements() as ran:
        for _ in range(50):
            post = Post()
            session.add(post)
            post.tags = [red]
            post.author = ann
        session.commit()
    assert len(ran) == 4  # BEGIN, posts, links, COMMIT


def test_a_link_that_was_made_by_hand_counts(session: Any) -> None:
    ann, bob = Member(name="Ann"), Member(name="Bob")
    session.add_all([ann, Friendship(member=ann, friend=bob)])
    assert ann.friends.clear() == 1
    session.commit()
    assert session.query(Friendship).count() == 0


def test_what_was_added_and_removed_before_a_flush_comes_to_nothing(
    session: Any, engine: Any, post: Post, statements: Statements
) -> None:
    held = list(post.tags)
    red = Tag(word="red")
    with session.no_autoflush:
        post.tags.add(red)
        assert post.tags.remove(red) == 1
        post.tags.remove(held[0])
        post.tags.add(held[0])
    session.commit()
    assert words(post) == ["a", "b"]


def test_adding_what_is_there_is_an_error_that_names_the_link(session: Any, post: Post) -> None:
    post.tags.add(tag(session, "a"))
    with pytest.raises(peewee.IntegrityError, match="inserting <PostTagThrough"):
        session.flush()
    session.rollback()
    assert words(post) == ["a", "b"]


def test_what_is_pending_counts(session: Any, post: Post) -> None:
    post.tags.add(Tag(word="red"))
    assert words(post) == ["a", "b", "red"]
    session.delete(tag(session, "a"))
    assert words(post) == ["b", "red"]


def test_another_kind_of_object_is_refused(session: Any, post: Post, ann: User) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"Post\.tags takes objects of Tag, not <User"):
        post.tags.add(ann)


# Iterating, and queries


def test_iterating_for_one_after_the_other_takes_a_statement_for_links_and_one_for_objects(
    session: Any, statements: Statements
) -> None:
    blog.fill(session)
    session.expunge_all()
    with statements() as ran:
        found = [(post, tag) for post in session.query(Post) for tag in post.tags]
        assert len(found) == 2 * blog.USERS * blog.POSTS
        assert all(post in list(tag.posts) for post, tag in found)
    assert len(ran) == 4  # posts; links, tags; the links of the tags


def test_it_is_a_query(session: Any, post: Post) -> None:
    a = tag(session, "a")
    assert post.tags.where(Tag.word == "a").one() is a
    assert post.tags.count() == 2
    assert post.tags.order_by(Tag.word.desc()).first().word == "b"
    assert a.posts.exists()
    assert session.query(Tag).where(~Tag.id.in_(post.tags.select(Tag.id))).one().word == "c"


def test_columns_in_between_can_be_used(session: Any) -> None:
    ann, bob, cid = (Member(name=name) for name in ("Ann", "Bob", "Cid"))
    session.add_all([Friendship(member=ann, friend=bob, since=2001), Friendship(member=ann, friend=cid)])
    session.commit()
    assert ann.friends.where(Friendship.since < 2010).all() == [bob]


# Rollback


def test_a_rollback_takes_added_relations_back_and_gives_removed_ones_back(session: Any, post: Post) -> None:
    post.tags = [tag(session, "b"), tag(session, "c"), Tag(word="red")]
    session.flush()
    assert words(post) == ["b", "c", "red"]
    session.rollback()
    assert words(post) == ["a", "b"]


def test_a_savepoint_does_so_for_its_part(session: Any, post: Post) -> None:
    post.tags.add(tag(session, "c"))
    with pytest.raises(ValueError), session.begin_nested():
        post.tags.clear()
        raise ValueError
    assert words(post) == ["a", "b", "c"]


def test_a_rollback_of_a_new_object_keeps_what_it_was_given(session: Any, ann: User) -> None:
    session.commit()
    post = Post(author=ann, tags=[Tag(word="red")])
    session.add(post)
    session.flush()
    session.rollback()
    session.add(post)
    session.commit()
    assert words(post) == ["red"]


def test_deleting_one_side_takes_the_links_as_on_delete_says(session: Any, engine: Any, post: Post) -> None:
    session.delete(tag(session, "a"))
    session.commit()
    assert links(engine) == [("one", "b")]
    session.delete(post)
    session.commit()
    assert links(engine) == []


# Among rows of one table


def test_the_two_sides_of_a_relation_among_rows_of_one_table_are_apart(session: Any) -> None:
    ann, bob, cid = (Member(name=name) for name in ("Ann", "Bob", "Cid"))
    session.add(ann)
    ann.friends.add(bob)
    bob.friends.add(cid)
    session.commit()
    assert [m.name for m in ann.friends] == ["Bob"]
    assert [m.name for m in bob.friends] == ["Cid"]
    assert [m.name for m in bob.friend_of] == ["Ann"]
    assert ann.friendships.one().since == 2026


# Without a session


def test_a_detached_object_says_what_to_do(session: Any, post: Post) -> None:
    session.close()
    with pytest.raises(dbm.DetachedInstanceError, match="'tags' can't be loaded"):
        _ = post.tags

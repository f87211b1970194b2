"""Reachable objects come along, and relations are followed for all objects of a result at once (rules 4 and 8)."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import blog
import peewee
import pytest
from blog import COMMENTS, POSTS, USERS, Comment, Post, User
from conftest import Node

from tent.data import dbm

Statements = Callable[[], Any]
Local = dbm.declarative_base()


class Country(Local):
    code = peewee.CharField(unique=True)


class City(Local):
    """Refers to a column that is not the key."""

    country = peewee.ForeignKeyField(Country, field="code", backref="cities")
    name = peewee.CharField()


class Region(Local):
    code = peewee.CharField(unique=True)


class Place(Local):
    """Refers to a column whose changes it follows."""

    region = peewee.ForeignKeyField(Region, field="code", backref="places", on_update="CASCADE")
    name = peewee.CharField()


class Word(Local):
    """Refers to another row of its table by a column that is not the key."""

    text = peewee.CharField(unique=True)
    root = peewee.ForeignKeyField("self", field="text", null=True, backref="derived")


class Team(Local):
    name = peewee.CharField()
    captain = peewee.DeferredForeignKey("Player", null=True, backref="captain_of")


class Player(Local):
    team = peewee.ForeignKeyField(Team, backref="players", null=True)
    name = peewee.CharField()


class Cog(Local):
    """Refers to a wheel, which refers to a cog, and neither can do without."""

    wheel = peewee.DeferredForeignKey("Wheel")


class Wheel(Local):
    cog = peewee.ForeignKeyField(Cog)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=blog.Model)
    dbm.install_tables(engine, models=Local)


@pytest.fixture
def full(engine: Any) -> None:
    """A blog that nobody has loaded yet."""
    with dbm.open_session(engine) as session:
        blog.fill(session)


# Reachable objects come along, over any depth and in any order of assignment


def test_objects_at_any_depth_come_along_and_get_their_keys(session: Any, statements: Statements) -> None:
    comment = Comment(post=Post(author=User(name="Ann")), author=User(name="Bob"), text="well done")
    with statements() as ran:
        session.add(comment)
        session.commit()
    assert comment.post.author_id == comment.post.author.id is not None
    assert len([sql for sql in ran if sql.startswith("INSERT")]) == 3  # one for each table


@pytest.mark.parametrize("added_first", [True, False])
def test_a_foreign_key_follows_an_object_that_was_assigned_before_or_after_the_add(
    session: Any, added_first: bool
) -> None:
    post, user = Post(title="t"), User(name="Ann")
    if added_first:
        session.add(post)
    post.author = user
    session.add(post)
    session.flush()
    assert post.author_id == user.id
    assert post.author is user


def test_a_tree_that_is_added_from_its_leaves_takes_a_few_statements(session: Any, statements: Statements) -> None:
    levels = [[Node(name="root")]]
    for _ in range(4):
        levels.append([Node(name="n", parent=parent) for parent in levels[-1] for _ in range(10)])
    with statements() as ran:
        session.add_all(levels[-1])
        session.commit()
    assert session.query(Node).count() == 11_111
    assert len(ran) < 40
    assert levels[4][77].parent_id == levels[3][7].id


def test_a_row_that_refers_to_itself_is_saved(session: Any) -> None:
    node = Node(name="own parent")
    node.parent = node
    session.add(node)
    session.commit()
    assert node.parent_id == node.id


def test_a_row_that_refers_to_itself_is_deleted(session: Any) -> None:
    node = Node(name="own parent")
    node.parent = node
    child = Node(name="child", parent=node)
    session.add_all([node, child])
    session.commit()
    session.delete(node)
    session.delete(child)
    session.commit()
    assert session.query(Node).count() == 0


def test_tables_that_refer_to_each_other_are_flushed_in_a_few_statements(session: Any, statements: Statements) -> None:
    teams = [Team(name=f"team {number}") for number in range(50)]
    for team in teams:
        players = [Player(team=team, name="p") for _ in range(3)]
        team.captain = players[0]
        session.add_all(players)
    with statements() as ran:
        session.commit()
    assert len(ran) == 5  # BEGIN, teams, players, the captains, COMMIT
    session.expunge_all()
    assert all(team.captain.team is team for team in session.query(Team))


def test_a_cycle_that_no_order_can_satisfy_names_the_models_and_the_fields(session: Any) -> None:
    cogs = [Cog() for _ in range(30)]
    wheels = [Wheel(cog=cog) for cog in cogs]
    for number, cog in enumerate(cogs):
        cog.wheel = wheels[number - 1]
    session.add_all(cogs)
    with pytest.raises(dbm.CircularDependencyError, match=r"Cog.*for its wheel.*Wheel.*for its cog") as caught:
        session.flush()
    assert len(str(caught.value)) < 1_000
    assert len(session.new) == 60


# A new object takes what refers to it along


def test_a_constructor_takes_what_will_refer_to_the_object(session: Any) -> None:
    user = User(name="Ann", posts=[Post(title="one"), Post(title="two")])
    session.add(user)
    session.commit()
    assert sorted(post.title for post in user.posts) == ["one", "two"]
    assert all(post.author is user for post in user.posts)


def test_what_is_added_to_a_new_object_can_be_listed_and_removed_before(session: Any) -> None:
    user, one, two = User(name="Ann"), Post(title="one"), Post(title="two")
    user.posts.add(one, two)
    assert list(user.posts) == [one, two]
    assert one.author is user
    user.posts.remove(one)
    assert one.author is None
    session.add(user)
    assert session.new == [user, two]


def test_what_was_given_to_another_object_meanwhile_does_not_come_along(session: Any) -> None:
    post = Post(title="t")
    ann, bob = User(name="Ann", posts=[post]), User(name="Bob")
    post.author = bob
    session.add(ann)
    assert session.new == [ann]


@pytest.mark.parametrize("state", ["persistent", "detached"])
def test_an_object_that_has_a_row_is_given_to_a_new_one(session: Any, engine: Any, state: str) -> None:
    post = Post(title="t", author=User(name="Ann"))
    session.add(post)
    session.commit()
    if state == "detached":
        session.expunge(post)
    bob = User(name="Bob", posts=[post])
    session.add(bob)
    assert (session.new, session.dirty) == ([bob], [post])
    session.commit()
    assert session.query(Post).one().author is bob
    session.rollback()
    assert post.author is bob


def test_after_a_rollback_it_comes_along_again(session: Any) -> None:
    user = User(name="Ann", posts=[Post(title="t")])
    session.add(user)
    session.flush()
    session.rollback()
    assert [post.title for post in user.posts] == ["t"]
    session.add(user)
    session.commit()
    assert session.query(Post).one().author is user


def test_what_is_added_to_a_pending_object_comes_along_again_after_a_rollback(session: Any) -> None:
    user = User(name="Ann")
    session.add(user)
    user.posts.add(Post(title="t"))
    session.rollback()
    session.add(user)
    session.commit()
    assert [post.title for post in user.posts] == ["t"]


def test_a_list_that_was_taken_from_a_new_object_goes_on_in_the_session(session: Any) -> None:
    user = User(name="Ann")
    posts = user.posts
    session.add(user)
    posts.add(Post(title="t"))
    session.commit()
    assert [post.title for post in posts] == ["t"]
    assert len(posts) == 1


@pytest.mark.parametrize("verb", ["delete", "expunge"])
def test_what_came_along_goes_with_a_pending_object(session: Any, verb: str) -> None:
    user = User(name="Ann", posts=[Post(title="t")])
    session.add(user)
    getattr(session, verb)(user)
    assert session.new == []
    session.commit()
    assert session.query(User).count() == 0


def test_a_failed_flush_leaves_what_was_pending_pending(session: Any) -> None:
    ann, post = User(name="Ann"), Post(title="t")
    post.author = ann
    session.add(post)
    session.commit()
    other = User(name="Ann", posts=[post])  # the name is taken
    pending = Post(title="u", author=ann)
    session.add(pending)
    other.posts.add(pending)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert session.new == [pending]
    assert session.state(other) == "transient"


def test_merge_refuses_to_drop_what_an_object_was_given(session: Any) -> None:
    with pytest.raises(dbm.InvalidRequestError, match="not what was given to it"):
        session.merge(User(name="Ann", posts=[Post(title="t")]))


def test_it_travels_in_a_pickle(session: Any) -> None:
    session.add(pickle.loads(pickle.dumps(User(name="Ann", posts=[Post(title="t")]))))
    session.commit()
    assert session.query(Post).one().author.name == "Ann"


def test_the_list_of_a_new_object_is_no_query_and_says_so(session: Any) -> None:
    with pytest.raises(AttributeError, match="has no 'count', which a query has: add the object to a session first"):
        User(name="Ann").posts.count()


def test_something_else_than_an_object_of_the_model_is_refused(session: Any) -> None:
    user = User(name="Ann")
    with pytest.raises(dbm.ArgumentError, match=r"User\.posts takes objects of Post, not <User"):
        user.posts.add(User(name="Bob"))
    session.add(user)
    with pytest.raises(dbm.ArgumentError, match=r"User\.posts takes objects of Post, not 5"):
        user.posts.add(5)


# add and remove of a backref


def test_add_relates_objects_and_puts_them_into_the_session(session: Any) -> None:
    user, post = User(name="Ann"), Post(title="t")
    session.add(user)
    user.posts.add(post)
    assert post in session
    assert post.author is user
    session.commit()
    assert user.posts.all() == [post]


def test_add_takes_several_and_lists_of_them(session: Any) -> None:
    user = User(name="Ann")
    session.add(user)
    user.posts.add(Post(title="a"), [Post(title="b"), Post(title="c")])
    assert user.posts.count() == 3


def test_remove_sets_the_foreign_key_to_none(session: Any) -> None:
    ann = User(name="Ann")
    post = Post(author=ann, editor=ann)
    session.add(post)
    session.commit()
    assert ann.edited.remove(post) == 1
    assert (post.editor, ann.edited.all(), ann.posts.all()) == (None, [], [post])


def test_remove_says_what_to_do_when_the_key_can_not_be_null(session: Any) -> None:
    ann = User(name="Ann", posts=[Post(title="t")])
    session.add(ann)
    session.commit()
    with pytest.raises(dbm.InvalidRequestError, match=r"its author can't be null.*session\.delete\(obj\)"):
        ann.posts.remove(ann.posts.one())


def test_remove_refuses_what_is_not_in_it(session: Any) -> None:
    ann, bob = User(name="Ann"), User(name="Bob")
    post = Post(author=ann, editor=ann)
    session.add_all([post, bob])
    with pytest.raises(dbm.ArgumentError, match="it is not in it"):
        bob.edited.remove(post)
    assert post.editor is ann


def test_clear_removes_all(session: Any) -> None:
    ann = User(name="Ann")
    session.add_all([Post(author=ann, editor=ann) for _ in range(3)])
    assert ann.edited.clear() == 3
    assert ann.edited.count() == 0


def test_what_is_assigned_takes_the_place_of_what_is_there(session: Any) -> None:
    ann = User(name="Ann")
    one, two, three = (Post(author=ann, editor=editor) for editor in (ann, ann, None))
    session.add_all([one, two, three])
    session.commit()
    ann.edited = [two, three]
    session.commit()
    assert sorted(post.id for post in ann.edited) == [two.id, three.id]
    assert one.editor is None


def test_an_assignment_that_can_not_be_leaves_all_as_it_is(session: Any) -> None:
    ann, bob = User(name="Ann", posts=[Post(title="t")]), User(name="Bob", posts=[Post(title="u")])
    session.add_all([ann, bob])
    session.commit()
    [theirs] = bob.posts
    with pytest.raises(dbm.InvalidRequestError, match="its author can't be null"):
        ann.posts = [theirs]
    assert (session.dirty, theirs.author) == ([], bob)


def test_a_relation_is_true_when_there_is_something(session: Any, full: None) -> None:
    post, user = session.query(Post).first(), User(name="new")
    session.add(user)
    assert post.comments
    assert not user.posts


# Following: one statement for all objects of a result


def test_following_a_foreign_key_takes_one_statement(session: Any, full: None, statements: Statements) -> None:
    with statements() as ran:
        names = {post.author.name for post in session.query(Post)}
    assert len(names) == USERS
    assert len(ran) == 2


def test_following_a_chain_takes_one_statement_a_step(session: Any, full: None, statements: Statements) -> None:
    with statements() as ran:
        for comment in session.query(Comment):
            assert comment.post.author.name in comment.post.title
    assert len(ran) == 3


def test_following_both_keys_of_a_model_takes_one_statement_when_their_targets_are_the_same(
    session: Any, full: None, statements: Statements
) -> None:
    with statements() as ran:
        assert all(post.author is not post.editor for post in session.query(Post))
    assert len(ran) == 2


def test_following_to_what_is_in_the_session_takes_none(session: Any, full: None, statements: Statements) -> None:
    users = session.query(User).all()
    posts = session.query(Post).all()
    with statements() as ran:
        assert {post.author for post in posts} == set(users)
    assert ran == []


def test_a_backref_that_is_iterated_for_one_after_the_other_takes_one_statement(
    session: Any, full: None, statements: Statements
) -> None:
    with statements() as ran:
        found = {user.name: list(user.posts) for user in session.query(User)}
    assert len(ran) == 2
    assert all(post.title.startswith(name) for name, posts in found.items() for post in posts)
    assert {len(posts) for posts in found.values()} == {POSTS}


def test_backrefs_of_backrefs_take_one_statement_a_level(session: Any, full: None, statements: Statements) -> None:
    with statements() as ran:
        comments = [c for user in session.query(User) for post in user.posts for c in post.comments]
        answers = [answer for comment in comments for answer in comment.replies]
    assert (len(comments), len(answers)) == (USERS * POSTS * COMMENTS, USERS * POSTS)
    assert len(ran) == 5  # users, posts, comments, their answers, and the answers of those


def test_objects_without_any_are_known_to_have_none(session: Any, statements: Statements) -> None:
    session.add_all([User(name=f"{number}") for number in range(9)])
    session.commit()
    session.expunge_all()
    with statements() as ran:
        assert [list(user.posts) for user in session.query(User)] == [[]] * 9
    assert len(ran) == 2


def test_objects_that_were_inserted_together_are_followed_together(session: Any, statements: Statements) -> None:
    users = [User(name=f"{number}") for number in range(9)]
    session.add_all(users)
    session.commit()
    with statements() as ran:
        assert [list(user.posts) for user in users] == [[]] * 9
    assert len(ran) == 1


def test_many_objects_are_followed_in_parts(session: Any, statements: Statements) -> None:
    ann = User(name="Ann")
    session.add(ann)
    session.flush()
    session.execute(Post.insert_many([{"author": ann.id, "title": f"{n}"} for n in range(25_000)]))
    posts = session.query(Post).all()
    with statements() as ran:
        assert [list(post.comments) for post in posts] == [[]] * 25_000
    assert len(ran) == 3


def test_objects_of_several_results_are_followed_result_by_result(
    session: Any, full: None, statements: Statements
) -> None:
    pages = [session.query(Post).order_by(Post.id).limit(30).offset(start).all() for start in (0, 30, 60)]
    with statements() as ran:
        assert all(len(list(post.comments)) == COMMENTS for page in pages for post in page)
    assert len(ran) == 3


def test_a_key_to_a_column_that_is_not_the_primary_key_is_followed_for_all(
    session: Any, statements: Statements
) -> None:
    for code in "abc":
        session.add_all([City(country=Country(code=code), name=f"{code}-city")])
    session.commit()
    session.expunge_all()
    with statements() as ran:
        assert all(city.name.startswith(city.country.code) for city in session.query(City))
    assert len(ran) == 2
    session.expunge_all()
    with statements() as ran:
        assert [len(list(country.cities)) for country in session.query(Country)] == [1, 1, 1]
    assert len(ran) == 2


def test_objects_of_some_columns_are_followed_together(session: Any, full: None, statements: Statements) -> None:
    with statements() as ran:
        assert len({post.author.name for post in session.execute(Post.select(Post.id, Post.author))}) == USERS
    assert len(ran) == 2


def test_a_pending_object_is_found_by_a_column_that_is_not_the_primary_key(session: Any) -> None:
    country = Country(code="de")
    city = City(country="de", name="Bonn")
    session.add_all([country, city])
    assert city.country is country


def test_a_row_refers_to_another_of_its_table_by_a_column_that_is_not_the_primary_key(session: Any) -> None:
    word = Word(text="unit", root=Word(text="unus"))
    session.add(word)
    session.commit()
    session.expunge_all()
    found = session.query(Word).filter_by(text="unit").one()
    assert found.root.text == "unus"
    assert list(found.root.derived) == [found]
    session.add(Word(text="uni", root="nothing"))
    with pytest.raises(peewee.IntegrityError):
        session.commit()


def test_keys_that_lead_nowhere_are_asked_for_once(session: Any, engine: Any, statements: Statements) -> None:
    """A table that somebody else has made may have no foreign keys."""
    theirs, ours = dbm.declarative_base(), dbm.declarative_base()

    class Bare(theirs):  # type: ignore[misc, valid-type]
        __tablename__ = "letters"
        writer_id = peewee.IntegerField()

    class Writer(ours):  # type: ignore[misc, valid-type]
        name = peewee.CharField()

    class Letter(ours):  # type: ignore[misc, valid-type]
        writer = peewee.ForeignKeyField(Writer)

    dbm.install_tables(engine, models=theirs)
    dbm.install_tables(engine, models=ours)
    session.add_all([Letter(writer=1000 + number) for number in range(20)])
    session.commit()
    session.expunge_all()
    with statements() as ran:
        assert [letter.writer for letter in session.query(Letter)] == [None] * 20
    assert len(ran) == 2
    session.add_all([Writer(id=1000 + number, name=f"{number}") for number in range(20)])
    session.commit()
    assert all(letter.writer.id == letter.writer_id for letter in session.query(Letter))


def caseless(engine: Any) -> str:
    """Return a collation of the database for which "a" is "A"; PostgreSQL has to be told of one."""
    if engine.kind == "postgresql":
        engine.execute_sql(
            "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        return "caseless"
    if engine.kind in ("mariadb", "mysql"):
        return "utf8mb4_uca1400_as_ci" if engine.mariadb else "utf8mb4_0900_as_ci"
    return "NOCASE"


def test_what_python_takes_for_different_and_the_database_for_equal_is_followed(session: Any, engine: Any) -> None:
    base, collation = dbm.declarative_base(), caseless(engine)

    class Land(base):  # type: ignore[misc, valid-type]
        code = peewee.CharField(unique=True, collation=collation)

    class Town(base):  # type: ignore[misc, valid-type]
        land = peewee.ForeignKeyField(Land, field="code", backref="towns", collation=collation)

    dbm.install_tables(engine, models=base)
    session.add_all([Land(code="A"), Land(code="B")])
    session.flush()
    session.add_all([Town(land="a"), Town(land="b"), Town(land="B")])
    session.commit()
    session.expunge_all()
    assert [town.land.code for town in session.query(Town).order_by(Town.id)] == ["A", "B", "B"]
    session.expunge_all()
    assert [[town.id for town in land.towns] for land in session.query(Land).order_by(Land.id)] == [[1], [2, 3]]


# Writing while following


def test_a_loop_that_changes_what_it_goes_through_reads_once_and_writes_once(
    session: Any, full: None, statements: Statements
) -> None:
    with statements() as ran:
        for user in session.query(User):
            for post in user.posts:
                post.title = post.title.upper()
        session.commit()
    assert len(ran) == 5  # users, posts, BEGIN, UPDATE, COMMIT


def test_a_loop_that_deletes_what_it_goes_through_reads_once_and_writes_once(
    session: Any, full: None, statements: Statements
) -> None:
    with statements() as ran:
        for user in session.query(User):
            for post in user.posts:
                session.delete(post)
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["SELECT", "SELECT", "BEGIN", "DELETE", "COMMIT"]
    assert session.query(Post).count() == 0


def rows_read(engine: Any, loop: Callable[[], None]) -> int:
    """Return how many keys the statements of a loop asked for."""
    asked = 0

    def hook(event: peewee.QueryEvent) -> None:
        nonlocal asked
        asked += len(event.params or ()) if event.sql.startswith("SELECT") else 0

    engine.query_hooks.append(hook)
    loop()
    engine.query_hooks.remove(hook)
    return asked


@pytest.mark.parametrize("end", ["commit", "flush", "rollback"])
def test_a_loop_that_writes_in_each_round_does_not_read_everything_in_each(
    session: Any, engine: Any, full: None, end: str
) -> None:
    users = session.query(User).all()

    def loop() -> None:
        for user in users:
            for _ in user.posts:
                pass
            session.add(Post(author=user, title="another"))
            getattr(session, end)()

    assert rows_read(engine, loop) <= 4 * USERS


def test_after_a_write_a_second_loop_takes_a_few_statements_again(
    session: Any, full: None, statements: Statements
) -> None:
    users = session.query(User).all()
    assert sum(len(list(user.posts)) for user in users) == USERS * POSTS
    session.add(Post(author=users[0], title="another"))
    session.commit()
    with statements() as ran:
        assert sum(len(list(user.posts)) for user in users) == USERS * POSTS + 1
    assert len(ran) == 1


# What is pending counts


def test_a_backref_sees_what_was_just_added(session: Any, full: None) -> None:
    one, two, *_ = session.query(User).all()
    assert len(list(one.posts)) == len(list(two.posts)) == POSTS
    session.add(Post(author=two, title="another"))
    assert (len(list(one.posts)), len(list(two.posts))) == (POSTS, POSTS + 1)


def test_a_backref_does_not_see_what_was_just_deleted(session: Any, full: None, statements: Statements) -> None:
    one, two, *_ = session.query(User).all()
    first, *others = one.posts
    session.delete(first)
    with statements() as ran:
        assert list(one.posts) == others
        assert len(list(two.posts)) == POSTS
    assert ran == []


def test_a_backref_sees_what_was_just_moved(session: Any, full: None) -> None:
    one, two, *_ = session.query(User).all()
    first, *others = one.posts
    first.author = two
    assert list(one.posts) == others
    assert first in list(two.posts)


def test_a_backref_does_not_see_what_goes_with_what_was_just_deleted(session: Any, full: None) -> None:
    author, critic, *_ = session.query(User).all()
    [post, *_] = author.posts
    [comment, *_] = post.comments
    critic = comment.author
    assert comment in list(critic.comments)
    session.delete(post)
    assert comment not in list(critic.comments)


def test_without_autoflush_a_backref_is_what_the_database_says(
    session: Any, full: None, statements: Statements
) -> None:
    users = session.query(User).all()
    with session.no_autoflush:
        session.add(Post(author=users[0], title="another"))
        with statements() as ran:
            assert {len(list(user.posts)) for user in users} == {POSTS}
        assert len(ran) == 1
    assert len(list(users[0].posts)) == POSTS + 1


def test_what_was_loaded_eagerly_sees_what_is_pending_too(session: Any, full: None) -> None:
    one, two, *_ = session.query(User).with_related(User.posts).all()
    [first, *_] = one.posts
    session.delete(first)
    assert first not in list(one.posts)
    session.add(Post(author=two, title="another"))
    assert len(list(two.posts)) == POSTS + 1


def test_what_was_loaded_eagerly_can_be_added_to(session: Any, full: None) -> None:
    one, *_ = session.query(User).with_related(User.posts, User.edited).all()
    one.posts.add(Post(title="another"))
    assert len(list(one.posts)) == POSTS + 1
    [first, *_] = edited = list(one.edited)
    one.edited.remove(first)
    assert len(list(one.edited)) == len(edited) - 1


def test_a_backref_shows_what_others_committed_once_the_transaction_has_ended(
    session: Any, other: Any, full: None
) -> None:
    users = session.query(User).order_by(User.id).all()
    assert len(list(users[0].posts)) == POSTS
    other.add(Post(author=other.get(User, users[0].id), title="theirs"))
    other.commit()
    session.rollback()
    assert len(list(users[0].posts)) == POSTS + 1


def test_conditions_are_a_query_of_their_own(session: Any, full: None, statements: Statements) -> None:
    user, *_ = session.query(User).all()
    with statements() as ran:
        assert user.posts.where(Post.title.endswith("1")).one() is list(user.posts.order_by(Post.title))[1]
        assert user.posts.filter_by(title="none").first() is None
        assert user.posts.count() == POSTS
    assert len(ran) == 4


# What is known is known for a while only


def test_a_key_that_was_set_is_followed_when_others_were_followed_before(session: Any, full: None) -> None:
    posts, users = session.query(Post).all(), session.query(User).all()
    assert posts[0].editor in users
    session.expunge_all()
    posts = session.query(Post).all()
    assert posts[0].editor.id == posts[0].editor_id
    posts[3].editor_id = users[7].id
    assert posts[3].editor.id == users[7].id


def test_a_row_that_is_read_again_knows_what_refers_to_it_anew(session: Any, other: Any, full: None) -> None:
    users = session.query(User).order_by(User.id).all()
    before = [len(list(user.posts)) for user in users]
    for number in range(3):
        other.add(Post(author=other.get(User, users[number].id), title="theirs"))
    other.commit()
    session.refresh(users[0])
    session.expire(users[1])
    session.get(User, users[1].id)
    assert session.query(User).where(User.id == users[2].id).one() is users[2]
    assert [len(list(user.posts)) for user in users[:4]] == [before[0] + 1, before[1] + 1, before[2] + 1, before[3]]


def test_a_refresh_that_finds_another_key_moves_the_object(session: Any, other: Any, full: None) -> None:
    one, two, *_ = session.query(User).order_by(User.id)
    [post, *_] = one.posts
    list(two.posts)
    other.get(Post, post.id).author_id = two.id
    other.commit()
    session.refresh(post)
    assert not any(mine is post for mine in one.posts)
    assert any(theirs is post for theirs in two.posts)


def test_what_a_session_knew_is_unknown_in_the_next_one(session: Any, other: Any, full: None) -> None:
    users = session.query(User).all()
    list(users[0].posts)
    session.close()
    other.add(users[0])
    assert {other.state(post) for post in users[0].posts} == {"persistent"}


def test_an_object_that_was_moved_while_it_was_detached_is_where_it_was_moved_to(session: Any, full: None) -> None:
    one, two, *_ = session.query(User).all()
    [post, *_] = one.posts
    list(two.posts)
    session.expunge(post)
    post.author = two
    session.add(post)
    assert any(theirs is post for theirs in two.posts)


def test_keys_that_moved_with_on_update_are_followed(session: Any) -> None:
    a, b = Region(code="A"), Region(code="B")
    session.add_all([Place(region=a, name="of a"), Place(region=b, name="of b")])
    session.commit()
    a, b = session.query(Region).order_by(Region.code)
    assert [[place.name for place in region.places] for region in (a, b)] == [["of a"], ["of b"]]
    a.code = "X"
    session.flush()
    b.code = "A"
    assert [[place.name for place in region.places] for region in (a, b)] == [["of a"], ["of b"]]


def test_a_key_that_was_flagged_and_moved_is_followed(session: Any) -> None:
    region = Region(code="A")
    place = Place(region=region, name="here")
    session.add(place)
    session.commit()
    session.flag_modified(region, "code")
    region.code = "B"
    session.commit()
    assert place.region_id == "B"


def test_the_end_of_the_transaction_lets_go_of_what_was_loaded_for_others(session: Any, full: None) -> None:
    users = session.query(User).all()
    loaded = [weakref.ref(post) for user in users for post in user.posts]
    session.commit()
    gc.collect()
    assert [reference for reference in loaded if reference() is not None] == []


# The session of what is followed


def test_peers_of_other_sessions_are_left_alone(session: Any, other: Any, full: None) -> None:
    posts = session.query(Post).all()
    moved = posts.pop()
    session.expunge(moved)
    other.add(moved)
    assert all(post.author in session for post in posts)
    assert moved.author in other


def test_expunged_objects_are_not_answered_with(session: Any, full: None) -> None:
    users = session.query(User).all()
    [first, *_] = users[0].posts
    session.expunge(first)
    assert not any(post is first for post in users[0].posts)
    assert len(list(users[0].posts)) == POSTS


def test_a_row_that_is_read_again_is_related_to_objects_of_the_session(session: Any, full: None) -> None:
    post = session.query(Post).first()
    author = post.author
    session.expunge(author)
    assert post.author is author
    session.refresh(post)
    assert post.author is session.get(User, author.id) is not author


def test_a_detached_object_says_what_to_do(session: Any, full: None) -> None:
    user, post = session.query(User).first(), session.query(Post).first()
    session.close()
    with pytest.raises(dbm.DetachedInstanceError, match="add the object to a session"):
        _ = user.posts
    with pytest.raises(dbm.DetachedInstanceError, match="its key can be read as 'author_id'"):
        _ = post.author


def test_a_clean_object_is_freed_whatever_its_peers_are_held_by(session: Any, full: None) -> None:
    posts = session.query(Post).all()
    gone = weakref.ref(posts.pop())
    gc.collect()
    assert gone() is None
    assert len({post.author for post in posts}) == USERS


# with_related, prefetch, joins: the same objects


def test_eager_loading_gives_the_objects_that_following_gives(session: Any, full: None, statements: Statements) -> None:
    posts = session.query(Post).order_by(Post.id).all()
    comments = {post.id: list(post.comments) for post in posts}
    related = session.query(Post).with_related(Post.comments, Post.author).order_by(Post.id).all()
    joined = [post for post, _ in session.query(Post, User).join(User, on=Post.author).order_by(Post.id)]
    prefetched = session.query(Post).order_by(Post.id).prefetch(session.query(Comment))
    assert posts == related == joined == list(prefetched)
    assert all(one is two for one, two in zip(posts, related))
    with statements() as ran:
        assert {post.id: list(post.comments) for post in related} == comments
    assert ran == []


# Pickle, copy, to and from dicts


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_was_loaded_eagerly_travels_in_a_pickle(session: Any, other: Any, full: None, protocol: int) -> None:
    user = session.query(User).with_related(User.posts).first()
    twin = pickle.loads(pickle.dumps(user, protocol))
    assert sorted(post.title for post in twin.posts) == sorted(post.title for post in user.posts)
    other.add(twin)
    assert all(post in other for post in twin.posts)
    assert len(list(twin.posts)) == POSTS


def test_a_detached_copy_survives_pickle_and_copy_without_its_session(session: Any, full: None) -> None:
    post = session.query(Post).with_related(Post.author).first()
    twin = pickle.loads(pickle.dumps(post))
    assert (session.state(twin), twin.title, twin.author.name) == ("detached", post.title, post.author.name)
    assert session.state(copy.copy(post)) == session.state(copy.deepcopy(post)) == "transient"
    assert copy.copy(post).author is post.author

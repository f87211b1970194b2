"""What the database does by itself to rows that refer to deleted ones is known to the session (rule 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blog
import peewee
import pytest
from blog import COMMENTS, POSTS, Comment, Post, User
from conftest import Node, Person, calls_in

from tent.data import dbm

Statements = Callable[[], Any]
Local = dbm.declarative_base()


class Shelf(Local):
    name = peewee.CharField(unique=True, default="main")


class Book(Local):
    """What becomes of a book without its shelf depends on why it was there."""

    kept_on = peewee.ForeignKeyField(Shelf, backref="kept", null=True, on_delete="RESTRICT")
    lent_to = peewee.ForeignKeyField(
        Shelf, backref="lent", null=True, on_delete="SET DEFAULT", constraints=[peewee.SQL("DEFAULT 1")]
    )
    named_after = peewee.ForeignKeyField(Shelf, field="name", backref="named", null=True, on_delete="set null")


class Sticker(Local):
    """Goes with the shelf whose name it has."""

    shelf = peewee.ForeignKeyField(Shelf, field="name", on_delete="CASCADE")


class Branch(Local):
    """A tree that falls as a whole."""

    parent = peewee.ForeignKeyField("self", null=True, backref="twigs", on_delete="CASCADE")


class Ring(Local):
    """Each refers to another one, or to itself."""

    following = peewee.ForeignKeyField("self", on_delete="CASCADE")


class Nest(Local):
    """Goes with the bird that goes with it."""

    bird = peewee.DeferredForeignKey("Bird", null=True, on_delete="CASCADE")


class Bird(Local):
    nest = peewee.ForeignKeyField(Nest, on_delete="CASCADE")


class Folder(Local):
    """A tree that falls apart."""

    name = peewee.CharField()
    above = peewee.ForeignKeyField("self", null=True, on_delete="SET NULL")


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=blog.Model)
    dbm.install_tables(engine, models=Local)


@pytest.fixture
def full(session: Any) -> None:
    blog.fill(session)
    session.expunge_all()


def states(session: Any, objects: list[Any]) -> set[str]:
    return set(map(session.state, objects))


# CASCADE


def test_objects_that_went_with_their_parent_are_deleted(session: Any, full: None, statements: Statements) -> None:
    user, post = session.query(User).first(), session.query(Post).all()[-1]
    posts = list(user.posts)
    with statements() as ran:
        session.delete(user)
        session.flush()
    assert len(ran) == 2  # BEGIN, DELETE
    assert states(session, posts) == {"deleted"}
    assert not any(post in session for post in posts)
    assert session.state(post) == "persistent"
    session.commit()
    assert states(session, posts) == {"detached"}


def test_those_of_rows_that_nobody_loaded_are_deleted_too(session: Any, full: None, statements: Statements) -> None:
    user = session.query(User).first()
    comments = session.query(Comment).join(Post, on=Comment.post).where(Post.author == user).all()
    assert len(comments) == POSTS * COMMENTS
    with statements() as ran:
        session.delete(user)
        session.flush()
    assert len([sql for sql in ran if sql.startswith("SELECT")]) == 3  # the keys of posts, comments, and answers
    assert states(session, comments) == {"deleted"}


def test_nothing_is_read_when_no_object_can_be_concerned(session: Any, full: None, statements: Statements) -> None:
    user = session.query(User).first()
    with statements() as ran:
        session.delete(user)
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "DELETE", "COMMIT"]


def test_a_tree_falls_with_its_root(session: Any) -> None:
    root = Branch()
    twigs = [Branch(parent=root) for _ in range(3)]
    leaves = [Branch(parent=twig) for twig in twigs]
    session.add_all([*leaves, Branch()])
    session.commit()
    session.delete(root)
    session.flush()
    assert states(session, [root, *twigs, *leaves]) == {"deleted"}
    assert session.query(Branch).count() == 1


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_marked_and_goes_with_another_one_anyway_is_deleted_once(session: Any, full: None, order: int) -> None:
    user = session.query(User).first()
    [comment, *_] = session.query(Comment).join(Post, on=Comment.post).where(Post.author == user)
    for instance in [user, comment][::order]:
        session.delete(instance)
    session.commit()
    assert states(session, [user, comment]) == {"detached"}


def test_a_marked_grandchild_goes_with_its_tree(session: Any) -> None:
    root = Branch()
    leaf = Branch(parent=Branch(parent=root))
    session.add(leaf)
    session.commit()
    session.delete(leaf)
    session.delete(root)
    session.commit()
    assert session.query(Branch).count() == 0


def test_a_delete_costs_what_it_deletes_not_what_is_loaded(session: Any, full: None) -> None:
    users, posts = session.query(User).all(), session.query(Post).all()

    def delete(user: User) -> None:
        session.delete(user)
        session.flush()

    delete(users[0])  # the first one makes the index
    few = calls_in(lambda: delete(users[1]))
    session.execute(Post.insert_many([{"author": users[-1].id} for _ in range(3_000)]))
    posts = session.query(Post).all()
    delete(users[2])
    assert calls_in(lambda: delete(users[3])) < 1.2 * few
    assert len(posts) > 3_000


def test_a_rollback_brings_them_back(session: Any, full: None) -> None:
    user = session.query(User).first()
    posts = list(user.posts)
    comments = [comment for post in posts for comment in post.comments]
    comments[0].text = "changed before"
    session.delete(user)
    session.flush()
    session.rollback()
    assert states(session, [user, *posts, *comments]) == {"persistent"}
    assert all(post.author is user for post in posts)
    assert comments[0].text == "0"
    assert session.get(Post, posts[0].id) is posts[0]


def test_a_savepoint_brings_back_its_part(session: Any, full: None) -> None:
    one, two = session.query(User).limit(2)
    of_one, of_two = list(one.posts), list(two.posts)
    session.delete(one)
    nested = session.begin_nested()
    session.delete(two)
    session.flush()
    nested.rollback()
    assert states(session, of_one) == {"deleted"}
    assert states(session, of_two) == {"persistent"}


def test_a_failed_flush_brings_them_back(session: Any, full: None) -> None:
    one, _, three = session.query(User).limit(3)
    posts = list(one.posts)
    session.add(User(name=three.name))
    session.delete(one)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert states(session, posts) == {"persistent"}
    assert session.deleted == [one]


def test_an_object_that_was_moved_away_in_the_same_flush_stays(session: Any, full: None) -> None:
    one, two = session.query(User).limit(2)
    moved, *others = one.posts
    moved.author = two
    session.delete(one)
    session.commit()
    assert session.state(moved) == "persistent"
    assert states(session, others) == {"detached"}
    assert session.get(Post, moved.id).author is two


def test_a_new_object_goes_with_the_parent_that_is_deleted(session: Any, full: None) -> None:
    user = session.query(User).first()
    post = Post(author=user, title="too late")
    session.add(post)
    session.delete(user)
    session.flush()
    assert session.state(post) == "deleted"
    assert session.query(Post).filter_by(title="too late").first() is None


def test_objects_that_are_marked_too_are_deleted_once(session: Any, full: None) -> None:
    user = session.query(User).first()
    posts = list(user.posts)
    for instance in (*posts, user):
        session.delete(instance)
    session.commit()
    assert states(session, posts) == {"detached"}


# Rows that go with each other


def test_rows_that_refer_to_themselves_are_deleted_together(session: Any, statements: Statements) -> None:
    branches = [Branch() for _ in range(3)]
    for branch in branches:
        branch.parent = branch
    session.add_all(branches)
    session.commit()
    for branch in branches:
        session.delete(branch)
    with statements() as ran:
        session.commit()
    assert len([sql for sql in ran if sql.startswith("DELETE")]) == 1
    assert session.query(Branch).count() == 0


@pytest.mark.parametrize("marked", [(0,), (0, 1), (0, 2), (0, 1, 2, 3)])
def test_rows_in_a_cycle_are_deleted_whichever_are_marked(session: Any, marked: tuple[int, ...]) -> None:
    branches = [Branch() for _ in range(4)]
    for branch, parent in zip(branches, branches[1:] + branches):
        branch.parent = parent
    session.add_all(branches)
    session.commit()
    for place in marked:
        session.delete(branches[place])
    session.commit()
    assert states(session, branches) == {"detached"}
    assert session.query(Branch).count() == 0


@pytest.mark.parametrize("marked", [(0,), (0, 1)])
def test_rows_in_a_cycle_that_nothing_breaks_are_deleted(session: Any, marked: tuple[int, ...]) -> None:
    one, two = Ring(id=1, following=1), Ring(id=2, following=1)
    session.add_all([one, two])
    session.commit()
    one.following = two
    session.commit()
    for place in marked:
        session.delete([one, two][place])
    session.commit()
    assert states(session, [one, two]) == {"detached"}
    assert session.query(Ring).count() == 0


@pytest.mark.parametrize("marked", [(0,), (1,), (0, 1)])
def test_rows_of_two_tables_that_go_with_each_other_are_deleted(session: Any, marked: tuple[int, ...]) -> None:
    nest = Nest()
    nest.bird = bird = Bird(nest=nest)
    session.add(bird)
    session.commit()
    for place in marked:
        session.delete([nest, bird][place])
    session.commit()
    assert states(session, [nest, bird]) == {"detached"}
    assert (session.query(Nest).count(), session.query(Bird).count()) == (0, 0)


# Another row takes the value by which rows referred to the deleted one


def test_a_new_object_that_refers_to_the_one_with_the_deleted_ones_value_stays(session: Any) -> None:
    old, new = Shelf(name="poems"), Shelf(name="poems")
    gone, sticker = Sticker(shelf=old), Sticker(shelf=new)
    session.add_all([old, gone])
    session.commit()
    session.delete(old)
    session.add_all([new, sticker])
    session.commit()
    assert (session.state(gone), session.state(sticker)) == ("detached", "persistent")
    assert session.query(Sticker).all() == [sticker]


def test_an_object_that_is_moved_to_the_one_with_the_deleted_ones_value_stays(session: Any) -> None:
    old, new = Shelf(name="poems"), Shelf(name="poems")
    sticker = Sticker(shelf=Shelf(name="plays"))
    session.add_all([old, sticker])
    session.commit()
    session.delete(old)
    sticker.shelf = new
    session.commit()
    assert session.state(sticker) == "persistent"
    assert session.query(Sticker).one() is sticker


def test_a_new_object_keeps_its_key_when_that_was_a_deleted_ones_value(session: Any) -> None:
    old, new = Shelf(name="poems"), Shelf(name="poems")
    parted, book = Book(named_after=old, lent_to=None), Book(named_after=new, lent_to=None)
    session.add_all([old, parted])
    session.commit()
    session.delete(old)
    session.add_all([new, book])
    session.commit()
    assert (parted.named_after, book.named_after) == (None, new)
    assert session.query(Book.named_after).order_by(Book.id).all() == [(None,), ("poems",)]


# SET NULL, SET DEFAULT, RESTRICT


def test_nulled_keys_are_null(session: Any, full: None, statements: Statements) -> None:
    editor = session.query(User).all()[3]
    posts = list(editor.edited)
    assert all(post.editor is editor for post in posts)
    with statements() as ran:
        session.delete(editor)
        session.flush()
        assert {(post.editor, post.editor_id) for post in posts} == {(None, None)}
    assert states(session, posts) == {"persistent"}
    assert session.dirty == []
    assert len([sql for sql in ran if "posts" in sql]) == 0


def test_a_rollback_gives_nulled_keys_back(session: Any, full: None) -> None:
    editor = session.query(User).all()[3]
    posts = list(editor.edited)
    session.delete(editor)
    session.flush()
    session.rollback()
    assert all(post.editor is editor for post in posts)


def test_rows_of_one_table_that_let_go_of_each_other_are_deleted_together(session: Any, statements: Statements) -> None:
    root = Folder(name="root")
    middle = [Folder(name=f"middle {n}", above=root) for n in range(20)]
    leaves = [Folder(name=f"leaf {n}", above=folder) for n, folder in enumerate(middle)]
    session.add_all(leaves)
    session.commit()
    for folder in (root, *middle):
        session.delete(folder)
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "DELETE", "COMMIT"]
    assert {(folder.above, folder.above_id) for folder in leaves} == {(None, None)}
    assert session.execute("SELECT COUNT(*), COUNT(above_id) FROM folders").all() == [(20, 0)]


def test_a_key_that_refers_to_another_column_is_nulled_by_it(session: Any) -> None:
    shelf = Shelf(name="poems")
    book = Book(named_after=shelf, lent_to=None)
    session.add(book)
    session.commit()
    session.delete(shelf)
    session.commit()
    assert book.named_after_id is None


@pytest.mark.databases("sqlite", "postgresql")
def test_a_key_that_is_set_to_its_default_has_it(session: Any) -> None:
    main, other = Shelf(id=1), Shelf(name="other")
    book = Book(lent_to=other)
    session.add_all([main, book])
    session.commit()
    session.delete(other)
    session.flush()
    assert (book.lent_to_id, book.lent_to) == (1, main)
    session.rollback()
    assert book.lent_to is other


@pytest.mark.databases("mariadb", "mysql")
def test_where_keys_are_set_to_no_default_the_delete_is_refused(session: Any) -> None:
    """InnoDB takes SET DEFAULT for RESTRICT."""
    other = Shelf(name="other")
    book = Book(lent_to=other)
    session.add_all([Shelf(id=1), book])
    session.commit()
    session.delete(other)
    with pytest.raises(peewee.IntegrityError, match=r"deleting <Shelf id=\d+ name='other'>"):
        session.flush()
    session.rollback()
    assert states(session, [book, other]) == {"persistent"}
    assert book.lent_to is other


def test_what_the_database_restricts_is_an_error_that_names_the_object(session: Any) -> None:
    shelf = Shelf(name="poems")
    book = Book(kept_on=shelf, lent_to=None)
    session.add(book)
    session.commit()
    session.delete(shelf)
    with pytest.raises(peewee.IntegrityError, match="deleting <Shelf id=1 name='poems'>"):
        session.commit()
    assert states(session, [book, shelf]) == {"persistent"}
    book.kept_on = None
    session.commit()
    assert session.query(Shelf).count() == 0


def test_rows_whose_key_has_no_on_delete_go_before_what_they_refer_to(session: Any) -> None:
    parent = Node(name="p")
    child = Node(name="c", parent=parent)
    session.add(child)
    session.commit()
    session.delete(parent)
    session.delete(child)
    session.commit()
    assert session.query(Node).count() == 0


# Statements for many rows


def test_bulk_deletes_take_along_what_they_take_along_in_the_database(session: Any, full: None) -> None:
    users = session.query(User).order_by(User.id).all()
    gone, kept = list(users[0].posts), list(users[1].posts)
    comments = [comment for post in gone for comment in post.comments]
    edited = list(users[0].edited)
    session.query(User).filter(User.id == users[0].id).delete()
    assert states(session, [users[0], *gone, *comments]) == {"deleted"}
    assert {post.editor_id for post in edited} == {None}
    assert states(session, kept) == {"persistent"}
    session.rollback()
    assert states(session, [users[0], *gone, *comments]) == {"persistent"}
    assert all(post.editor is users[0] for post in edited)


def test_bulk_deletes_of_rows_that_nobody_loaded_take_along_objects(session: Any, full: None) -> None:
    post = session.query(Post).first()
    comments = list(post.comments)
    author = post.author_id
    session.expunge(post)
    session.execute(User.delete().where(User.id == author))
    assert states(session, comments) == {"deleted"}


def test_bulk_updates_with_expressions_show_what_the_database_says(session: Any) -> None:
    people = [Person(name="a", age=20), Person(name="b", age=30), Person(name="c", age=None)]
    session.add_all(people)
    session.commit()
    assert session.query(Person).filter(Person.age > 10).update({Person.age: Person.age + 1, "name": "x"}) == 2
    assert [(person.age, person.name) for person in people] == [(21, "x"), (31, "x"), (None, "c")]
    assert session.dirty == []
    session.rollback()
    assert [(person.age, person.name) for person in people] == [(20, "a"), (30, "b"), (None, "c")]


# Where the database does nothing


@pytest.mark.databases("sqlite")
def test_a_database_that_enforces_no_keys_is_not_believed_to(config: Any) -> None:
    engine = dbm.connect({**config, "pragmas": {"foreign_keys": 0}})
    dbm.install_tables(engine, models=blog.Model)
    with dbm.open_session(engine) as session:
        post = Post(author=User(name="Ann"))
        session.add(post)
        session.commit()
        session.delete(post.author)
        session.commit()
        assert session.state(post) == "persistent"
        assert session.query(Post).all() == [post]
    engine.close_all()


# Recursive deletes, as in Peewee


def test_a_recursive_delete_deletes_what_refers_to_the_object_at_any_depth(session: Any) -> None:
    parent = Node(name="p")
    person = Person(name="Ann")
    session.add_all([Node(name="c", parent=Node(name="b", parent=parent)), person])
    session.commit()
    session.delete(parent, recursive=True, delete_nullable=True)
    assert len(session.deleted) == 3
    session.commit()
    assert session.query(Node).count() == 0


def test_a_recursive_delete_takes_nullable_keys_away(session: Any) -> None:
    child = Node(name="c", parent=Node(name="p"))
    session.add(child)
    session.commit()
    session.delete(child.parent, recursive=True)
    assert (child.parent, session.dirty) == (None, [child])
    session.commit()
    assert session.query(Node).all() == [child]


def test_a_recursive_delete_calls_the_hooks_of_what_it_deletes(session: Any, full: None) -> None:
    told: list[Any] = []
    dbm.listen(Comment, "before_delete", told.append)
    post = session.query(Post).first()
    comments = list(post.comments)
    session.delete(post, recursive=True)
    session.commit()
    dbm.unlisten(Comment, "before_delete", told.append)
    assert sorted(told, key=lambda comment: comment.id) == sorted(comments, key=lambda comment: comment.id)


# Objects that refer to others than they did


def test_a_key_that_was_read_with_some_columns_only_counts(session: Any, other: Any, full: None) -> None:
    one, two, three = session.query(User).limit(3)
    post = session.query(Post).filter_by(author=one).first()
    session.delete(three)
    session.commit()
    other.query(Post).filter(Post.id == post.id).update({Post.author: two})
    other.commit()
    assert session.execute(Post.select(Post.id, Post.author).where(Post.id == post.id)).one() is post
    session.delete(two)
    session.commit()
    assert session.state(post) == "detached"


def test_rows_of_a_model_without_a_key_are_deleted_in_bulk(session: Any, engine: Any) -> None:
    base = dbm.declarative_base()

    class Code(base):  # type: ignore[misc, valid-type]
        code = peewee.IntegerField(unique=True)

        class Meta:
            primary_key = False

    class Use(base):  # type: ignore[misc, valid-type]
        of = peewee.ForeignKeyField(Code, field="code", on_delete="CASCADE")

    dbm.install_tables(engine, models=base)
    session.add(Code(code=5))
    session.flush()
    use = Use(of=5)
    session.add(use)
    session.commit()
    assert session.query(Code).delete() == 1
    assert session.state(use) == "deleted"

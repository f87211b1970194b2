"""One session does anything with objects that refer to each other; a model in plain Python says what has to come of it.

`pytest -s tests/test_graph.py --long -k file` tries for longer, on the database that `-k` names.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import peewee
import pytest
from conftest import StateMachine, collected, install_tables_with_keys_that_do_not_come_again, run_sql
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tent.data import dbm

Model = dbm.declarative_base()


class User(Model):
    name = peewee.CharField()
    email = peewee.CharField(unique=True, null=True)
    settings = peewee.JSONField(default=dict)


class Tag(Model):
    name = peewee.CharField(unique=True)


class Post(Model):
    title = peewee.CharField()
    author = peewee.ForeignKeyField(User, backref="posts", on_delete="CASCADE")
    editor = peewee.ForeignKeyField(User, null=True, backref="edited", on_delete="SET NULL")
    tags = peewee.ManyToManyField(Tag, backref="posts", on_delete="CASCADE")
    version = dbm.VersionField()


class Comment(Model):
    text = peewee.CharField(null=True)
    post = peewee.ForeignKeyField(Post, backref="comments", on_delete="CASCADE")
    author = peewee.ForeignKeyField(User, null=True, backref="comments", on_delete="SET NULL")
    parent = peewee.ForeignKeyField("self", null=True, backref="replies", on_delete="CASCADE")


class Team(Model):
    name = peewee.CharField()
    lead = peewee.DeferredForeignKey("Member", null=True, backref="led")


class Member(Model):
    name = peewee.CharField()
    team = peewee.ForeignKeyField(Team, backref="members")


class Badge(Model):
    name = peewee.CharField()
    user = peewee.ForeignKeyField(User, backref="badges", on_delete="RESTRICT")


Link: Any = Post.tags.through_model  # type: ignore[attr-defined]

# The oracle: what the models above mean, in words of its own


class Key(NamedTuple):
    """A foreign key, the attribute of the other side, and what becomes of the rows whose target is deleted."""

    model: Any
    name: str
    target: Any
    backref: str | None
    null: bool
    on_delete: str

    def __repr__(self) -> str:
        return f"{self.model.__name__}.{self.name}"


KEYS = [
    Key(Post, "author", User, "posts", False, "CASCADE"),
    Key(Post, "editor", User, "edited", True, "SET NULL"),
    Key(Comment, "post", Post, "comments", False, "CASCADE"),
    Key(Comment, "author", User, "comments", True, "SET NULL"),
    Key(Comment, "parent", Comment, "replies", True, "CASCADE"),
    Key(Team, "lead", Member, "led", True, "NO ACTION"),
    Key(Member, "team", Team, "members", False, "NO ACTION"),
    Key(Badge, "user", User, "badges", False, "RESTRICT"),
    Key(Link, "post", Post, None, False, "CASCADE"),
    Key(Link, "tag", Tag, None, False, "CASCADE"),
]
PLAIN: dict[Any, tuple[str, ...]] = {
    User: ("name", "email", "settings"),
    Tag: ("name",),
    Post: ("title",),
    Comment: ("text",),
    Team: ("name",),
    Member: ("name",),
    Badge: ("name",),
    Link: (),
}
MODELS = [model for model in PLAIN if model is not Link]
UNIQUE: list[tuple[Any, tuple[str, ...]]] = [(User, ("email",)), (Tag, ("name",)), (Link, ("post", "tag"))]
NULLABLE = {(User, "email"), (Comment, "text")}
UNIQUE_NAMES = [(User, "email"), (Tag, "name")]
TABLES: dict[Any, str] = {model: model._meta.table_name for model in PLAIN}
FEW = 3  # statements for all objects of a result, however many there are
SHARED = [key for key in KEYS if key.backref is not None]

NEW, PENDING, PERSISTENT, DELETED, DETACHED = "transient", "pending", "persistent", "deleted", "detached"


def keys_of(model: Any) -> list[Key]:
    return [key for key in KEYS if key.model is model]


def is_in_doubt(instance: Any) -> bool:
    """Whether its row was read after something that no object shows had changed it, which was rolled back since."""
    return instance._reading is not None and bool(instance._reading.is_undone)


class Item:
    """A row or an object, or both, and what is expected of it."""

    def __init__(self, label: str, model: Any, instance: Any, values: dict[str, Any]) -> None:
        self.label = label
        self.model = model
        self.instance = instance  # None when the program has let go of it, or never had it
        self.values = values  # of its attributes; a foreign key's is an item
        self.state = NEW
        self.marked = False  # to be deleted
        self.number: int | None = None  # the key of its row
        self.along: list[Item] = []  # what comes along when it is added
        self.loose: set[str] = set()  # foreign keys that were set by a number
        self.unsure: set[str] = set()  # foreign keys that the database has set to NULL, in this transaction
        self.was_deleted = False  # in this transaction

    def __repr__(self) -> str:
        return self.label

    @property
    def is_free(self) -> bool:
        """Whether a program would go on working with it."""
        return self.instance is not None and self.state in (NEW, PENDING, PERSISTENT) and not self.marked

    def targets(self) -> Iterator[Item]:
        for key in keys_of(self.model):
            target = self.values[key.name]
            if target is not None and key.name not in self.loose:
                yield target


Rows = dict[Item, dict[str, Any]]


class Violation(Exception):
    """What the database refuses."""


def copied(rows: Rows) -> Rows:
    return {
        item: row | ({"settings": copy.deepcopy(row["settings"])} if "settings" in row else {})
        for item, row in rows.items()
    }


def check_written(rows: Rows, written: Iterable[Item], leaving: set[Item]) -> None:
    """Raise what rows that were written break: NOT NULL, foreign keys, unique values."""
    for item in written:
        row = rows[item]
        for name in PLAIN[item.model]:
            if row[name] is None and (item.model, name) not in NULLABLE:
                raise Violation(f"{item}.{name} is null")
        for key in keys_of(item.model):
            if (row[key.name] is None and not key.null) or (row[key.name] is not None and row[key.name] not in rows):
                raise Violation(f"{item}.{key.name} is {row[key.name]}")
    for model, names in UNIQUE:
        staying = [row for item, row in rows.items() if item.model is model and item not in leaving]
        taken = [values for row in staying if None not in (values := tuple(row[name] for name in names))]
        if len(taken) > len(set(taken)):
            raise Violation(f"{model.__name__} has {names} twice")


def without(rows: Rows, leaving: set[Item]) -> Rows:
    """Return rows without some, and without what goes with them; or raise what keeps them."""
    gone, waiting = set(leaving), list(leaving)
    rows = copied(rows)
    while waiting:
        target = waiting.pop()
        for key in KEYS:
            for item in [item for item in rows if item.model is key.model and rows[item][key.name] is target]:
                if key.on_delete == "CASCADE" and item not in gone:
                    gone.add(item)
                    waiting.append(item)
                elif key.on_delete == "SET NULL":
                    rows[item][key.name] = None
    kept = {item: row for item, row in rows.items() if item not in gone}
    for item, row in kept.items():
        for key in keys_of(item.model):
            if row[key.name] in gone:
                raise Violation(f"{item}.{key.name} is {row[key.name]}")
    return kept


class Scope(NamedTuple):
    """A savepoint, the rows at its beginning, and the objects whose rows were deleted before it."""

    handle: Any
    rows: Rows
    deleted: set[Item]


class Graph(StateMachine):
    def __init__(self, engine: Any, outside: Any) -> None:
        super().__init__()
        self.engine = engine
        self.outside = outside
        self.session = dbm.open_session(engine)
        self.items: list[Item] = []
        self.rows: Rows = {}  # as the session's transaction has them
        self.committed: Rows = {}
        self.scopes: list[Scope] = []
        self.failures = 0
        self.counts: dict[Any, int] = {}

    def teardown(self) -> None:
        self.session.rollback()
        self.session.close()
        with self.engine.atomic():
            run_sql(self.engine, f"UPDATE {TABLES[Team]} SET lead_id = NULL")
            for model in (Link, Comment, Post, Badge, Member, Team, Tag, User):
                run_sql(self.engine, f"DELETE FROM {TABLES[model]}")

    @initialize()
    def start_with_some_rows(self) -> None:
        ann, bob = (self.make(User, name=name, email=name) for name in ("a", "b"))
        tag = self.make(Tag, name="a")
        post = self.make(Post, title="a", author=ann, editor=bob)
        for item in (ann, bob, tag, post):
            self.add(item)
        self.commit()

    # What is known

    def make(self, model: Any, **values: Any) -> Item:
        """Make an object; a foreign key is given as an item."""
        given = {name: value.instance if isinstance(value, Item) else value for name, value in values.items()}
        return self.know(model, model(**given), values)

    def know(self, model: Any, instance: Any, values: dict[str, Any]) -> Item:
        number = self.counts[model] = self.counts.get(model, 0) + 1
        complete = dict.fromkeys([*PLAIN[model], *(key.name for key in keys_of(model))])
        complete |= {"settings": {}} if model is User else {"version": 1} if model is Post else {}
        label = "link" if model is Link else model.__name__.lower()
        item = Item(f"{label}{number}", model, instance, complete | copy.copy(values))
        self.items.append(item)
        return item

    def some(self, model: Any, *states: str) -> list[Item]:
        found = [item for item in self.items if item.model is model and item.is_free]
        return [item for item in found if item.state in states] if states else found

    def pick(self, data: st.DataObject, label: str, items: Iterable[Any]) -> Any:
        items = list(items)
        return data.draw(st.sampled_from(items), label=label) if items else None

    def changes(self, item: Item) -> bool:
        """Whether an object with a row differs from it."""
        return item.state == PERSISTENT and item.instance is not None and item.values != self.rows[item]

    def unflushed(self) -> list[Item]:
        return [item for item in self.items if item.state == PENDING or item.marked or self.changes(item)]

    def adopt(self, instance: Any) -> Item:
        """Return the item of an object that the session gave."""
        item = next(i for i in self.items if i.model is type(instance) and i.number == instance.id and i in self.rows)
        if item.instance is None:
            item.instance, item.state, item.values = instance, PERSISTENT, copied({item: self.rows[item]})[item]
            item.along, item.loose, item.marked = [], set(), False
        assert item.instance is instance, f"{item} is two objects"
        return item

    # What a flush comes to

    def reached(self, start: Iterable[Item]) -> list[Item]:
        """Return the transient objects that come along with others."""
        found: list[Item] = []
        waiting = list(start)
        while waiting:
            one = waiting.pop(0)
            for other in [*one.targets(), *(child for child in one.along if one in child.targets())]:
                if other.state == NEW and other not in found:
                    found.append(other)
                    waiting.append(other)
        return found

    def coming(self) -> list[Item]:
        """Return the transient objects that a flush would add."""
        found: list[Item] = []
        pending = [item for item in self.items if item.state == PENDING]
        for item in self.items:
            if item.state == PERSISTENT and item.instance is not None:
                names = [
                    key.name for key in keys_of(item.model) if item.values[key.name] is not self.rows[item][key.name]
                ]
                changed = [item.values[name] for name in names if name not in item.loose]
                found += [other for other in changed if other is not None and other.state == NEW and other not in found]
        found += [item for item in self.reached([*pending, *found]) if item not in found]
        return found

    def after_flush(self) -> Rows:
        """Return the rows as a flush has to leave them, or raise what the database refuses."""
        rows, written = copied(self.rows), []
        leaving = {item for item in self.items if item.marked}
        for item in self.items:
            if self.changes(item) and not item.marked:
                rows[item] = copied({item: item.values})[item]
                if item.model is Post:
                    rows[item]["version"] = self.rows[item]["version"] + 1
                written.append(item)
        for item in [*(item for item in self.items if item.state == PENDING), *self.coming()]:
            rows[item] = copied({item: item.values})[item]
            written.append(item)
        check_written(rows, written, leaving)
        return without(rows, leaving)

    def is_undefined(self) -> bool:
        """Whether something new or changed refers to what is to be deleted: it may go with it, or be refused."""
        writing = [item for item in [*self.unflushed(), *self.coming()] if not item.marked]
        return any(target is not None and target.marked for item in writing for target in self.values_of_keys(item))

    def values_of_keys(self, item: Item) -> list[Item | None]:
        return [item.values[key.name] for key in keys_of(item.model)]

    def flush_by(self, call: Callable[[], Any]) -> bool:
        """Make a call that flushes, check that it fails if it has to, and return whether it was done."""
        if self.is_undefined():
            for item in [item for item in self.items if item.marked]:
                self.add(item)
        try:
            rows = self.after_flush()
        except Violation as violation:
            with pytest.raises(peewee.IntegrityError):
                call()
                raise AssertionError(f"it was not refused: {violation}") from None
            self.failures += 1
            if self.failures > 1:
                self.check_all()
                self.rollback()
            return False
        call()
        self.failures = 0
        self.note_flush(rows)
        return True

    def note_flush(self, rows: Rows) -> None:
        for item in self.coming():
            item.state = PENDING
        for item in self.items:
            if item.state == PENDING:
                item.number, item.along = item.instance.id, []
                item.state = PERSISTENT
        for item, row in rows.items():
            if item in self.rows and "version" in row and row["version"] > self.rows[item]["version"]:
                row["version"] = max(row["version"], item.instance.version)  # a cycle of rows takes a second update
        self.note_rows(rows)

    def note_rows(self, rows: Rows) -> None:
        """Let the objects be as the rows are."""
        self.rows = rows
        for item in self.items:
            if item.state != PERSISTENT:
                continue
            item.marked = False
            if item not in rows:
                item.state, item.was_deleted = DELETED, True
                continue
            for key in keys_of(item.model):
                if item.values[key.name] is not None and rows[item][key.name] is None:
                    item.unsure.add(key.name)
            item.values = copied({item: rows[item]})[item]

    def undo(self, rows: Rows, deleted: set[Item]) -> None:
        """Let the objects be as they were when the rows were these."""
        for item in self.items:
            if item.instance is None or item.state in (NEW, DETACHED):
                continue
            item.marked = False
            if item in rows:
                item.state, item.values = PERSISTENT, copied({item: rows[item]})[item]
            elif item in deleted:
                item.state = DELETED
            else:
                self.note_new_again(item)
        self.rows = copied(rows)

    def note_new_again(self, item: Item) -> None:
        """An object whose insert was rolled back is transient, with what the user has set."""
        item.state, item.number = NEW, None
        for name in item.unsure:
            related = item.instance.__rel__.get(name)
            item.values[name] = next((other for other in self.items if other.instance is related), None)
        item.unsure.clear()
        given = item.instance._along or []
        item.along = [other for other in self.items if any(other.instance is one for one in given)]

    # What is done

    def add(self, item: Item) -> None:
        self.session.add(item.instance)
        self.note_added(item)

    def note_added(self, item: Item) -> None:
        item.marked = False
        if item.state in (NEW, DELETED, DETACHED):
            item.state = PENDING
        if item.state == PENDING:
            for other in self.reached([item]):
                other.state = PENDING

    def point(self, item: Item, name: str, target: Item | None) -> None:
        setattr(item.instance, name, None if target is None else target.instance)
        item.values[name] = target
        item.loose.discard(name)

    @precondition(lambda self: len(self.items) < 30)
    @rule(data=st.data(), model=st.sampled_from(MODELS), added=st.booleans())
    def create(self, data: st.DataObject, model: Any, added: bool) -> None:
        values = {name: data.draw(self.plain(model, name), label=name) for name in PLAIN[model]}
        for key in keys_of(model):
            values[key.name] = data.draw(st.sampled_from([*self.targets_of(key)] or [None]), label=key.name)
        item = self.make(model, **values)
        if added:
            self.add(item)

    def targets_of(self, key: Key) -> list[Item | None]:
        found: list[Item | None] = [*self.some(key.target)]
        return [None, *found] if key.null else found

    def plain(self, model: Any, name: str) -> st.SearchStrategy[Any]:
        if name == "settings":
            return st.sampled_from([{}, {"a": [1]}])
        if (model, name) in UNIQUE_NAMES:
            return st.sampled_from([None, "a", "b", "c", "d"] if (model, name) in NULLABLE else ["a", "b", "c", "d"])
        return st.sampled_from(["a", "b", "c"])

    @rule(data=st.data(), owner=st.sampled_from([User, User, Post, Team]), added=st.booleans())
    def create_with_a_list(self, data: st.DataObject, owner: Any, added: bool) -> None:
        key = data.draw(st.sampled_from([key for key in SHARED if key.target is owner and key.model is not owner]))
        children = data.draw(
            st.lists(
                st.sampled_from(self.some(key.model) or [None]),
                unique=True,
                max_size=2,
            )
        )
        children = [child for child in children if child is not None]
        values = {name: data.draw(self.plain(owner, name), label=name) for name in PLAIN[owner]}
        for other in keys_of(owner):
            values[other.name] = data.draw(st.sampled_from([*self.targets_of(other)] or [None]), label=other.name)
        assert key.backref is not None
        item = self.make_with(owner, values, key.backref, children)
        for child in children:
            child.values[key.name] = item
            child.loose.discard(key.name)
        item.along += children
        if added:
            self.add(item)

    def make_with(self, model: Any, values: dict[str, Any], name: str, children: list[Item]) -> Item:
        given = {n: value.instance if isinstance(value, Item) else value for n, value in values.items()}
        instance = model(**given, **{name: [child.instance for child in children]})
        return self.know(model, instance, values)

    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        item = self.pick(data, "item", [i for i in self.items if i.instance is not None and i.model is not Link])
        if item is not None:
            self.add(item)

    @rule(data=st.data(), model=st.sampled_from([User, User, Tag, Post, Comment]))
    def set_plain(self, data: st.DataObject, model: Any) -> None:
        item = self.pick(data, "item", self.some(model))
        if item is not None:
            name = data.draw(st.sampled_from(PLAIN[model]), label="name")
            value = data.draw(self.plain(model, name), label="value")
            setattr(item.instance, name, copy.deepcopy(value))
            item.values[name] = copy.deepcopy(value)

    @rule(data=st.data(), name=st.sampled_from("ab"), value=st.integers(1, 2))
    def change_settings_in_place(self, data: st.DataObject, name: str, value: int) -> None:
        user = self.pick(data, "user", self.some(User))
        if user is not None:
            for settings_ in (user.instance.settings, user.values["settings"]):
                settings_.setdefault(name, []).append(value)

    @rule(data=st.data(), key=st.sampled_from([key for key in KEYS if key.model is not Link]))
    def set_key(self, data: st.DataObject, key: Key) -> None:
        item = self.pick(data, "item", self.some(key.model))
        if item is not None:
            self.point(item, key.name, data.draw(st.sampled_from([None, *self.some(key.target)]), label="target"))

    @rule(data=st.data(), key=st.sampled_from([key for key in KEYS if key.model is not Link]))
    def set_key_by_number(self, data: st.DataObject, key: Key) -> None:
        item = self.pick(data, "item", self.some(key.model))
        there = [i for i in self.committed if i.model is key.target and i in self.rows and not i.marked]
        target = self.pick(data, "target", there)
        if item is not None and target is not None:
            setattr(item.instance, key.name, target.number)
            item.values[key.name] = target
            item.loose.add(key.name)

    @rule(data=st.data(), model=st.sampled_from([*MODELS, User, Post]))
    def delete(self, data: st.DataObject, model: Any) -> None:
        item = self.pick(data, "item", self.some(model))
        if item is None:
            return
        if item.state == NEW:
            with pytest.raises(dbm.InvalidRequestError):
                self.session.delete(item.instance)
            return
        self.session.delete(item.instance)
        self.note_deleted(item)

    def flush_if_asked(self) -> bool:
        """Flush, if a query would; return whether the query can be made."""
        return not self.session.autoflush or self.flush_by(self.session.flush)

    def note_deleted(self, item: Item) -> None:
        if item.state == PERSISTENT:
            item.marked = True
        elif item.state == PENDING:
            item.state = DELETED if item in self.deleted_in_transaction() else NEW
            given = item.instance._along or ()
            for other in self.items:
                if other.state == PENDING and item in other.targets() and any(other.instance is one for one in given):
                    self.note_deleted(other)

    def deleted_in_transaction(self) -> set[Item]:
        return {item for item in self.items if item.was_deleted}

    # Relations from their other sides

    @rule(data=st.data(), key=st.sampled_from(SHARED))
    def add_to_backref(self, data: st.DataObject, key: Key) -> None:
        owner = self.pick(data, "owner", self.some(key.target))
        child = self.pick(data, "child", self.some(key.model))
        if owner is None or child is None:
            return
        self.related(owner, key).add(child.instance)
        child.values[key.name] = owner
        child.loose.discard(key.name)
        if owner.state == NEW:
            owner.along = [*(other for other in owner.along if other is not child), child]
        else:
            self.note_added(child)

    @rule(data=st.data(), key=st.sampled_from(SHARED))
    def remove_from_backref(self, data: st.DataObject, key: Key) -> None:
        owner = self.pick(data, "owner", self.some(key.target))
        if owner is None:
            return
        child = self.pick(data, "child", [i for i in self.some(key.model) if i.values[key.name] is owner])
        if child is None or key.name in child.loose:
            return
        if owner.state == NEW and child not in owner.along:
            return
        if not key.null and child.state == PERSISTENT:
            with pytest.raises(dbm.InvalidRequestError):
                self.related(owner, key).remove(child.instance)
            return
        self.related(owner, key).remove(child.instance)
        child.values[key.name] = None
        if owner.state == NEW:
            owner.along.remove(child)

    @rule(data=st.data(), key=st.sampled_from([key for key in SHARED if key.null]))
    def clear_backref(self, data: st.DataObject, key: Key) -> None:
        owner = self.pick(data, "owner", self.some(key.target, PENDING, PERSISTENT))
        if owner is None or not self.flush_if_asked():
            return
        children = [item for item in self.rows if item.model is key.model and self.rows[item][key.name] is owner]
        children += [
            i for i in self.items if i.state == PENDING and i.model is key.model and i.values[key.name] is owner
        ]
        if any(item.marked or self.changes(item) for item in children):
            return
        assert self.related(owner, key).clear() == len(children)
        for child in children:
            if child.instance is None:
                self.adopt(self.session.get(child.model, child.number))
            child.values[key.name] = None

    def related(self, owner: Item, key: Key) -> Any:
        assert key.backref is not None
        return getattr(owner.instance, key.backref)

    def new_links(self, post: Item) -> dict[int, Any]:
        """Return the links that are new in the session, or come along with a post, by `id`."""
        found = [*self.session.new, *(post.instance._along or ())]
        return {id(one): one for one in found if isinstance(one, Link)}

    @rule(data=st.data())
    def add_tags(self, data: st.DataObject) -> None:
        post, tag = self.pick(data, "post", self.some(Post)), self.pick(data, "tag", self.some(Tag))
        if post is None or tag is None:
            return
        by_number = tag in self.committed and tag.state == PERSISTENT and data.draw(st.booleans(), label="by number")
        before = self.new_links(post)
        post.instance.tags.add(tag.number if by_number else tag.instance)
        [made] = [link for number, link in self.new_links(post).items() if number not in before]
        link = self.know(Link, made, {"post": post, "tag": tag})
        link.loose |= {"tag"} if by_number else set()
        if post.state == NEW:
            post.along.append(link)
        else:
            self.note_added(link)

    @rule(data=st.data())
    def remove_tag(self, data: st.DataObject) -> None:
        post, tag = self.pick(data, "post", self.some(Post)), self.pick(data, "tag", self.some(Tag))
        if post is not None and tag is not None and (post.state == NEW or self.flush_if_asked()):
            links = [link for link in self.links_of(post) if link.values["tag"] is tag]
            assert post.instance.tags.remove(tag.instance) == len(links)
            self.drop(post, links)

    @rule(data=st.data())
    def clear_tags(self, data: st.DataObject) -> None:
        post = self.pick(data, "post", self.some(Post))
        if post is not None and (post.state == NEW or self.flush_if_asked()):
            links = self.links_of(post)
            assert post.instance.tags.clear() == len(links)
            self.drop(post, links)

    def links_of(self, post: Item) -> list[Item]:
        """Return the links by which a post has tags: of one in the session those with a row, and pending ones."""
        if post.state == NEW:
            return [link for link in post.along if link.model is Link]
        links = [item for item in self.items if item.model is Link and item.values["post"] is post]
        return [link for link in links if link.state == PENDING or (link in self.rows and not link.marked)]

    def drop(self, post: Item, links: list[Item]) -> None:
        for link in links:
            if post.state == NEW:
                post.along.remove(link)
                link.instance, link.state = None, NEW
            elif link.state == PENDING:
                self.note_deleted(link)
            else:
                self.adopt(next(one for one in self.session.deleted if type(one) is Link and one.id == link.number))
                link.marked = True

    # Transactions

    @rule()
    def flush(self) -> None:
        self.flush_by(self.session.flush)

    @rule()
    def commit(self) -> None:
        if not self.flush_by(self.session.commit):
            return
        self.committed = copied(self.rows)
        self.scopes.clear()
        for item in self.items:
            item.unsure.clear()
            item.was_deleted = False
            if item.state == DELETED:
                item.state = DETACHED
        assert not self.session.in_transaction()

    @rule()
    def rollback(self) -> None:
        self.session.rollback()
        self.undo(self.committed, set())
        self.scopes.clear()
        self.failures = 0
        assert not self.session.in_transaction()
        self.read_again()

    def read_again(self) -> None:
        """Read all rows: until then, those read after a statement for many rows that was undone are in doubt."""
        self.check_all()
        for item in self.items:
            if item.instance is not None and item.state == PERSISTENT:
                self.session.refresh(item.instance)

    @precondition(lambda self: len(self.scopes) < 3)
    @rule()
    def begin_nested(self) -> None:
        handles: list[Any] = []
        if self.flush_by(lambda: handles.append(self.session.begin_nested())):
            deleted = {item for item in self.items if item.state == DELETED}
            self.scopes.append(Scope(handles[0], copied(self.rows), deleted))

    @precondition(lambda self: self.scopes)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.scopes) - 1), label="place")
        if self.flush_by(self.scopes[place].handle.commit):
            del self.scopes[place:]

    @precondition(lambda self: self.scopes)
    @rule(data=st.data())
    def roll_back_to_a_savepoint(self, data: st.DataObject) -> None:
        scope = self.scopes[data.draw(st.integers(0, len(self.scopes) - 1), label="place")]
        scope.handle.rollback()
        self.undo(scope.rows, scope.deleted)
        del self.scopes[self.scopes.index(scope) :]
        self.read_again()

    @rule()
    def turn_autoflush_on_or_off(self) -> None:
        self.session.autoflush = not self.session.autoflush

    @rule(data=st.data(), model=st.sampled_from(MODELS))
    def expunge(self, data: st.DataObject, model: Any) -> None:
        item = self.pick(data, "item", [i for i in self.some(model) if not self.is_needed(i)])
        if item is None:
            return
        if item.state == NEW:
            with pytest.raises(dbm.InvalidRequestError):
                self.session.expunge(item.instance)
            return
        instance = item.instance
        self.session.expunge(instance)
        if item.state == PENDING:
            item.state = NEW
        else:
            assert self.session.state(instance) == DETACHED
            item.instance = None

    def is_needed(self, item: Item) -> bool:
        """Whether others refer to an object, or it has a past in the transaction: letting go of it is another story."""
        if item.was_deleted or (item.state == PERSISTENT and self.committed.get(item) != self.rows[item]):
            return True
        return any(item in self.values_of_keys(other) for other in self.items if other.instance is not None)

    @rule(data=st.data(), model=st.sampled_from([*MODELS, Link]))
    def forget(self, data: st.DataObject, model: Any) -> None:
        """Let the garbage collector have a clean object."""
        clean = [item for item in self.some(model, PERSISTENT) if not self.changes(item)]
        item = self.pick(data, "item", clean)
        if item is not None:
            item.instance = None

    # Queries

    @rule(data=st.data(), model=st.sampled_from(MODELS))
    def get(self, data: st.DataObject, model: Any) -> None:
        item = self.pick(data, "item", [item for item in self.items if item.model is model and item.number is not None])
        if item is None:
            return
        found = self.session.get(model, data.draw(st.sampled_from([item.number, str(item.number)]), label="key"))
        if item.marked or item.state in (DELETED, DETACHED):
            assert found is None
        elif item.state == PENDING:
            assert found is item.instance
        else:
            assert self.adopt(found) is item

    @rule(model=st.sampled_from([*MODELS, Link]))
    def query(self, model: Any) -> None:
        if self.flush_if_asked():
            found = self.session.query(model).order_by(model.id).all()
            assert [self.adopt(instance) for instance in found] == self.there(model)
            assert self.session.query(model).count() == len(found)

    @rule(data=st.data(), key=st.sampled_from(KEYS))
    def query_by_a_key(self, data: st.DataObject, key: Key) -> None:
        target = self.pick(data, "target", self.some(key.target, PERSISTENT))
        if target is not None and self.flush_if_asked() and target in self.rows and not target.marked:
            found = self.session.query(key.model).filter_by(**{key.name: target.instance}).order_by(key.model.id).all()
            expected = [item for item in self.there(key.model) if self.rows[item][key.name] is target]
            assert [self.adopt(instance) for instance in found] == expected

    @rule(key=st.sampled_from(KEYS))
    def follow_the_key_of_all(self, key: Key) -> None:
        if not self.flush_if_asked():
            return
        with collected(self.engine) as ran:
            found = self.session.query(key.model).order_by(key.model.id).all()
            followed = [getattr(instance, key.name) for instance in found]
        assert len(ran) <= FEW, ran
        self.check_followed(key, found, followed)

    @rule(key=st.sampled_from([key for key in KEYS if key.model is not Link]))
    def load_with_what_a_key_refers_to(self, key: Key) -> None:
        if self.flush_if_asked():
            with collected(self.engine) as ran:
                field = getattr(key.model, key.name)
                found = self.session.query(key.model).with_related(field).order_by(key.model.id).all()
                followed = [getattr(instance, key.name) for instance in found]
            assert len(ran) <= FEW, ran
            self.check_followed(key, found, followed)

    def check_followed(self, key: Key, found: list[Any], followed: list[Any]) -> None:
        for instance, target in zip(found, followed):
            item = self.adopt(instance)
            expected = item.values[key.name]
            if expected is not None and expected.instance is None:
                self.adopt(target)
            assert target is (None if expected is None else expected.instance), (item, key.name, target, expected)

    @rule(key=st.sampled_from(SHARED), how=st.sampled_from(["one by one", "with_related"]))
    def follow_the_backref_of_all(self, key: Key, how: str) -> None:
        if not self.flush_if_asked():
            return
        with collected(self.engine) as ran:
            assert key.backref is not None
            query = self.session.query(key.target).order_by(key.target.id)
            owners = (
                query.with_related(getattr(key.target, key.backref)).all() if how == "with_related" else query.all()
            )
            found = [list(getattr(owner, key.backref)) for owner in owners]
        assert len(ran) <= FEW, ran
        for owner, children in zip(owners, found):
            self.check_children(self.adopt(owner), key, children)

    def check_children(self, owner: Item, key: Key, children: list[Any]) -> None:
        expected = {item for item in self.there(key.model) if self.rows[item][key.name] is owner}
        shown = {self.adopt(child) for child in children}
        assert len(shown) == len(children)
        assert {item for item in expected if not item.marked} <= shown <= expected, (
            owner,
            key.backref,
            shown,
            expected,
        )

    @rule(data=st.data(), key=st.sampled_from(SHARED))
    def read_a_backref(self, data: st.DataObject, key: Key) -> None:
        """Of an object that the program has: what was read for it before may be out of date."""
        owner = self.pick(data, "owner", self.some(key.target, PERSISTENT))
        if owner is not None and self.flush_if_asked() and owner.state == PERSISTENT:
            self.check_children(owner, key, list(self.related(owner, key)))

    @rule(data=st.data(), key=st.sampled_from([key for key in KEYS if key.model is not Link]))
    def read_a_key(self, data: st.DataObject, key: Key) -> None:
        item = self.pick(data, "item", self.some(key.model, PERSISTENT))
        if item is not None and self.flush_if_asked() and item.state == PERSISTENT:
            self.check_followed(key, [item.instance], [getattr(item.instance, key.name)])

    @rule()
    def follow_the_tags_of_all(self) -> None:
        if not self.flush_if_asked():
            return
        with collected(self.engine) as ran:
            posts = self.session.query(Post).order_by(Post.id).all()
            found = [list(post.tags) for post in posts]
        assert len(ran) <= FEW, ran
        for post, tags in zip(posts, found):
            links = [item for item in self.there(Link) if self.rows[item]["post"] is self.adopt(post)]
            shown = [self.adopt(tag) for tag in tags]
            least = [link.values["tag"] for link in links if not link.marked]
            most = [link.values["tag"] for link in links]
            assert len(shown) == len(set(shown))
            assert set(least) <= set(shown) <= set(most)

    def there(self, model: Any) -> list[Item]:
        """Return the items of a model that have a row, in the order of their keys."""
        found = [item for item in self.rows if item.model is model]
        return sorted(found, key=lambda item: item.number or 0)

    # Bulk statements

    @rule(old=st.sampled_from("abc"), new=st.sampled_from("abc"), model=st.sampled_from([User, Post, Member]))
    def update_in_bulk(self, old: str, new: str, model: Any) -> None:
        if not self.flush_by(self.session.flush):
            return
        name = PLAIN[model][0]
        matching = [item for item in self.there(model) if self.rows[item][name] == old]
        field = getattr(model, name)
        assert self.session.query(model).where(field == old).update({field: new}) == len(matching)
        rows = copied(self.rows)
        for item in matching:
            rows[item][name] = new
            if "version" in rows[item]:
                rows[item]["version"] += 1
        self.note_rows(rows)

    @rule(old=st.sampled_from("abcd"), model=st.sampled_from(MODELS))
    def delete_in_bulk(self, old: str, model: Any) -> None:
        if not self.flush_by(self.session.flush):
            return
        name = PLAIN[model][0]
        matching = [item for item in self.there(model) if self.rows[item][name] == old]
        query = self.session.query(model).where(getattr(model, name) == old)
        try:
            rows = without(self.rows, set(matching))
        except Violation:
            with pytest.raises(peewee.IntegrityError):
                query.delete()
            return
        assert query.delete() == len(matching)
        self.note_rows(rows)

    # What must hold at all times

    @invariant()
    def check_all(self) -> None:
        with collected(self.engine) as ran:
            for item in self.items:
                if item.instance is not None:
                    self.check_object(item)
            self.check_books()
        assert ran == []
        self.check_rows()

    def check_object(self, item: Item) -> None:
        instance = item.instance
        assert (item, self.session.state(instance)) == (item, item.state)
        assert (item, instance in self.session) == (item, item.state in (PENDING, PERSISTENT))
        if item.state in (DELETED, DETACHED) or is_in_doubt(instance):
            return
        for name in PLAIN[item.model]:
            assert (item, name, getattr(instance, name)) == (item, name, item.values[name])
        if item.state == PERSISTENT:
            assert item.instance.id == item.number
            if item.model is Post:
                assert (item, instance.version) == (item, item.values["version"])
        for key in keys_of(item.model):
            self.check_key(item, key)

    def check_key(self, item: Item, key: Key) -> None:
        shown, target = getattr(item.instance, f"{key.name}_id"), item.values[key.name]
        if target is None or item.state == PERSISTENT:
            expected = None if target is None or target.state in (NEW, PENDING) else target.number
            assert (item, key.name, shown) == (item, key.name, expected)
        elif target.state == PERSISTENT:
            assert (item, key.name, shown) in [(item, key.name, None), (item, key.name, target.number)]

    def check_books(self) -> None:
        session = self.session
        known = [item for item in self.items if item.instance is not None]
        assert self.known_as(session.new) == [item for item in known if item.state == PENDING]
        assert self.known_as(session.deleted) == [item for item in known if item.marked]
        assert self.known_as(session.dirty) == [item for item in known if self.changes(item) and not item.marked]

    def known_as(self, instances: Iterable[Any]) -> list[Any]:
        found = {id(instance) for instance in instances}
        items = [item for item in self.items if id(item.instance) in found]
        assert len(items) == len(found), f"{instances} has unknown objects"
        return items

    def check_rows(self) -> None:
        with self.session.no_autoflush:
            for model in PLAIN:
                rows = [row._asdict() for row in self.session.execute(f"SELECT * FROM {TABLES[model]}")]
                assert by_key(rows) == self.expected(self.rows, model)

    @precondition(lambda self: self.outside is not None)
    @invariant()
    def others_see_what_was_committed(self) -> None:
        for model in PLAIN:
            cursor = run_sql(self.outside, f"SELECT * FROM {TABLES[model]}")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row)) for row in cursor.fetchall()]
            assert by_key(rows) == self.expected(self.committed, model)

    def expected(self, rows: Rows, model: Any) -> dict[Any, dict[str, Any]]:
        """Return what SQL shows of the rows of a model."""
        return {item.number: shown(item, row) for item, row in rows.items() if item.model is model}


def by_key(rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return rows by their keys, and JSON as what it stands for: databases keep it in different spellings."""
    for row in rows:
        if "settings" in row:
            row["settings"] = json.loads(row["settings"])
    return {row["id"]: row for row in rows}


def shown(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"id": item.number, **{name: row[name] for name in PLAIN[item.model]}}
    found |= {f"{key.name}_id": row[key.name] and row[key.name].number for key in keys_of(item.model)}
    return found | ({"version": row["version"]} if item.model is Post else {})


def test_a_session_does_with_a_graph_what_plain_python_does(
    database: str, swift_engine: Any, outside: Any, run_machine: Callable[..., None]
) -> None:
    install_tables_with_keys_that_do_not_come_again(swift_engine, Model)
    others = None if database == "memory" else outside  # no other program sees a database in memory
    run_machine(lambda: Graph(swift_engine, others), examples=100, stateful_step_count=30)

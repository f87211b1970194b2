"""Models: inheritance, names of tables, registries, constructors, repr."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import peewee
import pytest
from conftest import Note, Person

from tent.data import dbm
from tent.data.orm.engine import quoted
from tent.data.orm.naming import plural


def _model(name: str, base: Any = None, /, **attributes: Any) -> Any:
    return type(peewee.Model)(name, (base or dbm.declarative_base(),), attributes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty registry in the place of the one of `dbm.Base` and `dbm.TableMixin`."""
    registry = type(dbm.Base.registry)()
    monkeypatch.setattr(dbm.Base, "registry", registry)
    monkeypatch.setattr(dbm.TableMixin, "registry", registry)
    return registry


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Make a module of a source and import it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a reload must see the new source
    made = []

    def make(name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(f"import peewee\nfrom tent.data import dbm\n{source}", encoding="utf-8")
        made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


# Inheritance


def test_every_order_of_the_base_classes_makes_a_model_with_a_guessed_name(engine: Any, registry: Any) -> None:
    class Apple(dbm.Base):
        name = peewee.CharField()

    class Banana(dbm.TableMixin):
        name = peewee.CharField()

    class Cherry(dbm.Base, dbm.TableMixin):
        name = peewee.CharField()

    class Date(dbm.TableMixin, dbm.Base):
        name = peewee.CharField()

    models = [Apple, Banana, Cherry, Date]
    assert [model._meta.table_name for model in models] == ["apples", "bananas", "cherries", "dates"]
    assert all(issubclass(model, peewee.Model) for model in models)
    assert dbm.install_tables(engine, models=models) == ["apples", "bananas", "cherries", "dates"]
    with dbm.transaction(engine) as session:
        session.add_all([model(name="x") for model in models])
    with dbm.open_session(engine) as session:
        assert [session.query(model).one().name for model in models] == ["x"] * 4


def test_models_of_both_bases_are_in_one_registry(registry: Any) -> None:
    class Apple(dbm.Base):
        pass

    class Banana(dbm.TableMixin):
        pass

    assert list(registry) == [Apple, Banana]


@pytest.mark.parametrize("bases", [(dbm.Base,), (dbm.TableMixin,), (dbm.Base, dbm.TableMixin)])
def test_a_table_name_can_be_given(registry: Any, bases: tuple[type, ...]) -> None:
    model: Any = type(peewee.Model)("Apple", bases, {"__tablename__": "fruit"})
    assert model._meta.table_name == "fruit"


def test_peewees_meta_can_give_the_table_name_too() -> None:
    class Apple(dbm.declarative_base()):  # type: ignore[misc]
        class Meta:
            table_name = "fruit"

    assert Apple._meta.table_name == "fruit"


@pytest.mark.parametrize("name", ["", 3, "a\0b"])
def test_a_table_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"Apple\.__tablename__"):
        _model("Apple", __tablename__=name)


@pytest.mark.parametrize(
    "name, table",
    [
        ("User", "users"),
        ("DeliveryFailure", "delivery_failures"),
        ("Entity", "entities"),
        ("Day", "days"),
        ("Address", "addresses"),
        ("Box", "boxes"),
        ("Match", "matches"),
        ("Dish", "dishes"),
        ("Person", "people"),
        ("Child", "children"),
        ("StepChild", "step_children"),
        ("HTTPRequest", "http_requests"),
    ],
)
def test_a_table_is_named_after_its_class_in_the_plural(name: str, table: str) -> None:
    assert _model(name)._meta.table_name == table


@pytest.mark.parametrize(
    "noun, many", [("key", "keys"), ("policy", "policies"), ("bus", "buses"), ("app_key", "app_keys")]
)
def test_plural_is_the_english_one(noun: str, many: str) -> None:
    assert plural(noun) == many


def test_a_model_inherits_the_columns_of_a_model_and_has_a_table_of_its_own(engine: Any) -> None:
    base = dbm.declarative_base()

    class Animal(base):  # type: ignore[misc,valid-type]
        __tablename__ = "zoo"
        name = peewee.CharField()

    class Dog(Animal):
        tricks = peewee.JSONField(default=list)

    assert (Animal._meta.table_name, Dog._meta.table_name) == ("zoo", "dogs")
    dbm.install_tables(engine, models=base)
    with dbm.transaction(engine) as session:
        session.add_all([Animal(name="Cat"), Dog(name="Rex", tricks=["sit"])])
    with dbm.open_session(engine) as session:
        assert [animal.name for animal in session.query(Animal)] == ["Cat"]
        rex = session.query(Dog).one()
        assert (rex.name, rex.tricks) == ("Rex", ["sit"])


def test_objects_of_a_model_and_of_its_heir_with_one_key_are_two(engine: Any) -> None:
    base = dbm.declarative_base()
    animal = _model("Animal", base, name=peewee.CharField())
    dog = _model("Dog", animal)
    dbm.install_tables(engine, models=base)
    with dbm.transaction(engine) as session:
        session.add_all([animal(id=1, name="Cat"), dog(id=1, name="Rex")])
    with dbm.open_session(engine) as session:
        assert [session.get(model, 1).name for model in (animal, dog)] == ["Cat", "Rex"]


def test_an_abstract_class_is_no_table_but_a_base_of_some(engine: Any) -> None:
    base = dbm.declarative_base()

    class Named(base):  # type: ignore[misc,valid-type]
        __abstract__ = True
        name = peewee.CharField()

    class Ship(Named):
        tons = peewee.IntegerField()

    assert list(base.registry) == [Ship]
    assert dbm.install_tables(engine, models=base) == ["ships"]
    with dbm.transaction(engine) as session:
        session.add(Ship(name="Ark", tons=9))
    assert list(engine.execute_sql("SELECT name, tons FROM ships")) == [("Ark", 9)]


def test_methods_and_properties_of_a_model_are_its_own() -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

        def greeting(self) -> str:
            return f"Ahoy, {self.name}"

    assert Ship(name="Ark").greeting() == "Ahoy, Ark"


# Registries


def test_two_models_of_one_table_name_are_refused_by_name() -> None:
    base = dbm.declarative_base()
    _model("Apple", base, __module__="first")
    with pytest.raises(dbm.InvalidRequestError, match=r"first\.Apple and second\.Fruit .*'apples'"):
        _model("Fruit", base, __module__="second", __tablename__="apples")


def test_a_model_that_was_refused_is_not_registered() -> None:
    base = dbm.declarative_base()
    apple = _model("Apple", base, __module__="first")
    with pytest.raises(dbm.InvalidRequestError):
        _model("Fruit", base, __module__="second", __tablename__="apples")
    assert list(base.registry) == [apple]


def test_a_model_that_was_refused_leaves_no_backref() -> None:
    base = dbm.declarative_base()
    tree = _model("Tree", base)
    _model("Apple", base, __module__="first")
    with pytest.raises(dbm.InvalidRequestError):
        _model("Apple", base, __module__="second", tree=peewee.ForeignKeyField(tree, backref="apples"))
    assert tree._meta.backrefs == {}


def test_models_of_two_bases_can_have_tables_of_one_name() -> None:
    one, two = dbm.declarative_base(), dbm.declarative_base()
    models = [_model("Apple", one), _model("Apple", two)]
    assert [list(base.registry) for base in (one, two)] == [[models[0]], [models[1]]]


def test_a_base_of_its_own_is_none_of_the_common_one(registry: Any) -> None:
    apple = _model("Apple", dbm.declarative_base())
    assert apple not in list(registry)
    assert not issubclass(apple, dbm.Base)


def test_a_reloaded_module_replaces_its_models(
    registry: Any, module: Callable[[str, str], ModuleType], tmp_path: Path, engine: Any
) -> None:
    source = (
        "class Tree(dbm.Base):\n    name = peewee.CharField()\n"
        "class Apple(dbm.Base):\n    tree = peewee.ForeignKeyField(Tree, backref='apples')\n"
    )
    fruit = module("reloaded_fruit", source)
    former = fruit.Apple
    with (tmp_path / "reloaded_fruit.py").open("a", encoding="utf-8") as file:
        file.write("    colour = peewee.CharField(default='red')\n")
    importlib.reload(fruit)
    assert fruit.Apple is not former
    assert list(registry) == [fruit.Tree, fruit.Apple]
    assert dbm.install_tables(engine) == ["trees", "apples"]
    with dbm.transaction(engine) as session:
        tree = fruit.Tree(name="old")
        session.add(fruit.Apple(tree=tree))
    with dbm.open_session(engine) as session:
        assert [apple.colour for apple in session.query(fruit.Tree).one().apples] == ["red"]


def test_a_reloaded_model_takes_over_the_backref_of_a_model_that_stays(
    registry: Any, module: Callable[[str, str], ModuleType], engine: Any
) -> None:
    trees = module("staying_trees", "class Tree(dbm.Base):\n    name = peewee.CharField()\n")
    apples = module(
        "leaving_apples",
        "from staying_trees import Tree\n"
        "class Apple(dbm.Base):\n    tree = peewee.ForeignKeyField(Tree, backref='apples')\n",
    )
    importlib.reload(apples)
    assert [field.model for field in trees.Tree._meta.backrefs] == [apples.Apple]
    dbm.install_tables(engine)
    with dbm.transaction(engine) as session:
        session.add(apples.Apple(tree=trees.Tree(name="old")))
    with dbm.open_session(engine) as session:
        assert type(session.query(trees.Tree).one().apples[0]) is apples.Apple


# Constructors


def test_a_constructor_takes_the_columns_by_keyword() -> None:
    ann = Person(name="Ann", age=3, tags=["a"])
    assert (ann.name, ann.age, ann.tags) == ("Ann", 3, ["a"])


def test_an_unknown_keyword_is_a_type_error_that_names_the_model_and_its_columns() -> None:
    with pytest.raises(TypeError, match=r"Person has no column 'nmae' .*id, name, email, age, born, score, tags"):
        Person(nmae="Ann")


def test_a_value_by_position_is_a_type_error_that_names_the_columns() -> None:
    with pytest.raises(TypeError, match=r"Person takes .* by keyword .*id, name, email"):
        Person("Ann")


@pytest.mark.parametrize(
    "name", ["save", "notes", "_owner", "_meta", "__data__", "DoesNotExist", "_committed", "dirty_fields"]
)
def test_what_is_no_column_can_not_be_set_by_a_constructor(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        Person(**{name: 1})


def test_a_foreign_key_takes_an_object_or_a_key() -> None:
    ann = Person(id=7, name="Ann")
    assert Note(person=ann).person is ann
    assert (Note(person=7).person_id, Note(person_id=7).person_id) == (7, 7)


def test_a_foreign_key_refuses_an_object_of_another_model() -> None:
    with pytest.raises(TypeError, match=r"Note\.person takes a Person"):
        Note(person=Note())


def test_defaults_are_there_at_once() -> None:
    ann = Person()
    assert (ann.score, ann.tags, ann.name, ann.id) == (0, [], None, None)


def test_a_default_that_is_called_is_called_for_each_object() -> None:
    one, two = Person(), Person()
    one.tags.append("a")
    assert (one.tags, two.tags, Person().tags) == (["a"], [], [])


def test_none_goes_before_a_default() -> None:
    assert Person(score=None).score is None


def test_a_property_can_be_set_by_keyword() -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

        @property
        def title(self) -> str:
            return f"HMS {self.name}"

        @title.setter
        def title(self, title: str) -> None:
            self.name = title.removeprefix("HMS ")

    assert Ship(title="HMS Ark").name == "Ark"


def test_a_property_that_can_not_be_set_is_a_type_error() -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

        @property
        def title(self) -> str:
            return f"HMS {self.name}"

    with pytest.raises(TypeError, match="title"):
        Ship(title="HMS Ark")


@pytest.mark.parametrize("verb", ["save", "create", "delete_instance"])
def test_peewees_verbs_of_a_model_that_is_bound_to_no_database_name_those_of_a_session(verb: str) -> None:
    person: Any = Person if verb == "create" else Person(name="Ann")
    with pytest.raises(peewee.InterfaceError, match=r"Person is bound to no database.*session\.(add|delete)\(obj\)"):
        getattr(person, verb)()


def test_a_query_that_is_bound_to_no_database_says_where_to_run_it() -> None:
    with pytest.raises(peewee.InterfaceError, match=r"session\.execute\(query\).*query\.execute\(engine\)"):
        list(Person.select())


def test_peewees_verbs_work_on_a_model_that_is_bound(engine: Any) -> None:
    with engine.bind_ctx([Person]):
        ann = Person.create(name="Ann")
        ann.name = "Anna"
        assert ann.save() == 1
        assert [person.name for person in Person.select()] == ["Anna"]
        assert ann.delete_instance() == 1
        assert Person.select().count() == 0


def test_a_constructor_of_its_own_can_take_more() -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

        def __init__(self, name: str | None = None, **values: Any) -> None:
            super().__init__(name=name, **values)

    assert Ship("Ark").name == "Ark"
    with pytest.raises(TypeError, match="Ship has no column 'tons'"):
        Ship("Ark", tons=3)


# repr


def test_repr_shows_the_class_the_key_and_a_few_columns() -> None:
    shown = repr(Person(id=7, name="Ann"))
    assert shown.startswith("<Person id=7")
    assert "name='Ann'" in shown


def test_repr_of_an_object_without_a_row_shows_that_it_has_no_key() -> None:
    assert repr(Person(name="Ann")).startswith("<Person id=None")


def test_repr_shortens_long_values() -> None:
    assert len(repr(Person(id=7, name="x" * 1000))) < 150


def test_repr_shows_a_relation_as_its_key_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Note(person=Person(id=7), text="one"))
    session.commit()
    session.expunge_all()
    note = session.query(Note).one()
    with statements() as ran:
        assert "person=7" in repr(note)
    assert ran == []


def test_repr_of_a_composite_key_shows_its_parts() -> None:
    class Seat(dbm.declarative_base()):  # type: ignore[misc]
        row = peewee.IntegerField()
        number = peewee.IntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("row", "number")

    assert repr(Seat(row=1, number=2)) == "<Seat row=1 number=2>"


def test_a_repr_of_its_own_is_kept() -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        def __repr__(self) -> str:
            return "a ship"

    assert repr(Ship()) == "a ship"


# Keys and fields of other kinds


def test_a_composite_key_finds_its_row(engine: Any) -> None:
    class Seat(dbm.declarative_base()):  # type: ignore[misc]
        row = peewee.IntegerField()
        number = peewee.IntegerField()
        name = peewee.CharField()

        class Meta:
            primary_key = peewee.CompositeKey("row", "number")

    dbm.install_tables(engine, models=[Seat])
    with dbm.transaction(engine) as session:
        session.add_all([Seat(row=row, number=number, name=f"{row}{number}") for row in (1, 2) for number in (1, 2)])
    with dbm.open_session(engine) as session:
        assert session.get(Seat, (2, 1)).name == "21"
        assert session.get(Seat, {"number": 2, "row": 1}).name == "12"


def test_a_deferred_foreign_key_works_once_its_model_is_there(engine: Any) -> None:
    base = dbm.declarative_base()

    class Hen(base):  # type: ignore[misc,valid-type]
        hatched_from = peewee.DeferredForeignKey("EggOfHen", null=True, backref="hens")

    class EggOfHen(base):  # type: ignore[misc,valid-type]
        laid_by = peewee.ForeignKeyField(Hen, null=True, backref="eggs")

    assert set(dbm.install_tables(engine, models=base)) == {"hens", "egg_of_hens"}
    with dbm.transaction(engine) as session:
        hen = Hen()
        egg = EggOfHen(laid_by=hen)
        session.add(egg)
        session.flush()
        hen.hatched_from = egg
    with dbm.open_session(engine) as session:
        hen = session.query(Hen).one()
        assert hen.hatched_from.laid_by is hen
        assert [egg.id for egg in hen.eggs] == [hen.hatched_from_id]


def test_a_field_that_is_added_later_is_a_column_like_any_other(engine: Any) -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

    dbm.install_tables(engine, models=[Ship])
    with dbm.transaction(engine) as session:
        session.add(Ship(name="Ark"))
    Ship._meta.add_field("tons", peewee.IntegerField(null=True))
    engine.execute_sql("ALTER TABLE ships ADD COLUMN tons INTEGER")
    with dbm.transaction(engine) as session:
        session.add(Ship(name="Bounty", tons=2))
        session.query(Ship).filter_by(name="Ark").one().tons = 1
    with dbm.open_session(engine) as session:
        assert session.query(Ship.name, Ship.tons).order_by(Ship.name).all() == [("Ark", 1), ("Bounty", 2)]


def test_models_of_one_class_name_have_indexes_of_their_own(engine: Any) -> None:
    base = dbm.declarative_base()
    models = [
        _model("Item", base, __module__=name, __tablename__=f"{name}_items", name=peewee.CharField(unique=True))
        for name in ("first", "second")
    ]
    dbm.install_tables(engine, models=base)
    for model in models:
        indexes = engine.get_indexes(model._meta.table_name)  # servers list that of the key, too
        assert [index.columns for index in indexes if index.unique and index.columns != ["id"]] == [["name"]]


def test_a_column_can_have_another_name_than_its_attribute(engine: Any) -> None:
    class Ship(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField(column_name="ship name")

    dbm.install_tables(engine, models=[Ship])
    with dbm.transaction(engine) as session:
        session.add(Ship(name="Ark"))
    [column] = [column for column in engine.get_columns("ships") if column.name != "id"]
    assert column.name == "ship name"
    assert list(engine.execute_sql(f"SELECT {quoted(engine, column.name)} FROM ships")) == [("Ark",)]
    with dbm.open_session(engine) as session:
        assert session.query(Ship).filter_by(name="Ark").one().name == "Ark"


def test_names_that_are_words_of_sql_are_quoted(engine: Any) -> None:
    class Order(dbm.declarative_base()):  # type: ignore[misc]
        __tablename__ = "order"
        group = peewee.CharField()
        where = peewee.CharField(null=True)

    dbm.install_tables(engine, models=[Order])
    with dbm.transaction(engine) as session:
        order = Order(group="a")
        session.add(order)
        session.flush()
        order.where = "here"
    with dbm.open_session(engine) as session:
        assert session.query(Order).filter_by(group="a").one().where == "here"
        session.delete(session.query(Order).one())
        session.commit()
        assert session.query(Order).count() == 0

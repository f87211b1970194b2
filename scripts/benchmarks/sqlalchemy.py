"""SQLAlchemy's ORM: Session, select(), and the settings it has by itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import DeclarativeBase, Session, relationship

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made

# It warns that SQLite stores decimals as floats, as it does for every peer here.
warnings.filterwarnings("ignore", "Dialect sqlite.* does \\*not\\* support Decimal", sa.exc.SAWarning)

TYPES = {
    "datetime": sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"),
    "float": sa.Float(53),
    "smallint": sa.SmallInteger(),
    "int": sa.Integer(),
    "bigint": sa.BigInteger(),
    "char": sa.String(255),
    "text": sa.Text(),
    "decimal": sa.Numeric(12, 8),
    "json": sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
}


class Base(DeclarativeBase):
    pass


def _journal(model: int) -> Any:
    attributes: dict[str, Any] = {"id": sa.Column(sa.Integer, primary_key=True)}
    for c in workload.COLUMNS[model]:
        default = None if c.default is None else sa.ColumnDefault(c.default)
        attributes[c.name] = sa.Column(TYPES[c.kind], default, nullable=c.is_null, index=c.is_indexed)
    if model == workload.RELATED:
        attributes.update(_relations(attributes["id"]))
    table = {"__module__": __name__, "__tablename__": workload.table_of(model)}
    return type(f"Journal{model}", (Base,), {**table, **attributes})


def _relations(key: Any) -> dict[str, Any]:
    parent = sa.ForeignKey("journal2.id", ondelete="SET NULL")
    # passive_deletes: the database does what ON DELETE says, and no children are loaded for it
    return {
        "parent_id": sa.Column(sa.Integer, parent, index=True),
        "parent": relationship("Journal2", remote_side=key, back_populates="children"),
        "children": relationship("Journal2", back_populates="parent", passive_deletes=True),
        "related": relationship(
            "Journal2",
            secondary=related,
            primaryjoin=key == related.c.journal_id,
            secondaryjoin=key == related.c.journal_from_id,
            back_populates="related_from",
            passive_deletes=True,
        ),
        "related_from": relationship(
            "Journal2",
            secondary=related,
            primaryjoin=key == related.c.journal_from_id,
            secondaryjoin=key == related.c.journal_id,
            back_populates="related",
            passive_deletes=True,
        ),
    }


related = sa.Table(
    "journal_related",
    Base.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("journal_id", sa.ForeignKey("journal2.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("journal_from_id", sa.ForeignKey("journal2.id", ondelete="CASCADE"), nullable=False, index=True),
)
JOURNALS = {model: _journal(model) for model in workload.MODELS}


class User(Base):
    __tablename__ = "users"

    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(255), unique=True, nullable=False)
    bio = sa.Column(sa.Text)
    joined = sa.Column(TYPES["datetime"], default=workload.now, nullable=False)
    profiles = relationship("Profile", back_populates="user", passive_deletes=True, cascade="all, delete-orphan")


class Profile(Base):
    __tablename__ = "profiles"

    id = sa.Column(sa.Integer, primary_key=True)
    user_id = sa.Column(sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)
    kind = sa.Column(sa.String(255), nullable=False)
    content = sa.Column(sa.Text, nullable=False)
    user = relationship(User, back_populates="profiles")


class Peer:
    def __init__(self, database: Database) -> None:
        self.engine = sa.create_engine(_url(database), connect_args=database.options)
        if database.kind == "sqlite":
            sa.event.listen(self.engine, "connect", _set_pragmas)

    def close(self) -> None:
        self.engine.dispose()

    def scalar(self, sql: str) -> Any:
        with Session(self.engine) as session:
            return session.scalar(sa.text(sql))

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, Session(self.engine) as session:
            for journal in made(JOURNALS[model], model, rows):
                session.add(journal)
                session.commit()

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, Session(self.engine) as session:
            for journal in made(JOURNALS[model], model, rows):
                session.add(journal)
            session.commit()

    def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, Session(self.engine) as session:
            session.add_all(made(JOURNALS[model], model, rows))
            session.commit()

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch, Session(self.engine) as session:
            for level in levels:
                found = session.scalars(sa.select(journal).where(journal.level == level)).all()
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch, Session(self.engine) as session:
            for level, offset in pages:
                page = sa.select(journal).where(journal.level == level).limit(workload.PAGE).offset(offset)
                found = session.scalars(page).all()
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, journal = 0, None
        with watch, Session(self.engine) as session:
            for key in keys:
                journal = session.get(JOURNALS[model], key)
                count += journal is not None
        return count, [journal]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        table, count, found = JOURNALS[model].__table__, 0, []
        with watch, Session(self.engine) as session:
            for level in levels:
                found = session.execute(sa.select(table).where(table.c.level == level)).mappings().all()
                count += len(found)
        return count, found

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        table, count, found = JOURNALS[model].__table__, 0, []
        with watch, Session(self.engine) as session:
            for level in levels:
                found = session.execute(sa.select(table).where(table.c.level == level)).all()
                count += len(found)
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal, change in zip(journals, changes):
                for name, value in change.items():
                    setattr(journal, name, value)
            session.commit()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal, level in zip(journals, levels):
                journal.level = level
            session.commit()

    def delete(self, model: int, watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal in journals:
                session.delete(journal)
            session.commit()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        with self._loaded(1) as (session, journals):
            keys = [journal.id for journal in journals]
            with watch:
                return sum(session.get(JOURNALS[1], key) is not None for _ in range(rounds) for key in keys)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch, Session(self.engine) as session:
            found = (session.scalars(sa.select(User).where(User.name == name).limit(1)).first() for name in names)
            return sum(user is not None for user in found)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, Session(self.engine) as session:
            for name in names:
                session.add(User(name=name, profiles=[Profile(**values) for values in workload.profiles_of(name)]))
            session.commit()

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch, Session(self.engine) as session:
            profiles = session.scalars(sa.select(Profile).where(Profile.kind == FIRST_KIND))
            return [profile.user.name for profile in profiles]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        with self._loaded(1) as (session, journals):
            for number in range(commits):
                with watch:
                    journals[0].text = f"change {number}"
                    session.commit()

    def stream(self, watch: Stopwatch) -> int:
        with watch, Session(self.engine) as session:
            return sum(1 for _ in session.scalars(sa.select(JOURNALS[1]).execution_options(yield_per=1_000)))

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        with self._loaded(1) as (_, journals):
            yield journals

    @contextlib.contextmanager
    def _loaded(self, model: int) -> Iterator[tuple[Session, Sequence[Any]]]:
        """Open a session with all objects, in the order of their keys."""
        with Session(self.engine) as session:
            yield session, session.scalars(sa.select(JOURNALS[model]).order_by(JOURNALS[model].id)).all()


def _url(database: Database) -> Any:
    if database.kind == "sqlite":
        return sa.URL.create("sqlite", database=database.name)
    login = {"host": database.host, "port": database.port, "username": database.user, "password": database.password}
    dialect = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[database.kind]
    return sa.URL.create(dialect, database=database.name, **login)


def _set_pragmas(connection: Any, _: Any) -> None:
    for pragma, value in PRAGMAS.items():
        connection.execute(f"PRAGMA {pragma} = {value}")

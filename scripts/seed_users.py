"""Fill a Tent database with sample users and their profiles, and show a few of them.

    python scripts/seed_users.py tent.db --count 1000 --seed 1
    python scripts/seed_users.py postgresql://tent:password@localhost/tent

Tables that are missing are installed. User number n is made from the seed and n alone. So the same seed fills a new
database with the same users, and another run goes on where the last one ended, be it done or interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import io
import random
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import peewee

from tent.data import dbm
from tent.data.user import BASIC, CORE, Profile, User, entity_id

try:
    from faker import Faker
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'seed_users.py: {error.name} is not installed. Run: pip install -e ".[scripts]"')

BATCH = 1_000  # users a commit
POOL = 300  # names that are drawn for a land; Faker takes too long to be asked for each user
SHOWN = 5
FIRST_BIRTHDAY = datetime.date(1935, 1, 1)
DAYS = 75 * 365

LANDS = {
    "bn_BD": "{first} {last}",
    "de_DE": "{first} {last}",
    "el_GR": "{first} {last}",
    "en_US": "{first} {last}",
    "es_MX": "{first} {last}",
    "fa_IR": "{first} {last}",
    "fr_FR": "{first} {last}",
    "hi_IN": "{first} {last}",
    "ja_JP": "{last} {first}",
    "ka_GE": "{first} {last}",
    "ko_KR": "{last}{first}",
    "pl_PL": "{first} {last}",
    "pt_BR": "{first} {last}",
    "th_TH": "{first} {last}",
    "uk_UA": "{first} {last}",
    "zh_CN": "{last}{first}",
}
LICENSES = ("http://creativecommons.org/licenses/by/3.0/", "http://creativecommons.org/licenses/by-nc-sa/3.0/")
GENDERS = ("female", "male")


class Land(NamedTuple):
    """What the users of a land are made of; names are by gender."""

    full_name: str
    first_names: dict[str, list[str]]
    last_names: dict[str, list[str]]
    cities: list[str]
    jobs: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    arguments = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack the letters of some names
    try:
        engine = dbm.connect(config_of(arguments.database))
        try:
            dbm.install_tables(engine, models=[User, Profile])
            return run(engine, arguments)
        finally:
            engine.close_all()
    except (dbm.DataLayerError, peewee.PeeweeException) as error:
        print(f"seed_users.py: {' '.join(str(error).split())}", file=sys.stderr)  # servers say it in several lines
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="seed_users.py", description="Fill a Tent database with sample users, and show a few of them.")
    parser.add_argument(
        "database", nargs="?", default="tent.db", help="an SQLite file, or the URL of a database (default: tent.db)"
    )
    parser.add_argument("--count", type=natural, default=1_000, help="how many users to add (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="another number gives other users (default: 1)")
    return parser.parse_args(argv)


def config_of(database: str) -> Any:
    """Return the config of a database that is given by a path or a URL."""
    return database if re.match(r"\w+://", database) else {"driver": "sqlite", "path": database}


def place(engine: dbm.Engine) -> str:
    """Return where the database is, as a report can say it: with no password."""
    return str(engine.database) if engine.kind == "sqlite" else f"{engine.database} at {engine.place}"


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def run(engine: dbm.Engine, arguments: argparse.Namespace) -> int:
    start, before, interrupted = time.perf_counter(), users_in(engine), False
    try:
        seed(engine, arguments.count, arguments.seed)
    except KeyboardInterrupt:
        interrupted = True
    seconds, total = time.perf_counter() - start, users_in(engine)
    added = total - before if interrupted else arguments.count
    report = f"{added:,} users in {seconds:.1f} s; {place(engine)} has {total:,} in all."
    if interrupted:
        print(f"Interrupted. Committed, and there to stay: {report}", file=sys.stderr)
        return 130
    show(engine)
    print(f"Added {report}")
    return 0


def seed(engine: dbm.Engine, count: int, seed: int) -> None:
    """Add users, so many a transaction that memory stays small and a commit is worth its cost."""
    lands = draw_lands(seed)
    with tqdm(total=count, unit=" users", disable=None) as bar:  # None: no bar unless standard error is a terminal
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            # Serializable, for the sake of servers: nobody else may take the same numbers.
            dbm.run_transaction(
                engine, lambda session: add_users(session, lands, seed, size), isolation_level="SERIALIZABLE"
            )
            bar.update(size)


def add_users(session: dbm.Session, lands: Sequence[Land], seed: int, count: int) -> None:
    # The numbers go on from the last user's. They are the keys, since those that a server generates have gaps.
    last = session.query(peewee.fn.MAX(User.id)).scalar() or 0
    for number in range(last + 1, last + 1 + count):
        user = make_user(lands, seed, number)
        session.add_all([user, *make_profiles(user)])


def users_in(engine: dbm.Engine) -> int:
    with dbm.open_session(engine) as session:
        return session.query(User).count()


def show(engine: dbm.Engine) -> None:
    with dbm.open_session(engine) as session:
        latest = session.query(User).order_by(User.id.desc()).limit(SHOWN).all()
        for user in reversed(latest):
            print(f"  {user.name}, {user.birthdate}, {user.location}: {user.bio} <{user.entity_id}>")


def draw_lands(seed: int) -> list[Land]:
    return [draw_land(Faker(locale), full_name, seed) for locale, full_name in LANDS.items()]


def draw_land(faker: Any, full_name: str, seed: int) -> Land:
    faker.seed_instance(seed)
    return Land(
        full_name,
        {gender: [getattr(faker, f"first_name_{gender}")() for _ in range(POOL)] for gender in GENDERS},
        {gender: [getattr(faker, f"last_name_{gender}")() for _ in range(POOL)] for gender in GENDERS},
        [faker.city() for _ in range(POOL)],
        [faker.job() for _ in range(POOL)],
    )


def make_user(lands: Sequence[Land], seed: int, number: int) -> User:
    """Return the user of a number. It ends the `entity_id`, since people share names."""
    chance = random.Random(f"{seed}/{number}")
    land, gender = chance.choice(lands), chance.choice(GENDERS)
    name = land.full_name.format(
        first=chance.choice(land.first_names[gender]), last=chance.choice(land.last_names[gender])
    )
    home = entity_id(f"{name} {number}")
    return User(
        name,
        id=number,
        entity_id=home,
        avatar_url=f"{home}/avatar.png",
        birthdate=FIRST_BIRTHDAY + datetime.timedelta(days=chance.randrange(DAYS)),
        location=chance.choice(land.cities),
        gender=gender,
        bio=chance.choice(land.jobs),
        licenses=[chance.choice(LICENSES)],
        servers=[f"{home}/tent"],
    )


def make_profiles(user: User) -> list[Profile]:
    core = {"entity": user.entity_id, "licenses": user.licenses, "servers": user.servers}
    basic = {name: getattr(user, name) for name in ("name", "avatar_url", "location", "gender", "bio")}
    basic["birthdate"] = user.birthdate.isoformat()
    contents = {CORE: core, BASIC: basic}
    return [Profile(user=user, type=kind, content=c, permissions={"public": True}) for kind, c in contents.items()]


if __name__ == "__main__":
    sys.exit(main())

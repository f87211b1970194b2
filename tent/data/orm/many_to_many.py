"""Many-to-many fields: Peewee's, with links that are objects of a model which is tracked like every other."""

from __future__ import annotations

from typing import Any

import peewee

from .accessors import ManyToManyAccessor
from .errors import ArgumentError


def prepare(field: Any, model: Any, name: str, root: type) -> None:
    """Let a many-to-many field, which a model is about to get, have a model for its links that inherits from `root`."""
    field.accessor_class = ManyToManyAccessor
    through = field._through_model
    if through is None:
        field._through_model = _make_links(field, model, root)
    elif isinstance(through, type) and not issubclass(through, root):
        raise ArgumentError(f"{model.__name__}.{name} needs a through_model that inherits from dbm.Base: {through!r}.")


def _make_links(field: Any, model: Any, root: type) -> Any:
    """Return the model of the rows in between, with the names that Peewee gives them."""
    other = field.rel_model
    if other is model:
        raise ArgumentError(
            f"{model.__name__} needs a through_model for a many-to-many field to itself: a model with two foreign keys "
            "to it, the first of which says whose the relation is."
        )
    name, names = f"{model.__name__}{other.__name__}Through", (model._meta.name, other._meta.name)
    options = {
        "schema": model._meta.schema,
        "table_name": f"{model._meta.table_name}_{other._meta.table_name}_through",
        "indexes": ((names, True),),
    }
    attributes = {
        names[0]: peewee.ForeignKeyField(model, on_delete=field._on_delete, on_update=field._on_update),
        names[1]: peewee.ForeignKeyField(other, on_delete=field._on_delete, on_update=field._on_update),
        "Meta": type("Meta", (), options),
        "registry": model.registry,
        "__abstract__": model.__dict__.get("__abstract__", False),
        "__module__": model.__module__,
        "__qualname__": f"{model.__qualname__}.{name}",
        "__doc__": f"The links between {model.__name__} and {other.__name__}.",
    }
    links: Any = type(root)(name, (root,), attributes)
    links._meta.is_hidden = True
    setattr(model, name, links)  # so that a pickled link finds its class
    return links

"""Families of interchangeable parts (models, codecs, aggregation rules), one file each, found by name.

A family is a package. A file in it registers itself on import with `@family.register("name")`; the package's files are
imported at the first look-up, so that adding a member is adding one file.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from mpsl.errors import UsageError
from mpsl.names import nearest

Member = TypeVar("Member")

MAX_LISTED = 5
"""Members of a family that an error lists."""


class Registry(Generic[Member]):
    """The members of one family by name; `package` is the dotted name of the package that holds their files."""

    def __init__(self, family: str, package: str) -> None:
        self._family = family
        self._package = package
        self._members: dict[str, Member] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Member], Member]:
        """Decorator: file the decorated object under `name`. Two members of one name are a programming error."""

        def decorate(member: Member) -> Member:
            if name in self._members:
                raise ValueError(f"{self._family} {name!r} is registered twice")
            self._members[name] = member
            return member

        return decorate

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._members)

    def get(self, name: str) -> Member:
        """The member called `name`; raises UsageError with the nearest name, and all of them where they are few."""
        self._load()
        if name not in self._members:
            hint = nearest(name, self._members)
            if len(self._members) <= MAX_LISTED and hint.endswith("?"):
                hint += f" choose from: {', '.join(self.names())}"
            raise UsageError(f"unknown {self._family} {name!r}; {hint}")
        return self._members[name]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")

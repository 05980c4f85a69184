"""Families of interchangeable parts (models, codecs, optimizers, rules), one file each, found by name.

A family is a package. A file in it registers itself on import with `@family.register("name")`; the package's files are
imported at the first look-up, so adding a member means adding one file. Some families also take members from other
installed packages, which name them in an entry-point group; docs/where-to-change.md shows how.

A member from outside must never replace one of the project: a name means the same on every machine of a run.
"""

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from mpsl.errors import UsageError
from mpsl.names import nearest

Member = TypeVar("Member")


class Registry(Generic[Member]):
    """The members of one family by name.

    `package` is the dotted name of the package that holds their files, `group` the entry-point group of members from
    other packages. Such a member is imported when it is first asked for, and not before.
    """

    def __init__(self, family: str, package: str, group: str | None = None) -> None:
        self._family = family
        self._package = package
        self._group = group
        self._members: dict[str, Member] = {}
        self._loaded = False
        self._outside: dict[str, EntryPoint] | None = None

    def register(self, name: str) -> Callable[[Member], Member]:
        """Decorator: register the object under `name`. Two members of one name are a programming error."""

        def decorate(member: Member) -> Member:
            if name in self._members:
                raise ValueError(f"{self._family} {name!r} is registered twice")
            self._members[name] = member
            return member

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted. Raises UsageError if another package claims a name that is taken."""
        self._load()
        return sorted({*self._members, *self._entry_points()})

    def get(self, name: str) -> Member:
        """Return the member called `name`.

        Raises UsageError for an unknown name, with the nearest one, and for a member of another package that cannot be
        imported.
        """
        self._load()
        if name not in self._members and name in self._entry_points():
            self._import(self._entry_points()[name])
        if name not in self._members:
            raise UsageError(f"unknown {self._family} {name!r}; {nearest(name, self.names())}")
        return self._members[name]

    def _load(self) -> None:
        """Import the files of the family's own package."""
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")

    def _entry_points(self) -> dict[str, EntryPoint]:
        """Return the members that other packages offer, by name. Looked up once; nothing is imported."""
        if self._outside is None:
            found: dict[str, EntryPoint] = {}
            for point in entry_points(group=self._group) if self._group else ():
                if point.name in self._members or point.name in found:
                    raise UsageError(f"{self._described(point)}: the name is taken; it needs another one")
                found[point.name] = point
            self._outside = found
        return self._outside

    def _import(self, point: EntryPoint) -> None:
        try:
            point.load()
        except Exception as error:  # whatever the code of another package raises
            raise UsageError(f"{self._described(point)} cannot be imported: {error!r}") from error
        if point.name not in self._members:
            raise UsageError(f"{self._described(point)}: importing {point.value!r} has not registered that name")

    def _described(self, point: EntryPoint) -> str:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        return f"{self._family} {point.name!r} of {package}"

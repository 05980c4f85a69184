"""Reads external data (TOML, JSON, msgpack: plain dicts) into frozen dataclasses, strictly.

Unknown keys are refused with the nearest known name, types are not coerced, and every error names the place. A fact's
own `__post_init__` checks its ranges and raises ValueError with the text that the person reads.
"""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mpsl.errors import UsageError
from mpsl.names import nearest

Fact = TypeVar("Fact")


def read(kind: type[Fact], data: object, where: str) -> Fact:
    """Return `data` as a `kind`; raises UsageError whose text begins with `where` (a file, a topic)."""
    _refuse_unknown(kind, data, where)
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {_readable(_with_key(kind, data, _with_values(kind, str(error))))}") from None


def plain(fact: object) -> Any:
    """Return the inverse of `read`: dicts, lists, strings and numbers only, ready for JSON or msgpack.

    It has every field, including defaults (msgspec's own inverse leaves out unset fields).
    """
    if dataclasses.is_dataclass(fact) and not isinstance(fact, type):
        return {field.name: plain(getattr(fact, field.name)) for field in dataclasses.fields(fact)}
    if isinstance(fact, Mapping):
        return {key: plain(value) for key, value in fact.items()}
    if isinstance(fact, list | tuple):
        return [plain(value) for value in fact]
    return fact


def _readable(error: str) -> str:
    """msgspec's text with its path first: 'Expected `int` - at `$.run.rounds`' -> 'run.rounds: Expected `int`'."""
    text, separator, path = error.rpartition(" - at `$")
    place = path.strip("`").lstrip(".")
    return f"{place}: {text}" if separator and not text.startswith(f"{place}: ") else text if separator else error


def _with_values(kind: object, error: str) -> str:
    """Add the allowed values to msgspec's text about a value that is none of them."""
    found = re.match(r"Invalid enum value '?(.*?)'? - at `\$(.*)`\Z", error)
    if found is None:
        return error
    value, path = found.groups()
    for step in re.findall(r"\w+|\[", re.sub(r"\[[^]]*]", "[", path)):
        kind = _without_none(kind)
        if step == "[":
            kind = typing.get_args(kind)[typing.get_origin(kind) in (dict, Mapping)]
        else:
            kind = _type_hints(typing.cast("type", kind))[step]
    allowed = [str(each) for each in typing.get_args(_without_none(kind))]
    return f"unknown value {value!r}; {nearest(value, allowed)} - at `${path}`"


def _without_none(kind: object) -> object:
    """Return the type of an optional."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


def _with_key(kind: type, data: object, error: str) -> str:
    """Replace the [...] in msgspec's text by the key of the mapping's value."""
    if isinstance(data, Mapping) and "[...]" in error:
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            values, arguments = data.get(field.name), typing.get_args(_type_hints(kind)[field.name])
            for key, value in values.items() if isinstance(values, Mapping) and len(arguments) > 1 else ():
                try:
                    msgspec.convert(value, arguments[1], strict=True)
                except msgspec.ValidationError:
                    return error.replace(f"{field.name}[...]", f"{field.name}.{key}", 1)
    return error


def _refuse_unknown(kind: object, data: object, where: str) -> None:
    for part in _dataclasses_in(kind):
        if isinstance(data, Mapping):
            fields = {field.name: field.type for field in dataclasses.fields(part)}
            hints = _type_hints(part)
            for key, value in data.items():
                if key not in fields:
                    raise UsageError(f"{where}: unknown key {key!r}; {nearest(str(key), fields)}")
                _refuse_unknown(hints[key], value, f"{where}: {key}")
            return
    arguments = typing.get_args(kind)
    if isinstance(data, list | tuple) and arguments:
        for number, item in enumerate(data):
            _refuse_unknown(arguments[0], item, f"{where}[{number}]")
    elif isinstance(data, Mapping) and typing.get_origin(kind) in (dict, Mapping) and arguments:
        for key, value in data.items():
            _refuse_unknown(arguments[1], value, f"{where}: {key}")


_type_hints = functools.cache(typing.get_type_hints)


def _dataclasses_in(kind: object) -> list[type]:
    """Return the dataclasses that a value of `kind` can have: itself, or the members of an optional."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(kind) if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return [kind] if isinstance(kind, type) and dataclasses.is_dataclass(kind) else []

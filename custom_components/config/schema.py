"""Declare the fields of a config, and find and check them by their dotted keys."""

import dataclasses
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from omegaconf import MISSING

from custom_components.config.errors import UserError, nearest

COMMAND_LINE = "the command line"
"""Place of an override in error messages."""


def option(default: Any, doc: str, verbatim: bool = False, least: float | None = None) -> Any:
    """Declare a dataclass field with its default and one line of documentation.

    Args:
        default: Value, or a factory if it is callable; `MISSING` makes the value required.
        doc: Line of the configuration reference.
        verbatim: Take even `${...}` in an override as text: for prose and mathematics.
        least: Smallest value that `load` accepts.
    """
    metadata = {"doc": doc, "verbatim": verbatim, "least": least}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(doc: str, least: float | None = None) -> Any:
    """Declare a dataclass field that the YAML or the command line must set."""
    return option(MISSING, doc, least=least)


def field_names(kind: Any) -> list[str]:
    """Return the keys of a dataclass; none for other types."""
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def type_at(schema: Any, key: str) -> Any:
    """Return the type of a dotted key; None if there is no such key, or it is a component's."""
    kind = schema
    for part in key.split("."):
        kind = without_none(kind)
        if dataclasses.is_dataclass(kind):
            kind = {f.name: f.type for f in dataclasses.fields(kind)}.get(part)
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            return None
    return kind


def without_none(kind: Any) -> Any:
    """Return `X` for the type `X | None`, and other types unchanged."""
    rest = [k for k in get_args(kind) if k is not NoneType]
    return rest[0] if NoneType in get_args(kind) and len(rest) == 1 else kind


def is_verbatim(schema: type, key: str) -> bool:
    """Tell whether a top-level key is declared as verbatim."""
    return any(f.name == key and f.metadata.get("verbatim") for f in dataclasses.fields(schema))


def check_shape(kind: Any, value: Any, key: str, where: str) -> None:
    """Refuse a value outside a `Literal`, and a single value in place of a list or a group of keys.

    OmegaConf's own messages on these do not say what to write.

    Args:
        kind: Type of the key.
        value: Value to check, as plain Python objects.
        key: Dotted key; empty for the whole config.
        where: Config file, or `COMMAND_LINE`.

    Raises:
        UserError: When a value has another shape; names the key and how to write it.
    """
    kind = without_none(kind)
    if value is None or (isinstance(value, str) and ("${" in value or value == MISSING)):
        return
    equals = "=" if where == COMMAND_LINE else ": "
    if get_origin(kind) is Literal and value not in get_args(kind):
        *others, last = map(str, get_args(kind))
        raise UserError(f"{where}: {key} must be {', '.join(others)} or {last}, not {value!r}")
    if dataclasses.is_dataclass(kind) or get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: key {key!r} has keys of its own, it cannot be {value!r}; "
                f"write {key}.<key>{equals}...{nearest('', field_names(kind))}"
            )
        for name, child in value.items():
            check_shape(type_at(kind, str(name)), child, f"{key}.{name}".lstrip("."), where)
    elif get_origin(kind) is list:
        if not isinstance(value, list):
            one = "..." if isinstance(value, dict) else value
            raise UserError(f"{where}: key {key!r} is a list; write {key}{equals}[{one}]")
        for i, child in enumerate(value):
            check_shape(get_args(kind)[0], child, f"{key}.{i}", where)


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check each value of a config against the `least` of its field.

    Args:
        config: Instance of a dataclass.
        prefix: Dotted key of `config` with a dot at its end, for the message.

    Raises:
        UserError: On the first value that is too small.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        least, key = field.metadata.get("least"), f"{prefix}{field.name}"
        if least is not None and value is not None and value < least:
            raise UserError(f"{key} must be at least {least}, not {value}")
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{key}.")
        for i, item in enumerate(value if isinstance(value, list) else []):
            if dataclasses.is_dataclass(item):
                check_ranges(item, f"{key}.{i}.")

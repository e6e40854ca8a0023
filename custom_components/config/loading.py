"""Merge a YAML file and `key=value` overrides into a dataclass."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from custom_components.config.components import check_component, find_components
from custom_components.config.errors import UserError, nearest
from custom_components.config.schema import (
    COMMAND_LINE,
    check_ranges,
    check_shape,
    field_names,
    is_verbatim,
    type_at,
)

Config = TypeVar("Config")


def load(
    schema: type[Config], config_path: str | os.PathLike | None, overrides: list[str] | None = None
) -> Config:
    """Merge a config file and overrides into a schema.

    The value of an override is YAML, except for a field of type `str` or `str | None`: there it is
    text, taken literally (`010`, `yes`, `a: b`, `x # y`). Quotes around the whole text are removed,
    `null` is None, and `${key}` is the value of another key unless the field is `verbatim`.

    An override `key={_component_: ..., ...}` replaces the whole node; `key._component_=...`
    changes the path alone and keeps the arguments.

    Args:
        schema: Dataclass of the config.
        config_path: YAML file; None for none.
        overrides: `key=value` strings.

    Returns:
        Instance of `schema`, with interpolations resolved and `_component_` nodes as plain dicts.

    Raises:
        UserError: On any key, type, value or builder argument that does not fit.
    """
    node = read_yaml(config_path) if config_path is not None else OmegaConf.create()
    file = where = str(config_path or COMMAND_LINE)
    check_shape(schema, OmegaConf.to_container(node), "", where)
    try:
        cfg: Any = OmegaConf.merge(OmegaConf.structured(schema), node)
        where = COMMAND_LINE
        for override in overrides or []:
            cfg = _with_override(cfg, schema, override)
        where = file
        result: Any = OmegaConf.to_object(
            cfg
        )  # resolves each value once: an escaped \${ stays text
    except OmegaConfBaseException as e:
        raise UserError(_explain(e, where)) from e
    check_ranges(result)
    for key, component in find_components(dataclasses.asdict(result)):
        check_component(component, key)
    return result


def read_yaml(config_path: str | os.PathLike) -> DictConfig:
    """Read a config file, without a schema and with its interpolations unresolved.

    Raises:
        UserError: When there is no such file, or it does not hold YAML with key: value pairs.
    """
    path = Path(config_path)
    if not path.is_file():
        raise UserError(
            f"config file {path} does not exist; pass --config configs/<track>/<x>.yaml"
        )
    try:
        # OmegaConf takes a lone word for a key, and fails on a lone number
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path} must hold key: value pairs")
        return _mapping(OmegaConf.load(path))
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8") from e
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    except OmegaConfBaseException as e:
        raise UserError(_explain(e, str(path))) from e


def _mapping(node: Any) -> DictConfig:
    """Return a node that OmegaConf types as any of its containers, but that is a mapping here."""
    return cast(DictConfig, node)


def _with_override(cfg: DictConfig, schema: type, override: str) -> DictConfig:
    key, value = _key_and_value(override, schema)
    check_shape(type_at(schema, key), value, key, COMMAND_LINE)
    if isinstance(value, dict) and "_component_" in value:
        # a whole node names another builder, which does not take the old one's arguments
        OmegaConf.update(cfg, key, {}, merge=False)
    if any(part.isdigit() for part in key.split(".")):
        OmegaConf.update(cfg, key, value)  # OmegaConf.merge cannot address an item of a list
        return cfg
    change = OmegaConf.create()
    OmegaConf.update(change, key, value)
    try:
        return _mapping(OmegaConf.merge(cfg, change))
    except TypeError as e:  # a key below a list
        raise UserError(
            f"{COMMAND_LINE}: key {key!r} is not there; items of a list go by their number"
        ) from e


def _key_and_value(override: str, schema: type) -> tuple[str, Any]:
    key, sep, text = override.partition("=")
    if not sep or not key or key.startswith("-"):
        raise UserError(f"override {override!r} is not of the form key=value")
    kind = type_at(schema, key)
    if kind in (str, str | None):
        return key, _text(text.strip(), kind is not str, is_verbatim(schema, key))
    try:
        container = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        return key, cast(dict[str, Any], container)["value"]
    except (yaml.YAMLError, GrammarParseError) as e:
        raise UserError(
            f"override {override!r}: the value is not valid YAML; a text with such signs needs "
            f"quotes that the shell leaves: {key}='\"...\"'"
        ) from e


def _text(text: str, optional: bool, verbatim: bool) -> str | None:
    if text == "null" or (optional and not text):
        return None
    if quoted := re.fullmatch(r"""(["'])((?:(?!\1).)*)\1""", text, re.DOTALL):
        text = quoted[2]
    if verbatim:  # escape each ${ as OmegaConf wants it: with doubled backslashes before it
        text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)
    return text


def _explain(e: OmegaConfBaseException, where: str) -> str:
    key = e.full_key or e.key
    if isinstance(e, MissingMandatoryValue):
        return f"{where}: required key {key!r} has no value; set {key}=..."
    if isinstance(e, ConfigKeyError | ConfigAttributeError):
        names = field_names(e.object_type)
        return f"{where}: unknown key {key!r}{nearest(str(key).split('.')[-1], names)}"
    if isinstance(e, GrammarParseError):
        return f"{where}: key {key!r}: cannot read what follows ${{; write \\${{ where it is text"
    named = f"key {key!r}: " if key else ""
    return f"{where}: {named}{str(e).splitlines()[0]}"

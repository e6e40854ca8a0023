"""Load structured configs, build their components, and run recipes from the command line.

A recipe declares a dataclass; a YAML file and `key=value` overrides are merged into it. A mistyped
key, a wrong type or a missing value stops the run at once, in one line that names the key and the
nearest valid one. Nodes with `_component_` keep torchtune's form: a dotted path and the builder's
own keyword arguments, which are checked against its signature before anything is loaded.
"""

from custom_components.config.command_line import (
    Recipe,
    command_line,
    errors_in_one_line,
    recipe_main,
    schema_of,
)
from custom_components.config.components import (
    Component,
    check_component,
    find_components,
    get_component,
    instantiate,
)
from custom_components.config.errors import UserError, nearest
from custom_components.config.loading import load, read_yaml
from custom_components.config.schema import option, required

__all__ = [
    "Component",
    "Recipe",
    "UserError",
    "check_component",
    "command_line",
    "errors_in_one_line",
    "find_components",
    "get_component",
    "instantiate",
    "load",
    "nearest",
    "option",
    "read_yaml",
    "recipe_main",
    "required",
    "schema_of",
]

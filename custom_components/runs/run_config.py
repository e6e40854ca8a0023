"""Declare the keys that every run has."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from custom_components.config import option, required


@dataclass
class RunConfig:
    """Configure where a run writes, its seed, and whether it may resume.

    Attributes:
        LOCAL: Keys of `inputs()` that must name a file or folder on this disk. Others may also
            name something on the hub.
    """

    output_dir: str = required("run folder")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    seed: int = option(0, "seed of everything random in the run")
    resume: Literal["auto", "never"] = option(
        "auto", "auto: resume what was stopped and keep what is complete; never: start over"
    )

    LOCAL: ClassVar[tuple[str, ...]] = ()

    def inputs(self) -> dict[str, str]:
        """Return everything the run reads: {dotted key: path or hub id}, without empty ones."""
        return {}


def named_inputs(node: Any, key: str, *arguments: str) -> dict[str, str]:
    """Return {key.argument: value} of those arguments of a component that name something.

    Args:
        node: `_component_` node, or None.
        key: Dotted key of the node.
        arguments: Names of arguments that hold a path or a hub id.
    """
    values = (
        {f"{key}.{name}": node.get(name) for name in arguments} if isinstance(node, dict) else {}
    )
    return {name: str(value) for name, value in values.items() if value}

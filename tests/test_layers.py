"""Imports go down: packages form layers, and no two of them import each other."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = """
config launch
figures io
http hub
runs tokenizer verifier losses
models cards
data
engines training
rl
eval
doctor report
chain
recipes reference
"""
"""From the ground up, the same as in docs/ARCHITECTURE.md. A package imports from lower lines only."""


def package_of(module: str) -> str | None:
    """Return the package or top-level module a dotted name belongs to; None where it is not ours."""
    first, _, rest = module.partition(".")
    if first in ("eval", "recipes"):
        return first
    return rest.partition(".")[0] if first == "custom_components" and rest else None


def imported(file: Path):
    """Yield the dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_down():
    levels = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}
    upward = []
    for folder in ("custom_components", "eval", "recipes"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            source = package_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
            for target in map(package_of, imported(file)):
                if target and source != target and levels[target] >= levels[source]:
                    upward.append(f"{file.relative_to(ROOT)} imports {target}")
    assert not upward

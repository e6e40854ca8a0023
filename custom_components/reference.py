"""Make the configuration reference from the recipes' dataclasses and the builders' docstrings.

    python -m custom_components.reference > docs/CONFIGURATION.md

Run it in the checkout. A test fails as long as the file differs from this output.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from custom_components.config import get_component, schema_of
from custom_components.doctor.doctor_config import DoctorKeys
from custom_components.rl.rl_config import RLConfig
from custom_components.runs.manifest import ROOT
from custom_components.training.training_config import TrainingConfig

SHARED = (TrainingConfig, RLConfig)
"""Dataclasses whose keys several recipes have. Each is shown once."""

COMPONENTS = {
    "`source` of start.yaml": {"models.start": "random_tiny pretrained gguf"},
    "`problems` of rollout, grpo, ppo and evaluate": {
        "data.problems": "table gsm8k",
        "data.column_addition": "column_addition",
    },
    "`sources` of curate.yaml": {
        "data.sources": "rollouts jsonl openr1_math openthoughts bespoke_stratos gsm8k short_cot"
    },
    "`engine`": {
        "engines.torch_engine": "TorchEngine",
        "engines.vllm_engine": "VLLMEngine",
        "engines.server_engine": "ServerEngine",
        "engines.teacher": "AdditionTeacher",
    },
    "`reward` of grpo and ppo": {"rl.rewards": "verified overlong_penalty"},
    "`model` of a training recipe": {
        "models.hf": "from_folder",
        "models.phi4_mini": "phi4_mini_3_8b phi4_mini_tiny phi4_mini",
        "models.smollm2": "smollm2_135m smollm2",
    },
    "`checkpointer` and `tokenizer`": {
        "models.hf": "HFCheckpointer",
        "tokenizer.chat": "ChatTokenizer",
    },
    "`labeller` and `judge` of curate.yaml": {
        "data.labeller": "Labeller",
        "data.second_opinion": "SecondOpinion",
    },
}
"""Heading: {module of custom_components: names of the builders to show}."""
FILLED_IN = {"folder", "tokenizer", "problem", "response"}
"""Arguments that the recipe fills in."""


def main() -> None:
    """Print the reference."""
    print(reference(), end="")


def reference() -> str:
    """Return the whole page."""
    recipes = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    recipes.remove("report")  # it has the chain's keys
    parts = [
        "# Configuration",
        "Made by `python -m custom_components.reference > docs/CONFIGURATION.md` from the code.",
        "Every key is set in the recipe's YAML or on the command line, nested ones with dots: "
        "`tune run recipes/grpo.py --config configs/tiny/grpo.yaml rebalance.max_samples=32`. A "
        "node is a mapping of its own; most have `_component_`, the dotted path of a builder, beside "
        "its [arguments](#components).",
        "## Recipes",
        *(section(name, DoctorKeys if name == "doctor" else schema_of(name)) for name in recipes),
        "## Shared keys",
        *(section(shared.__name__, shared) for shared in SHARED),
        "## Components",
    ]
    for heading, modules in COMPONENTS.items():
        parts.append(f"### {heading}")
        for module, names in modules.items():
            parts += [builder(f"custom_components.{module}.{name}") for name in names.split()]
    return "\n\n".join(parts) + "\n"


def section(name: str, schema: type) -> str:
    """Return the heading and the table of a dataclass; its shared base becomes a link."""
    base = next((b for b in SHARED[::-1] if b is not schema and issubclass(schema, b)), None)
    inherited = {f.name for f in dataclasses.fields(base)} if base else set()
    lines = [f"### {name}", ""]
    if base:
        lines += [f"All keys of [{base.__name__}](#{base.__name__.lower()}) and:", ""]
    rows = list(keys(schema, leave_out=inherited))
    return "\n".join(lines + table(("key", "type", "default", "meaning"), rows))


def keys(
    schema: type, prefix: str = "", leave_out: Collection[str] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield (key, type, default, documentation) of each field; nested ones get dotted keys."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if field.name in leave_out:
            continue
        hint, doc = hints[field.name], field.metadata.get("doc", "")
        items = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{field.name}.")
        elif items and dataclasses.is_dataclass(items[0]):
            yield f"`{prefix}{field.name}`", "list of nodes", default_of(field), doc
            yield from keys(items[0], f"{prefix}{field.name}[].")
        else:
            yield f"`{prefix}{field.name}`", type_name(hint), default_of(field), doc


def default_of(field: dataclasses.Field) -> str:
    """Return a field's default as YAML writes it."""
    if field.default_factory is not dataclasses.MISSING:
        return shown(field.default_factory())
    return "required" if field.default == MISSING else shown(field.default)


def shown(value: Any) -> str:
    """Return a value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if str(value) else '`""`'


def type_name(hint: Any) -> str:
    """Return the name of a type for a reader of YAML."""
    if hint is inspect.Parameter.empty:
        return ""
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for pattern, name in (
        (r"\b(?:typing|collections\.abc|pathlib)\.", ""),
        (r"dict\[str, Any\]", "node"),
        (r"Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " or ")),
        (r"Optional\[(.*)\]", r"\1 or null"),
        (r" \| None", " or null"),
        (r" \| ", " or "),
    ):
        text = re.sub(pattern, name, text)
    return text.replace("NoneType", "null")


def builder(path: str) -> str:
    """Return a builder's path, what it is, and its arguments by signature and docstring."""
    built = get_component(path, "reference")
    summary, described = read_docstring(built)
    lines = [f"**`{path}`**: {summary}"]
    hints = typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)
    rows = []
    for name, parameter in inspect.signature(built).parameters.items():
        if name in FILLED_IN:
            continue
        required = parameter.default is inspect.Parameter.empty
        rows.append(
            (
                f"`{name}`",
                type_name(hints.get(name, parameter.annotation)),
                "required" if required else shown(parameter.default),
                described.get(name, ""),
            )
        )
    if rows:
        lines += ["", *table(("argument", "type", "default", "meaning"), rows)]
    return "\n".join(lines)


def read_docstring(builder: Any) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a docstring, and {name: text} of its `Args:`."""
    text = inspect.cleandoc(builder.__doc__ or "")
    summary = " ".join(text.split("\n\n")[0].split())
    block = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", text, re.DOTALL | re.MULTILINE)
    described: dict[str, str] = {}
    if same := re.search(r"Arguments as for\s+`(\w+)`", text):
        described |= read_docstring(getattr(inspect.getmodule(builder), same[1]))[1]
    names: list[str] = []
    for line in (block[1] if block else "").splitlines():
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            described |= dict.fromkeys(names, entry[2])
        elif line.strip():
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    return summary, described


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(map(escaped, row))} |" for row in cells]


def escaped(text: str) -> str:
    """Escape the text of a cell: bars, and signs that a browser would take for a tag."""
    return re.sub(r"(`[^`]*`)|[|<]", lambda m: m[1] or f"\\{m[0]}", text).rstrip(".")


if __name__ == "__main__":
    main()

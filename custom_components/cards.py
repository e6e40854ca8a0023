"""Write the cards: the README.md of every model/ folder and of curated data."""

import json
from pathlib import Path
from typing import Any

from custom_components.figures import percent, signed
from custom_components.io import CARD
from custom_components.runs.manifest import read_manifest
from custom_components.tokenizer.prompt_form import PromptForm

DEVIATIONS = """\
- The paper's rollouts and prompts are not public: the data named here stand in for them
  (docs/DATA.md).
- What the paper leaves undisclosed, sizes, batches, clipping and thresholds among it, is this
  project's choice, marked `(ours)` in configs/phi4_mini.
- Answers are judged by this project's own verifier (docs/VERIFIER.md); RL's losses and fixes are
  described in docs/RL.md.
- Another start model than Phi-4-mini-instruct, or another length of sequences, stands in the config
  below.
"""


def model_card(
    recipe: str,
    steps: int,
    config: dict[str, Any],
    results: dict[str, Any] | None = None,
    paired: list[dict[str, Any]] | None = None,
    form: PromptForm | None = None,
) -> str:
    """Return the README.md of a trained model.

    Licence and data come from the files that the config names: the card of the start model, and the
    manifest beside the data.

    Args:
        recipe: name of the recipe.
        steps: number of optimizer steps.
        config: resolved config of the run.
        results: {task: summary} of the model's evaluation, if there is one.
        paired: rows of report.json that compare the model with an earlier stage.
        form: what was put around each problem in training.
    """
    start = config["checkpointer"]["checkpoint_dir"]
    licence = front_matter(Path(start), "license")
    front = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [math, reasoning, reasontune]",
        *licence,
    ]
    known = [line for line in licence if line.startswith("license:")]
    terms = (
        f"The start model's card says `{known[0]}`."
        if known
        else f"See the card of the start model that `{start}` goes back to."
    )
    data = _data_section(config)
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# Model after {recipe}",
        f"Trained by reasontune's `{recipe}` recipe for {steps} steps from `{start}`.",
        *([_form_section(form)] if form and form != PromptForm() else []),
        *([_result_section(results, paired or [])] if results else []),
        *([data] if data else []),
        f"## Deviations from the paper\n\nThe recipe is that of Phi-4-Mini-Reasoning (arXiv 2504.21233).\n\n{DEVIATIONS.rstrip()}",
        f"## Licence\n\n{terms} The licences of the training data apply, too.",
        f"## Config\n\n```json\n{json.dumps(config, indent=2, default=str)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(model: Path, prefix: str) -> list[str]:
    """Return the lines of a card's front matter that begin with `prefix`; none without a card."""
    try:
        text = (model / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    head, mark, rest = text.partition("---\n")
    block, end, _ = rest.partition("\n---")
    if head.strip() or not (mark and end):
        return []
    return [line for line in block.splitlines() if line.startswith(prefix)]


def _form_section(form: PromptForm) -> str:
    lines = [
        ("A line after the problem", form.instruction),
        ("System turn", form.system_prompt),
        ("Variables of the chat template", json.dumps(form.chat_template_kwargs)),
    ]
    listed = "\n".join(f"- {name}: `{text}`" for name, text in lines if text not in ("", "{}"))
    return f"## How it was asked in training\n\n{listed}"


def _result_section(results: dict[str, Any], paired: list[dict[str, Any]]) -> str:
    lines = [
        "| task | problems | samples of each | accuracy % [95 %] | truncated % | no answer % |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {task} | {r['n_problems']} | {r['repeats']} | {percent(r['accuracy'], r['ci'])} "
        f"| {percent(r['truncated'])} | {percent(r['no_answer'])} |"
        for task, r in results.items()
    ]
    lines += [
        f"\n{p['b']} - {p['a']}, paired: {signed(p['difference'], p['ci'])} points." for p in paired
    ]
    return "## Results\n\n" + "\n".join(lines)


def _data_section(config: dict[str, Any]) -> str:
    """Return the section on the run's data, with the yields of its curation if there are any."""
    node = config.get("data") or (config.get("problems") or {}).get("path") or ""
    counts = (read_manifest(Path(node).parent) or {}).get("counts", {}) if node else {}
    if not counts.get("yields"):
        return f"## Data\n\n`{node}`" if node else ""
    table = yields_markdown(counts["yields"], counts["length_unit"])
    return f"## Data\n\n`{node}`, of this curation:\n\n{table}"


def yields_markdown(rows: list[dict[str, Any]], unit: str) -> str:
    """Return a yield table (`custom_components.data.yields.yield_table`) as Markdown."""
    lines = [f"| | rollouts | problems | {unit} |", "|---|---|---|---|"]
    lines += [
        f"| {r['name']} | {r['rollouts']:,} | {r['problems']:,} | {r['length']:,} |" for r in rows
    ]
    return "\n".join(lines)


def data_card(
    sources: list[str], config: dict[str, Any], table: list[dict[str, Any]], unit: str
) -> str:
    """Return the README.md of curated data.

    Args:
        sources: names of the sources.
        config: resolved config of the run.
        table: yield table.
        unit: unit of its lengths, tokens or characters.
    """
    front = "".join(
        f"- config_name: {name}\n  data_files: {name}.parquet\n"
        for name in ("midtrain", "sft", "pairs", "prompts")
    )
    return (
        f"---\ntags: [math, reasoning, reasontune]\nconfigs:\n{front}---\n\n"
        "# Verified rollouts and the four splits made of them\n\n"
        f"Sources: {', '.join(sources)}. Their licences apply.\n\n{yields_markdown(table, unit)}\n\n"
        "`removed.jsonl` names the problems taken out as contaminated or near-duplicates, "
        "`rejects.jsonl` the rows that could not be used; `verified/` keeps every rollout with its "
        "verdict.\n\n"
        f"```json\n{json.dumps(config, indent=2, default=str)}\n```\n"
    )

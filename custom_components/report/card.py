"""The model card written into every model/ folder."""

import json
from typing import Any


def model_card(recipe: str, start: str, steps: int, config: dict[str, Any]) -> str:
    """README.md of a trained model.

    Args:
        recipe: name of the recipe.
        start: folder whose weights the run began with.
        steps: optimizer steps done.
        config: the run's resolved config.
    """
    return (
        "---\nlibrary_name: transformers\ntags: [math, reasoning, reasontune]\n---\n\n"
        f"# Model after {recipe}\n\n"
        f"Trained by reasontune's `{recipe}` recipe for {steps} steps from `{start}`.\n"
        "The licence of the start model and of the training data apply.\n\n"
        f"```json\n{json.dumps(config, indent=2, default=str)}\n```\n"
    )


def data_card(sources: list[Any], config: dict[str, Any], table: list[dict], unit: str) -> str:
    """README.md of curated data.

    Args:
        sources: names of the sources, with their rollouts.
        config: the run's resolved config.
        table: the yield table (`custom_components.data.splits.yield_table`).
        unit: of its lengths.
    """
    lines = [f"| | rollouts | problems | {unit} |", "|---|---|---|---|"]
    lines += [
        f"| {r['name']} | {r['rollouts']:,} | {r['problems']:,} | {r['length']:,} |" for r in table
    ]
    front = "".join(
        f"- config_name: {name}\n  data_files: {name}.parquet\n"
        for name in ("midtrain", "sft", "pairs", "prompts")
    )
    return (
        f"---\ntags: [math, reasoning, reasontune]\nconfigs:\n{front}---\n\n"
        "# Verified rollouts and the four splits made of them\n\n"
        f"Sources: {', '.join(sources)}. Their licences apply.\n\n" + "\n".join(lines) + "\n\n"
        "`removed.jsonl` names the problems taken out as contaminated or near-duplicates, "
        "`rejects.jsonl` the rows that could not be used; `verified/` keeps every rollout with its "
        "verdict.\n\n"
        f"```json\n{json.dumps(config, indent=2, default=str)}\n```\n"
    )

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

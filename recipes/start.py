"""Stage 0: put the start model into the run folder as a Hugging Face folder.

    tune run recipes/start.py --config configs/tiny/start.yaml

The model is random (tiny), downloaded from the hub, copied from a folder, or read from a GGUF
file: whichever function `source._component_` names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom_components.config import Component, instantiate, option, recipe_main, required
from custom_components.io import atomic_path
from custom_components.runs.run_folder import RunFolder


@dataclass
class StartConfig:
    """Config of recipes/start.py."""

    output_dir: str = required("run folder; the model goes to <output_dir>/model")
    source: Component = required("function of custom_components.models.start that makes the model")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    seed: int = option(0, "seed of the chain, for interpolation")
    resume: str = option("auto", "auto: a complete run is kept; never: start over")


def local_files(source: Component) -> list[str]:
    """Files and folders that the start model is made of."""
    named = [source.get("path"), source.get("chat_template")]
    return [path for path in named if path and Path(path).exists()]


@recipe_main(StartConfig)
def main(cfg: Any) -> None:
    """Make the start model."""
    run = RunFolder("start", cfg, local_files(cfg.source))
    if run.already_complete:
        print(f"{run.path}: already complete")
        return
    with atomic_path(run.path / "model") as folder:
        folder.mkdir()
        instantiate(cfg.source, "source", folder)
        from custom_components.models.config_json import read_model_config

        described = read_model_config(folder)  # refuse here what later stages cannot train
    run.finish([run.path / "model"], {"layers": described.size.num_layers})
    print(f"start model: {run.path / 'model'}")


if __name__ == "__main__":
    main()

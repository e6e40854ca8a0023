"""Run stage 0: put the start model into the run folder as a Hugging Face folder.

    tune run recipes/start.py --config configs/tiny/start.yaml

The function that `source._component_` names makes the model: it is random (tiny), downloaded from
the hub, copied from a folder, or read from a GGUF file.
"""

from custom_components.config import instantiate, recipe_main
from custom_components.io import atomic_path
from custom_components.models.start import StartConfig
from custom_components.runs.run_folder import RunFolder


@recipe_main
def main(cfg: StartConfig) -> None:
    """Make the start model."""
    run = RunFolder("start", cfg)
    if run.already_complete:
        print(f"{run.path}: already complete")
        return
    with atomic_path(run.path / "model") as folder:
        folder.mkdir()
        instantiate(cfg.source, "source", folder)
        from custom_components.models.config_json import read_model_config

        # This refuses here a model that later stages cannot train.
        described = read_model_config(folder)
    run.finish([run.path / "model"], {"layers": described.size.num_layers})
    print(f"start model: {run.path / 'model'}")


if __name__ == "__main__":
    main()

"""Check that the decoder computes the models that a stage copies, trains or samples."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from custom_components.config import UserError
from custom_components.doctor.findings import Finding
from custom_components.doctor.stage import Stage
from custom_components.hub import HubError
from custom_components.models.builders import open_checkpointer
from custom_components.models.config_json import read_model_config
from custom_components.models.start import StartConfig, check_source
from custom_components.training.training_config import TrainingConfig


def check_model(stage: Stage) -> Iterator[Finding]:
    """Find a model that the decoder does not compute, or whose weights are not what it says."""
    try:
        _look(stage)
    except HubError as e:
        yield Finding(
            "model",
            "warning",
            str(e),
            "whether the model can be trained could not be looked at",
            "run the doctor where the hub can be reached, or name a local folder",
        )
    except UserError as e:
        yield Finding(
            "model",
            "error",
            str(e),
            "every later stage trains this model",
            "name a supported model (CONTRIBUTING.md says what another family takes)",
        )


def _look(stage: Stage) -> None:
    """Raise a UserError about the stage's model."""
    cfg, engine = stage.cfg, stage.engine
    if isinstance(cfg, StartConfig):
        check_source(cfg.source)
    if isinstance(cfg, TrainingConfig):
        model, folder = stage.build_model(), cfg.checkpointer.get("checkpoint_dir", "")
        if model is not None and (Path(folder) / "config.json").is_file():
            with TemporaryDirectory() as temporary:  # torchtune's checkpointer makes its output_dir
                moved = {"output_dir": temporary} if "output_dir" in cfg.checkpointer else {}
                open_checkpointer(cfg.checkpointer | moved).check_model(model)
    served = engine.get("model")
    if engine.get("_component_", "").endswith("TorchEngine") and served and Path(served).is_dir():
        read_model_config(served)

"""Every YAML in configs/ fits its recipe, and every chain its stages."""

import importlib

import pytest
from conftest import ROOT

from custom_components.config import load

RECIPES = {p.stem for p in (ROOT / "recipes").glob("*.py")}
OTHERS = {"pairs": "curate"}
FILES = sorted((ROOT / "configs").glob("*/*.yaml"))


def schema(recipe):
    return importlib.import_module(f"recipes.{recipe}").main.schema


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_fits_its_recipe(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = OTHERS.get(path.stem, path.stem)
    assert recipe in RECIPES
    cfg = load(schema(recipe), path)
    assert cfg.run_dir == f"runs/{path.parent.name}"
    text = path.read_text()
    assert f"--config configs/{path.parent.name}/{path.name}" in text  # how it is run
    for stage in getattr(cfg, "stages", []):
        load(schema(OTHERS.get(stage.name, "sft" if stage.name == "control" else stage.name)),
             stage.config, stage.overrides)  # fmt: skip

"""Check that every YAML in configs/ fits its recipe, and every chain its stages."""

from pathlib import Path

import pytest
from conftest import ROOT

from custom_components.config import load, schema_of

RECIPES = {p.stem for p in (ROOT / "recipes").glob("*.py")}
OTHERS = {
    "pairs": "curate",
    "curate_limo": "curate",
    "curate_s1k": "curate",
    "baselines": "evaluate",
    "chain_lora": "chain",
    "ablations": "chain",
    "naive_sft": "chain",
    "chain_cpu": "chain",
    "evaluate_cpu": "evaluate",
    "rollout_server": "rollout",
    "curate_traces": "curate",
    "pairs_labelled": "curate",
}
FILES = sorted((ROOT / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_fits_its_recipe(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = OTHERS.get(path.stem, path.stem)
    assert recipe in RECIPES
    cfg = load(schema_of(recipe), path)
    assert cfg.run_dir.startswith(f"runs/{path.parent.name}")
    text = path.read_text()
    assert f"recipes/{recipe}.py --config configs/{path.parent.name}/{path.name}" in text
    for stage in getattr(cfg, "stages", []):
        load(schema_of(Path(stage.recipe or stage.name).stem), stage.config, stage.overrides)

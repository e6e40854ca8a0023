import subprocess
import sys

from conftest import ROOT


def python(code: str, cwd) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip()


def test_local_recipes_shadow_those_of_torchtune():
    assert python("import recipes; print(list(recipes.__path__))", ROOT) == f"['{ROOT}/recipes']"


def test_elsewhere_torchtune_answers(tmp_path):
    # no recipes/ here: the finder steps aside, and torchtune's own package raises as it always did
    assert "ModuleNotFoundError" in python("import recipes", tmp_path)


def test_users_own_recipe_runs(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text("print('mine ran')")
    (tmp_path / "c.yaml").write_text("a: 1")
    tune = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['tune', 'run', 'recipes/mine.py', '--config', 'c.yaml'];"
        "from torchtune._cli.tune import main; main()",
    ]
    done = subprocess.run(tune, cwd=tmp_path, capture_output=True, text=True)
    assert "mine ran" in done.stdout


def test_the_hook_is_light():
    code = "import sys; print('torch' in sys.modules, 'custom_components' in sys.modules)"
    assert python(code, ROOT) == "False False"

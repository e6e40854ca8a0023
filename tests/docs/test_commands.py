"""Check that every command of the documents works as written.

The first words of a command decide its class, and a command without a class fails. Recipes are loaded
with their config and overrides; other programs must have the options that the document gives them.
`test_walkthroughs.py` runs the commands of the README and the tutorial.
"""

import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from documents import SHELL, blocks, commands, is_command_block

from custom_components.config import load, schema_of
from custom_components.doctor.doctor_config import StageDoctorConfig
from recipes import doctor

COMMANDS = commands()
# Running text uses these as forms, not as commands.
FORMS = re.compile(r"…|recipes/x\.py")
LAUNCH = {"--nproc_per_node", "--nnodes", "--rdzv_id", "--rdzv_backend", "--rdzv_endpoint"}


def commands_of(program):
    listed = [c for c in COMMANDS if c.program == program and not FORMS.search(c.text)]
    assert listed
    return listed


def kind(command):
    """Return the class of a command, which decides the test that checks it."""
    words = command.words
    if FORMS.search(command.text):
        return "form"
    if words[:2] == ("tune", "run"):
        return "recipe"
    if words[0] == "python" and words[1:2] == ("-m",):
        return "module"
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        return "benchmark"
    if words[0] == "python" and words[1:2] == ("-",):
        return "script in the tutorial"
    if words[0] in ("make", "lm_eval", *SHELL):
        return words[0]
    return None


def test_no_command_is_of_no_class():
    assert len(COMMANDS) > 60
    assert [str(c) for c in COMMANDS if kind(c) is None] == []


@pytest.mark.parametrize("command", commands_of("tune"), ids=str)
def test_a_recipe_takes_its_config_and_overrides(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = list(command.words[2:])
    while words[0].startswith("-"):
        assert words[0] in LAUNCH
        del words[:2]
    recipe, flag, config, *overrides = words
    assert Path(recipe).is_file(), f"{recipe} does not exist"
    assert flag == "--config"
    config = config.replace("configs/mine/", "configs/tutorial/")  # the tutorial copies it
    name = Path(recipe).stem
    if name == "doctor":
        own = [o.removeprefix("doctor.") for o in overrides if o.startswith("doctor.")]
        load(StageDoctorConfig, None, own)
        overrides = [o for o in overrides if not o.startswith("doctor.")]
        name = "chain" if doctor.is_chain(config) else doctor.recipe_of(config)
    load(schema_of(name), config, overrides)


@cache
def help_of(*program):
    done = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


def flags(command):
    return {word.split("=")[0] for word in command.words if word.startswith("--")}


def modules():
    return [c for c in commands_of("python") if kind(c) == "module"]


def without_help(name):
    """Tell whether a module takes no options and so has no --help."""
    return name in ("custom_components.reference", "tests.verifier.corpus")


@pytest.mark.parametrize("command", modules(), ids=str)
def test_a_module_has_the_options(command):
    name = command.words[2]
    if without_help(name):
        assert importlib.util.find_spec(name) and not flags(command)
        return
    assert flags(command) <= set(re.findall(r"--[\w-]+", help_of("-m", name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({c.words[1] for c in COMMANDS if kind(c) == "benchmark"}))
def test_a_benchmark_has_the_options(name):
    known = set(re.findall(r"--[\w-]+", help_of(name)))
    for command in COMMANDS:
        if command.words[1:2] == (name,):
            assert flags(command) <= known, str(command)


def test_benchmarks_exist_and_their_options_are_declared():
    """Check fast what the test above checks by running: the source names the options."""
    for command in COMMANDS:
        if kind(command) == "benchmark":
            source = (ROOT / command.words[1]).read_text()
            for flag in flags(command):
                assert f'"{flag}"' in source, f"{command}: {flag}"


@pytest.mark.parametrize("command", commands_of("make"), ids=str)
def test_make_has_the_target(command):
    done = subprocess.run(
        ["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_lm_eval_has_the_options_and_tasks():
    from lm_eval._cli.harness import HarnessCLI

    parser = HarnessCLI()._subparsers.choices["run"]
    known = set(re.findall(r"--[\w-]+", parser.format_help()))
    tasks = {p.stem for p in (ROOT / "eval" / "tasks").glob("*.yaml")}
    for command in commands_of("lm_eval"):
        assert flags(command) <= known, str(command)
        if "--tasks" in command.words:
            task = command.words[command.words.index("--tasks") + 1]
            assert re.sub(r"_x\d+$", "", task) in tasks, str(command)


def test_files_named_by_shell_commands_exist():
    for command in COMMANDS:
        if command.program == "sbatch":
            assert (ROOT / command.words[1]).is_file()


def test_blocks_for_the_shell_are_marked_or_recognised():
    """Check that a block with a program at the start of a line counts as one for the shell."""
    for document in {c.document for c in COMMANDS}:
        path = ROOT / document if (ROOT / document).exists() else ROOT / "docs" / document
        for language, text in blocks(path):
            if re.search(r"^(tune run|python -m|lm_eval|make) ", text, re.MULTILINE):
                assert is_command_block(language, text), f"{document}: {text[:80]}"

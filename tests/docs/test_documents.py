"""Check links, quoted messages, and the Slurm script."""

import os
import re
import subprocess

import pytest
from conftest import ROOT
from documents import DOCUMENTS, FENCE


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (document.parent / path) if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_lists_every_document():
    readme = (ROOT / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"(docs/{p.name})" not in readme] == []


def source_text():
    """Return the Python source with adjacent string literals joined, for finding messages."""
    files = [p for d in ("custom_components", "recipes", "eval") for p in (ROOT / d).rglob("*.py")]
    text = "\n".join(p.read_text() for p in files)
    return re.sub(r'"\s*\n?\s*f?"', "", text)


def test_quoted_messages_are_the_codes_own():
    """Check that each fragment in backticks in a table's first column is in the source."""
    source = source_text()
    elsewhere = {"Skipping import of cpp extensions due to incompatible torch version"}  # torchao
    text = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text()
    cells = re.findall(r"^\| (.*?) \| ", text, re.MULTILINE)
    quoted = {q for cell in cells for q in re.findall(r"`([^`]+)`", cell)}
    assert len(quoted) > 50
    missing = [q for q in sorted(quoted - elsewhere) if q not in source]
    assert missing == []


SLURM = ROOT / "configs" / "phi4_mini" / "slurm.sh"


@pytest.mark.parametrize(
    ("message", "status", "requeued"),
    [
        ("stopped after step 7 of 9; the same command continues", 1, True),
        ("error: required key 'data' has no value", 1, False),
        ("done", 0, False),
    ],
)
def test_the_slurm_script(tmp_path, message, status, requeued):
    """Check, with stand-ins for Slurm, the command it starts and when it queues itself again."""
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    for name, body in (
        ("srun", f'echo "$@"; echo "{message}"; exit {status}'),
        ("scontrol", 'if [ "$1" = show ]; then echo a; echo b; else echo "$@" >> requeued; fi'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "5",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_JOB_NODELIST": "[a-b]",
    }
    done = subprocess.run(["bash", str(SLURM), "sft"], cwd=tmp_path, env=env)
    assert done.returncode == status
    assert (tmp_path / "requeued").exists() == requeued
    log = (tmp_path / "runs/phi4_mini/logs/slurm-sft-5.log").read_text()
    assert "--cpus-per-task=64 tune run --nnodes 2 --nproc_per_node 8 --rdzv_id 5" in log
    assert "--rdzv_backend c10d" in log
    assert "--rdzv_endpoint a:29500 recipes/sft.py --config configs/phi4_mini/sft.yaml" in log

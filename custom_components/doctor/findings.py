"""Name what the doctor finds, show it, and stop on errors."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from custom_components.config import UserError

NAMES = {
    "model": "the decoder computes the model, and its weights are there",
    "tokenizer": "tokenizer and chat template can be used",
    "end_of_turn": "the template ends a turn with a special token, and it is trained",
    "reasoning": "responses fit what the template's prompt says of the reasoning",
    "pad_is_end_of_turn": "padding does not hide the end of the turn",
    "data_unreadable": "what a stage reads is there, and every file of the data can be read",
    "data_columns": "rows have the columns that the config names",
    "answer_column": "answers are answers, not problems or solutions",
    "gold_unreadable": "the verifier can read the data's own answers",
    "contaminated": "no evaluation problem is trained on",
    "decontamination": "evaluation problems are taken out of the data",
    "too_long": "rows fit into max_seq_len",
    "context": "lengths fit into the model and the engine",
    "max_new_tokens": "responses have room to end",
    "rope_branch": "trainer and engine compute the same LongRoPE branch",
    "zero_variance": "groups hold responses with different rewards",
    "reward": "the reward functions run",
    "memory": "the stage fits the device",
    "disk": "checkpoints and models fit the disk",
    "time": "how long it takes",
}
"""Every finding by name, and what holds where there is none."""
LEVELS = ("error", "warning", "note")
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Finding:
    """Hold one thing that the doctor found.

    Attributes:
        name: Key of `NAMES`.
        level: error, warning or note.
        what: What was found, with figures.
        why: Why it matters.
        change: What to do; empty if there is nothing to do.
        stage: Name of the stage.
    """

    name: str
    level: str
    what: str
    why: str
    change: str
    stage: str = ""

    def at(self, stage: str) -> "Finding":
        """Return the finding with the name of its stage."""
        return replace(self, stage=stage)


def duration(seconds: float) -> str:
    """Return `3.4 hours`, `12 minutes` or `a minute or less`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else "a minute or less"


def blocking(findings: Iterable[Finding], allow: Iterable[str]) -> list[Finding]:
    """Return the errors that are not allowed by name."""
    allowed = set(allow)
    return [f for f in findings if f.level == "error" and f.name not in allowed]


def refuse(findings: Iterable[Finding], allow: Iterable[str]) -> None:
    """Stop on errors that are not allowed by name.

    Raises:
        UserError: When there are such errors; says how to allow them.
    """
    allowed = set(allow)
    if names := {f.name for f in blocking(findings, allowed)}:
        raise UserError(
            f"the doctor found {','.join(sorted(names))}; fix that, or continue with "
            f"doctor.allow=[{','.join(sorted(names | allowed))}]"
        )


def show(findings: Iterable[Finding]) -> None:
    """Print findings, errors first."""
    console = Console(soft_wrap=True, file=sys.stdout)
    for finding in sorted(findings, key=lambda f: LEVELS.index(f.level)):
        head = Text(f"{finding.level:<8}", style=COLOURS[finding.level])
        head.append(f"{finding.stage} · {finding.name}: ", style="bold")
        head.append(finding.what)
        console.print(head)
        for label, text in (("why", finding.why), ("do", finding.change)):
            if text:
                console.print(Text(f"{'':<8}{label}: {text}", style="dim"))

"""Read the user's documents and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ASSIGNMENT = re.compile(r"^\w+=(?:\S*)\s+")
# These words begin a command. In a block for the shell, every line has to be a command.
PROGRAMS = ("tune", "python", "make", "lm_eval")
SHELL = ("cp", "mkdir", "mv", "sed", "head", "source", "sbatch", "pip", "export")


@dataclass(frozen=True)
class Command:
    """Hold a command of a document: its words, without the variables set before it."""

    document: str
    text: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return (language, text) of each fenced block."""
    return FENCE.findall(document.read_text())


def lines_of(block: str) -> list[str]:
    """Return the logical lines: continued lines joined, without here-documents and comments."""
    block = re.sub(r"<< '(\w+)'\n.*?^\1$", "<<", block, flags=re.DOTALL | re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", block)
    return [line.strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def parsed(document: str, line: str) -> Command:
    """Parse a line as a command."""
    bare = line
    while ASSIGNMENT.match(bare):
        bare = ASSIGNMENT.sub("", bare, count=1)
    words = tuple(shlex.split(bare, comments=True))
    return Command(document, line, words)


def is_command_block(language: str, text: str) -> bool:
    """Tell whether a block is for the shell: by its language, or by the program on its first line."""
    first = (lines_of(text) or [""])[0]
    while ASSIGNMENT.match(first):
        first = ASSIGNMENT.sub("", first, count=1)
    return language in ("sh", "bash") or (
        not language and first.split(" ")[0] in (*PROGRAMS, *SHELL)
    )


def commands() -> list[Command]:
    """Return the commands in blocks, and those in running text that name a file or module to run."""
    listed = []
    for document in DOCUMENTS:
        name = document.name
        for language, text in blocks(document):
            if is_command_block(language, text):
                listed += [parsed(name, line) for line in lines_of(text)]
        prose = FENCE.sub("", document.read_text())
        for inline in re.findall(
            r"`((?:tune run|python -m|python benchmarks/|make|lm_eval) [^`]*)`", prose
        ):
            listed.append(parsed(name, " ".join(inline.split())))
    return listed

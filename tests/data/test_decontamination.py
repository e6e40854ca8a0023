import importlib.util
import json
from pathlib import Path

import pytest

from custom_components.config import UserError
from custom_components.data import decontamination
from custom_components.data.data_config import CurateConfig, DecontaminationConfig
from custom_components.data.decontamination import Decontaminator
from eval.sets import evaluation_problems
from eval.tasks import functions

MARBLES = (
    "Alice has a bag with 12 red marbles and 7 blue marbles. She draws three marbles at random "
    "without putting any back. What is the probability that all of them are red?"
)
ROOT = r"Simplify $\sqrt{242}$."
QUADRATIC = r"For what values of $x$ is it true that $x^2 - 5x - 4 \le 10$?"
MIDPOINT = r"Compute $\tfrac{1}{2}\left(\dfrac{3}{4} + 5\right)$ and round to the nearest integer."
LETTERS = "How many ways are there to arrange the letters of the word ELLIPSE?"
FACTORIAL = "What is the units digit of $5! + 3$?"
EVALUATION = [("small", p) for p in (MARBLES, ROOT, QUADRATIC, MIDPOINT, LETTERS, FACTORIAL)]


@pytest.fixture(scope="module")
def small():
    return Decontaminator(EVALUATION)


def reason(decontaminator, problem):
    [finding] = decontaminator.check([problem])
    return finding and finding.reason


@pytest.mark.parametrize("original", [p for _, p in EVALUATION])
def test_a_copy_is_exact(small, original):
    bare = original.replace("$", "").rstrip(".?")
    for copy in (original, f"  {original.lower()}\n", bare, "\n".join(original.split())):
        [finding] = small.check([copy])
        assert finding.reason == "exact" and finding.score == 1
        assert (finding.evaluation_set, finding.evaluation_problem) == ("small", original)


@pytest.mark.parametrize(
    "copy",
    [
        r"simplify \( \sqrt { 242 } \)",
        r"Simplify: $$\sqrt{242}\,$$",
        r"COMPUTE \[ \frac 12 ( \frac{3}{4}\;+\;5 ) \] and round, to the nearest integer",
        r"For what values of $x$ is it true that $x^{2} - 5x - 4 \leq 10$",
        "For what values of x is it true that x² − 5x − 4 ≤ 10?",
    ],
)
def test_latex_and_spacing_change_nothing(small, copy):
    assert reason(small, copy) == "exact"


def test_thirteen_words_in_a_row(small):
    shared = "a bag with 12 red marbles and 7 blue marbles. She draws three marbles"
    assert len(decontamination.ngrams(shared, 13)) == 1  # "a" is not a word
    twelve = shared.removesuffix(" marbles")
    assert reason(small, f"Zoe, who collects stamps, found {twelve}, then went home.") is None
    [finding] = small.check([f"Zoe found {shared}, then went home with 15 stamps."])
    assert finding.reason == "ngram" and finding.evaluation_problem == MARBLES
    assert 0 < finding.score < 0.3
    assert reason(Decontaminator(EVALUATION, ngram=5), f"Zoe found {shared}.") == "ngram"


def test_instructions_on_the_answers_form_are_not_shared_words():
    form = (
        r"can be written in the form $\frac{m}{n}$, where $m$ and $n$ are relatively prime "
        "positive integers. Find $m+n$."
    )
    decontaminator = Decontaminator([("aime", f"The area of the crescent {form}")], similarity=2)
    assert reason(decontaminator, f"The chance that nobody gets his own hat {form}") is None


@pytest.mark.parametrize(
    "altered",
    [
        "Priya has a bag with 7 blue marbles and 12 red ones. If three marbles are drawn randomly, "
        "none put back, what is the probability of all being red?",
        r"Simplify the expression $\sqrt{242}$.",
        r"It is true that $y^2 - 5y - 4 \le 10$ for what values of $y$?",
        r"Find the values of $x$ for which $x^2 - 5x - 4 \le 10$ is true.",
        "The letters of the word ELLIPSE: how many ways to arrange them are there?",
        r"Determine the units digit of $5! + 3$.",
    ],
)
def test_altered_copies_are_similar(small, altered):
    [finding] = small.check([altered])
    assert finding.reason == "similar" and decontamination.SIMILARITY <= finding.score < 1.001


@pytest.mark.parametrize(
    "other",
    [
        r"Simplify $\sqrt{245}$.",
        r"For what values of $x$ is it true that $x^2 - 7x - 8 \le 30$?",
        "Alice has a bag with 20 red marbles and 9 green ones. What is the probability of red?",
        "What is the units digit of $7! + 9$?",
        "",
        "[asy] draw((0,0)--(1,1)); [/asy]",
    ],
)
def test_other_numbers_are_other_problems(small, other):
    assert reason(small, other) is None


def test_a_factorial_is_no_punctuation(small):
    assert reason(small, "What is the units digit of $5 + 3$?") != "exact"


def test_a_batch_equals_one_by_one(small):
    problems = [text for _, text in EVALUATION] + [f"Simplify $\\sqrt{{{n}}}$." for n in range(900)]
    batch = small.check(problems)
    assert batch == [small.check([p])[0] for p in problems]
    assert batch[6 + 242].reason == "exact" and small.check([]) == []
    assert sum(f is not None for f in batch) == 7


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="no evaluation problem"):
        Decontaminator([("empty", "  ")])
    with pytest.raises(UserError, match="similarity"):
        Decontaminator(EVALUATION, similarity=0)


def test_a_file_is_an_evaluation_set(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "What is $1+1$?"}\n{"question": "Why?"}\n')
    assert list(evaluation_problems([str(path)])) == [
        (str(path), "What is $1+1$?"),
        (str(path), "Why?"),
    ]
    path.write_text('{"prompt": "What is $1+1$?"}\n')
    with pytest.raises(UserError, match="line 1: no text in a column problem or question"):
        list(evaluation_problems([str(path)]))
    with pytest.raises(UserError, match="does not exist"):
        list(evaluation_problems([str(tmp_path / "none.jsonl")]))


def test_an_unknown_set_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="'math' is unknown; give one of math500, aime24"):
        list(evaluation_problems(["math"]))


def test_a_gated_set_says_what_to_do(monkeypatch):
    def refused():
        raise UserError("data set Idavidrein/gpqa could not be loaded from the hub")

    monkeypatch.setattr(functions, "gpqa_diamond", refused)
    with pytest.raises(UserError, match="gated: ask for access on its page"):
        list(evaluation_problems(["gpqa_diamond"]))


def test_a_choice_is_found_with_and_without_its_options(tmp_path, monkeypatch):
    row = {
        "Question": "Which planet is largest?\n\nA) is no option here.",
        "Correct Answer": "Jupiter",
    }
    row |= {f"Incorrect Answer {n}": name for n, name in enumerate(("Mars", "Venus", "Earth"), 1)}
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "gpqa_diamond.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("REASONTUNE_DATA", str(tmp_path))
    (_, whole), (_, question) = evaluation_problems(["gpqa_diamond"])
    assert question == row["Question"] and whole.startswith(question) and "Jupiter" in whole


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "decontamination.py"
    spec = importlib.util.spec_from_file_location("decontamination_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recall_and_false_removals_on_real_data(data_dir, monkeypatch, benchmark):
    monkeypatch.setenv("REASONTUNE_DATA", str(data_dir))
    problems = list(evaluation_problems(["math500", "aime24", "aime25", "gsm8k"]))
    assert len(problems) == 500 + 30 + 30 + 1319
    decontaminator = Decontaminator(problems)
    targets = [p for p in problems if p[0] != "gsm8k"]
    for kind in benchmark.KINDS:
        copies = benchmark.planted(targets, kind, 200)
        found = decontaminator.check([text for _, text in copies])
        if kind in ("verbatim", "re-spaced"):
            assert len(copies) == 200 and {f and f.reason for f in found} == {"exact"}, kind
        assert len(copies) > 40 and found.count(None) <= 0.05 * len(copies), kind
    # Of all 7473 problems 5 match; every third keeps the test short.
    lines = (data_dir / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[::3]
    found = decontaminator.check([json.loads(line)["question"] for line in lines])
    assert sum(f is not None for f in found) <= 0.002 * len(lines)


def test_the_first_rows_of_a_file_are_a_set(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(f'{{"problem": "{i}+1=?", "answer": "{i + 1}"}}\n' for i in range(5)))
    name = f"{path}[:2]"
    assert list(evaluation_problems([name])) == [(name, "0+1=?"), (name, "1+1=?")]
    assert len(list(evaluation_problems([str(path)]))) == 5
    sets = DecontaminationConfig(sets=[name])
    cfg = CurateConfig(output_dir="out", sources=[], decontamination=sets)
    assert cfg.inputs() == {"decontamination.sets.0": str(path)}  # whose content the run depends on

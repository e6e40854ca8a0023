"""Score logged responses again, without generating.

    python -m eval.rescore runs/tiny/eval/sft --output runs/tiny/eval/sft-rescored
    python -m eval.rescore RESULTS --output RESCORED       # what lm_eval --log_samples wrote

Use it when the verifier or a gold answer has changed. It reads a run folder of recipes/evaluate.py,
or lm_eval's output folder, and writes the same two files for each model as the recipe:
`<name>.json` and `<name>.samples.jsonl`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from custom_components.config import UserError
from custom_components.io import write_json, write_jsonl
from custom_components.verifier.pool.options import VerifierConfig
from eval.logs import read_logs
from eval.provenance import task_provenance
from eval.results import summary
from eval.scoring import Response, problem_metrics, use_verifier, verified_responses
from eval.tables import print_results


def rescored(row: dict[str, Any]) -> dict[str, Any]:
    """Return a problem's row with fresh verdicts. How its responses ended is taken as logged."""
    responses = [
        Response.of(text, old["finish_reason"], old["num_tokens"], old["reasoning_open"])
        for text, old in zip(row["responses"], row["samples"], strict=True)
    ]
    return row | problem_metrics(verified_responses(row, responses))


def main(argv: list[str] | None = None) -> int:
    """Rescore the folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.rescore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with logged samples")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--rounding", action="store_true", help="accept 12.52 for the gold 12.5")
    args = parser.parse_args(argv)
    use_verifier(VerifierConfig(rounding=args.rounding))
    try:
        rescore(args.folder, args.output, args.rounding)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def rescore(folder: Path, output: Path, rounding: bool = False) -> None:
    """Rescore every model of a folder, and print how many verdicts changed.

    Raises:
        UserError: if there is nothing to rescore, or `output` is the folder itself.
    """
    if output.resolve() == folder.resolve():
        raise UserError("--output is the folder itself; name another, the old scores are kept")
    for model in read_logs(folder):
        tasks = {task: [rescored(row) for row in rows] for task, rows in model.tasks.items()}
        verdicts = [
            (before["verdict"], after["verdict"])
            for task, fresh in tasks.items()
            for old, new in zip(model.tasks[task], fresh, strict=True)
            for before, after in zip(old["samples"], new["samples"], strict=True)
        ]
        known = model.provenance.get("tasks", {})
        result = {
            "model": model.provenance.get("model", model.name),
            "provenance": model.provenance
            | {
                "tasks": {
                    task: task_provenance({}, rows, {}) | known.get(task, {})
                    for task, rows in tasks.items()
                },
                "rescored_from": str(folder),
                "rounding": rounding,
            },
            "results": {task: summary(rows) for task, rows in tasks.items()},
        }
        output.mkdir(parents=True, exist_ok=True)
        rows = [row for fresh in tasks.values() for row in fresh]
        write_jsonl(output / f"{model.name}.samples.jsonl", rows)
        write_json(output / f"{model.name}.json", result)
        print_results(model.name, result["results"])
        changed = sum(before != after for before, after in verdicts)
        print(f"{model.name}: {changed} of {len(verdicts)} verdicts changed")


if __name__ == "__main__":
    sys.exit(main())

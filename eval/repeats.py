"""Write task variants with several samples of each problem, for which lm-eval has no option.

python -m eval.repeats 16 reasoning_aime24 reasoning_aime25 --output variants
lm_eval --include_path variants --tasks reasoning_aime24_x16 --apply_chat_template ...
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from custom_components.config import UserError, nearest
from custom_components.io import write_text

TASKS = Path(__file__).parent / "tasks"


def repeated(config: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Return an lm-eval task config with several samples of each problem.

    Args:
        config: config of the task.
        repeats: samples of each problem; the filter passes all of them to `process_results`.
    """
    take = [{"name": "all", "filter": [{"function": "take_first_k", "k": repeats}]}]
    return config | {"repeats": repeats, "filter_list": take}


def variant(task: str, repeats: int) -> tuple[str, str]:
    """Return (name, YAML) of a task with several samples of each problem.

    Raises:
        UserError: if the task is not one of ours, or `repeats` is below 1.
    """
    file = TASKS / f"{task}.yaml"
    names = sorted(p.stem for p in TASKS.glob("reasoning_*.yaml"))
    if task not in names:
        raise UserError(f"no task {task!r}{nearest(task, names)}")
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, not {repeats}")
    name = f"{task}_x{repeats}"
    return name, (
        f"include: {file}\n"
        f"task: {name}\n"
        f"repeats: {repeats}\n"
        "filter_list:\n"
        f"  - {{name: all, filter: [{{function: take_first_k, k: {repeats}}}]}}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Write the YAML files of the variants; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.repeats", description=__doc__.split("\n")[0]
    )
    parser.add_argument("repeats", type=int, help="samples of each problem")
    parser.add_argument("tasks", nargs="+", help="names of our tasks, reasoning_...")
    parser.add_argument("--output", type=Path, required=True, help="folder for --include_path")
    args = parser.parse_args(argv)
    try:
        variants = [variant(task, args.repeats) for task in args.tasks]
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    for name, text in variants:
        write_text(args.output / f"{name}.yaml", text)
    print(f"lm_eval --include_path {args.output} --tasks {','.join(n for n, _ in variants)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

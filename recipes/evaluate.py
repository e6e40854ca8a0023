"""Evaluate one or several models through lm-eval, one after the other in this process.

    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml
    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml only=[sft] limit=100

Each model gets `<output_dir>/<name>.json` (accuracies with intervals, also by difficulty; rates
of truncation, missing and undecided answers) and `<name>.samples.jsonl` (every problem with its
responses). A model whose files are there is not evaluated again.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom_components.config import (
    Component,
    UserError,
    instantiate,
    nearest,
    option,
    recipe_main,
    required,
)
from custom_components.io import write_json, write_jsonl
from custom_components.report.table import print_results
from custom_components.rollout.guard import GuardedEngine
from custom_components.training.run_folder import ROOT, RunFolder
from eval.scoring import METRICS
from eval.statistics import accuracy_interval


@dataclass
class EvaluateConfig:
    """Config of recipes/evaluate.py."""

    output_dir: str = required("run folder")
    models: dict[str, str] = required("name: Hugging Face folder, or hub id")
    tasks: list[str] = required("lm-eval tasks, e.g. reasoning_gsm8k")
    engine: Component = required("rollout engine; its model is filled in")
    tokenizer: Component = required("chat tokenizer; its path is filled in")
    run_dir: str = option("runs", "folder of the chain, for interpolation")
    only: list[str] | None = option(None, "names of the models to evaluate; all by default")
    limit: int | None = option(None, "first so many problems of each task; all by default")
    repeats: int = option(1, "samples of each problem")
    sampling: dict[str, float] = option(
        dict, "temperature, top_p, max_gen_toks in place of the tasks' own"
    )
    include_path: str = option("eval/tasks", "folder with more lm-eval tasks")
    engine_timeout: float = option(1800.0, "seconds without progress of the engine end the run")
    seed: int = option(0, "seed of the sampling")
    resume: str = option("auto", "auto: keep finished models; never: start over")

    def __post_init__(self) -> None:
        """Keep the models of `only`: the others are no part of the run."""
        for name in self.only or []:
            if name not in self.models:
                raise UserError(f"only: no model {name!r}{nearest(name, list(self.models))}")
        if self.only is not None:
            self.models = {name: self.models[name] for name in self.only}


@recipe_main(EvaluateConfig)
def main(cfg: Any) -> None:
    """Evaluate models."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("evaluate is one process; it has no --nproc_per_node")
    names = list(cfg.models)
    if not names:
        raise UserError("models: name at least one, e.g. models.sft=runs/tiny/sft/model")
    # a hub id is named by the config alone; for a folder that is missing, local_folder speaks up
    folders = [path for path in cfg.models.values() if Path(path).is_dir()]
    run = RunFolder("evaluate", cfg, folders)
    if run.already_complete:
        return
    for name in names:
        if (run.path / f"{name}.json").is_file():
            continue
        results, samples = evaluate_model(cfg, cfg.models[name])
        write_jsonl(run.path / f"{name}.samples.jsonl", samples)
        write_json(run.path / f"{name}.json", results)
        run.touch()
        print_results(name, results)
    files = [run.path / f"{n}{end}" for n in names for end in (".json", ".samples.jsonl")]
    run.finish(files, {"models": len(names)})


def evaluate_model(cfg: Any, model: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results by task, and one row per problem."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from eval.lm import EngineLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    include = Path(cfg.include_path)
    folder = str(include if include.is_dir() else ROOT / include)
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(cfg.tasks) <= set(manager.all_tasks):  # indexing lm-eval's own takes seconds
        manager = TaskManager(include_path=folder)
    for task in cfg.tasks:
        if task not in manager.all_tasks:
            ours = [t for t in manager.all_tasks if t.startswith("reasoning_")]
            raise UserError(f"tasks: no lm-eval task {task!r}{nearest(task, ours)}")
    tokenizer = instantiate(cfg.tokenizer | {"path": model}, "tokenizer")
    engine = GuardedEngine(cfg.engine | {"model": model}, tokenizer, cfg.engine_timeout)
    # lm-eval has no option for repeats: they are set in the task's own config
    take = [{"name": "all", "filter": [{"function": "take_first_k", "k": cfg.repeats}]}]
    output = simple_evaluate(
        EngineLM(engine, tokenizer, cfg.seed, cfg.sampling),
        tasks=[
            load_yaml(manager.task_index[t].yaml_path, resolve_func=True)
            | {"repeats": cfg.repeats, "filter_list": take}
            for t in cfg.tasks
        ],
        task_manager=manager,
        apply_chat_template=True,
        limit=cfg.limit,
        log_samples=True,
        bootstrap_iters=0,
    )
    engine.close()
    results, rows = {}, []
    for task in cfg.tasks:
        mine = [problem_row(task, sample) for sample in output["samples"][task]]
        results[task] = summary(mine, cfg.repeats)
        rows += mine
    return results, rows


def problem_row(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """One problem's scores and responses, from lm-eval's logged sample."""
    doc = sample["doc"]
    return {
        "task": task,
        **{key: doc.get(key) for key in ("id", "problem", "answer", "difficulty")},
        **{metric: sample[metric] for metric in METRICS},
        "responses": [str(r) for r in sample["resps"][0]],
    }


def summary(rows: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Accuracy with its interval and the rates beside it, over all problems and by difficulty."""

    def accuracy(part: list[dict[str, Any]]) -> dict[str, Any]:
        scores = [row["accuracy"] for row in part]
        return {
            "accuracy": sum(scores) / len(scores),
            "ci": list(accuracy_interval(scores, samples)),
            "n_problems": len(part),
            "n_samples": len(part) * samples,
        }

    labels = sorted({row["difficulty"] for row in rows if row["difficulty"]})
    rates = {m: sum(r[m] for r in rows) / len(rows) for m in METRICS if m != "accuracy"}
    by_label = {label: accuracy([r for r in rows if r["difficulty"] == label]) for label in labels}
    return accuracy(rows) | rates | {"by_difficulty": by_label}


if __name__ == "__main__":
    main()

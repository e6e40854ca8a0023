"""Evaluate one or several models through lm-eval, one after the other in this process.

    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml
    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml only=[sft] limit=100 repeats=4

Your own problems are the task reasoning_own; the key `problems` names them as in rollout.yaml.

Each model gets `<output_dir>/<name>.json` (accuracies with intervals, also by difficulty; pass@k
and cons@k; rates of truncated, missing and undecided answers; provenance) and
`<name>.samples.jsonl` (every problem with its responses and verdicts). Responses are kept as they
come: a resumed run asks only for those that are missing, and skips a model whose files exist.
`python -m eval.rescore` scores the responses again; `python -m eval.compare` compares models.
"""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from custom_components.config import UserError, instantiate, load, nearest, recipe_main
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.manifest import ROOT
from custom_components.runs.run_folder import RunFolder
from eval.evaluate_config import EvaluateConfig
from eval.provenance import model_provenance, task_provenance
from eval.repeats import repeated
from eval.results import problem_row, summary
from eval.sets import SETS, evaluation_problems
from eval.tables import print_results


@recipe_main
def main(cfg: EvaluateConfig) -> None:
    """Evaluate models."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("evaluate is one process; it has no --nproc_per_node")
    names = list(cfg.models)
    if not names:
        raise UserError("models: name at least one, e.g. models.sft=runs/tiny/sft/model")
    run = RunFolder("evaluate", cfg)
    if run.already_complete:
        return
    for name in names:
        if (run.path / f"{name}.json").is_file():
            continue
        replies = run.path / f"{name}.responses.jsonl"
        results, samples = evaluate_model(cfg, cfg.models[name], replies, run.inputs)
        write_jsonl(run.path / f"{name}.samples.jsonl", samples)
        write_json(run.path / f"{name}.json", results)
        replies.unlink(missing_ok=True)
        run.touch()
        print_results(name, results["results"])
    files = [run.path / f"{n}{end}" for n in names for end in (".json", ".samples.jsonl")]
    run.finish(files, {"models": len(names)})


def evaluate_model(
    cfg: EvaluateConfig, model: str, replies: Path, hashes: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the results of a model, and one row for each problem.

    Args:
        cfg: config of the run.
        model: Hugging Face folder, hub id, or an endpoint's name for the model.
        replies: file that keeps the replies as they come.
        hashes: content hashes by folder.
    """
    from lm_eval import simple_evaluate

    from eval.lm import EngineLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager, tasks = load_tasks(cfg)
    tokenizer = cfg.tokenizer and instantiate(cfg.tokenizer | {"path": model}, "tokenizer")
    engine = WatchedEngine(cfg.engine | {"model": model}, tokenizer, cfg.engine_timeout)
    lm = EngineLM(engine, tokenizer, cfg.seed, cfg.sampling, replies, cfg.group)
    began = time.perf_counter()
    output = simple_evaluate(
        lm,
        tasks=tasks,
        task_manager=manager,
        apply_chat_template=True,
        limit=cfg.limit,
        log_samples=True,
        bootstrap_iters=0,
    )
    seconds = {"generation": lm.seconds, "all": time.perf_counter() - began}
    engine.close()
    results: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    protocols: dict[str, dict[str, Any]] = {}
    for task in tasks:
        name = task["task"]
        task_rows = [problem_row(name, sample) for sample in output["samples"][name]]
        results[name] = summary(task_rows)
        protocols[name] = task_provenance(task, task_rows, cfg.sampling)
        rows += task_rows
    template = tokenizer.hf.chat_template if tokenizer else None
    provenance = model_provenance(model, hashes.get(model), template, cfg.engine, engine.dtype) | {
        "seed": cfg.seed,
        "tasks": protocols,
        "seconds": seconds,
    }
    return {"model": model, "provenance": provenance, "results": results}, rows


def load_tasks(cfg: EvaluateConfig) -> tuple[Any, list[dict[str, Any]]]:
    """lm-eval's task manager, and the tasks' configs with the repeats that are asked for.

    Raises:
        UserError: when there is no such task.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    include = Path(cfg.include_path)
    folder = str(include if include.is_dir() else ROOT / include)
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(cfg.tasks) <= set(manager.all_tasks):  # indexing lm-eval's own takes seconds
        manager = TaskManager(include_path=folder)
    loaded = []
    for task in cfg.tasks:
        if task not in manager.all_tasks:
            ours = [t for t in manager.all_tasks if t.startswith("reasoning_")]
            raise UserError(f"tasks: no lm-eval task {task!r}{nearest(task, ours)}")
        config = load_yaml(manager.task_index[task].yaml_path, resolve_func=True)
        members = config.get("task")
        for part in (
            [config]
            if isinstance(members, str)
            else [
                load_yaml(manager.task_index[name].yaml_path, resolve_func=True) for name in members
            ]
        ):
            if "samples" not in {m["metric"] for m in part.get("metric_list", [])}:
                raise UserError(
                    f"tasks: {part['task']} is not scored by this project's verifier; take one of "
                    "ours (reasoning_...), or run it by lm_eval itself"
                )
            if part["task"] == "reasoning_own" and cfg.problems:
                part = of_own_problems(part, cfg)
            loaded.append(repeated(part, cfg.repeats or part.get("repeats", 1)))
    return manager, loaded


def problems_of_evaluation(config: str) -> Iterator[tuple[str, bool, str] | UserError]:
    """Problems that an evaluation's YAML asks: (task, whether they are of a benchmark, problem); the
    error in place of those of a task of ours that cannot be loaded.

    Made-up problems that differ in a digit (the tiny track's) are no benchmark.

    Raises:
        UserError: when a task is unknown, or the problems of another cannot be loaded.
    """
    cfg = load(EvaluateConfig, config, ["models={}"])
    named = {task: task.removeprefix("reasoning_") for task in cfg.tasks}
    for task, name in named.items():  # without lm-eval, which takes seconds to import
        if name in SETS:
            try:
                yield from (
                    (task, name != "tiny_addition", p) for _, p in evaluation_problems([name])
                )
            except UserError as e:  # the others may be here
                yield e
    if "reasoning_own" in named and cfg.problems:
        from eval.tasks.functions import whole

        own = whole(instantiate(cfg.problems, "problems"))["test"]
        yield from (("reasoning_own", True, row["problem"]) for row in own)
        named.pop("reasoning_own")
    cfg.tasks = [task for task, name in named.items() if name not in SETS]
    for task in load_tasks(cfg)[1] if cfg.tasks else []:
        for row in task["custom_dataset"]()["test"]:
            yield task["task"], True, row["problem"]


def of_own_problems(task: dict[str, Any], cfg: EvaluateConfig) -> dict[str, Any]:
    """The task with the config's problems, asked with the tokenizer's instruction as in training."""
    from eval.tasks.functions import whole

    data = whole(instantiate(cfg.problems, "problems"))
    instruction = (cfg.tokenizer or {}).get("instruction")
    asked = "{{problem}}" + (f"\n{{% raw %}}{instruction}{{% endraw %}}" if instruction else "")
    return task | {"custom_dataset": lambda **_: data, "doc_to_text": asked}


if __name__ == "__main__":
    main()

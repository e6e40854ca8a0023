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
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.run_folder import RunFolder
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import load_tasks, warn_of_other_instructions
from eval.provenance import model_provenance, task_provenance
from eval.results import problem_row, summary
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
    tokenizer = None
    if cfg.tokenizer:
        tokenizer = instantiate(cfg.tokenizer | {"path": model}, "tokenizer")
    manager, tasks = load_tasks(cfg, tokenizer.instruction if tokenizer else "")
    if tokenizer:
        warn_of_other_instructions(tokenizer, tasks)
    engine = WatchedEngine(cfg.engine | {"model": model}, tokenizer, cfg.engine_timeout)
    with closing(engine):
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
        "prompt_form": asdict(tokenizer.form) if tokenizer else None,
        "seed": cfg.seed,
        "tasks": protocols,
        "seconds": seconds,
    }
    return {"model": model, "provenance": provenance, "results": results}, rows


if __name__ == "__main__":
    main()

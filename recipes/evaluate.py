"""Evaluate one or several models through lm-eval, one after the other in this process.

    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml
    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml only=[sft] limit=100 repeats=4

Problems of your own are the task reasoning_own; the key `problems` names them as in rollout.yaml.

Each model gets `<output_dir>/<name>.json` (accuracies with intervals, also by difficulty; pass@k and
cons@k; rates of truncation, missing and undecided answers; where all of it comes from) and
`<name>.samples.jsonl` (every problem with its responses and verdicts). Responses are kept as they
come: a run that was stopped asks only for what is missing, and a model whose files are there is not
evaluated again. `python -m eval.rescore` judges the responses anew; `python -m eval.compare` compares.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.run_folder import RunFolder
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import load_tasks
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
        spool = run.path / f"{name}.responses.jsonl"
        results, samples = evaluate_model(cfg, cfg.models[name], spool, run.inputs)
        write_jsonl(run.path / f"{name}.samples.jsonl", samples)
        write_json(run.path / f"{name}.json", results)
        spool.unlink(missing_ok=True)
        run.touch()
        print_results(name, results["results"])
    files = [run.path / f"{n}{end}" for n in names for end in (".json", ".samples.jsonl")]
    run.finish(files, {"models": len(names)})


def evaluate_model(
    cfg: EvaluateConfig, model: str, spool: Path, hashes: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results of a model, and one row per problem.

    Args:
        cfg: the config.
        model: Hugging Face folder, hub id, or an endpoint's name for it.
        spool: keeps the responses as they come.
        hashes: content hashes by folder.
    """
    from lm_eval import simple_evaluate

    from eval.lm import EngineLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager, tasks = load_tasks(cfg)
    tokenizer = cfg.tokenizer and instantiate(cfg.tokenizer | {"path": model}, "tokenizer")
    engine = WatchedEngine(cfg.engine | {"model": model}, tokenizer, cfg.engine_timeout)
    lm = EngineLM(engine, tokenizer, cfg.seed, cfg.sampling, spool, cfg.group)
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
    results, rows, of_tasks = {}, [], {}
    for task in tasks:
        name = task["task"]
        mine = [problem_row(name, sample) for sample in output["samples"][name]]
        results[name] = summary(mine)
        of_tasks[name] = task_provenance(task, mine, cfg.sampling)
        rows += mine
    provenance = model_provenance(model, hashes.get(model), tokenizer, cfg.engine, engine.dtype) | {
        "seed": cfg.seed,
        "tasks": of_tasks,
        "seconds": seconds,
    }
    return {"model": model, "provenance": provenance, "results": results}, rows


if __name__ == "__main__":
    main()

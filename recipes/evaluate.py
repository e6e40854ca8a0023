"""Evaluate one or several models through lm-eval, one after the other.

    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml
    tune run recipes/evaluate.py --config configs/tiny/evaluate.yaml only=[sft] limit=100 repeats=4
    tune run --nproc_per_node 8 recipes/evaluate.py --config configs/phi4_mini/evaluate.yaml

With several ranks, each with an engine, the requests of a model are one queue; the results are the
same for any number of ranks, and a killed run resumes on any.

Your own problems are the task reasoning_own; the key `problems` names them as in rollout.yaml.

Each model gets `<output_dir>/<name>.json` (accuracies with intervals, also by difficulty; pass@k
and cons@k; rates of truncated, missing and undecided answers; provenance) and
`<name>.samples.jsonl` (every problem with its responses and verdicts). Responses are kept as they
come: a resumed run asks only for those that are missing, and skips a model whose files exist.
`python -m eval.rescore` scores the responses again; `python -m eval.compare` compares models.
"""

import logging
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from custom_components.config import UserError, instantiate, recipe_main
from custom_components.engines.watchdog import WatchedEngine
from custom_components.io import write_json, write_jsonl
from custom_components.runs.run_folder import RunFolder
from custom_components.training.separate_ranks import SeparateRanks, separate_ranks
from eval.evaluate_config import EvaluateConfig
from eval.evaluation_tasks import load_tasks, warn_of_other_instructions
from eval.provenance import model_provenance, task_provenance
from eval.results import problem_row, summary
from eval.scoring import use_verifier
from eval.tables import print_results


@recipe_main
def main(cfg: EvaluateConfig) -> None:
    """Evaluate models."""
    use_verifier(cfg.verifier)
    names = list(cfg.models)
    if not names:
        raise UserError("models: name at least one, e.g. models.sft=runs/tiny/sft/model")
    with separate_ranks("auto") as ranks:
        run = RunFolder("evaluate", cfg, ranks)
        if run.already_complete:
            return
        for name in names:
            if (run.path / f"{name}.json").is_file():
                continue
            replies = run.path / f"{name}.responses.jsonl"
            evaluation = evaluate_model(cfg, cfg.models[name], replies, run.inputs, ranks)
            if evaluation is None:
                continue
            from eval.lm import reply_files

            results, samples = evaluation
            write_jsonl(run.path / f"{name}.samples.jsonl", samples)
            write_json(run.path / f"{name}.json", results)
            for file in reply_files(replies):
                file.unlink(missing_ok=True)
            run.touch()
            print_results(name, results["results"])
        files = [run.path / f"{n}{end}" for n in names for end in (".json", ".samples.jsonl")]
        ranks.barrier()
        run.finish(files, {"models": len(names)})


def evaluate_model(
    cfg: EvaluateConfig, model: str, replies: Path, hashes: dict[str, str], ranks: SeparateRanks
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return the results of a model, and one row for each problem; None on ranks other than 0.

    Args:
        cfg: config of the run.
        model: Hugging Face folder, hub id, or an endpoint's name for the model.
        replies: file that keeps the replies as they come.
        hashes: content hashes by folder.
        ranks: this process among all.
    """
    from lm_eval import simple_evaluate

    from eval.lm import AnsweredElsewhere, EngineLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = None
    if cfg.tokenizer:
        tokenizer = instantiate(cfg.tokenizer | {"path": model}, "tokenizer")
    manager, tasks = load_tasks(cfg, tokenizer.instruction if tokenizer else "")
    if tokenizer:
        warn_of_other_instructions(tokenizer, tasks)
    engine = WatchedEngine(cfg.engine | {"model": model}, tokenizer, cfg.engine_timeout)
    with closing(engine):
        lm = EngineLM(engine, tokenizer, cfg.seed, cfg.sampling, replies, cfg.group, ranks)
        began = time.perf_counter()
        try:
            output = simple_evaluate(
                lm,
                tasks=tasks,
                task_manager=manager,
                apply_chat_template=True,
                limit=cfg.limit,
                log_samples=True,
                bootstrap_iters=0,
            )
        except AnsweredElsewhere:
            return None
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
        "rounding": cfg.verifier.rounding,
        "tasks": protocols,
        "seconds": seconds,
    }
    return {"model": model, "provenance": provenance, "results": results}, rows


if __name__ == "__main__":
    main()

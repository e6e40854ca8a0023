"""Rewrite the report of a chain, from what its stages have left so far.

    tune run recipes/report.py --config configs/tiny/chain.yaml

The chain does so after every stage. This recipe looks into a stage under way, and may run beside it.
It writes nothing but report.json, report.html and the results in the models' cards.
"""

from dataclasses import asdict
from pathlib import Path

from custom_components.chain.chain_config import ChainConfig
from custom_components.config import UserError, recipe_main
from custom_components.report.chain_report import make_report


@recipe_main
def main(cfg: ChainConfig) -> None:
    """Write report.json and report.html of a chain."""
    run_dir = Path(cfg.run_dir)
    if not run_dir.is_dir():
        raise UserError(f"run_dir: {run_dir} does not exist; run the chain first")
    stages = [asdict(stage) for stage in cfg.stages]
    _, page = make_report(run_dir, cfg.task, stages, cfg.compare)
    print(f"Report: {page}", flush=True)


if __name__ == "__main__":
    main()

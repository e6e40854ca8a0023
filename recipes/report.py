"""Write a chain's report anew, from what its stages have left so far.

    tune run recipes/report.py --config configs/tiny/chain.yaml

The chain does so after every stage; this looks into a stage under way, and may run beside it. It writes
nothing but report.json, report.html and the results in the models' cards.
"""

from pathlib import Path

from custom_components.config import UserError, recipe_main
from custom_components.report.chain_report import make_report
from recipes.chain import ChainConfig, stages_with_defaults


@recipe_main
def main(cfg: ChainConfig) -> None:
    """Write report.json and report.html of a chain."""
    if not Path(cfg.run_dir).is_dir():
        raise UserError(f"run_dir: {cfg.run_dir} does not exist; run the chain first")
    compare = [tuple(pair) for pair in cfg.compare]
    _, page = make_report(Path(cfg.run_dir), cfg.task, stages_with_defaults(cfg), compare)
    print(f"Report: {page}", flush=True)


if __name__ == "__main__":
    main()

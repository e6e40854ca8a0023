"""Run recipes from the command line."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, get_type_hints

from custom_components.config.errors import UserError
from custom_components.config.loading import load

Config = TypeVar("Config")


def command_line(doc: str | None) -> tuple[str, list[str]]:
    """Return the `--config` file and the `key=value` overrides of this process."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file of this recipe")
    args, overrides = parser.parse_known_args()
    return args.config, overrides


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with status 2 and one line on a `UserError` or a full disk, and with 130 when
    it is interrupted. Other exceptions propagate.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("error: stopped; the same command continues", file=sys.stderr, flush=True)
        sys.exit(130)
    except (UserError, OSError) as e:
        if isinstance(e, OSError):
            if not _is_full_disk(e):
                raise
            e = f"the disk is full ({e}); free some space and run the same command: it continues"
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (rank {rank})"
        print(f"error{where}: {e}", file=sys.stderr, flush=True)
        sys.exit(2)


def _is_full_disk(e: OSError) -> bool:
    if e.errno is None:  # numpy sets no number, and says "n requested and m written"
        return str(e).endswith(" written")
    return e.errno in (errno.ENOSPC, errno.EDQUOT)


class Recipe(Generic[Config]):
    """Run a recipe's main function from the command line.

    Args:
        run: Function that takes the config.
        schema: Dataclass of the config.
    """

    def __init__(self, run: Callable[[Config], None], schema: type[Config]) -> None:
        self.run = run
        self.schema = schema

    def __call__(self) -> None:
        """Parse `--config file key=value ...`, and run. `errors_in_one_line` words the errors."""
        config, overrides = command_line(self.run.__doc__)
        with errors_in_one_line():
            self.run(load(self.schema, config, overrides))


def recipe_main(main: Callable[[Config], None]) -> Recipe[Config]:
    """Make a recipe of a main function whose one parameter is annotated with its config's class."""
    (schema,) = (kind for name, kind in get_type_hints(main).items() if name != "return")
    return Recipe(main, schema)


def schema_of(recipe: str) -> type:
    """Return the config class of `recipes/<recipe>.py` in the working directory."""
    return importlib.import_module(f"recipes.{recipe}").main.schema

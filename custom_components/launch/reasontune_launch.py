"""Make `tune run recipes/x.py` find ./recipes. Imported at interpreter start; keep it light.

torchtune's wheel installs a top-level package `recipes` whose `__init__` raises, and `tune run`
only appends the working directory to `sys.path`, so that package would win over the user's
folder. This finder answers for the one name `recipes`, and only where the working directory
has such a folder.
"""

import os
import sys


class LocalRecipes:
    """Find `recipes` as the namespace package <cwd>/recipes; an entry of `sys.meta_path`."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "recipes" or path is not None:
            return None
        try:
            folder = os.path.join(os.getcwd(), "recipes")
        except OSError:  # the working directory was removed
            return None
        if not os.path.isdir(folder):
            return None
        from importlib.machinery import ModuleSpec

        spec = ModuleSpec("recipes", None, is_package=True)
        spec.submodule_search_locations = [folder]
        return spec


if LocalRecipes not in sys.meta_path:
    sys.meta_path.insert(0, LocalRecipes)

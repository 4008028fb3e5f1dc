"""An environment for a subprocess in which some libraries are not installed, whatever is."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Python runs a sitecustomize.py that it finds on its path before anything else.
_CODE = """
import sys


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def environment_without(folder: Path, *names: str) -> dict[str, str]:
    """Environment variables; `folder` gets the file that does it. The repository is on the path."""
    (folder / "sitecustomize.py").write_text(_CODE.format(names=set(names)))
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

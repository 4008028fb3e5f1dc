"""What an optional part needs, read from our own package metadata, so that hints never go out of date."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from ckptfix.errors import UnavailableError

# PEP 508: a name, then perhaps [extras], then the versions, then a marker after a semicolon.
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*\(?([^;)]*)\)?")


def requirement(name: str) -> str:
    """What pip must be asked for: `torch>=2.4` for `torch`; the bare name where our metadata says nothing of it."""
    try:
        declared = requires("ckptfix") or []
    except PackageNotFoundError:  # run from a source folder that was never installed
        declared = []
    for line in declared:
        found = _REQUIREMENT.match(line)
        if found is not None and _normal(found[1]) == _normal(name):
            return found[1] + (found[2] or "") + found[3].replace(" ", "")
    return name


def missing_dependency(name: str) -> UnavailableError:
    """The error to raise when `import name` failed."""
    return UnavailableError(
        f"{name} is not installed",
        hint=f"pip install '{requirement(name)}'",
        code="dependency",
        dependency=name,
    )


def _normal(name: str) -> str:
    """PEP 503: case, dots, dashes and underscores make no difference."""
    return re.sub(r"[-_.]+", "-", name).lower()

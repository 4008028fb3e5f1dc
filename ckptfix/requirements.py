"""What an optional part needs, read from our own package metadata, so that hints never go out of date."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

from ckptfix.errors import UnavailableError

# PEP 508: a name, then perhaps [extras], then the versions, then a marker after a semicolon.
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*\(?([^;)]*)\)?")


def requirement(name: str) -> str:
    """What pip must be asked for: `torch>=2.4` for `torch`; the bare name where our metadata says nothing of it."""
    for line in _declared():
        found = _REQUIREMENT.match(line)
        if found is not None and _normal(found[1]) == _normal(name):
            return found[1] + (found[2] or "") + found[3].replace(" ", "")
    return name


def wanted_versions() -> dict[str, tuple[str, str]]:
    """Name -> the versions we ask for (`>=2.4`), and the first extra that asks (empty: the package itself).

    Nothing where we were never installed.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in _declared():
        parts = _REQUIREMENT.match(line)
        extra = re.search(r"extra\s*==\s*[\"'](\w+)[\"']", line)
        if parts is not None and _normal(parts[1]) != "ckptfix":
            found.setdefault(parts[1], (parts[3].replace(" ", ""), extra[1] if extra else ""))
    return found


def installed_version(name: str) -> str | None:
    """The version of a distribution that is there; None where it is not. Imports nothing of it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def is_older(found: str, least: str) -> bool:
    """Whether a version comes before what `>=…` asks for, by its numbers; other forms of asking are not judged."""
    if not least.startswith(">="):
        return False
    return _release(found) < _release(least.removeprefix(">=").partition(",")[0])


def _release(written: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13): trailing zeros make no difference."""
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", written)
    numbers = [int(number) for number in found[1].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def missing_dependency(name: str) -> UnavailableError:
    """The error to raise when `import name` failed."""
    return UnavailableError(
        f"{name} is not installed",
        hint=f"pip install '{requirement(name)}'",
        code="dependency",
        dependency=name,
    )


def _declared() -> list[str]:
    try:
        return requires("ckptfix") or []
    except PackageNotFoundError:  # run from a source folder that was never installed
        return []


def _normal(name: str) -> str:
    """PEP 503: case, dots, dashes and underscores make no difference."""
    return re.sub(r"[-_.]+", "-", name).lower()

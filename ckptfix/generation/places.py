"""Where a model is: a folder or file here, or a copy in the Hugging Face cache. Looks only; needs no library.

A path with a typo must never be asked for on the hub, so a name counts as a hub id only if nothing here looks like it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptfix.errors import UsageError
from ckptfix.text import printable

HUB_PREFIX: Final = "hf://"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_WEIGHTS: Final = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository on the hub; `folder` is where its files lie in the cache, None if they were never fetched."""

    repo: str
    revision: str
    cache: Path
    folder: Path | None

    @property
    def name(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


def locate(name: str, option: str, what: str) -> Path | HubId:
    """What `name` means: a path that exists, or a hub id. UsageError for a path that does not exist."""
    explicit = name.startswith(HUB_PREFIX)
    bare = name.removeprefix(HUB_PREFIX)
    if not explicit and os.path.lexists(Path(name).expanduser()):
        return Path(name).expanduser()
    if not _HUB_ID.fullmatch(bare) or (not explicit and _looks_local(name)):
        raise _no_such_path(name, option, what)
    repo, _, revision = bare.partition("@")
    return hub_id(repo, revision or "main")


def hub_id(repo: str, revision: str = "main") -> HubId:
    cache = hub_cache()
    home = cache / f"models--{repo.replace('/', '--')}"
    folder = None
    try:
        commit = (home / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError, ValueError):
        commit = revision
    if re.fullmatch(r"[\w.-]+", commit) and (home / "snapshots" / commit).is_dir():
        folder = home / "snapshots" / commit
    return HubId(repo, revision, cache, folder)


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """As huggingface_hub finds it: constants.py, HF_HUB_CACHE."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return Path(environment[name]).expanduser()
    if environment.get("HF_HOME"):
        return Path(environment["HF_HOME"]).expanduser() / "hub"
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "huggingface" / "hub"


def hub_is_off(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether HF_HUB_OFFLINE forbids every request."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def _looks_local(name: str) -> bool:
    """`./x`, `models/x` where models/ or something like it is a folder here, `x/y.safetensors`, `C:\\x`."""
    if name.startswith((".", "~", os.sep)) or "\\" in name or Path(name).suffix.lower() in _WEIGHTS:
        return True
    first = Path(name).parts[0]
    folders = [entry.name for entry in Path().iterdir() if entry.is_dir()]
    return bool(difflib.get_close_matches(first, folders, n=1, cutoff=0.75))


def _no_such_path(name: str, option: str, what: str) -> UsageError:
    shown = printable(name)
    near = _nearest(Path(name).expanduser())
    hint = f"did you mean {option} {near}?" if near else f"{option} takes {what}: a folder, or a hub id owner/name"
    if _HUB_ID.fullmatch(name):
        hint += f" If it is on the hub: {option} {HUB_PREFIX}{shown}"
    return UsageError("there is no such file or folder", hint=hint, code="no-such-path", source=shown, option=option)


def _nearest(path: Path) -> str | None:
    """An existing path with a name like this one's, following the parts that do exist."""
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if (found / part).exists():
            found = found / part
            continue
        try:
            names = [entry.name for entry in found.iterdir()]
        except OSError:
            return None
        suffix = Path(part).suffix
        stems = [name.removesuffix(suffix) for name in names if Path(name).suffix == suffix]
        close = difflib.get_close_matches(part.removesuffix(suffix), stems, n=1, cutoff=0.6)
        if not close:
            return None
        found = found / (close[0] + suffix)
    return str(found)

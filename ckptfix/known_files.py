"""Published files, known by their size and their sha256: what tells twins apart that share all names and shapes."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

_PIECE = 1 << 22  # bytes read at once

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One published file; `product` is a key of `products.PRODUCTS`, `bytes` the size of the whole file."""

    product: str
    title: str
    bytes: int
    sha256: str
    seen: str


@cache
def known_files() -> tuple[KnownFile, ...]:
    """All of known_files.toml, which grows by an entry per file."""
    text = (resources.files("ckptfix") / "known_files.toml").read_text(encoding="utf-8")
    return tuple(KnownFile(**entry) for entry in tomllib.loads(text)["file"])


def of_size(size: int) -> tuple[KnownFile, ...]:
    """Those of exactly this many bytes."""
    return tuple(known for known in known_files() if known.bytes == size)


def recognise(path: Path, size: int, progress: Progress | None = None) -> KnownFile | None:
    """The published file that this one is, byte for byte; nothing is read unless the size is that of one."""
    candidates = of_size(size)
    if not candidates:
        return None
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            if progress:
                progress("sha256", done, size)
    return next((known for known in candidates if known.sha256 == digest.hexdigest()), None)

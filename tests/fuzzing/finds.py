"""Mutants that once did harm, kept as text: comments that say what happened, then the bytes as Python literals."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "fixtures" / "fuzz_finds"
_LINE = 64  # bytes of a file per line


def keep(data: bytes, what: str, *, folder: Path = FOLDER) -> Path:
    """Write a find down; its name is the hash of its bytes."""
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.txt"
    comment = "".join(f"# {line}\n" for line in what.strip().splitlines())
    lines = (repr(data[start : start + _LINE]) for start in range(0, len(data), _LINE))
    path.write_text(comment + "\n".join(lines) + "\n", encoding="ascii", errors="backslashreplace")
    return path


def load(path: Path) -> bytes:
    lines = path.read_text(encoding="ascii").splitlines()
    return b"".join(ast.literal_eval(line) for line in lines if line and not line.startswith("#"))


def all_finds(folder: Path = FOLDER) -> list[Path]:
    return sorted(folder.glob("*.txt"))

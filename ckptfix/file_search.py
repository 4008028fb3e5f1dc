"""Which checkpoints a person means: a file, an address, a folder, a pattern, or a list of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ckptfix.errors import CkptfixError, UnreadableError, UsageError
from ckptfix.formats.address import is_remote
from ckptfix.formats.bytesource import DISTRIBUTED, SUFFIXES
from ckptfix.shards import INDEX_SUFFIX, shards_listed
from ckptfix.text import printable

Found = str | CkptfixError  # a file or an address, or why there is none

_WILD = frozenset("*?[")
_INDEXES = tuple(f"{suffix}{INDEX_SUFFIX}" for suffix in sorted(SUFFIXES))


def find_files(names: Iterable[str | os.PathLike[str]], *, patterns: bool = True) -> Iterator[Found]:
    """The files behind each name, in order: those in a folder and below it, those that a pattern matches, or itself.

    A folder gives the checkpoints in it, sorted: an index in place of the shards that it lists, no hidden names, no
    folder twice, however links lead there. A name that exists is no pattern; without `patterns` none is. Where nothing
    is found, the error stands in its place.
    """
    for given in names:
        name = os.fspath(given)
        if is_remote(name):
            yield name
        elif _is_folder(name):
            yield from _in_folder(name)
        elif patterns and _WILD & set(name) and not os.path.lexists(name):
            yield from _matching(name)
        else:
            yield name


def read_list(data: bytes) -> list[str]:
    """The names in a list: one per line, or separated by NUL where one occurs, as `find -print0` writes them.

    UTF-16 and the mark of UTF-8 are known by their first bytes: PowerShell's `>` writes them.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    parts = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def _in_folder(folder: str) -> Iterator[Found]:
    found: list[str] = []
    closed: list[OSError] = []
    root = Path(folder).resolve()
    visited = {root}
    for place, folders, files in os.walk(folder, onerror=closed.append, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _is_new(Path(place, name), root, visited)]
        if any(name.endswith(DISTRIBUTED) for name in files):
            found.append(place)  # to be refused with the command that gathers it
        found.extend(str(Path(place, name)) for name in _checkpoints(place, files))
    yield from sorted(found)
    for error in closed:
        yield UnreadableError(
            f"the folder cannot be read: {error.strerror}",
            hint="ask for permission to read and to enter it",
            code="permission",
            source=printable(str(error.filename), 1000),
        )
    if not found and not closed:
        yield UsageError(
            "is a folder in which no checkpoint lies, nor in the folders below it",
            hint=f"checkpoints are known by their names there ({' '.join(sorted(SUFFIXES))}); name a file to look at "
            "it whatever it is called",
            code="no-checkpoint",
            source=printable(folder, 1000),
        )


def _is_new(folder: Path, root: Path, visited: set[Path]) -> bool:
    """Whether a folder in the walk of `root` is to be entered: not hidden, not seen, no way back up."""
    if folder.name.startswith("."):
        return False
    real = folder.resolve()
    if real in visited or root.is_relative_to(real):
        return False
    visited.add(real)
    return True


def _checkpoints(place: str, files: Iterable[str]) -> set[str]:
    """The names among these that stand for a checkpoint: shards that an index lists do not."""
    names = {name for name in files if not name.startswith(".")}
    chosen = {name for name in names if Path(name).suffix.lower() in SUFFIXES}
    for index in (name for name in names if name.endswith(_INDEXES)):
        with suppress(CkptfixError):  # inspect will say what is wrong with it
            chosen.difference_update(shards_listed(Path(place, index)))
        chosen.add(index)
    return chosen


def _matching(pattern: str) -> Iterator[Found]:
    """What the shell would have put in the pattern's place; folders among it are searched."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if _WILD & set(part))
    base, wild = Path(*parts[:first]), parts[first:]
    hidden = any(part.startswith(".") for part in wild)
    try:
        matches = [
            str(path)
            for path in base.glob(str(Path(*wild)))
            if hidden or not any(part.startswith(".") for part in path.relative_to(base).parts)
        ]
    except (OSError, ValueError) as error:
        yield _no_match(pattern, f"is no file, nor a pattern: {error}")
        return
    if not matches:
        yield _no_match(pattern, "is no file, and no name matches it as a pattern")
    yield from dict.fromkeys(find for match in sorted(matches) for find in _behind(match))


def _behind(match: str) -> Iterable[Found]:
    return _in_folder(match) if _is_folder(match) else (match,)


def _is_folder(name: str) -> bool:
    with suppress(OSError):  # a name too long, a loop of links: whoever opens it will say so
        return Path(name).is_dir()
    return False


def _no_match(pattern: str, problem: str) -> UsageError:
    return UsageError(
        problem,
        hint="check the path; * and ? stand for any letters, ** for any folders",
        code="no-such-file",
        source=printable(pattern, 1000),
    )

"""What lies where a face pack should be: its files, their place, and whether they are whole. Moves them if asked to.

insightface wants the files directly in `models/antelopev2`; the zip holds a folder of that name, so that unpacking it
there nests it (deepinsight/insightface, python-package/insightface/utils/storage.py).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptfix.errors import CkptfixError, ExitCode, OutputError, RefusedError, UnreadableError, UsageError
from ckptfix.face.onnx_file import count_operators
from ckptfix.face.pack import (
    DETECTOR,
    FOREIGN_NAMES,
    GET_PACK,
    PACK,
    RECOGNISER,
    judge,
    nested_places,
    no_substitute,
    usual_places,
)
from ckptfix.findings import Finding
from ckptfix.formats.atomic import move_without_replacing
from ckptfix.formats.bytesource import chunks_of, open_local
from ckptfix.text import plural, printable

_MODELS: Final = (DETECTOR, RECOGNISER)


@dataclass(frozen=True, slots=True)
class Move:
    """A file that lies one folder too deep, and where it belongs; `done` once it is there."""

    source: Path
    target: Path
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"from": str(self.source), "to": str(self.target), "done": self.done}


@dataclass(frozen=True, slots=True)
class FaceCheckup:
    """Where the pack is (None: nowhere), its two models by name and where each lies, what is wrong, what was moved."""

    folder: Path | None
    models: dict[str, Path | None]
    findings: tuple[Finding, ...]
    moves: tuple[Move, ...]
    looked: tuple[Path, ...]

    @property
    def exit_code(self) -> ExitCode:
        serious = any(finding.severity != "note" for finding in self.findings)
        return ExitCode.PROBLEM if serious else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ckptfix.doctor-faces/1",
            "folder": None if self.folder is None else str(self.folder),
            "models": {name: None if path is None else str(path) for name, path in self.models.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "moves": [move.to_dict() for move in self.moves],
            "looked": [str(place) for place in self.looked],
        }


def check_faces(folder: Path | None = None, *, fix: bool = False) -> FaceCheckup:
    """Look at the pack in `folder`, or in the first usual place that holds anything of it.

    With `fix` nested files are moved up, each in one step and never over another file; nothing is deleted but a
    folder that is left empty. Links stay, and so does all that lies behind one: it belongs to another place.
    UsageError: `folder` is none. OutputError: a file that cannot be moved.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(
            "is no folder",
            hint="name the folder that holds antelopev2, or antelopev2 itself",
            code="not-a-folder",
            source=printable(str(folder), 1000),
        )
    looked = tuple(usual_places()) if folder is None else (folder,)
    target = _target(looked) if folder is None else _inside(folder)
    if target is None:
        return FaceCheckup(None, dict.fromkeys(_MODELS), (_absent(looked),), (), looked)
    moves = [Move(source, target / source.name) for source in _too_deep(target)]
    if fix:
        moves = _all_moved(moves)
    places = [target, *_nested(target)]
    models = {name: next((place / name for place in places if (place / name).is_file()), None) for name in _MODELS}
    findings = [*_misplaced(moves), *_linked(target, models), *_model_findings(target, models), *_other_files(target)]
    if folder is None:
        findings.extend(_elsewhere(target, looked))
    return FaceCheckup(target, models, tuple(findings), tuple(moves), looked)


def _inside(folder: Path) -> Path:
    """The folder of the pack itself: the one named, or `antelopev2` or `models/antelopev2` in it."""
    if folder.name == PACK or _holds_models(folder):
        return folder
    return next((place for place in (folder / PACK, folder / "models" / PACK) if place.is_dir()), folder)


def _target(places: tuple[Path, ...]) -> Path | None:
    """The first place that holds something of the pack, else the first that is a folder."""
    found = (place for place in places if any(map(_holds_models, (place, *_nested(place)))))
    return next(found, None) or next((place for place in places if place.is_dir()), None)


def _holds_models(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*_MODELS, *FOREIGN_NAMES))


def _nested(target: Path) -> list[Path]:
    """Folders of the pack's name below it; links that lead back to it are none."""
    below = [place for place in nested_places(target) if place != target and place.is_dir()]
    return [place for place in below if not place.samefile(target)]


def _too_deep(target: Path) -> Iterator[Path]:
    """The files to move: none that is a link, or lies in a folder that is one."""
    for place in _nested(target):
        if not _is_linked(place, target):
            yield from sorted(path for path in place.glob("*.onnx") if path.is_file() and not path.is_symlink())


def _is_linked(path: Path, target: Path) -> bool:
    """Whether a link lies between the pack's folder and what is below it."""
    return any(part.is_symlink() for part in (path, *path.parents) if part != target and part.is_relative_to(target))


def _all_moved(moves: list[Move]) -> list[Move]:
    """Each in turn; an error tells which were moved before it."""
    tried: list[Move] = []
    for move in moves:
        try:
            tried.append(_moved(move))
        except OutputError as error:
            done = [before.to_dict() for before in tried if before.done]
            error.details["moved"] = done
            if done:
                error.message += (
                    f" ({plural(len(done), 'file')} moved before: {', '.join(before['to'] for before in done)})"
                )
            raise
    return tried


def _moved(move: Move) -> Move:
    """The move made, or left undone because something is there already."""
    try:
        move_without_replacing(move.source, move.target)
    except FileExistsError:
        return move
    except OSError as error:
        raise OutputError(
            f"cannot be moved to {printable(str(move.target), 1000)}: {error.strerror}",
            hint="check the permissions of both folders, or move it by hand",
            code="face-pack",
            source=printable(str(move.source), 1000),
        ) from error
    if not any(move.source.parent.iterdir()):
        move.source.parent.rmdir()
    return Move(move.source, move.target, done=True)


def _misplaced(moves: list[Move]) -> Iterator[Finding]:
    waiting = [move for move in moves if not move.done]
    free = [move for move in waiting if not os.path.lexists(move.target)]
    if free:
        names = ", ".join(printable(move.source.name) for move in free)
        where = shlex.quote(str(free[0].target.parent))
        yield Finding(
            "nested",
            "error",
            f"{plural(len(free), 'file')} one folder too deep, where insightface does not look: {names}",
            hint=f"ckptfix doctor faces {where} --fix",
        )
    for move in waiting:
        if move in free:
            continue
        source, target = (printable(str(path), 1000) for path in (move.source, move.target))
        if _same(move.source, move.target):
            yield Finding("duplicate", "note", f"{source} is there twice; the copy at {target} is used")
        else:
            yield Finding(
                "conflict",
                "warning",
                f"{source} was not moved: another file is at {target}",
                hint="keep the right one of the two; ckptfix replaces none",
            )


def _linked(target: Path, models: dict[str, Path | None]) -> Iterator[Finding]:
    """Models that only a link one folder too deep leads to."""
    for name, path in models.items():
        if path is not None and path.parent != target and _is_linked(path, target):
            there, wanted = (printable(str(place), 1000) for place in (path, target))
            yield Finding(
                "nested",
                "error",
                f"{name} is behind a link one folder too deep, where insightface does not look: {there}",
                hint=f"put a copy or a link of it into {wanted}; ckptfix moves nothing out of another place",
            )


def _same(one: Path, other: Path) -> bool:
    if not other.is_file():  # a link that leads nowhere, or a folder
        return False
    if one.stat().st_size != other.stat().st_size:
        return False
    with closing(open_local(one)) as first, closing(open_local(other)) as second:
        pairs = zip(chunks_of(first, 0, first.size), chunks_of(second, 0, second.size), strict=True)
        return all(left == right for left, right in pairs)


def _model_findings(target: Path, models: dict[str, Path | None]) -> Iterator[Finding]:
    missing = [name for name, path in models.items() if path is None]
    foreign = [name for name in FOREIGN_NAMES if (target / name).exists()]
    if foreign and RECOGNISER in missing:
        yield Finding(
            "wrong-model",
            "error",
            f"holds {foreign[0]} of insightface's buffalo packs: its 512 numbers are another person to InstantID",
            hint=GET_PACK,
        )
    elif missing:
        zipped = _archive(target)
        there = "" if zipped is None else f"; {printable(zipped.name)} was not unpacked"
        there += no_substitute([target])
        yield Finding("missing", "error", f"{' and '.join(missing)} missing{there}", hint=_how_to_get(target, zipped))
    for name, path in models.items():
        if path is not None:
            yield from _judged(path, name)


def _archive(target: Path) -> Path | None:
    archives = (place / f"{PACK}.zip" for place in (target, target.parent))
    return next((path for path in archives if path.is_file()), None)


def _how_to_get(target: Path, archive: Path | None) -> str:
    if archive is None:
        return GET_PACK
    return f"unpack it: unzip -j {shlex.quote(str(archive))} -d {shlex.quote(str(target))}"


def _judged(path: Path, name: str) -> Iterator[Finding]:
    try:
        note = judge(path, name)
    except RefusedError as error:
        yield Finding("wrong-model", "error", f"{printable(name)} {error.message}", hint=error.hint)
    except CkptfixError as error:
        yield Finding("damaged", "error", f"{printable(name)} {error.message}", hint=error.hint)
    else:
        if note:
            yield Finding("other-copy", "note", note)


def _other_files(target: Path) -> Iterator[Finding]:
    """insightface reads every .onnx beside the two, and fails on one that is cut."""
    for path in sorted(target.glob("*.onnx")):
        if path.name in _MODELS or not path.is_file():
            continue
        try:
            with closing(open_local(path)) as source:
                count_operators(source)
        except UnreadableError as error:
            yield Finding(
                "damaged",
                "warning",
                f"{printable(path.name)} {error.message}; it is not needed, but insightface reads it",
                hint="unpack antelopev2.zip again, or take this file away",
            )


def _elsewhere(target: Path, looked: tuple[Path, ...]) -> Iterator[Finding]:
    for place in looked:
        if place.is_dir() and not place.samefile(target) and _holds_models(place):
            yield Finding("elsewhere", "note", f"another pack lies in {printable(str(place), 1000)}; the first is used")


def _absent(looked: tuple[Path, ...]) -> Finding:
    where = ", ".join(printable(str(place), 1000) for place in looked)
    message = f"the face pack antelopev2 was not found; looked in {where}{no_substitute(looked)}"
    return Finding("missing", "error", message, hint=GET_PACK)

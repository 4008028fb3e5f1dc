"""The face models that InstantID was trained with: insightface's pack antelopev2, where it lies and whether it is it.

Two of its five files are used: `scrfd_10g_bnkps.onnx` finds faces, `glintr100.onnx` tells who it is. Another
recogniser may give 512 numbers too, and to InstantID they are another person: buffalo_l's `w600k_r50.onnx`, and the
`glintr100.onnx` of AuraFace, which even bears the same name. So the file itself is judged, not its name or width.

Sizes and sha256: the copies on Hugging Face (DIAMONIK7777/antelopev2, public-data/insightface, fal/AuraFace-v1), which
agree with deepinsight/insightface, python-package/insightface/model_zoo/person_package.py and its v0.7 release.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptfix.errors import CkptfixError, RefusedError, UnavailableError, UnreadableError, UsageError
from ckptfix.face.onnx_file import count_operators
from ckptfix.formats.bytesource import LocalFile, chunks_of, open_local
from ckptfix.text import printable

LICENCE_NOTE: Final = "the face models of antelopev2 are licensed for non-commercial research only (insightface)"

DETECTOR: Final = "scrfd_10g_bnkps.onnx"
RECOGNISER: Final = "glintr100.onnx"
PACK: Final = "antelopev2"
_BYTES: Final = {DETECTOR: 16_923_827, RECOGNISER: 260_665_334}
_SHA256: Final = {
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": DETECTOR,
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": RECOGNISER,
}
_OTHER_RECOGNISERS: Final = {
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": "w600k_r50.onnx of buffalo_l",
    "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60": "the recogniser of AuraFace",
}
# Convolutions of an IResNet: one at the start, two in each block, one in each of the four stages' shortcuts
# (deepinsight/insightface, recognition/arcface_torch/backbones/iresnet.py: blocks 3 + 13 + 30 + 3 and 3 + 4 + 14 + 3).
_CONVOLUTIONS: Final = 1 + 2 * (3 + 13 + 30 + 3) + 4
_OTHER_BACKBONES: Final = {
    1 + 2 * (2 + 2 + 2 + 2) + 4: "IResNet-18",
    1 + 2 * (3 + 4 + 6 + 3) + 4: "IResNet-34",
    1 + 2 * (3 + 4 + 14 + 3) + 4: "IResNet-50, as in buffalo_l",
    1 + 2 * (6 + 26 + 60 + 6) + 4: "IResNet-200",
}
FOREIGN_NAMES: Final = ("w600k_r50.onnx", "w600k_mbf.onnx")
_OTHER_PACKS: Final = ("buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc")  # deepinsight/insightface: model_zoo
GET_PACK: Final = (
    "download antelopev2.zip (361 MB, non-commercial research only) from "
    "https://github.com/deepinsight/insightface/releases/download/v0.7/antelopev2.zip "
    "and unpack it in ~/.insightface/models; or give an embedding made elsewhere: --embedding E.npy"
)
_AGAIN: Final = "unpack antelopev2.zip again, or name another folder with --face-model DIR"


@dataclass(frozen=True, slots=True)
class FacePack:
    """Both model files, whole and judged; `notes` is what to tell the person, the licence first."""

    folder: Path
    detector: Path
    recogniser: Path
    notes: tuple[str, ...] = (LICENCE_NOTE,)


def find_pack(folder: Path | None) -> FacePack:
    """The pack in `folder`, or with None in the first usual place that holds it whole. Nothing is ever downloaded.

    UsageError: `folder` does not exist. UnavailableError: not found, or files of it missing or cut; it lists all
    places. RefusedError: another model in its place.
    """
    if folder is not None:
        if not folder.is_dir():
            raise _no_folder(folder)
        places = list(nested_places(folder))
    else:
        places = [place for root in usual_places() for place in nested_places(root)]
    partial: list[Path] = []
    for place in places:
        present = [name for name in (DETECTOR, RECOGNISER) if (place / name).exists()]
        if len(present) == 2:
            return _judged(place)
        if present or any((place / name).exists() for name in FOREIGN_NAMES):
            partial.append(place)
    if partial:
        raise _incomplete(partial[0])
    raise _not_found(folder, places)


def usual_places() -> Iterator[Path]:
    """Folders that hold `antelopev2`, or are it; the order is that of the documentation."""
    home = os.environ.get("INSIGHTFACE_HOME")
    if home:
        yield Path(home).expanduser() / "models" / PACK
        yield Path(home).expanduser() / PACK
    yield Path("~/.insightface/models").expanduser() / PACK
    yield Path("models") / PACK
    inside = Path("models/insightface/models") / PACK
    comfy = os.environ.get("COMFYUI_PATH")
    if comfy:
        yield Path(comfy).expanduser() / inside
    yield inside
    yield Path("ComfyUI") / inside
    yield Path("~/ComfyUI").expanduser() / inside


def nested_places(folder: Path) -> Iterator[Path]:
    """The zip holds a folder of the pack's name, so that unpacking it into one of that name nests it."""
    yield folder
    yield folder / PACK
    if folder.name != PACK:
        yield folder / PACK / PACK
        yield folder / "models" / PACK


def no_substitute(places: Iterable[Path]) -> str:
    """The end of a message that says antelopev2 is missing, where another pack of insightface lies at hand."""
    near = dict.fromkeys(folder for place in places for folder in (place, place / "models", place.parent))
    found = next((folder / name for folder in near for name in _OTHER_PACKS if (folder / name).is_dir()), None)
    if found is None:
        return ""
    return (
        f"; {found.name} lies in {printable(str(found.parent), 1000)} and is no substitute: its 512 numbers are "
        "another person to InstantID"
    )


def _judged(place: Path) -> FacePack:
    notes = [LICENCE_NOTE]
    for name in (DETECTOR, RECOGNISER):
        note = judge(place / name, name)
        if note:
            notes.append(note)
    return FacePack(place, place / DETECTOR, place / RECOGNISER, tuple(notes))


def judge(path: Path, name: str) -> str:
    """A note where the file is another copy than the published one; the errors of `find_pack`."""
    try:
        source = open_local(path)
    except CkptfixError as error:
        raise _damaged(path, error.message) from error
    with closing(source):
        try:
            operators = count_operators(source)
        except UnreadableError as error:
            whole = f" of {_BYTES[name]:,} in the published file" if error.code == "truncated" else ""
            raise _damaged(path, error.message + whole) from error
        digest = _sha256(source)
    published = _SHA256.get(digest)
    if published == name:
        return ""
    if published:
        raise _wrong(path, f"is {published} under another name")
    if name == DETECTOR:
        return f"{path.name} is not the published file (sha256 {digest[:12]}…): keypoints may differ from InstantID's"
    other = _OTHER_RECOGNISERS.get(digest)
    if other:
        raise _wrong(path, f"is {other}, not glintr100 of antelopev2")
    backbone = _OTHER_BACKBONES.get(operators["Conv"])
    if backbone:
        raise _wrong(
            path, f"is another recogniser ({operators['Conv']} convolutions: {backbone}; glintr100 has {_CONVOLUTIONS})"
        )
    seen = f"sha256 {digest[:12]}…, {operators['Conv']} of {_CONVOLUTIONS} convolutions"
    return f"{path.name} is not the published file ({seen}): if it is another model, the picture shows another person"


def _sha256(source: LocalFile) -> str:
    digest = hashlib.sha256()
    for chunk in chunks_of(source, 0, source.size):
        digest.update(chunk)
    return digest.hexdigest()


def _wrong(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{what}: its 512 numbers are another person to InstantID",
        hint=GET_PACK,
        code="face-pack",
        source=printable(str(path), 1000),
    )


def _damaged(path: Path, what: str) -> UnavailableError:
    return UnavailableError(what, hint=_AGAIN, code="face-pack", source=printable(str(path), 1000))


def _incomplete(place: Path) -> CkptfixError:
    missing = [name for name in (DETECTOR, RECOGNISER) if not (place / name).exists()]
    foreign = [name for name in FOREIGN_NAMES if (place / name).exists()]
    shown = printable(str(place), 1000)
    if foreign and RECOGNISER in missing:
        return RefusedError(
            f"holds {foreign[0]} (insightface's buffalo packs), not glintr100.onnx of antelopev2: "
            "its 512 numbers are another person to InstantID",
            hint=GET_PACK,
            code="face-pack",
            source=shown,
        )
    return UnavailableError(
        f"the face pack is incomplete: {' and '.join(missing)} missing", hint=_AGAIN, code="face-pack", source=shown
    )


def _not_found(folder: Path | None, places: list[Path]) -> UnavailableError:
    looked = [printable(str(place), 1000) for place in places]
    if folder is None:
        message = f"the face pack antelopev2 was not found; looked in {', '.join(_roots(looked))}"
    else:
        message = f"holds neither {DETECTOR} nor {RECOGNISER} (nor does its folder {PACK})"
        archive = next(
            (path for path in (folder / f"{PACK}.zip", folder / PACK / f"{PACK}.zip") if path.is_file()), None
        )
        if archive:
            return UnavailableError(
                message + f", but {archive.name}",
                hint=f"unpack it: unzip {shlex.quote(str(archive))} -d {shlex.quote(str(archive.parent))}",
                code="face-pack",
                source=printable(str(folder), 1000),
            )
    message += no_substitute(places if folder is None else [folder])
    source = None if folder is None else printable(str(folder), 1000)
    return UnavailableError(message, hint=GET_PACK, code="face-pack", source=source, looked=looked)


def _roots(looked: list[str]) -> list[str]:
    """Without the nested variants of a folder named before."""
    return [place for place in looked if not place.endswith(f"{PACK}{os.sep}{PACK}")]


def _no_folder(folder: Path) -> UsageError:
    shown = printable(str(folder), 1000)
    if folder.is_file():
        inside = shlex.quote(str(folder.parent))
        hint = f"name the folder: --face-model {inside}"
        if folder.suffix == ".zip":
            hint = f"unpack it, then name the folder: unzip {shlex.quote(str(folder))} -d {inside}"
        return UsageError("is a file, not a folder", hint=hint, code="not-a-folder", source=shown)
    return UsageError(
        "no such folder", hint="check the path given with --face-model", code="no-such-folder", source=shown
    )

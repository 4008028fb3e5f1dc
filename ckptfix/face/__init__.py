"""Faces for InstantID: find them, tell who they are, and draw what the ControlNet wants to see.

    image = resize_for_canvas(load_image("img.jpg"))
    face = choose_face(find_faces(image, pack=find_pack(None)), None)
    draw_keypoints(image.size, face.keypoints)      # beside face.embedding

Same steps as instantX-research/InstantID, infer.py, with insightface's arithmetic and without insightface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import RefusedError, UsageError
from ckptfix.face.data import Note, read_embedding, read_keypoints, save_embedding, save_keypoints
from ckptfix.face.detection import Detection, Detector
from ckptfix.face.identity import Recogniser
from ckptfix.face.image import canvas_size, load_image, resize_for_canvas
from ckptfix.face.keypoint_picture import draw_keypoints
from ckptfix.face.pack import FacePack, find_pack
from ckptfix.face.scrfd import Scrfd
from ckptfix.face.yunet import YuNet, yunet_file
from ckptfix.text import plural

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Face",
    "FacePack",
    "canvas_size",
    "choose_face",
    "draw_keypoints",
    "find_faces",
    "find_pack",
    "load_image",
    "read_embedding",
    "read_keypoints",
    "resize_for_canvas",
    "save_embedding",
    "save_keypoints",
]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of a picture, in that picture's pixels.

    `keypoints` (5, 2): left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    `box`: x0, y0, x1, y1. `embedding` (512,): raw, not normalised; None where no face pack was given.
    """

    keypoints: NDArray[np.float32]
    box: tuple[float, float, float, float]
    score: float
    embedding: NDArray[np.float32] | None = None

    @property
    def area(self) -> float:
        return max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1])


def find_faces(
    image: Image,
    *,
    detector: Path | None = None,
    pack: FacePack | None = None,
    only: int | None = None,
    progress: Progress | None = None,
) -> list[Face]:
    """All faces of an RGB picture, largest first; empty if there is none at any detection size.

    With a pack its SCRFD finds them, unless `detector` names a YuNet file, and glintr100 gives the embeddings: of all
    faces, or of the one with index `only`. Without a pack YuNet finds them. A picture without a face at 640 pixels is
    tried at smaller sizes, down to 192: detectors miss faces that fill the picture.

    UnavailableError: no detector, or a library is missing. UnreadableError: a model file that does not work.
    """
    picture = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    finder: Detector = Scrfd(pack.detector) if pack and detector is None else YuNet(yunet_file(detector))
    found: list[Detection] = []
    for done, size in enumerate(finder.sizes):
        if progress:
            progress("look for faces", done, len(finder.sizes))
        found = finder.detect(picture, size)
        if found:
            break
    if progress:
        progress("look for faces", len(finder.sizes), len(finder.sizes))
    faces = [Face(one.keypoints, one.box, one.score) for one in found]
    faces.sort(key=lambda face: (-face.area, -face.score))
    return _identified(faces, picture, pack, only, progress) if pack and faces else faces


def _identified(
    faces: list[Face], picture: NDArray[np.uint8], pack: FacePack, only: int | None, progress: Progress | None
) -> list[Face]:
    recogniser = Recogniser(pack.recogniser)
    chosen = [index for index in range(len(faces)) if only in (None, index)]
    for done, index in enumerate(chosen):
        if progress:
            progress("recognise faces", done, len(chosen))
        face = faces[index]
        faces[index] = Face(face.keypoints, face.box, face.score, recogniser.embed(picture, face.keypoints))
    if progress:
        progress("recognise faces", len(chosen), len(chosen))
    return faces


def choose_face(faces: Sequence[Face], index: int | None, *, note: Note | None = None) -> Face:
    """The largest face, or the one of that index; `note` is told when the choice was ours to make.

    RefusedError: there is no face. UsageError: no face has that index.
    """
    if not faces:
        raise RefusedError(
            "no face was found, also at smaller detection sizes",
            hint="use a picture that shows a face from the front and upright, or give its five points: --kps K.json",
            code="no-face",
        )
    if index is None:
        if note and len(faces) > 1:
            others = f"--face-index 0 to {len(faces) - 1}"
            note(f"{plural(len(faces), 'face')} found, the largest is used; choose another with {others}")
        return faces[0]
    if not 0 <= index < len(faces):
        there = "one face was" if len(faces) == 1 else f"{len(faces)} faces were"
        most = "0" if len(faces) == 1 else f"0 (the largest) to {len(faces) - 1}"
        raise UsageError(f"there is no face {index}: {there} found", hint=f"use --face-index {most}", code="face-index")
    return faces[index]

"""The person and the place: an embedding that says who, five keypoints that say where, and the size of the canvas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import CkptfixError, UsageError
from ckptfix.generation.gathering import Gathering
from ckptfix.generation.picture import Named, sha256_of
from ckptfix.generation.wishes import Recipe, Wishes
from ckptfix.text import plural, printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from ckptfix.face import Face, FacePack

Progress = Callable[[str, int, int], None]
Size = tuple[int, int]
SEEDED: Final = "seeded numbers in the place of a face: nobody's"
_SELF_TEST_SIDES: Final = {"short": 256, "long": 320}
# Where insightface puts the five points of an aligned face in a square of 112 pixels.
_FRONTAL: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@dataclass(frozen=True, slots=True, eq=False)
class FaceInput:
    """`embedding` (512,) raw; `keypoints` (5, 2) in pixels of the canvas, None without a ControlNet.

    `files` are the pictures it came from; `embedding` is never written anywhere but where --save-embedding says.
    """

    embedding: NDArray[np.float32]
    keypoints: NDArray[np.float64] | None
    canvas: Size
    files: tuple[Named, ...] = ()


@dataclass(slots=True)
class _Search:
    """What looking for faces needs, and what it has found so far."""

    wishes: Wishes
    recipe: Recipe
    gathering: Gathering
    progress: Progress | None
    pack: FacePack | None = None


def read_face(wishes: Wishes, recipe: Recipe, gathering: Gathering, progress: Progress | None) -> FaceInput | None:
    """Everything that is to be known of the face; what is missing or wrong becomes a problem of `gathering`."""
    search = _Search(wishes, recipe, gathering, progress)
    problems = len(gathering.problems)
    if not wishes.faces and wishes.embedding is None and not wishes.self_test:
        gathering.problem(
            "face",
            UsageError("no face was given", hint="--face IMG, or --embedding E.npy made from one", code="no-face"),
        )
        return None
    if wishes.faces and (wishes.embedding is None or wishes.face_model is not None):
        _find_pack(search)
    images = [image for path in wishes.faces if (image := _load(search, path, "face")) is not None]
    pose = _load(search, wishes.pose, "pose") if wishes.pose else None
    faces = [face for image in images if (face := _search(search, image, "face")) is not None]
    template = pose if pose is not None else images[0] if images else None
    canvas = _canvas(recipe, template, self_test=wishes.self_test)
    embedding = _embedding(search, faces)
    keypoints: NDArray[np.float64] | None = None
    if not recipe.no_controlnet:
        keypoints = _keypoints(search, faces, images, pose, canvas)
    if len(gathering.problems) > problems or embedding is None:
        return None
    files = tuple(Named(printable(path.name), sha256_of(path)) for path in wishes.faces)
    return FaceInput(embedding, keypoints, canvas, files)


def _find_pack(search: _Search) -> None:
    from ckptfix.face import find_pack

    try:
        search.pack = find_pack(search.wishes.face_model)
    except CkptfixError as error:
        if search.wishes.self_test and search.wishes.face_model is None:
            return
        search.gathering.problem("face models", error)
        return
    search.gathering.found("face models", printable(str(search.pack.folder)))
    for note in search.pack.notes:
        search.gathering.note(note)


def _load(search: _Search, path: Path, piece: str) -> Image | None:
    """At the size that InstantID looks for faces at; None if it cannot be read, which is a problem noted."""
    from ckptfix.face import load_image, resize_for_canvas

    with search.gathering.piece(piece):
        image = load_image(path)
        search.gathering.found(piece, f"{printable(path.name)}, {image.width} x {image.height} pixels")
        return resize_for_canvas(image)
    return None


def _search(search: _Search, image: Image, piece: str) -> Face | None:
    """The face of one picture that counts."""
    from ckptfix.face import choose_face, find_faces

    wishes = search.wishes
    elsewhere = wishes.kps or wishes.pose or search.recipe.no_controlnet
    if piece == "face" and wishes.embedding is not None and elsewhere:
        return None  # neither who nor where is asked of it
    with search.gathering.piece(piece):
        faces = find_faces(
            image,
            detector=wishes.face_detector,
            pack=search.pack,
            only=wishes.face_index or 0,
            progress=search.progress,
        )
        return choose_face(faces, wishes.face_index, note=search.gathering.note)
    return None


def _embedding(search: _Search, faces: list[Face]) -> NDArray[np.float32] | None:
    from ckptfix.face import read_embedding

    wishes, gathering = search.wishes, search.gathering
    if wishes.embedding is not None:
        with gathering.piece("identity"):
            embedding = read_embedding(wishes.embedding, note=gathering.note)
            gathering.found("identity", f"{printable(wishes.embedding.name)}, norm {np.linalg.norm(embedding):.1f}")
            return embedding
        return None
    known = [face.embedding for face in faces if face.embedding is not None]
    if known:
        mean: NDArray[np.float32] = np.stack(known).mean(axis=0, dtype=np.float32)
        of = f"mean of {plural(len(known), 'picture')}" if len(known) > 1 else "from the picture"
        gathering.found("identity", f"{of}, norm {np.linalg.norm(mean):.1f}")
        return mean
    if wishes.self_test and search.pack is None:
        from ckptfix.generation.tiny_base import tiny_embedding

        gathering.found("identity", SEEDED)
        seeded: NDArray[np.float32] = tiny_embedding().numpy()
        return seeded
    return None


def _keypoints(
    search: _Search, faces: list[Face], images: list[Image], pose: Image | None, canvas: Size
) -> NDArray[np.float64] | None:
    """In pixels of the canvas: read, found in the pose picture or the face picture, or a frontal face."""
    from ckptfix.face import read_keypoints

    wishes, gathering = search.wishes, search.gathering
    if wishes.kps is not None:
        with gathering.piece("keypoints"):
            points = read_keypoints(wishes.kps)
            _check_inside(points, canvas, wishes.kps)
            gathering.found("keypoints", printable(wishes.kps.name))
            return points
        return None
    image, face = (images[0] if images else None), (faces[0] if faces else None)
    if wishes.pose is not None:
        image, face = pose, (_search(search, pose, "pose") if pose is not None else None)
    if image is not None and face is not None:
        points = placed(face.keypoints, image.size, canvas)
        gathering.found("keypoints", f"found in {printable((wishes.pose or wishes.faces[0]).name)}")
        return points
    if wishes.faces or wishes.pose:
        return None  # a problem already
    gathering.found("keypoints", "a frontal face in the middle; --kps or --pose put it elsewhere")
    return frontal_face(canvas)


def _check_inside(points: NDArray[np.float64], canvas: Size, path: Path) -> None:
    outside = int((((points < 0) | (points >= canvas)).any(axis=1)).sum())
    if outside:
        raise UsageError(
            f"{outside} of its 5 points lie outside of the picture of {canvas[0]} x {canvas[1]} pixels",
            hint="points are in output pixels; give --width and --height to suit them",
            code="keypoints",
            source=printable(str(path)),
        )


def placed(points: NDArray[Any], size: Size, canvas: Size) -> NDArray[np.float64]:
    """Points of a picture of `size` in a canvas that it fits into, centred, with its shape kept."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    margin = (np.array(canvas) - scale * np.array(size)) / 2
    moved: NDArray[np.float64] = np.asarray(points, np.float64) * scale + margin
    return moved


def frontal_face(canvas: Size) -> NDArray[np.float64]:
    """Five points that look straight ahead, over 0.4 of the short side, a little above the middle."""
    side = 0.4 * min(canvas)
    points: NDArray[np.float64] = _FRONTAL * (side / 112) + np.array([canvas[0] / 2, canvas[1] * 0.45]) - side / 2
    return points


def _canvas(recipe: Recipe, template: Image | None, *, self_test: bool) -> Size:
    """What was asked for; one side alone keeps the picture's shape; else as upstream makes it of the picture."""
    from ckptfix.face import canvas_size

    if recipe.width and recipe.height:
        return recipe.width, recipe.height
    across, down = template.size if template is not None else (1024, 1024)
    width, height = canvas_size(across, down, **(_SELF_TEST_SIDES if self_test else {}))
    if template is None and not self_test:
        width, height = 1024, 1024
    if recipe.width:
        return recipe.width, max(64, round(recipe.width * height / width / 64) * 64)
    if recipe.height:
        return max(64, round(recipe.height * width / height / 64) * 64), recipe.height
    return width, height


def sized(recipe: Recipe, face: FaceInput) -> Recipe:
    return replace(recipe, width=face.canvas[0], height=face.canvas[1])

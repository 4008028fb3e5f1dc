"""The PNG that comes out, and what it says about itself: how it was made, never whose face made it.

An embedding is biometric and a path is private: neither is ever written. Files are named without their folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckptfix import __version__
from ckptfix.errors import UnreadableError, UsageError
from ckptfix.formats.atomic import replacing
from ckptfix.generation.wishes import RECIPE_TYPES
from ckptfix.requirements import missing_dependency
from ckptfix.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA: Final = "ckptfix.picture/1"
KEY: Final = "ckptfix"
_LIBRARIES: Final = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, slots=True)
class Named:
    """A file by its name alone, and its sha256 where that was computed."""

    name: str
    sha256: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Origin:
    """How a picture was made. `recipe` as `Recipe.to_dict`; `base` and `controlnet` are hub ids or bare names; `place`
    is the pose picture or the keypoints, where they did not come from the face picture."""

    recipe: Mapping[str, Any]
    adapter: Named
    base: str
    controlnet: str | None
    faces: tuple[Named, ...] = ()
    place: Named | None = None
    lora: Named | None = None
    label: str = ""
    versions: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "label": self.label,
            "recipe": dict(self.recipe),
            "adapter": self.adapter.to_dict(),
            "base": self.base,
            "controlnet": self.controlnet,
            "faces": [face.to_dict() for face in self.faces],
            "place": self.place.to_dict() if self.place else None,
            "lora": self.lora.to_dict() if self.lora else None,
            "versions": dict(self.versions if self.versions is not None else library_versions()),
        }


def library_versions() -> dict[str, str]:
    """Ours and those of the libraries that decide the numbers."""
    found = {"ckptfix": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_picture(path: Path, image: Image, origin: Origin | None, *, force: bool) -> None:
    """A PNG, with its origin in text chunks unless that is None. OutputError, UsageError (the file exists)."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    if origin is not None:
        texts.add_text("Software", f"ckptfix {__version__}")
        if origin.label:
            texts.add_text("Comment", origin.label)
        texts.add_text(KEY, json.dumps(origin.to_dict()))
    data = BytesIO()
    image.save(data, "PNG", pnginfo=texts)
    with replacing(path, force=force, needed=len(data.getvalue())) as pending:
        pending.stream.write(data.getvalue())


def read_origin(path: Path) -> Origin:
    """What `write_picture` wrote. UsageError: no such file; UnreadableError: no PNG, or none of ours."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise missing_dependency("pillow") from error
    shown = printable(os.fspath(path), 1000)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
    except FileNotFoundError:
        raise UsageError("there is no such file", hint="name a picture that generate made", source=shown) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableError(
            "is no PNG that can be read", hint="name a picture that generate made", code="picture", source=shown
        ) from error
    try:
        return _origin(json.loads(text) if isinstance(text, str) else None)
    except (_NotOursError, json.JSONDecodeError, RecursionError) as error:
        raise UnreadableError(
            "does not say how it was made: it is no picture of generate's, or its text was taken out (as many "
            "programs and --no-metadata do)",
            hint="give the settings as options; ckptfix generate --help lists them",
            code="no-origin",
            source=shown,
        ) from error


class _NotOursError(Exception):
    """The text is not what `Origin.to_dict` makes."""


def _origin(found: Any) -> Origin:
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise _NotOursError
    recipe, base, controlnet = found.get("recipe"), found.get("base"), found.get("controlnet")
    faces, versions = found.get("faces"), found.get("versions")
    if not (isinstance(recipe, dict) and isinstance(base, str) and isinstance(faces, list)):
        raise _NotOursError
    if not isinstance(versions, dict):
        raise _NotOursError
    for name, kind in RECIPE_TYPES.items():
        value = recipe.get(name)
        if kind is float and type(value) is int:
            recipe[name] = float(value)
        elif type(value) is not kind:
            raise _NotOursError
    return Origin(
        recipe={name: recipe[name] for name in RECIPE_TYPES},
        adapter=_named(found.get("adapter")),
        base=base,
        controlnet=controlnet if isinstance(controlnet, str) else None,
        faces=tuple(_named(face) for face in faces),
        place=_named(found["place"]) if found.get("place") is not None else None,
        lora=_named(found["lora"]) if found.get("lora") is not None else None,
        label=str(found.get("label", "")),
        versions={str(name): str(number) for name, number in versions.items()},
    )


def _named(found: Any) -> Named:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise _NotOursError
    digest = found.get("sha256")
    return Named(found["name"], digest if isinstance(digest, str) else None)

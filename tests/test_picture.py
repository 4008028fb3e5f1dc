"""What a picture says about itself, what it never says, and what is made of text that strangers wrote."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ckptfix.errors import UnreadableError, UsageError
from ckptfix.generation.picture import KEY, Named, Origin, read_origin, write_picture
from ckptfix.generation.wishes import Recipe

ORIGIN = Origin(
    recipe=Recipe(prompt="a portrait, 中文, \x1b[31m", seed=7, width=64, height=64, dtype="float32").to_dict(),
    adapter=Named("fixed.safetensors", "ab" * 32),
    base="owner/model",
    controlnet="InstantX/InstantID",
    faces=(Named("img.jpg", "cd" * 32),),
    place=Named("k.json", "ef" * 32),
    versions={"ckptfix": "0.1.0"},
)
PICTURE = Image.effect_noise((64, 64), 50).convert("RGB")
NOT_OURS = (
    "does not say how it was made: it is no picture of generate's, or its text was taken out (as many programs and "
    "--no-metadata do)"
)


def texts(path: Path) -> dict[str, str]:
    """The tEXt chunks, read without Pillow."""
    data, found, position = path.read_bytes(), {}, 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        if kind == b"tEXt":
            key, _, text = body.partition(b"\0")
            found[key.decode("latin-1")] = text.decode("latin-1")
        position += 12 + length
    return found


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, PICTURE, ORIGIN, force=False)
    assert read_origin(path) == ORIGIN
    assert Image.open(path).tobytes() == PICTURE.tobytes()
    found = texts(path)
    assert set(found) == {"Software", KEY}
    assert found["Software"] == "ckptfix 0.1.0"
    assert json.loads(found[KEY]) == ORIGIN.to_dict()
    assert found[KEY].isascii()


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, PICTURE, ORIGIN, force=False)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_without_metadata_there_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, PICTURE, None, force=False)
    assert texts(path) == {}
    with pytest.raises(UnreadableError) as caught:
        read_origin(path)
    assert str(caught.value) == f"{path}: {NOT_OURS}"
    assert caught.value.hint == "give the settings as options; ckptfix generate --help lists them"


def test_a_picture_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, PICTURE, ORIGIN, force=False)
    with pytest.raises(UsageError, match="already exists"):
        write_picture(path, PICTURE, None, force=False)
    write_picture(path, PICTURE, None, force=True)
    assert texts(path) == {}


def spoilt(**changes: Any) -> str:
    return json.dumps(ORIGIN.to_dict() | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "[" * 100_000,
        spoilt(schema="ckptfix.picture/9"),
        spoilt(recipe=[]),
        spoilt(recipe={"prompt": "alone"}),
        spoilt(recipe=ORIGIN.to_dict()["recipe"] | {"seed": "7"}),
        spoilt(recipe=ORIGIN.to_dict()["recipe"] | {"seed": True}),
        spoilt(recipe=ORIGIN.to_dict()["recipe"] | {"guidance": None}),
        spoilt(adapter=None),
        spoilt(adapter={"name": 1}),
        spoilt(base=3),
        spoilt(faces="img.jpg"),
        spoilt(faces=[{}]),
        spoilt(lora=[]),
        spoilt(place="k.json"),
        spoilt(versions=[1]),
    ],
)
def test_text_of_strangers_is_told_from_ours(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.png"
    info = PngInfo()
    info.add_text(KEY, text)
    PICTURE.save(path, pnginfo=info)
    with pytest.raises(UnreadableError) as caught:
        read_origin(path)
    assert str(caught.value) == f"{path}: {NOT_OURS}"


def test_whole_numbers_count_as_fractions(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    info = PngInfo()
    info.add_text(KEY, spoilt(recipe=ORIGIN.to_dict()["recipe"] | {"guidance": 5}))
    PICTURE.save(path, pnginfo=info)
    assert read_origin(path) == ORIGIN


def test_files_that_are_no_png(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as missing:
        read_origin(tmp_path / "a.png")
    assert str(missing.value) == f"{tmp_path / 'a.png'}: there is no such file"
    assert missing.value.hint == "name a picture that generate made"
    path = tmp_path / "a.jpg"
    PICTURE.save(path)
    with pytest.raises(UnreadableError) as caught:
        read_origin(path)
    assert str(caught.value) == f"{path}: is no PNG that can be read"
    write_picture(tmp_path / "cut.png", PICTURE, ORIGIN, force=False)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(UnreadableError):
        read_origin(tmp_path / "cut.png")

"""Where the face pack is looked for, and what is taken for it."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from ckptfix.errors import CkptfixError, RefusedError, UnavailableError, UsageError
from ckptfix.face import pack as face_pack
from ckptfix.face.pack import LICENCE_NOTE, find_pack
from tests.onnx_models import write_pack, write_recogniser

GET = (
    "download antelopev2.zip (361 MB, non-commercial research only) from "
    "https://github.com/deepinsight/insightface/releases/download/v0.7/antelopev2.zip "
    "and unpack it in ~/.insightface/models; or give an embedding made elsewhere: --embedding E.npy"
)
AGAIN = "unpack antelopev2.zip again, or name another folder with --face-model DIR"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, and no network."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INSIGHTFACE_HOME", raising=False)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(socket, "socket", refused)
    return tmp_path / "home"


def failure(folder: Path | None) -> CkptfixError:
    with pytest.raises(CkptfixError) as caught:
        find_pack(folder)
    return caught.value


@pytest.mark.parametrize("below", ["", "antelopev2", "antelopev2/antelopev2", "models/antelopev2"])
def test_a_named_folder_is_searched_as_people_unpack(home: Path, below: str) -> None:
    folder = home / "faces" / below
    write_pack(folder)

    pack = find_pack(home / "faces")

    assert (pack.folder, pack.detector.name, pack.recogniser.name) == (folder, "scrfd_10g_bnkps.onnx", "glintr100.onnx")
    assert pack.notes[0] == LICENCE_NOTE


@pytest.mark.parametrize(
    "place",
    [
        "home/.insightface/models/antelopev2",
        "home/.insightface/models/antelopev2/antelopev2",
        "here/models/antelopev2",
        "here/models/antelopev2/antelopev2",
        "here/models/insightface/models/antelopev2",
        "here/ComfyUI/models/insightface/models/antelopev2",
        "home/ComfyUI/models/insightface/models/antelopev2",
    ],
)
def test_the_usual_places(home: Path, place: str) -> None:
    folder = write_pack(home.parent / place)

    assert find_pack(None).folder.resolve() == folder


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("INSIGHTFACE_HOME", "models/antelopev2"),
        ("INSIGHTFACE_HOME", "antelopev2"),
        ("COMFYUI_PATH", "models/insightface/models/antelopev2"),
    ],
)
def test_places_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str) -> None:
    folder = write_pack(home / "elsewhere" / below)
    monkeypatch.setenv(variable, str(home / "elsewhere"))

    assert find_pack(None).folder == folder


def test_an_incomplete_place_does_not_hide_a_whole_one(home: Path) -> None:
    (write_pack(home / ".insightface/models/antelopev2") / "glintr100.onnx").unlink()
    whole = write_pack(home / "ComfyUI/models/insightface/models/antelopev2")

    assert find_pack(None).folder == whole


def test_nothing_anywhere(home: Path) -> None:
    error = failure(None)

    assert isinstance(error, UnavailableError)
    assert str(error) == (
        f"the face pack antelopev2 was not found; looked in {home}/.insightface/models/antelopev2, models/antelopev2, "
        f"models/insightface/models/antelopev2, ComfyUI/models/insightface/models/antelopev2, "
        f"{home}/ComfyUI/models/insightface/models/antelopev2"
    )
    assert error.hint == GET
    assert f"{home}/.insightface/models/antelopev2/antelopev2" in error.details["looked"]


def test_a_named_folder_without_a_pack(home: Path) -> None:
    error = failure(home)

    assert isinstance(error, UnavailableError)
    assert str(error) == (
        f"{home}: holds neither scrfd_10g_bnkps.onnx nor glintr100.onnx (nor does its folder antelopev2)"
    )
    assert error.hint == GET


def test_a_zip_that_was_never_unpacked(home: Path) -> None:
    archive = home / "antelopev2.zip"
    archive.write_bytes(b"PK")

    inside, named = failure(home), failure(archive)

    assert inside.message.endswith("(nor does its folder antelopev2), but antelopev2.zip")
    assert inside.hint == f"unpack it: unzip {archive} -d {home}"
    assert isinstance(named, UsageError)
    assert (named.message, named.hint) == (
        "is a file, not a folder",
        f"unpack it, then name the folder: unzip {archive} -d {home}",
    )


def test_paths_that_are_no_folder(home: Path) -> None:
    model = write_recogniser(home / "glintr100.onnx")

    assert failure(model).hint == f"name the folder: --face-model {home}"
    missing = failure(home / "nowhere")
    assert isinstance(missing, UsageError)
    assert (str(missing), missing.hint) == (
        f"{home}/nowhere: no such folder",
        "check the path given with --face-model",
    )


@pytest.mark.parametrize("missing", ["glintr100.onnx", "scrfd_10g_bnkps.onnx"])
def test_a_missing_file_is_named(home: Path, missing: str) -> None:
    folder = write_pack(home / "antelopev2")
    (folder / missing).unlink()

    error = failure(folder)

    assert isinstance(error, UnavailableError)
    assert (str(error), error.hint) == (f"{folder}: the face pack is incomplete: {missing} missing", AGAIN)


def test_a_cut_file_is_named(home: Path) -> None:
    path = write_pack(home / "antelopev2") / "glintr100.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:4000])

    error = failure(home)

    assert isinstance(error, UnavailableError)
    assert str(error) == (
        f"{path}: is cut: 4,000 bytes are there, {len(whole) - 4004:,} or more are missing of 260,665,334 in the "
        "published file"
    )
    assert error.hint == AGAIN


def test_a_pointer_in_place_of_a_file(home: Path) -> None:
    path = write_pack(home / "antelopev2") / "scrfd_10g_bnkps.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:58\nsize 16923827\n")

    assert str(failure(home)) == f"{path}: is a Git LFS pointer, not the model itself"


def test_buffalo_under_its_own_names(home: Path) -> None:
    folder = home / "buffalo_l"
    folder.mkdir()
    write_recogniser(folder / "w600k_r50.onnx", convolutions=53)

    error = failure(folder)

    assert isinstance(error, RefusedError)
    assert str(error) == (
        f"{folder}: holds w600k_r50.onnx (insightface's buffalo packs), not glintr100.onnx of antelopev2: "
        "its 512 numbers are another person to InstantID"
    )
    assert error.hint == GET


def test_buffalo_renamed_is_known_by_its_graph(home: Path) -> None:
    folder = write_pack(home / "antelopev2", convolutions=53)

    error = failure(folder)

    assert isinstance(error, RefusedError)
    assert str(error) == (
        f"{folder}/glintr100.onnx: is another recogniser (53 convolutions: IResNet-50, as in buffalo_l; glintr100 has "
        "103): its 512 numbers are another person to InstantID"
    )


def test_a_known_other_model_is_told_by_its_bytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pack(home / "antelopev2") / "glintr100.onnx"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(face_pack._OTHER_RECOGNISERS, digest, "the recogniser of AuraFace")

    assert str(failure(home)) == (
        f"{path}: is the recogniser of AuraFace, not glintr100 of antelopev2: its 512 numbers are another person to "
        "InstantID"
    )


def test_the_published_files_need_no_note(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pack(home / "antelopev2")
    for name in ("glintr100.onnx", "scrfd_10g_bnkps.onnx"):
        monkeypatch.setitem(face_pack._SHA256, hashlib.sha256((folder / name).read_bytes()).hexdigest(), name)

    assert find_pack(folder).notes == (LICENCE_NOTE,)


def test_other_copies_are_taken_with_a_note(home: Path) -> None:
    folder = write_pack(home / "antelopev2")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12] for name in face_pack._BYTES}

    assert find_pack(folder).notes == (
        "the face models of antelopev2 are licensed for non-commercial research only (insightface)",
        f"scrfd_10g_bnkps.onnx is not the published file (sha256 {digests['scrfd_10g_bnkps.onnx']}…): "
        "keypoints may differ from InstantID's",
        f"glintr100.onnx is not the published file (sha256 {digests['glintr100.onnx']}…, 103 of 103 convolutions): "
        "if it is another model, the picture shows another person",
    )


def test_the_two_files_swapped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pack(home / "antelopev2")
    digest = hashlib.sha256((folder / "glintr100.onnx").read_bytes()).hexdigest()
    monkeypatch.setitem(face_pack._SHA256, digest, "scrfd_10g_bnkps.onnx")

    assert failure(folder).message.startswith("is scrfd_10g_bnkps.onnx under another name: ")

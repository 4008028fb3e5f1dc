"""Face packs as people have them: nested, cut, of another model, twice; and what --fix may and may not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptfix.errors import ExitCode, OutputError, UnavailableError, UsageError
from ckptfix.face import checkup
from ckptfix.face.checkup import FaceCheckup, check_faces
from ckptfix.face.pack import find_pack
from tests.fixtures import broken_files
from tests.onnx_models import write_pack, write_recogniser

MODELS = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INSIGHTFACE_HOME", raising=False)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def codes(found: FaceCheckup, *, notes: bool = False) -> list[str]:
    return [finding.code for finding in found.findings if notes or finding.severity != "note"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_pack_is_sound(home: Path) -> None:
    folder = write_pack(home / ".insightface/models/antelopev2")
    found = check_faces()
    assert (codes(found), found.exit_code, found.folder) == ([], ExitCode.OK, folder)
    assert found.models == {name: folder / name for name in MODELS}


@pytest.mark.parametrize("named", ["", "models", "models/antelopev2", "nothing"])
def test_a_nested_pack_is_moved_up(home: Path, named: str) -> None:
    root = home / ".insightface/models/antelopev2"
    nested = write_pack(root / "antelopev2")
    (nested / "genderage.onnx").write_bytes((nested / "glintr100.onnx").read_bytes())
    before = contents(nested)
    asked = None if named == "nothing" else home / ".insightface" / named

    seen = check_faces(asked)
    assert (codes(seen), seen.folder, contents(nested)) == (["nested"], root, before)
    assert seen.findings[0].hint == f"ckptfix doctor faces {root} --fix"
    assert [move.done for move in seen.moves] == [False, False, False]

    fixed = check_faces(asked, fix=True)
    assert (codes(fixed), fixed.exit_code) == ([], ExitCode.OK)
    assert sorted(move.target.name for move in fixed.moves if move.done) == sorted([*MODELS, "genderage.onnx"])
    assert contents(root) == before
    assert not nested.exists()
    assert find_pack(None).folder == root
    assert check_faces(asked, fix=True).moves == ()


def test_what_else_lies_in_the_nested_folder_stays(home: Path) -> None:
    root = home / "antelopev2"
    nested = write_pack(root / "antelopev2")
    (nested / "README.txt").write_text("keep me")
    assert codes(check_faces(root, fix=True)) == []
    assert contents(nested) == {"README.txt": b"keep me"}


def test_a_file_that_differs_is_never_replaced(home: Path) -> None:
    root = home / "antelopev2"
    nested = write_pack(root / "antelopev2")
    (root / "glintr100.onnx").write_bytes(broken_files.lfs_pointer())
    whole = (nested / "glintr100.onnx").read_bytes()
    found = check_faces(root, fix=True)
    assert codes(found) == ["conflict", "damaged"]
    assert {move.source.name: move.done for move in found.moves} == {MODELS[0]: True, MODELS[1]: False}
    assert (root / "glintr100.onnx").read_bytes() == broken_files.lfs_pointer()
    assert (nested / "glintr100.onnx").read_bytes() == whole


def test_the_same_file_twice_is_a_note_and_nothing_is_deleted(home: Path) -> None:
    root = write_pack(home / "antelopev2")
    write_pack(root / "antelopev2")
    before = contents(root)
    found = check_faces(root, fix=True)
    assert (codes(found), codes(found, notes=True).count("duplicate")) == ([], 2)
    assert contents(root) == before


def test_a_link_that_leads_back_is_no_nested_folder(home: Path) -> None:
    root = write_pack(home / "antelopev2")
    (root / "antelopev2").symlink_to(root, target_is_directory=True)
    before = sorted(path.name for path in root.iterdir())
    found = check_faces(root, fix=True)
    assert (codes(found), found.moves) == ([], ())
    assert sorted(path.name for path in root.iterdir()) == before


def test_nothing_is_moved_out_of_a_linked_folder(home: Path) -> None:
    shared = write_pack(home / "shared")
    root = home / "antelopev2"
    root.mkdir()
    (root / "antelopev2").symlink_to(shared, target_is_directory=True)
    before = contents(shared)
    found = check_faces(root, fix=True)
    assert (codes(found), found.moves) == (["nested", "nested"], ())
    assert "behind a link" in found.findings[0].message
    assert contents(shared) == before


def test_a_link_is_not_moved_since_it_may_lead_nowhere_then(home: Path) -> None:
    root = home / "antelopev2"
    nested = write_pack(root / "antelopev2")
    blob = nested / "blob"
    (nested / "glintr100.onnx").rename(blob)
    (nested / "glintr100.onnx").symlink_to("blob")
    found = check_faces(root, fix=True)
    assert codes(found) == ["nested"]
    assert [move.target.name for move in found.moves] == ["scrfd_10g_bnkps.onnx"]
    assert (nested / "glintr100.onnx").resolve() == blob.resolve()


def test_a_link_that_leads_nowhere_is_kept(home: Path) -> None:
    root = home / "antelopev2"
    nested = write_pack(root / "antelopev2")
    (root / "glintr100.onnx").symlink_to(home / "gone.onnx")
    found = check_faces(root, fix=True)
    assert "conflict" in codes(found)
    assert (root / "glintr100.onnx").is_symlink()
    assert (nested / "glintr100.onnx").is_file()
    assert not (home / "gone.onnx").exists()


def test_files_that_are_cut_or_no_models(home: Path) -> None:
    root = write_pack(home / "antelopev2")
    (root / "glintr100.onnx").write_bytes((root / "glintr100.onnx").read_bytes()[:4000])
    (root / "scrfd_10g_bnkps.onnx").write_bytes(broken_files.html_page())
    (root / "1k3d68.onnx").write_bytes(broken_files.lfs_pointer())
    found = check_faces(root)
    assert codes(found) == ["damaged", "damaged", "damaged"]
    messages = [finding.message for finding in found.findings]
    assert messages[0] == "scrfd_10g_bnkps.onnx is a web page, not an ONNX model"
    assert messages[1].startswith("glintr100.onnx is cut: 4,000 bytes are there")
    assert messages[2].startswith("1k3d68.onnx is a Git LFS pointer, not the model itself; it is not needed")


def test_buffalo_is_no_substitute(home: Path) -> None:
    (home / "antelopev2").mkdir()
    write_recogniser(home / "antelopev2" / "w600k_r50.onnx", convolutions=53)
    under_its_name = check_faces(home / "antelopev2")
    assert codes(under_its_name) == ["wrong-model"]
    assert "another person to InstantID" in under_its_name.findings[0].message
    renamed = check_faces(write_pack(home / "other" / "antelopev2", convolutions=53))
    assert codes(renamed) == ["wrong-model"]
    assert renamed.findings[-1].message.startswith("glintr100.onnx is another recogniser (53 convolutions")


def test_buffalo_in_a_folder_of_its_own_is_no_substitute_either(home: Path) -> None:
    models = home / ".insightface/models"
    (models / "buffalo_l").mkdir(parents=True)
    write_recogniser(models / "buffalo_l/w600k_r50.onnx", convolutions=53)
    for named in (models, home / ".insightface", None):
        (finding,) = check_faces(named).findings
        assert finding.code == "missing"
        assert f"buffalo_l lies in {models} and is no substitute" in finding.message
    for named in (models, None):
        with pytest.raises(UnavailableError, match="is no substitute"):
            find_pack(named)


def test_a_missing_file_and_a_zip_that_was_never_unpacked(home: Path) -> None:
    root = write_pack(home / "antelopev2")
    (root / "glintr100.onnx").unlink()
    assert check_faces(root).findings[0].message == "glintr100.onnx missing"
    (root / "antelopev2.zip").write_bytes(b"PK")
    zipped = check_faces(root).findings[0]
    assert zipped.message == "glintr100.onnx missing; antelopev2.zip was not unpacked"
    assert zipped.hint == f"unpack it: unzip -j {root}/antelopev2.zip -d {root}"


def test_nothing_anywhere(home: Path) -> None:
    found = check_faces()
    assert (codes(found), found.folder, found.exit_code) == (["missing"], None, ExitCode.PROBLEM)
    assert f"{home}/.insightface/models/antelopev2" in found.findings[0].message


def test_another_pack_elsewhere_is_a_note(home: Path) -> None:
    write_pack(home / ".insightface/models/antelopev2")
    write_pack(home / "ComfyUI/models/insightface/models/antelopev2")
    found = check_faces()
    assert (codes(found), "elsewhere" in codes(found, notes=True)) == ([], True)


def test_a_folder_that_is_none(home: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        check_faces(home / "nowhere")


def test_a_move_that_fails_is_one_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(13, os.strerror(13))

    root = home / "antelopev2"
    nested = write_pack(root / "antelopev2")
    before = contents(nested)
    with monkeypatch.context() as patched:
        patched.setattr(checkup, "move_without_replacing", refused)
        with pytest.raises(OutputError, match=r"cannot be moved to .*: Permission denied$"):
            check_faces(root, fix=True)
    assert contents(nested) == before


def test_an_error_half_way_tells_what_was_moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_refused(source: Path, target: Path) -> None:
        if source.name == "scrfd_10g_bnkps.onnx":
            raise PermissionError(13, os.strerror(13))
        source.rename(target)

    root = home / "antelopev2"
    write_pack(root / "antelopev2")
    monkeypatch.setattr(checkup, "move_without_replacing", second_refused)
    with pytest.raises(OutputError) as caught:
        check_faces(root, fix=True)
    assert caught.value.message.endswith(f"(1 file moved before: {root}/glintr100.onnx)")
    assert [move["done"] for move in caught.value.details["moved"]] == [True]

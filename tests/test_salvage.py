"""convert --partial: exactly the whole tensors of a cut or damaged file, marked as partial; inspect says so before."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors import deserialize, safe_open
from safetensors.torch import save as to_safetensors

from ckptfix.errors import ExitCode
from ckptfix.formats import open_checkpoint
from tests.calling import Called, call
from tests.fixtures import broken_files as files
from tests.fixtures.arrivals import canonical, flipped, nested, rezipped, saved, tensors
from tests.reading import manifest_of

OUT = "out.safetensors"
WHOLE = {name: array.tobytes() for name, array in canonical().items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ends(path: Path) -> dict[str, int]:
    """Where the data of each tensor ends in a whole file."""
    manifest = manifest_of(path)
    found = {}
    for name, tensor in manifest.tensors.items():
        record = manifest.records[tensor.span.record]
        found[name] = record.position + tensor.span.offset + tensor.nbytes
    return found


def partial(name: str) -> Called:
    Path(OUT).unlink(missing_ok=True)
    return call("convert", name, "--partial", "--out", OUT, "--json")


def assert_recovered(found: Called, whole: Mapping[str, object]) -> None:
    """The output holds exactly these tensors, byte for byte, and says that it is not whole."""
    assert (found.code, found.document["partial"], found.document["written"]) == (ExitCode.PROBLEM, True, True)
    with safe_open(OUT, framework="numpy") as written:
        assert written.metadata()["partial"] == "true"
    recovered = {
        name: bytes(entry["data"])
        for name, entry in deserialize(Path(OUT).read_bytes())  # type: ignore[no-untyped-call]
    }
    assert recovered == {name: WHOLE[name] for name in whole}
    lost = set(WHOLE) - set(whole)
    told = found.findings("error")
    assert set((told.get("truncated") or told["checksum"])["tensors"]) == lost
    assert set(found.document["missing"]) >= lost  # more where so little is left that sizes are assumed


def cuts(borders: Mapping[str, int], size: int) -> Iterator[tuple[int, list[str]]]:
    """Lengths at every border and in between, each with the names of what is whole."""
    places = sorted(borders.values())
    lengths = {place + step for place in places for step in (-1, 0, 1)}
    lengths |= {(low + high) // 2 for low, high in pairwise(places)}
    for length in sorted(lengths):
        if length < size:
            yield length, [name for name, border in borders.items() if border <= length]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole.bin", "whole.safetensors"])
def test_every_cut_gives_exactly_the_whole_tensors(name: str) -> None:
    whole = Path(name)
    whole.write_bytes(saved(nested()) if name.endswith(".bin") else to_safetensors(tensors()))
    data, borders = whole.read_bytes(), ends(whole)
    cut = Path(f"cut{whole.suffix}")
    for number, (length, expected) in enumerate(cuts(borders, len(data))):
        cut.write_bytes(data[:length])
        forecast = call("inspect", "--json", str(cut))
        assert (forecast.code, forecast.error["code"]) == (ExitCode.UNREADABLE, "truncated")
        assert f"{len(expected)} of 50 tensors are whole" in forecast.error["message"]
        assert forecast.error["whole"] == len(expected)
        assert set(forecast.error["lost"]) == set(WHOLE) - set(expected)
        if number % 5 == 0:  # what convert copies is what the reader gives: every fifth cut is enough
            if expected:
                assert_recovered(partial(cut.name), dict.fromkeys(expected))
            else:
                assert partial(cut.name).code == ExitCode.PROBLEM
                assert not Path(OUT).exists()
        else:
            with open_checkpoint(cut, partial=True) as checkpoint:
                assert set(checkpoint.manifest.tensors) == set(expected)


def test_the_words_around_a_salvage() -> None:
    data = saved(nested())
    Path("cut.bin").write_bytes(data[:9_000])
    forecast = call("inspect", "cut.bin")
    assert forecast.err == (
        "error: cut.bin: is cut: at least 2,648 bytes missing at its end, 25 of 50 tensors are whole\n"
        "hint: get the file again, or keep what is whole: "
        "ckptfix convert cut.bin --partial --out partial.safetensors\n"
    )
    command = forecast.err.split(": ckptfix ")[1].split()
    found = call(*command)
    assert found.code == ExitCode.PROBLEM
    assert [path.name for path in Path().iterdir() if path.suffix == ".safetensors"] == ["partial.safetensors"]
    again = call("inspect", "--json", "partial.safetensors")
    assert (again.code, list(again.findings("error"))) == (ExitCode.PROBLEM, ["missing"])


def test_what_is_lost_is_listed() -> None:
    Path("cut.bin").write_bytes(saved(nested())[:9_000])
    found = partial("cut.bin")
    finding = found.findings("error")["truncated"]
    assert len(finding["tensors"]) == 25
    assert finding["message"].startswith(
        "is cut: at least 2,648 bytes missing at its end, 25 of 50 tensors are whole; "
        "lost: ip_adapter.7.to_v_ip.weight, ip_adapter.9.to_k_ip.weight, ip_adapter.9.to_v_ip.weight and 22 more"
    )
    assert sorted(found.document["missing"]) == sorted(finding["tensors"])


def test_a_file_that_only_lost_its_directory_is_salvaged_whole() -> None:
    data = saved(nested())
    Path("cut.bin").write_bytes(data[: data.index(b"PK\x01\x02")])
    assert_recovered(partial("cut.bin"), WHOLE)


@pytest.mark.parametrize("deflated", [False, True], ids=["stored", "deflated"])
def test_damaged_tensors_are_left_out(deflated: bool) -> None:
    data = rezipped(saved(nested()), zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    Path("a.bin").write_bytes(flipped(flipped(data, b"data/5"), b"data/9"))
    assert call("convert", "a.bin", "--out", OUT).code == ExitCode.PROBLEM
    assert not Path(OUT).exists()
    found = partial("a.bin")
    lost = found.findings("error")["checksum"]
    assert lost["tensors"] == ["image_proj.norm_out.weight", "image_proj.layers.0.0.norm2.weight"]
    assert lost["message"] == (
        "has data that fails its checksum for 2 of 50 tensors; "
        "lost: image_proj.norm_out.weight, image_proj.layers.0.0.norm2.weight"
    )
    assert_recovered(found, {name: 0 for name in WHOLE if name not in lost["tensors"]})


@pytest.mark.parametrize("place", ["first", "middle"])
def test_damage_of_a_deflated_record_names_its_tensor(place: str) -> None:
    data = bytearray(rezipped(saved(nested())))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/5"))
    start = info.header_offset + 30 + len(info.filename)
    data[start if place == "first" else start + info.compress_size // 2] ^= 0x55
    Path("a.bin").write_bytes(data)
    told = call("inspect", "--json", "--checksums", "a.bin").findings("error")["checksum"]
    refused = call("convert", "--json", "a.bin", "--out", OUT)
    assert (refused.code, refused.error["code"]) == (ExitCode.PROBLEM, "checksum")
    assert told["tensors"] == refused.error["tensors"] == ["image_proj.norm_out.weight"]
    assert refused.error["message"].endswith("1 tensor damaged: image_proj.norm_out.weight")
    assert not Path(OUT).exists()


def test_a_damaged_index_leaves_nothing_to_trust() -> None:
    data = saved(nested())
    Path("a.bin").write_bytes(data.replace(b"latents", b"latentz", 1))
    found = partial("a.bin")
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "checksum")
    assert found.error["message"] == "archive/data.pkl fails its checksum: names and shapes may be wrong"
    assert not Path(OUT).exists()


def test_a_record_that_is_not_there() -> None:
    content = files.proto(files.dict_of({"a": files.tensor("0", (2,)), "b": files.tensor("1", (2,))}))
    Path("a.bin").write_bytes(files.torch_zip(content, {"0": bytes(8)}))
    found = call("inspect", "--json", "a.bin")
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "missing-record")
    assert (found.error["message"], found.error["hint"]) == (
        "has no stored data for 1 of 2 tensors: b",
        "get the file again, or keep what is whole: ckptfix convert a.bin --partial --out partial.safetensors",
    )
    assert [finding.code for finding in manifest_of(Path("a.bin"), partial=True).findings] == ["missing-record"]


def test_a_whole_file_is_not_partial() -> None:
    Path("a.bin").write_bytes(saved(nested()))
    found = partial("a.bin")
    assert (found.code, found.document["partial"]) == (ExitCode.OK, False)
    with safe_open(OUT, framework="numpy") as written:
        assert "partial" not in written.metadata()

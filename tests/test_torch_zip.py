"""The torch zip container: what torch.save writes is read byte for byte, and strange archives are refused."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfix.errors import ExitCode
from ckptfix.formats import open_checkpoint
from ckptfix.formats.inflation import inflate
from ckptfix.formats.limits import Limits
from ckptfix.manifest import DTYPES
from tests.fixtures import broken_files as files
from tests.fuzzing.samples import Member, ZipSample
from tests.reading import assert_same, codes, manifest_of, refusal_of, stored_bytes, write


def some_tensor(word: str) -> torch.Tensor:
    dtype = getattr(torch, word)
    raw = torch.arange(48, dtype=torch.uint8) % 2 if word == "bool" else torch.arange(48, dtype=torch.uint8)
    return raw.view(dtype).reshape(2, -1)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("word", [dtype.torch for dtype in DTYPES.values()])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_dtype_is_read_as_torch_reads_it(tmp_path: Path, word: str, zipped: bool) -> None:
    path = saved(tmp_path / "a.bin", {"a": some_tensor(word)}, _use_new_zipfile_serialization=zipped)
    assert_same(path, {"a": some_tensor(word)})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_protocol(tmp_path: Path, protocol: int, zipped: bool) -> None:
    tensors = {f"layer.{i}": torch.full((i,), float(i)) for i in range(300)}
    content = tensors | {"step": 1 << 70, "raw": b"\xff" * 300}
    path = saved(tmp_path / "a.bin", content, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    manifest = assert_same(path, tensors)
    assert manifest.objects == {"step": "int of 71 bits", "raw": "300 bytes"}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_views_share_their_storage_and_keep_their_strides(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    content = {
        "whole": base,
        "same": base,
        "slice": base[1:, ::2, 3],
        "transposed": base.permute(2, 0, 1),
        "expanded": torch.tensor([7.0]).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(base[0]),
        "grad": torch.ones(2, requires_grad=True),
        "image_proj": {"latents": base[2].t()},
    }
    path = saved(tmp_path / "a.bin", content, _use_new_zipfile_serialization=zipped)
    nested = content.pop("image_proj")["latents"]  # type: ignore[index]
    manifest = assert_same(path, content | {"image_proj.latents": nested})  # type: ignore[arg-type]
    assert manifest.tensors["image_proj.latents"].path == ("image_proj", "latents")
    assert len({tensor.span.record for tensor in manifest.tensors.values()}) == 5
    expected = {"expanded": "note", "views": "note", "tied": "note"}
    assert codes(manifest) == (expected if zipped else expected | {"legacy": "note"})


def test_nested_and_flat_names_differ_in_their_paths(tmp_path: Path) -> None:
    nested = manifest_of(saved(tmp_path / "n.bin", {"image_proj": {"latents": torch.ones(1)}}))
    flat = manifest_of(saved(tmp_path / "f.bin", {"image_proj.latents": torch.ones(1)}))
    assert nested.tensors["image_proj.latents"].path == ("image_proj", "latents")
    assert flat.tensors["image_proj.latents"].path == ("image_proj.latents",)
    assert not nested.findings and not flat.findings


def test_lists_give_numbers_and_integers_are_keys(tmp_path: Path) -> None:
    content = {"layers": [torch.ones(1), (torch.zeros(1), {7: torch.ones(2)})], "none": None}
    manifest = manifest_of(saved(tmp_path / "a.bin", content))
    assert list(manifest.tensors) == ["layers.0", "layers.1.0", "layers.1.1.7"]
    assert manifest.tensors["layers.1.1.7"].path == ("layers", "1", "1", "7")
    assert manifest.objects == {"none": "None"}


def test_a_bare_tensor_has_a_name_and_no_path(tmp_path: Path) -> None:
    manifest = manifest_of(saved(tmp_path / "a.bin", torch.ones(3)))
    assert [(name, tensor.path) for name, tensor in manifest.tensors.items()] == [("tensor", ())]


def test_what_is_no_tensor_is_described(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    content = {
        "epoch": 3,
        "loss": 0.5,
        "name": "run\x1b[31m",
        "ok": True,
        "empty": {},
        "optimizer": optimizer.state_dict(),
    }
    manifest = manifest_of(saved(tmp_path / "a.bin", content))
    assert list(manifest.tensors) == [
        "optimizer.state.0.step",
        "optimizer.state.0.exp_avg",
        "optimizer.state.0.exp_avg_sq",
    ]
    expected = {
        "epoch": "int 3",
        "loss": "float 0.5",
        "name": 'text "run\\x1b[31m"',
        "ok": "True",
        "empty": "empty dict",
    }
    assert manifest.objects.items() >= expected.items()
    assert manifest.objects["optimizer.param_groups.0.params"] == "list of 1 value"


def test_many_objects_are_counted_not_listed(tmp_path: Path) -> None:
    manifest = manifest_of(saved(tmp_path / "a.bin", {"a": torch.ones(1), "log": {str(i): i for i in range(2_000)}}))
    assert len(manifest.objects) == 501
    assert manifest.objects["…"] == "1,500 more"


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.zeros(2))
        self.register_buffer("dropped", torch.zeros(2), persistent=False)
        self.absent = None


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_module_gives_its_state_dict(tmp_path: Path, zipped: bool) -> None:
    module = Head()
    manifest = assert_same(
        saved(tmp_path / "a.bin", module, _use_new_zipfile_serialization=zipped), dict(module.state_dict())
    )
    finding = next(finding for finding in manifest.findings if finding.code == "foreign-object")
    assert finding.severity == "warning"
    assert finding.message == (
        "holds objects that ckptfix does not know, left unread: tests.test_torch_zip.Head, "
        "torch.nn.modules.container.Sequential, torch.nn.modules.linear.Linear, "
        "torch.nn.modules.normalization.LayerNorm"
    )


def test_deflated_records_are_inflated_and_reported(tmp_path: Path) -> None:
    content = {"a": torch.arange(6.0), "b": torch.zeros(3000), "view": torch.zeros(3000)[::3]}
    whole = zipfile.ZipFile(saved(tmp_path / "whole.bin", content))
    with zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in whole.infolist():
            packed.writestr(info.filename, whole.read(info))
    manifest = assert_same(tmp_path / "packed.bin", content)
    assert codes(manifest) == {"compressed": "warning", "views": "note"}
    record = manifest.records[manifest.tensors["b"].span.record]
    assert record.deflated and record.size == 12_000 and record.stored_size < 100


def test_deflated_code_beside_the_tensors_is_no_finding(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        traced = torch.jit.trace(module, torch.ones(1, 2))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, tmp_path / "a.pt")
    manifest = assert_same(tmp_path / "a.pt", dict(module.state_dict()))
    assert codes(manifest) == {"foreign-object": "warning"}


def test_a_deflated_record_is_inflated_once_for_many_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **options: Any) -> Iterator[bytes]:
        calls.append(args)
        return inflate(*args, **options)

    monkeypatch.setattr("ckptfix.formats.checkpoint.inflate", counted)
    with open_checkpoint(write(tmp_path / "a.bin", files.healthy_zip(compression=zipfile.ZIP_DEFLATED))) as opened:
        for start in range(6):
            assert opened.read("archive/data/0", 4 * start, 4) == struct.pack("<f", start)
        assert b"".join(map(bytes, opened.chunks("archive/data/0", 8, 8))) == struct.pack("<2f", 2, 3)
    assert len(calls) == 1


def test_checksums_switched_off_by_the_writer_are_a_note(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.bin", {"a": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    manifest = assert_same(path, {"a": torch.ones(3)})
    assert codes(manifest) == {"checksums-off": "note"}
    assert {record.crc for record in manifest.records.values()} == {None}


def test_byteorder_is_taken_from_its_record(tmp_path: Path) -> None:
    manifest = manifest_of(write(tmp_path / "big.bin", files.healthy_zip(byteorder=b"big")))
    assert (manifest.byteorder, codes(manifest)) == ("big", {"big-endian": "note"})
    assert manifest_of(write(tmp_path / "none.bin", files.healthy_zip(byteorder=None))).byteorder == "little"
    error = refusal_of(write(tmp_path / "odd.bin", files.healthy_zip(byteorder=b"middle\n")))
    assert (error.exit_code, error.message) == (
        ExitCode.UNREADABLE,
        "its byteorder record says 'middle\\x0a', neither little nor big",
    )


@pytest.mark.parametrize("prefix", ["archive/", "ip-adapter_sdxl/", "模型/"])
def test_any_folder_name_in_the_archive(tmp_path: Path, prefix: str) -> None:
    manifest = manifest_of(write(tmp_path / "a.bin", files.healthy_zip(prefix=prefix)))
    assert list(manifest.tensors) == ["a", "b"]
    assert not manifest.findings


@pytest.mark.parametrize(("prefix", "where"), [("", "at the top of the archive"), ("x/y/", "in x/y/")])
def test_a_repacked_archive_is_read_with_a_warning(tmp_path: Path, prefix: str, where: str) -> None:
    manifest = manifest_of(write(tmp_path / "a.bin", files.healthy_zip(prefix=prefix)))
    assert list(manifest.tensors) == ["a", "b"]
    (finding,) = manifest.findings
    assert (finding.code, finding.severity) == ("archive", "warning")
    assert where in finding.message


def test_a_flipped_bit_in_the_index_is_an_error_finding(tmp_path: Path) -> None:
    data = files.healthy_zip().replace(b"X\x01\x00\x00\x00a", b"X\x01\x00\x00\x00c", 1)
    manifest = manifest_of(write(tmp_path / "a.bin", data))
    assert list(manifest.tensors) == ["c", "b"]
    assert codes(manifest) == {"checksum": "error"}
    assert manifest.findings[0].message == "archive/data.pkl fails its checksum: names and shapes may be wrong"


# -- tensors that contradict the file ----------------------------------------------------------------------------------


def one_tensor(tensor: bytes, **records: bytes) -> bytes:
    return files.torch_zip(files.proto(files.dict_of({"a": tensor})), {"0": bytes(24), **records})


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (files.tensor("0", (7,), elements=6), "needs 28 bytes of a storage that has 24"),
        (files.tensor("0", (2,), elements=6, offset=5), "needs 28 bytes of a storage that has 24"),
        (files.tensor("0", (2, 2), elements=6, strides=(1 << 61, 1)), "needs 9,223,372,036,854,775,816 bytes"),
        (files.tensor("0", (2,), elements=6, strides=(-1,)), "a size, stride or offset is no number from 0 up"),
        (files.tensor("0", (2,), elements=6, strides=(1, 1)), "has 1 sizes but 2 strides"),
        (files.tensor("0", (7,)), "its storage declares 7 elements of 4 bytes, but record archive/data/0 has 24 bytes"),
        (files.tensor("0", (1 << 70,), elements=6), "a size, stride or offset is no number from 0 up"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, tensor: bytes, problem: str) -> None:
    error = refusal_of(write(tmp_path / "a.bin", one_tensor(tensor)))
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "bounds")
    assert error.message.startswith(f"tensor a: {problem}")


def test_a_tensor_without_its_record_is_refused(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.bin", one_tensor(files.tensor("5", (1,)))))
    assert (error.code, error.message) == ("missing-record", "has no stored data for 1 of 1 tensor: a")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    error = refusal_of(saved(tmp_path / "a.bin", {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}))
    assert (error.code, error.message) == ("name", "two tensors are both named a.b")
    error = refusal_of(saved(tmp_path / "b.bin", {1: torch.ones(1), "1": torch.ones(1)}))
    assert (error.code, error.message) == ("name", "a dictionary has two keys that both read 1")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a\0b", "the tensor name a\\x00b holds a NUL character"),
        ("a\ud800", "the tensor name a\\ud800 is no valid Unicode"),
        ("__metadata__", "a tensor is named __metadata__, which safetensors keeps for itself"),
    ],
)
def test_names_that_cannot_be_written_down_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    data = files.torch_zip(files.proto(files.dict_of({name: files.tensor("0", (1,))})), {"0": bytes(4)})
    error = refusal_of(write(tmp_path / "a.bin", data))
    assert (error.exit_code, error.code, error.message) == (ExitCode.UNREADABLE, "name", problem)


def test_a_quantised_or_sparse_tensor_is_left_out_by_name(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of quantised tensors
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    content = {
        "q": quantised,
        "s": torch.eye(3).to_sparse(),
        "z": torch.ones(2, dtype=torch.complex128),
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
        "plain": torch.ones(2),
    }
    manifest = manifest_of(saved(tmp_path / "a.bin", content))
    assert "plain" in manifest.tensors and not manifest.tensors.keys() & {"q", "s", "z", "conj"}
    errors = {
        finding.tensors: (finding.code, finding.message) for finding in manifest.findings if finding.severity == "error"
    }
    assert errors == {
        ("q",): ("quantised", "q: is a quantised tensor, which has no plain values to copy; left out"),
        ("s",): ("sparse", "s: is a sparse tensor, which has no plain values to copy; left out"),
        ("z",): ("dtype", "z: has elements of type complex128; left out"),
        ("conj",): ("unsupported", "conj: is a lazily conj-flagged view, whose bytes are not its values; left out"),
    }


# -- archives that two readers would read differently ------------------------------------------------------------------


def patched(data: bytes, old: bytes, new: bytes, count: int = 1, start: int = 0) -> bytes:
    assert len(old) == len(new) and data.count(old, start) >= count
    return data[:start] + data[start:].replace(old, new, count)


def directory_of(data: bytes) -> int:
    return data.index(b"PK\x01\x02")


def twice_named(second: str) -> bytes:
    buffer = io.BytesIO(files.healthy_zip())
    with (
        zipfile.ZipFile(buffer, "a") as archive,
        pytest.warns(UserWarning) if second == "archive/data.pkl" else _silent(),
    ):
        archive.writestr(second, b"x")
    return buffer.getvalue()


class _silent:  # noqa: N801 - reads as a word
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def with_local(change: Callable[[bytearray, int], None]) -> bytes:
    """A healthy archive whose local header of data/0 is changed, the directory not."""
    data = bytearray(files.healthy_zip())
    change(data, data.index(b"archive/data/0") - 30)
    return bytes(data)


def put(offset: int, value: bytes) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, header: int) -> None:
        data[header + offset : header + offset + len(value)] = value

    return change


def overlapping() -> bytes:
    """data/1 claims to start inside data/0."""
    data = bytearray(files.healthy_zip())
    inside = bytes(data).index(b"archive/data/0") - 30
    entry = bytes(data).index(b"archive/data/1", directory_of(bytes(data))) - 46
    data[entry + 42 : entry + 46] = struct.pack("<L", inside)
    return bytes(data)


def parts_of(change: Callable[[Member], object]) -> bytes:
    """A healthy archive after a change of data/0, all around it made to fit."""
    sample = ZipSample.parse(files.healthy_zip())
    change(next(member for member in sample.members if member.name.endswith(b"data/0")))
    return sample.build()


def described(change: Callable[[Member], object]) -> Callable[[Member], None]:
    """Sizes and checksum after the data, as torch writes them; then a change."""

    def describe(member: Member) -> None:
        member.flags |= 8
        member.local |= {"crc": 0, "stored": 0, "size": 0}
        member.describe()
        change(member)

    return describe


def lie(member: Member) -> None:
    member.descriptor = member.descriptor[:-1] + b"\x01"


def second_name(name: bytes) -> Callable[[Member], None]:
    """The Unicode Path field of Info-ZIP: version, checksum of the name, the name."""

    def name_again(member: Member) -> None:
        body = struct.pack("<BL", 1, zlib.crc32(member.name)) + name
        member.central["extra"] = struct.pack("<HH", 0x7075, len(body)) + body

    return name_again


STRANGE = {
    "descriptor of another size": (
        parts_of(described(lie)),
        "archive/data/0 has another size or checksum after its data",
    ),
    "no descriptor": (
        parts_of(described(lambda member: setattr(member, "descriptor", b""))),
        "archive/data/0 has another size or checksum after its data",
    ),
    "two names": (
        parts_of(second_name(b"archive/data/1")),
        "archive/data/0 has another name in its extra field",
    ),
    "data.pkl twice": (twice_named("archive/data.pkl"), "it has two records named archive/data.pkl"),
    "name twice but for case": (twice_named("archive/DATA.PKL"), "it has two records named archive/DATA.PKL"),
    "data.pkl in two folders": (twice_named("other/data.pkl"), None),
    "bytes before": (b"PK\x03\x04junk" + files.healthy_zip(), "there are bytes before it or inside its directory"),
    "overlap": (overlapping(), "archive/data/1 overlaps the record before it"),
    "another name inside": (
        with_local(put(30, b"archive/data/9")),
        "archive/data/0 has another name in its own header",
    ),
    "another size inside": (
        with_local(put(18, b"\x17")),
        "archive/data/0 has another size or checksum in its own header",
    ),
    "another crc inside": (with_local(put(14, b"\0")), "archive/data/0 has another size or checksum in its own header"),
    "deflated inside": (with_local(put(8, b"\x08")), "archive/data/0 is packed in another way by its own header"),
    "encrypted inside": (with_local(put(6, b"\x01")), "archive/data/0 is packed in another way by its own header"),
    "no header": (with_local(put(0, b"XX")), "archive/data/0 has another name in its own header"),
}


def test_descriptors_and_names_that_agree_are_sound(tmp_path: Path) -> None:
    for data in (parts_of(described(lambda member: None)), parts_of(second_name(b"archive/data/0"))):
        assert list(manifest_of(write(tmp_path / "a.bin", data)).tensors) == ["a", "b"]


@pytest.mark.parametrize("kind", STRANGE)
def test_archives_that_readers_read_differently_are_refused(tmp_path: Path, kind: str) -> None:
    data, problem = STRANGE[kind]
    error = refusal_of(write(tmp_path / "a.bin", data))
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "archive")
    if problem is None:
        assert error.message == (
            "holds 2 files named data.pkl, which readers choose from differently: archive/data.pkl, other/data.pkl"
        )
    else:
        assert error.message.startswith(f"the zip archive cannot be trusted: {problem}")


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [
        (8, b"\x01", "archive/data.pkl is encrypted"),
        (10, b"\x0c", "archive/data.pkl is packed by method 12, neither stored nor deflate"),
        (20, b"\x01\0\0\0", "archive/data.pkl has contradicting sizes"),
        (46, b"\0", "a record has the name '\\x00rchive/data.pkl'"),
        (46, b"\\", "a record has the name '\\rchive/data.pkl'"),
        (42, b"\xff\xff\xff\xff", "a 64-bit size is missing"),
        (0, b"XX", "its directory is damaged"),
    ],
)
def test_strange_directory_entries_are_refused(tmp_path: Path, offset: int, value: bytes, problem: str) -> None:
    data = bytearray(files.healthy_zip())
    entry = directory_of(bytes(data))
    data[entry + offset : entry + offset + len(value)] = value
    error = refusal_of(write(tmp_path / "a.bin", bytes(data)))
    assert error.message == f"the zip archive cannot be trusted: {problem}"


def test_names_follow_the_flag_for_utf_8(tmp_path: Path) -> None:
    data = files.healthy_zip()
    named = data.replace(b"archive/version", b"archive/v\xe9rsion"[:15])
    manifest = manifest_of(write(tmp_path / "a.bin", named))
    assert "archive/vΘrsio" in "".join(manifest.records)
    flagged = bytearray(named)
    entry = named.index(b"archive/v\xe9", directory_of(named)) - 46
    flagged[entry + 9] |= 0x08
    error = refusal_of(write(tmp_path / "b.bin", bytes(flagged)))
    assert error.message == "the zip archive cannot be trusted: a record's name is no UTF-8"


def test_bytes_after_the_end_record_make_it_a_cut_archive(tmp_path: Path) -> None:
    assert refusal_of(write(tmp_path / "a.bin", files.healthy_zip() + b"tail")).code == "truncated"


def test_a_comment_is_no_hiding_place(tmp_path: Path) -> None:
    buffer = io.BytesIO(files.healthy_zip())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hello"
    assert list(manifest_of(write(tmp_path / "a.bin", buffer.getvalue())).tensors) == ["a", "b"]
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = files.healthy_zip()[-22:]
    assert refusal_of(write(tmp_path / "b.bin", buffer.getvalue())).code == "archive"


def test_records_past_four_gibibytes(tmp_path: Path) -> None:
    """A sparse archive of 5 GiB: sizes and positions only fit the 64-bit fields."""
    size = 5 << 30
    pickle = files.proto(
        files.dict_of({"big": files.tensor("0", (size,), kind="ByteStorage"), "last": files.tensor("1", (2,))})
    )
    entries: list[tuple[bytes, int, int, int]] = []
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        for name, data, length in (
            (b"a/data.pkl", pickle, len(pickle)),
            (b"a/data/0", b"", size),
            (b"a/data/1", b"12345678", 8),
        ):
            entries.append((name, zlib.crc32(data) or 1, length, file.tell()))
            extra = struct.pack("<HHQQ", 1, 16, length, length)
            full = 0xFFFFFFFF
            local = (b"PK\x03\x04", 45, 0, 0, 0, 0, entries[-1][1], full, full, len(name), len(extra))
            file.write(struct.pack("<4sHHHHHLLLHH", *local) + name + extra + data)
            file.seek(length - len(data), io.SEEK_CUR)
        start = file.tell()
        for name, crc, length, header in entries:
            extra = struct.pack("<HHQQQ", 1, 24, length, length, header)
            fields = (b"PK\x01\x02", 45, 45, 0, 0, 0, 0, crc, full, full, len(name), len(extra), 0, 0, 0, 0, full)
            file.write(struct.pack("<4sHHHHHHLLLHHHHHLL", *fields) + name + extra)
        end = file.tell()
        file.write(struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, end - start, start))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 3, 3, full, full, 0))
    with zipfile.ZipFile(path) as judge:
        assert judge.read("a/data/1") == b"12345678"
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.manifest.records["a/data/1"].position > size
        assert checkpoint.manifest.tensors["big"].shape == (size,)
        assert stored_bytes(checkpoint, "last") == b"12345678"


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(tensors=1), "the file has over 1 tensors (budget: tensors)"),
        (Limits(records=4), "the archive declares 5 records, over 4 (budget: records)"),
        (Limits(pickle_bytes=10), "archive/data.pkl has 274 bytes (budget: pickle bytes)"),
        (Limits(opcodes=20), "the pickle has over 20 opcodes (budget: opcodes)"),
    ],
)
def test_budgets_are_named(tmp_path: Path, limits: Limits, message: str) -> None:
    error = refusal_of(write(tmp_path / "a.bin", files.healthy_zip()), limits=limits)
    assert (error.exit_code, error.code, error.message) == (ExitCode.UNSAFE, "limit", message)


def test_a_tensor_expanded_to_terabytes_is_refused(tmp_path: Path) -> None:
    huge = files.tensor("0", (1 << 20, 1 << 20), elements=6, strides=(0, 0))
    error = refusal_of(write(tmp_path / "a.bin", one_tensor(huge)))
    assert (error.exit_code, error.message) == (
        ExitCode.UNSAFE,
        "tensor a claims 4,398,046,511,104 bytes, which brings all tensors to over 268,435,456, "
        "16 times what the file stores (budget: logical ratio)",
    )


def test_a_deflate_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    data = files.torch_zip(files.proto(b"}"), {"0": bytes(80 << 20)}, compression=zipfile.ZIP_DEFLATED)
    error = refusal_of(write(tmp_path / "a.bin", data))
    assert (error.exit_code, error.code) == (ExitCode.UNSAFE, "limit")
    assert error.message.startswith("archive/data/0 unpacks to over 100 times its ")

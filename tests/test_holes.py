"""One test per hole that was published of another reader or scanner: through the command line, with nothing run."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ckptfix.errors import ExitCode
from tests.calling import Called, call
from tests.fixtures import broken_files as files
from tests.fixtures import hostile_files
from tests.reading import write

TENSOR = files.tensor("0", (2, 3))
SIX = struct.pack("<6f", *range(6))
KINDS = sorted(hostile_files.calls(""))
INDIRECT = sorted(hostile_files.indirect_calls(""))


def holding(value: bytes, *, protocol: int = 2) -> bytes:
    """An archive with a healthy tensor `a` and one more value."""
    return files.torch_zip(files.proto(files.dict_of({"a": TENSOR, "b": value}), protocol), {"0": SIX})


def legacy_holding(value: bytes, count: int = 6) -> bytes:
    content = files.proto(files.dict_of({"a": TENSOR, "b": value}))
    return files.torch_legacy(content, ["0"], [(count, SIX)])


def refused(path: Path) -> Called:
    """What inspect says of a file that convert refuses too, with the same exit code and no file written."""
    before = sorted(path.parent.iterdir())
    inspected = call("inspect", "--json", path)
    converted = call("convert", "--json", path, "--out", path.parent / "out.safetensors")
    assert (converted.code, sorted(path.parent.iterdir())) == (inspected.code, before)
    return inspected


# -- lists of forbidden names -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Which ways run their command under a real unpickler, each in a process of its own."""
    folder = tmp_path_factory.mktemp("live")
    program = (
        "import os, pickle, sys\n"
        "for number in range(int(sys.argv[2])):\n"
        "    if not os.fork():\n"
        "        try: pickle.loads(open(f'{sys.argv[1]}/{number}.pkl', 'rb').read())\n"
        "        except Exception: pass\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "import time; time.sleep(0.3)\n"  # Popen does not wait
    )
    ways = [(hostile_files.calls, kind) for kind in KINDS] + [(hostile_files.indirect_calls, kind) for kind in INDIRECT]
    for number, (bodies, kind) in enumerate(ways):
        body = bodies(f"touch '{folder}/{number}.ran'")[kind]
        write(folder / f"{number}.pkl", files.proto(body, 4))
    command = [sys.executable, "-c", program, str(folder), str(len(ways))]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return {kind for number, (_, kind) in enumerate(ways) if (folder / f"{number}.ran").exists()}


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_forbidden_names_miss(tmp_path: Path, live: set[str], kind: str) -> None:
    assert kind in live, "the fixture is harmless and proves nothing"
    body = hostile_files.calls(f"touch {tmp_path}/ran")[kind]
    found = refused(write(tmp_path / "a.bin", holding(body, protocol=4)))
    assert found.code == ExitCode.UNSAFE
    assert found.document["totals"]["tensors"] == 1  # the tensor beside it is still listed
    unsafe = found.findings("error")["unsafe"]
    assert unsafe["message"].startswith("the pickle calls ")
    assert unsafe["message"].endswith(", which no checkpoint needs")
    assert unsafe["hint"].startswith("nothing was run; do not load this file with torch.load(weights_only=False)")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", INDIRECT)
def test_calls_by_way_of_harmless_things(tmp_path: Path, live: set[str], kind: str) -> None:
    assert kind in live, "the fixture is harmless and proves nothing"
    body = hostile_files.indirect_calls(f"touch {tmp_path}/ran")[kind]
    found = refused(write(tmp_path / "a.bin", holding(body, protocol=4)))
    assert found.code == ExitCode.UNSAFE
    told = found.document.get("error") or found.findings("error")["unsafe"]
    assert told["code"] == "unsafe"
    assert told["message"].startswith("the pickle calls ")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_tensors_runs_pickles_inside_it(tmp_path: Path) -> None:
    raw = files.proto(files.call("torch.storage", "_load_from_bytes", b"C\x01x"), 4)
    found = refused(write(tmp_path / "a.bin", raw))
    assert (found.code, found.error["code"]) == (ExitCode.UNSAFE, "unsafe")
    assert found.error["global"] == "torch.storage._load_from_bytes"


def test_the_call_is_named(tmp_path: Path) -> None:
    body = hostile_files.calls("id")["attribute of a known module"]
    found = refused(write(tmp_path / "a.bin", holding(body, protocol=4)))
    assert found.findings()["unsafe"]["message"] == (
        "the pickle calls torch.serialization.os.system at byte 194, which no checkpoint needs"
    )


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.safetensors", "a.txt", "a", "a.pkl"])
def test_a_pickle_is_judged_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    raw = files.running_pickles(f"touch {tmp_path}/ran")["reduce"]
    found = refused(write(tmp_path / name, raw))
    assert (found.code, found.error["code"], found.error["global"]) == (ExitCode.UNSAFE, "unsafe", "os.system")
    assert not (tmp_path / "ran").exists()


def test_a_failing_checksum_hides_no_call(tmp_path: Path) -> None:
    data = bytearray(holding(files.call("os", "system", files.text("id"))))
    for header, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = data.index(header) + offset
        data[at : at + 4] = b"\x01\x02\x03\x04"
    found = refused(write(tmp_path / "a.bin", bytes(data)))
    assert found.code == ExitCode.UNSAFE
    assert list(found.findings("error")) == ["checksum", "unsafe", "unknown-layout"]


def test_a_pickle_that_breaks_off_after_its_call(tmp_path: Path) -> None:
    data = files.torch_zip(b"\x80\x02" + files.call("os", "system", files.text("id")) + b"broken")
    found = refused(write(tmp_path / "a.bin", data))
    assert (found.code, found.error["code"]) == (ExitCode.UNSAFE, "unsafe")


# -- CVE-2025-32434: torch.load(weights_only=True) ran the pickles of tar-era files -------------------------------


def test_a_tar_era_file_is_explained_and_never_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    payload = files.running_pickles(f"touch {ran}")["reduce"]
    path = write(tmp_path / "a.pt", hostile_files.tar_era(payload))
    program = f"import torch\ntry: torch.load({str(path)!r}, weights_only=False)\nexcept Exception: pass\n"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)
    assert ran.exists(), "the fixture is harmless and proves nothing"
    ran.unlink()
    found = refused(path)
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "not-a-checkpoint")
    assert found.error["message"] == "is a tar archive as torch wrote before 0.1.10 (2017), which ckptfix does not read"
    assert not ran.exists()


# -- CVE-2026-24747: items set on what is no dictionary, and storages of another size than declared -----------------

TARGETS = {
    "list": files.EMPTY_LIST,
    "tuple": files.EMPTY_TUPLE,
    "number": files.number(1 << 40),
    "text": files.text("x"),
    "tensor": TENSOR,
    "storage": files.storage("0", 6),
    "class": files.name("collections", "OrderedDict"),
    "size": files.call("torch", "Size", files.EMPTY_LIST),
}


@pytest.mark.parametrize("many", [False, True], ids=["SETITEM", "SETITEMS"])
@pytest.mark.parametrize("kind", TARGETS)
def test_items_set_on_no_dictionary(tmp_path: Path, kind: str, many: bool) -> None:
    item = files.text("k") + files.text("v")
    body = TARGETS[kind] + (files.MARK + item + files.SETITEMS if many else item + files.SETITEM)
    for data in (holding(body), legacy_holding(body)):
        found = refused(write(tmp_path / "a.bin", data))
        if kind == "class":
            assert found.code == ExitCode.UNSAFE
        elif kind == "size":  # a call: what its items would mean is left open, and no tensor comes of it
            assert (found.code, found.document["totals"]["tensors"]) == (ExitCode.PROBLEM, 1)
        else:
            assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "pickle")


@pytest.mark.parametrize("stored", [0, 4, 20, 23, 28, 4096])
def test_a_record_of_another_size_than_its_storage(tmp_path: Path, stored: int) -> None:
    """mmap readers skip this check, others read past the end."""
    data = files.torch_zip(files.proto(files.dict_of({"a": TENSOR})), {"0": bytes(stored)})
    found = refused(write(tmp_path / "a.bin", data))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "bounds")
    assert found.error["message"] == (
        f"tensor a: its storage declares 6 elements of 4 bytes, but record archive/data/0 has {stored:,} bytes"
    )


@pytest.mark.parametrize("count", [0, 5, 7, 1 << 62, -1])
def test_a_legacy_storage_of_another_size_than_declared(tmp_path: Path, count: int) -> None:
    found = refused(write(tmp_path / "a.bin", legacy_holding(files.NONE, count)))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "pickle")
    assert found.error["message"].startswith("the legacy torch file stores ")


def test_two_storages_of_one_record_with_two_sizes(tmp_path: Path) -> None:
    found = refused(write(tmp_path / "a.bin", holding(files.tensor("0", (2,), elements=2))))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "bounds")


# -- tensors that are no dense run of numbers ------------------------------------------------------------------------


def test_sparse_indices_out_of_range_reach_nobody(tmp_path: Path) -> None:
    """torch 2.x kills the process when such a tensor is used; its values are never looked at here."""
    indices = files.tensor("1", (1, 2), kind="LongStorage")
    layout = files.call("torch.serialization", "_get_layout", files.text("torch.sparse_coo"))
    parts = files.tuple_of(indices, files.tensor("2", (2,)), files.tuple_of(files.number(3)), b"\x89")
    sparse = files.call("torch._utils", "_rebuild_sparse_tensor", layout, parts)
    content = files.proto(files.dict_of({"a": TENSOR, "s": sparse}))
    records = {"0": SIX, "1": struct.pack("<2q", 1 << 60, -7), "2": bytes(8)}
    found = refused(write(tmp_path / "a.bin", files.torch_zip(content, records)))
    assert (found.code, found.document["totals"]["tensors"]) == (ExitCode.PROBLEM, 1)
    assert found.findings()["sparse"]["message"] == (
        "s: is a sparse tensor, which has no plain values to copy; left out"
    )


def test_a_quantised_tensor_with_strides_out_of_bounds(tmp_path: Path) -> None:
    scheme = files.tuple_of(
        files.name("torch", "per_tensor_affine"), b"G?\xb9\x99\x99\x99\x99\x99\x9a", files.number(0)
    )
    quantised = files.call(
        "torch._utils",
        "_rebuild_qtensor",
        files.storage("1", 4, "QInt8Storage"),
        files.number(0),
        files.tuple_of(files.number(4)),
        files.tuple_of(files.number(1 << 40)),
        scheme,
        b"\x89",
        files.call("collections", "OrderedDict"),
    )
    content = files.proto(files.dict_of({"a": TENSOR, "q": quantised}))
    found = refused(write(tmp_path / "a.bin", files.torch_zip(content, {"0": SIX, "1": bytes(4)})))
    assert (found.code, found.document["totals"]["tensors"]) == (ExitCode.PROBLEM, 1)
    assert found.findings()["quantised"]["message"] == (
        "q: is a quantised tensor, which has no plain values to copy; left out"
    )


# -- tensors that are others than their builder says ------------------------------------------------------------------

HOOKS = files.call("collections", "OrderedDict")


@pytest.mark.parametrize("key", ["data", "real"])
@pytest.mark.parametrize("way", ["parameter", "subclass", "slots"])
def test_attributes_that_replace_a_tensors_values(tmp_path: Path, key: str, way: str) -> None:
    """torch.load(weights_only=True) gives the other tensor."""
    other = files.dict_of({key: files.tensor("1", (2, 3))})
    if way == "subclass":
        parts = (files.storage("0", 6), files.number(0), *[files.tuple_of(files.number(6))] * 2, b"\x89", HOOKS)
        builder, kind = files.name("torch._utils", "_rebuild_tensor_v2"), files.name("torch", "Tensor")
        body = files.call("torch._tensor", "_rebuild_from_type_v2", builder, kind, files.tuple_of(*parts), other)
    else:
        state = files.tuple_of(files.NONE, other) if way == "slots" else other
        body = files.call("torch._utils", "_rebuild_parameter_with_state", TENSOR, b"\x89", HOOKS, state)
    data = files.torch_zip(files.proto(files.dict_of({"a": body})), {"0": SIX, "1": bytes(24)})
    found = refused(write(tmp_path / "a.bin", data))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "bounds")
    assert found.error["message"] == "tensor a: has attributes that would take the place of its values"


def test_attributes_of_a_parameter_that_are_only_kept(tmp_path: Path) -> None:
    kept = files.dict_of({"_is_hf_initialized": b"\x88"})
    body = files.call("torch._utils", "_rebuild_parameter_with_state", TENSOR, b"\x89", HOOKS, kept)
    found = call("inspect", "--json", write(tmp_path / "a.bin", holding(body)))
    assert found.document["unexpected"] == ["a", "b"]


@pytest.mark.parametrize("kind", ["Tensor", "nn.parameter.Parameter"])
def test_a_tensor_of_no_storage(tmp_path: Path, kind: str) -> None:
    """torch.Tensor(5) would be memory that nobody filled."""
    module, _, word = f"torch.{kind}".rpartition(".")
    found = refused(write(tmp_path / "a.bin", holding(files.call(module, word, files.number(5)))))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "bounds")


def test_a_dictionary_made_without_its_arguments(tmp_path: Path) -> None:
    """NEWOBJ gives pairs to __new__, which drops them: whoever reads them sees tensors that nobody gets."""
    pairs = files.EMPTY_LIST + files.tuple_of(files.text("k"), TENSOR) + b"a"
    body = hostile_files.made("collections", "OrderedDict", pairs)
    found = call("inspect", "--json", write(tmp_path / "a.bin", holding(body)))
    assert found.document["unexpected"] == ["a"]


@pytest.mark.parametrize("other", [b"\x88", b"G" + struct.pack(">d", 1)], ids=["True", "1.0"])
def test_two_spellings_of_one_key(tmp_path: Path, other: bytes) -> None:
    body = files.EMPTY_DICT + files.number(1) + TENSOR + files.SETITEM + other + TENSOR + files.SETITEM
    found = refused(write(tmp_path / "a.bin", holding(body)))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "name")


# -- bombs ------------------------------------------------------------------------------------------------------------


def test_a_key_of_nested_tuples_is_never_hashed(tmp_path: Path) -> None:
    """Hashing it overflows the C stack of an unpickler."""
    key = files.EMPTY_TUPLE + b"\x85" * 390_000
    found = refused(write(tmp_path / "a.bin", holding(files.EMPTY_DICT + key + files.NONE + files.SETITEM)))
    assert (found.code, found.document["totals"]["tensors"]) == (ExitCode.PROBLEM, 1)


def test_aliases_of_one_storage_multiply_no_memory(tmp_path: Path) -> None:
    """Each view is small in the file and a gigabyte when written out."""
    view = files.tensor("0", (1 << 14, 1 << 14), elements=6, strides=(0, 0))
    found = refused(write(tmp_path / "a.bin", holding(view)))
    assert (found.code, found.error["code"], found.error["budget"]) == (ExitCode.UNSAFE, "limit", "logical_ratio")


# -- archives that two readers would read differently ----------------------------------------------------------------


def test_a_record_marked_as_a_folder(tmp_path: Path) -> None:
    """torch (miniz) takes it for a folder and returns memory that nobody filled."""
    data = bytearray(files.healthy_zip())
    data[data.index(b"archive/data/0", data.index(b"PK\x01\x02")) - 46 + 38] |= 0x10
    found = refused(write(tmp_path / "a.bin", bytes(data)))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "archive")
    assert found.error["message"] == (
        "the zip archive cannot be trusted: archive/data/0 is marked as a folder, and torch would return memory that "
        "nobody filled"
    )


@pytest.mark.parametrize("member", ["../../out.bin", "/tmp/out.bin", "C:\\out.bin"])
def test_names_in_an_archive_write_nowhere(tmp_path: Path, member: str) -> None:
    """Nothing is unpacked under the names of an archive."""
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "a.zip", files.zip_in_zip(files.healthy_zip(), member, zipfile.ZIP_DEFLATED))
    found = refused(path)
    assert found.code == (ExitCode.UNREADABLE if "\\" in member else ExitCode.PROBLEM)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert not Path("/tmp/out.bin").exists()


# -- what our own fuzzer found -----------------------------------------------------------------------------------------


def test_a_state_set_on_a_tensor(tmp_path: Path) -> None:
    """torch calls `set_` with it, so that the tensor becomes another one."""
    found = refused(write(tmp_path / "a.bin", holding(TENSOR + files.EMPTY_DICT + files.BUILD)))
    assert (found.code, found.error["code"]) == (ExitCode.UNREADABLE, "pickle")
    assert found.error["message"] == "data.pkl cannot be read: the pickle changes a finished tensor at byte 277"


def test_an_ordered_dictionary_of_a_tuple_of_pairs(tmp_path: Path) -> None:
    pairs = files.tuple_of(files.tuple_of(files.text("c"), TENSOR))
    found = call(
        "inspect", "--json", write(tmp_path / "a.bin", holding(files.call("collections", "OrderedDict", pairs)))
    )
    assert found.document["unexpected"] == ["a", "b.c"]

"""load gives what convert would write, as torch tensors, and refuses what convert refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ckptfix
from ckptfix.errors import RefusedError, UnavailableError, UnsafeError
from ckptfix.formats.output import OutputTensor
from ckptfix.loading import load, to_torch
from ckptfix.manifest import DTYPES, Dtype
from ckptfix.tensors.stored_tensor import StoredTensor
from tests.adapters import adapter, interleaved, v_first, write
from tests.golden import golden

RUN = golden("inner-differs-from-dim")


def assert_is_the_golden_adapter(loaded: dict[str, dict[str, torch.Tensor]]) -> None:
    flat = {f"{group}.{name}": tensor for group, tensors in loaded.items() for name, tensor in tensors.items()}
    expected = adapter()
    assert set(flat) == set(expected)
    for name, tensor in flat.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name], name)


def test_canonical_file(tmp_path: Path) -> None:
    loaded = ckptfix.load(write(tmp_path / "a.safetensors", adapter()))
    assert set(loaded) == {"image_proj", "ip_adapter"}
    assert loaded["image_proj"]["layers.0.0.to_q.weight"].shape == (160, 96)
    assert loaded["ip_adapter"]["1.to_k_ip.weight"].shape == (8, 48)
    assert_is_the_golden_adapter(loaded)


def test_torch_file_of_other_names(tmp_path: Path) -> None:
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, array in adapter().items():
        group, _, rest = name.partition(".")
        if rest.endswith("to_kv.weight"):
            for part, rows in zip(("to_k", "to_v"), torch.from_numpy(array).chunk(2), strict=True):
                nested[group][rest.replace("to_kv", part)] = rows
        else:
            nested[group][rest] = torch.from_numpy(array)
    path = tmp_path / "a.bin"
    torch.save(nested, path)
    assert_is_the_golden_adapter(load(path))


def test_declared_row_orders(tmp_path: Path) -> None:
    arrays = adapter()
    v_first(arrays, RUN)
    assert_is_the_golden_adapter(load(write(tmp_path / "a.safetensors", arrays), layout="resampler-v-first"))
    arrays = adapter()
    interleaved(arrays, RUN)
    path = write(tmp_path / "b.safetensors", arrays)
    assert_is_the_golden_adapter(load(path, layout="resampler-interleaved-kv", heads=5, dim_head=32))


def test_dtypes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in adapter().items()}
    torch.save(tensors, path)
    loaded = load(path)
    assert {tensor.dtype for tensors in loaded.values() for tensor in tensors.values()} == {torch.bfloat16}
    assert torch.equal(loaded["image_proj"]["latents"], tensors["image_proj.latents"])


def test_a_missing_tensor_is_never_made_up(tmp_path: Path) -> None:
    arrays = adapter()
    del arrays["image_proj.layers.1.1.3.weight"]
    with pytest.raises(RefusedError, match=r"image_proj\.layers\.1\.1\.3\.weight"):
        load(write(tmp_path / "a.safetensors", arrays))


def test_code_in_the_pickle(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    path = tmp_path / "a.bin"
    torch.save({"image_proj": {"latents": torch.ones(1, 2, 3)}, "evil": Evil()}, path)
    with pytest.raises(UnsafeError):
        load(path)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_becomes_torch_s_own(name: str) -> None:
    dtype = DTYPES[name]
    stored = StoredTensor("x", (2, 3), dtype, bytearray(range(6 * dtype.itemsize)))
    tensor = to_torch(stored)
    assert tensor.dtype == getattr(torch, dtype.torch)
    assert tensor.shape == (2, 3)
    assert bytes(tensor.contiguous().view(torch.uint8).flatten().tolist()) == bytes(stored.data)


def test_an_empty_tensor() -> None:
    assert to_torch(StoredTensor("x", (0, 4), DTYPES["F16"], bytearray())).shape == (0, 4)


def test_a_dtype_that_this_torch_lacks() -> None:
    with pytest.raises(UnavailableError) as caught:
        to_torch(StoredTensor("x", (1,), Dtype("F8_NEW", 1, "float8_new"), bytearray(1)))
    assert caught.value.message == f"x is stored as float8_new, which torch {torch.__version__} does not know"
    assert caught.value.hint == "pip install --upgrade 'torch>=2.4', or convert with --dtype float32"


def test_stored_tensors_read_all_pieces() -> None:
    values = np.arange(12, dtype="<f4")
    pieces: list[bytes | memoryview] = [values[:5].tobytes(), memoryview(values[5:].tobytes())]
    stored = StoredTensor.read(OutputTensor("x", (3, 4), DTYPES["F32"], lambda: iter(pieces)))
    np.testing.assert_array_equal(stored.float64(), values.reshape(3, 4))

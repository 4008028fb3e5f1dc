"""Small whole adapters made from the golden weights, and the ways in which such files go wrong without a sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ckptfix.reference import ATTENTION_NAMES, UNETS
from tests.golden import Golden, golden

Arrays = dict[str, NDArray[Any]]
WIDTHS = {0: 8, 1: 16, 2: 32, 3: 32}  # of a UNet built like SD1.5, 1/40 as wide


def projection(name: str = "inner-differs-from-dim") -> Arrays:
    """The golden run's weights under canonical names; copies, to be spoilt at will."""
    return {f"image_proj.{key}": array.copy() for key, array in golden(name).weights.items()}


def pairs(output_dim: int, seed: int = 5) -> Arrays:
    """K/V pairs for every attention site of a narrow SD1.5 UNet."""
    noise = np.random.default_rng(seed)
    return {
        template.replace("{site}", str(site.index)): noise.standard_normal(
            (WIDTHS[site.level], output_dim), dtype=np.float32
        )
        for site in UNETS["sd15"].sites
        for template in ATTENTION_NAMES
    }


def adapter(name: str = "inner-differs-from-dim") -> Arrays:
    """A whole adapter of 16 K/V pairs whose projection gives the golden run's output."""
    return projection(name) | pairs(golden(name).config.output_dim)


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def v_first(arrays: Arrays, run: Golden) -> None:
    for name in _named(arrays, "to_kv"):
        arrays[name] = np.roll(arrays[name], run.config.inner, axis=0)


def interleaved(arrays: Arrays, run: Golden) -> None:
    """k rows of head 0, v rows of head 0, k rows of head 1, …"""
    for name in _named(arrays, "to_kv"):
        rows = arrays[name].reshape(2, run.config.heads, run.config.dim_head, -1)
        arrays[name] = rows.swapaxes(0, 1).reshape(arrays[name].shape)


def dim_major(arrays: Arrays, run: Golden) -> None:
    """q, k and v rows and out columns ordered (d h): the head index runs fastest."""
    heads, dim_head = run.config.heads, run.config.dim_head
    for name in (*_named(arrays, "to_q"), *_named(arrays, "to_kv")):
        rows = arrays[name].reshape(-1, heads, dim_head, arrays[name].shape[1])
        arrays[name] = rows.swapaxes(1, 2).reshape(arrays[name].shape)
    for name in _named(arrays, "to_out"):
        columns = arrays[name].reshape(-1, heads, dim_head)
        arrays[name] = columns.swapaxes(1, 2).reshape(arrays[name].shape)


def one_made_up(arrays: Arrays, run: Golden) -> None:
    """What strict=False leaves of a name that the file did not have."""
    name = "image_proj.layers.0.1.3.weight"
    arrays[name] = _initial(arrays[name].shape, 1)


def strict_false_victim(arrays: Arrays, run: Golden) -> None:
    """A file of other names loaded with strict=False and saved again: all attention weights are random ones."""
    for seed, name in enumerate(_named(arrays, ".0.to_")):
        arrays[name] = _initial(arrays[name].shape, seed)


def nothing_loaded(arrays: Arrays, run: Golden) -> None:
    """The same with a prefix on every name: nothing at all was loaded."""
    for seed, name in enumerate(_named(arrays, "image_proj")):
        if arrays[name].ndim > 1:
            arrays[name] = _initial(arrays[name].shape, seed)


# Same names, same shapes, finite, varying: no check of the file alone can see them.
SILENT = (v_first, interleaved, dim_major, one_made_up, strict_false_victim, nothing_loaded)


def _initial(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """As torch initialises nn.Linear."""
    bound = shape[-1] ** -0.5
    return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)


def _named(arrays: Arrays, part: str) -> list[str]:
    return [name for name in arrays if part in name]

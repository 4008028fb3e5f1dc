"""Small trained Resamplers in fixtures/trained/, and their rows in other orders.

The files lack the feed-forward; `adapter` makes it up from a seed, since no statement here rests on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ckptfix.evidence.asking import Attention
from tests.adapters import Arrays, pairs

FOLDER = Path(__file__).parent / "fixtures" / "trained"
ONE_TOKEN, RECONSTRUCTION = "one-token-1600-steps", "reconstruction-1600-steps"
REDUNDANT, UNTRAINED = "retrieval-redundant-heads", "one-token-untrained"
TRAINED = (ONE_TOKEN, RECONSTRUCTION, REDUNDANT)
Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """`layers` holds (to_q, to_kv, to_out) of each block, k first and head by head."""

    path: Path
    heads: int
    dim_head: int
    layers: tuple[Attention, ...]


def trained(name: str) -> Trained:
    path = FOLDER / f"{name}.safetensors"
    with safe_open(path, "numpy") as file:
        config = json.loads(file.metadata()["config"])
        layers = tuple(
            tuple(file.get_tensor(f"image_proj.layers.{block}.0.{part}.weight") for part in ("to_q", "to_kv", "to_out"))
            for block in range(config["depth"])
        )
    return Trained(path, config["heads"], config["dim_head"], layers)


def adapter(name: str, reorder: Callable[[Attention], Attention] | None = None) -> Arrays:
    """A whole adapter of 16 K/V pairs with these weights under canonical names."""
    file, noise = trained(name), np.random.default_rng(9)
    with safe_open(file.path, "numpy") as stored:
        arrays = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    for block, layer in enumerate(file.layers):
        for part, array in zip(("to_q", "to_kv", "to_out"), reorder(layer) if reorder else layer, strict=True):
            arrays[f"image_proj.layers.{block}.0.{part}.weight"] = array
        dim = layer[0].shape[1]
        ff = f"image_proj.layers.{block}.1"
        arrays |= {f"{ff}.0.weight": np.ones(dim, np.float16), f"{ff}.0.bias": np.zeros(dim, np.float16)}
        for part, shape in (("1", (4 * dim, dim)), ("3", (dim, 4 * dim))):
            arrays[f"{ff}.{part}.weight"] = (noise.standard_normal(shape) / 20).astype(np.float16)
    return arrays | pairs(len(arrays["image_proj.proj_out.bias"]))


def v_first(layer: Attention) -> Attention:
    q, kv, out = layer
    return q, np.roll(kv, len(q), axis=0), out


def interleaved(layer: Attention, width: int, first: str) -> Attention:
    """Heads of K and V rows by turns, the K rows (`kv`) or the V rows (`vk`) first."""
    q, kv, out = layer
    k, v = np.split(kv, 2)
    parts = (k, v) if first == "kv" else (v, k)
    rows = np.stack([part.reshape(-1, width, part.shape[1]) for part in parts], axis=1)
    return q, rows.reshape(kv.shape), out


def kv_dim_major(layer: Attention, width: int) -> Attention:
    q, kv, out = layer
    return q, np.concatenate([_dim_major(half, width) for half in np.split(kv, 2)]), out


def q_out_dim_major(layer: Attention, width: int) -> Attention:
    q, kv, out = layer
    return _dim_major(q, width), kv, _dim_major(out.T, width).T


def dim_major(layer: Attention, width: int) -> Attention:
    return q_out_dim_major(kv_dim_major(layer, width), width)


def exchanged(layer: Attention, rows: slice) -> Attention:
    """K and V of some rows in each other's place."""
    q, kv, out = layer
    halves = kv.reshape(2, *q.shape).copy()
    halves[:, rows] = halves[::-1, rows]
    return q, halves.reshape(kv.shape), out


def _dim_major(rows: Matrix, width: int) -> Matrix:
    """(h d) -> (d h)."""
    return rows.reshape(-1, width, rows.shape[1]).swapaxes(0, 1).reshape(rows.shape)

"""Recorded runs of InstantX's own Resampler on seeded random weights, in fixtures/golden/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ckptfix.reference import AdapterConfig

FOLDER = Path(__file__).parent / "fixtures" / "golden"
GOLDEN = ("instantid-scaled", "inner-differs-from-dim", "seed-document-heads")


@dataclass(frozen=True, slots=True)
class Golden:
    """`weights` by canonical name without `image_proj.`; `path` serves as a record too."""

    path: Path
    config: AdapterConfig
    weights: dict[str, NDArray[np.float32]]
    input: NDArray[np.float32]
    output_fp32: NDArray[np.float32]
    output_fp64: NDArray[np.float64]


def golden(name: str) -> Golden:
    path = FOLDER / f"{name}.safetensors"
    arrays: dict[str, NDArray[Any]] = {}
    with safe_open(path, "numpy") as file:
        config = json.loads(file.metadata()["config"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {key.removeprefix("weights."): array for key, array in arrays.items() if key.startswith("weights.")}
    run = AdapterConfig(**config, unet=None)
    return Golden(path, run, weights, arrays["input"], arrays["output_fp32"], arrays["output_fp64"])

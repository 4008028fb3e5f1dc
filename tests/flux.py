"""Small adapters for FLUX, their names written out from XLabs' and InstantX's files; all 19 or 57 blocks, narrow.

Source: XLabs-AI/x-flux, src/flux/xflux_pipeline.py; Shakker-Labs/ComfyUI-IPAdapter-Flux, ipadapter_flux.py.
"""

from __future__ import annotations

import numpy as np

from ckptfix.families.known import FaceIdConfig, LinearConfig
from tests.families import projection
from tests.fixtures.adapters import Arrays, Tree

XLABS = LinearConfig(28, 20, 4, unet="flux-double")  # 4 tokens: diffusers knows no other number but 16 of 4096
INSTANTX = FaceIdConfig(28, 20, 3, 2, unet="flux")
WIDTH = 32


def _draw(seed: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def xlabs_pairs(width: int = 28, blocks: int = 19) -> Arrays:
    """Canonical names, without the prefix."""
    found: Arrays = {}
    for block in range(blocks):
        for number, part in enumerate("kv"):
            found[f"{block}.to_{part}_ip.weight"] = _draw(4 * block + 2 * number, WIDTH, width)
            found[f"{block}.to_{part}_ip.bias"] = _draw(4 * block + 2 * number + 1, WIDTH)
    return found


def xlabs_names(projected: Arrays, pairs: Arrays) -> Arrays:
    """As XLabs publishes it."""
    found = {f"ip_adapter_proj_model.{name}": array for name, array in projected.items()}
    for name, array in pairs.items():
        block, layer, param = name.split(".")
        found[f"double_blocks.{block}.processor.ip_adapter_double_stream_{layer[3]}_proj.{param}"] = array
    return found


def xlabs() -> Arrays:
    return xlabs_names(projection(XLABS), xlabs_pairs())


def xlabs_canonical() -> Arrays:
    return flat(projection(XLABS), xlabs_pairs())


def instantx_pairs(width: int = 28, blocks: int = 57) -> Arrays:
    return {name: array for name, array in xlabs_pairs(width, blocks).items() if name.endswith("weight")}


def instantx() -> Tree:
    return {"image_proj": projection(INSTANTX), "ip_adapter": instantx_pairs()}


def flat(projected: Arrays, pairs: Arrays) -> Arrays:
    return {f"image_proj.{name}": array for name, array in projected.items()} | {
        f"ip_adapter.{name}": array for name, array in pairs.items()
    }

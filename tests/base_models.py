"""A narrow base UNet and K/V pairs that share with it what training makes them share.

Rows that belong together have the same Gram matrix inside each head, as gradient flow and weight decay leave them;
everything else is noise. Made up from a seed: no real weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptfix.reference import ATTENTION_NAMES, UNETS
from tests.adapters import Arrays

UNET = UNETS["sd15"]
WIDTHS = {0: 32, 1: 48, 2: 64, 3: 64}  # 8 heads of 4, 6 and 8
TOKENS = 24  # width of the tokens; no UNet's own, so the site numbers tell which UNet it is


def correlated(seed: int, *, strength: float = 2.0, exchange: int = 0) -> tuple[Arrays, Arrays]:
    """(base UNet in diffusers' names, K/V pairs in canonical names); strength 0: nothing was trained.

    `exchange` is in how many sites K and V are exchanged, from the last one on.
    """
    noise = np.random.default_rng(seed)
    base: Arrays = {}
    pairs: Arrays = {}
    for place, site in enumerate(UNET.sites):
        width = WIDTHS[site.level]
        shared = [strength * _head_wise(noise, width) + np.eye(width) for _ in range(2)]
        q, out = (mix @ noise.standard_normal((width, width)) for mix in shared)
        k, v = (mix @ noise.standard_normal((width, TOKENS)) for mix in shared)
        if place >= len(UNET.sites) - exchange:
            k, v = v, k
        base[f"{site.path}.to_q.weight"] = q.astype(np.float16)
        base[f"{site.path}.to_out.0.weight"] = out.T.astype(np.float16)
        for template, matrix in zip(ATTENTION_NAMES, (k, v), strict=True):
            pairs[template.replace("{site}", str(site.index))] = matrix.astype(np.float16)
    return base, pairs


def _head_wise(noise: np.random.Generator, width: int) -> NDArray[Any]:
    """One direction that the rows of each head share, as much as they share it."""
    each = width // 8
    mix = np.zeros((width, width))
    for head in range(8):
        rows = slice(head * each, (head + 1) * each)
        mix[rows, rows] = np.outer(noise.standard_normal(each), noise.standard_normal(each)) / np.sqrt(each)
    return mix

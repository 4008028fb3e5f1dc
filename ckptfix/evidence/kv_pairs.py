"""Are to_k_ip and to_v_ip exchanged? Both have one shape, and only the base UNet's own layers can tell them apart.

The rows of to_k_ip were trained against those of the base's to_q, the rows of to_v_ip against the columns of its
to_out. So the statistic that tells K from V in to_kv tells them apart here too, one layer of the UNet at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from ckptfix.errors import DamagedError, UsageError
from ckptfix.evidence.asking import LEAST_COVER, LEAST_INNER, LEAST_MARGIN, LEAST_SCORE, MOST_INNER, Progress
from ckptfix.evidence.attention_layers import TRAINED_DTYPES, read_matrix
from ckptfix.evidence.base_unet import BaseUNet, open_base_unet
from ckptfix.evidence.candidates import Rows, heads_of
from ckptfix.evidence.statistic import Matrix, Sums, cosines
from ckptfix.evidence.verdict import Evidence
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.plan import Plan
from ckptfix.reference import ATTENTION_NAMES, BASES, UNETS, UNet
from ckptfix.tensors.view_bytes import ByteReader
from ckptfix.tensors.views import View

AS_NAMED, EXCHANGED = "k-then-v", "v-then-k"
# One layer may speak for the other order by this many standard deviations; more is no chance in 70 layers, and a file
# with some pairs exchanged is neither as named nor exchanged.
MOST_AGAINST = 4.0
SILENCE = Evidence("kv-pairs", "none", AS_NAMED)


def pair_evidence(
    checkpoint: ByteReader,
    plan: Plan,
    base: str | os.PathLike[str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Evidence:
    """What the UNet of `base` says of the K/V pairs as `plan` reads them.

    Pairs that are damaged, incomplete, ill-shaped or quantised give no evidence, nor does a base that is
    quantised. Raises what `open_base_unet` does, UsageError for an adapter that no UNet takes, and DamagedError for a
    base that fails its checksum.
    """
    if plan.dimensions.transformer:
        raise UsageError(
            f"--base asks a UNet, and the adapter was made for {BASES[plan.dimensions.transformer].title}",
            hint="leave --base out: nothing here compares the pairs with a transformer's layers",
        )
    unet = UNETS[plan.config.unet or "sdxl"]
    with open_base_unet(base, unet, limits=limits) as opened:
        pairs = _pairs(plan, unet)
        found = [(*opened.views(site.path, k.shape[0]), k, v) for site, (k, v) in zip(unet.sites, pairs, strict=False)]
        if any(view.dtype.name not in TRAINED_DTYPES for views in found for view in views):
            return SILENCE
        if not all(LEAST_INNER <= k.shape[0] <= MOST_INNER for _, _, k, _ in found):
            return SILENCE
        scores = []
        for done, views in enumerate(found, 1):
            matrices = _read(checkpoint, opened, views)
            if matrices is None:
                return SILENCE
            width = len(matrices[0])
            scores.append(layer_scores(*matrices, heads_of(f"head-major-{unet.head_width(width)}", width)))
            if progress:
                progress("K/V pairs", done, len(found))
        return judged(scores)


def layer_scores(q: Matrix, out: Matrix, k: Matrix, v: Matrix, heads: Rows) -> tuple[float, float]:
    """What one layer adds to the score of the pair as named, and to that of the two exchanged: variance 2 each.

    q is (width, in), out (in, width), k and v (width, tokens); `heads` is the head of each of the width's rows. Another
    head count than the true one costs strength, never truth.
    """
    queries, outputs, keys, values = cosines(q), cosines(out.T), cosines(k), cosines(v)

    def together(first: Matrix, second: Matrix) -> float:
        return Sums.over(queries * first, heads).score() + Sums.over(outputs * second, heads).score()

    return together(keys, values), together(values, keys)


def judged(scores: Sequence[tuple[float, float]]) -> Evidence:
    """The answer from `layer_scores` of every layer, under the thresholds of the other questions.

    The margin is the difference of both scores: a file whose to_k_ip and to_v_ip are one and the same agrees with both.
    """
    if not scores:
        return SILENCE
    table = np.array(scores)
    totals = table.sum(axis=0) / math.sqrt(2 * len(table))
    best = int(totals.argmax())
    margin = float(totals[best] - totals[1 - best])
    cover = float(np.mean(table[:, best] > table[:, 1 - best]))
    against = float((table[:, 1 - best] - table[:, best]).max()) / 2  # a difference of two of variance 2
    decided = totals[best] >= LEAST_SCORE and margin >= LEAST_MARGIN
    decided = decided and cover >= LEAST_COVER and against <= MOST_AGAINST
    return Evidence(
        "kv-pairs",
        "none" if not decided else "contradicts" if best else "consistent",
        AS_NAMED,
        best=(AS_NAMED, EXCHANGED)[best],
        score=float(totals[best if decided else 0]),
        margin=margin,
        cover=cover,
        following=float(totals[1 - best]),
    )


def _pairs(plan: Plan, unet: UNet) -> list[tuple[View, View]]:
    """K and V of every site in the UNet's order; none if any is not whole."""
    outputs, shapes = plan.outputs, plan.dimensions.attention_shapes()
    pairs = []
    for site in unet.sites:
        k, v = (template.replace("{site}", str(site.index)) for template in ATTENTION_NAMES)
        if any(name not in outputs or outputs[name].shape != shapes.get(name) for name in (k, v)):
            return []
        pairs.append((outputs[k], outputs[v]))
    return pairs


def _read(
    checkpoint: ByteReader, base: BaseUNet, views: tuple[View, View, View, View]
) -> tuple[Matrix, Matrix, Matrix, Matrix] | None:
    """None if a number is not finite, or if the adapter is damaged, which is a finding of its own."""
    q, out = (base.read(view) for view in views[:2])
    try:
        k, v = (read_matrix(checkpoint, view) for view in views[2:])
    except DamagedError:
        return None
    return (q, out, k, v) if all(np.isfinite(matrix).all() for matrix in (q, out, k, v)) else None

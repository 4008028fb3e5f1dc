"""Site labels <-> places in the UNet: how files count the layers that K/V pairs belong to, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

from ckptfix.layouts.layout import Numbering
from ckptfix.reference import BASES, UNETS


def number_sites(labels: Iterable[str], numbering: Numbering) -> dict[str, int]:
    """Foreign site label -> place in `unet.attn_processors`, or a block; labels that name no place are left out.

    Ranks count from 0 if a 0 occurs, else from 1. Orders other than the canonical one need the whole UNet's table
    and take the smallest UNet that has so many sites.
    """
    labels = list(labels)
    if numbering.label == "path":
        paths = {label: label.removeprefix("unet.") for label in labels}
        tables = [unet.processors for unet in UNETS.values()]
        best = max(tables, key=lambda table: sum(path in table for path in paths.values()))
        return {label: best[path] for label, path in paths.items() if path in best}
    numbers = {label: int(label) for label in labels}
    if numbering.label == "even":
        return {label: number + 1 for label, number in numbers.items() if number % 2 == 0}
    if numbering.label == "odd" and numbering.order == "canonical":
        return numbers
    if numbering.label == "odd":
        ranks = {label: number // 2 for label, number in numbers.items() if number % 2}
    elif len(numbers) > 1 and not any(number % 2 for number in numbers.values()):
        return {}  # places of self-attention, which no rank skips to: refused by name elsewhere, never read as ranks
    elif numbering.label == "block":
        return numbers
    else:
        base = 0 if 0 in numbers.values() else 1
        ranks = {label: number - base for label, number in numbers.items()}
    if numbering.order == "canonical":
        return {label: 2 * rank + 1 for label, rank in ranks.items()}
    order = _site_order(numbering.order, max(ranks.values(), default=0) + 1)
    return {label: order[rank] for label, rank in ranks.items() if rank < len(order)}


def site_labels(numbering: Numbering, unet: str | None) -> dict[str, str]:
    """Site number -> the label that a layout writes for it; empty where they are the same."""
    if numbering.label == "block":
        return {}
    sites = BASES[unet].sites if unet else ()
    if numbering.label == "path":
        return {str(index): path for path, index in UNETS[unet].processors.items()} if unet else {}
    if numbering.label == "even":
        return {str(site.index): str(site.index - 1) for site in sites}
    canonical = numbering.order == "canonical"
    if numbering.label == "odd" and canonical:
        return {}
    order = [site.index for site in sites] if canonical else _site_order(numbering.order, len(sites))
    step, first = (2, 1) if numbering.label == "odd" else (1, 0)
    return {str(index): str(step * rank + first).zfill(numbering.digits) for rank, index in enumerate(order)}


def _site_order(order: str, count: int) -> list[int]:
    """Site numbers in another order than the canonical one, for the smallest UNet with at least `count` sites."""
    fits = [unet for unet in sorted(UNETS.values(), key=lambda unet: len(unet.sites)) if len(unet.sites) >= count]
    if not fits:
        return []
    sites = fits[0].sites
    if order == "down-mid-up":
        return [site.index for site in sorted(sites, key=lambda site: site.down_mid_up)]
    return sorted((site.index for site in sites), key=str)

"""Whether an adapter was made for a UNet: decided on sizes alone, before anything large is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from ckptfix.dimensions import Dimensions
from ckptfix.errors import RefusedError
from ckptfix.generation.models import Base, ControlNet, Denoiser
from ckptfix.products import PRODUCTS
from ckptfix.reference import ATTENTION_NAMES, BASES, UNETS, AdapterConfig
from ckptfix.tensors.views import Shape
from ckptfix.text import printable

FACE_NUMBERS = 512  # of an antelopev2 embedding


def pair_shapes(denoiser: Denoiser) -> dict[str, Shape]:
    """Canonical name -> shape of every K/V tensor that an SDXL UNet of these widths asks for."""
    widths = {1: denoiser.widths[0], 2: denoiser.widths[1]}
    return {
        template.replace("{site}", str(site.index)): (widths[site.level], denoiser.context)
        for site in UNETS["sdxl"].sites
        for template in ATTENTION_NAMES
    }


def check_fit(dimensions: Dimensions, wanted: Mapping[str, Shape]) -> None:
    """RefusedError unless the adapter's K/V pairs are exactly those that the UNet asks for."""
    found = dimensions.attention_shapes()
    if found == wanted:
        return
    context = next(iter(wanted.values()))[1] if wanted else 0
    config = dimensions.config
    made_for = BASES[config.unet].title if config.unet else "no UNet known here"
    raise RefusedError(
        f"the adapter does not fit this base: it has {_pairs(found)} ({made_for}), the base asks for {_pairs(wanted)}",
        hint=_base_hint(context, config.token_width),
        code="other-base",
    )


def check_same_kind(base: Base, controlnet: ControlNet) -> None:
    """RefusedError unless both are of the same widths."""
    own, other = controlnet.denoiser, base.denoiser
    if own == other:
        return
    raise RefusedError(
        f"the ControlNet does not fit the base: widths {own.widths[0]}, {own.widths[1]} for {own.context} numbers per "
        f"token, the base {other.widths[0]}, {other.widths[1]} for {other.context}",
        hint="take the ControlNet that was trained on this kind of base",
        code="other-base",
        source=printable(controlnet.name),
    )


def check_takes_faces(dimensions: Dimensions) -> None:
    """RefusedError for an adapter that is no Resampler, or is fed something else than a face embedding."""
    config = dimensions.resampler
    if config.embedding_dim == FACE_NUMBERS:
        return
    encoders = {
        product.config.embedding_dim: product.encoder
        for product in PRODUCTS.values()
        if isinstance(product.config, AdapterConfig)
    }
    encoder = encoders.get(config.embedding_dim, "an image encoder not known here")
    raise RefusedError(
        f"the adapter takes tokens of {config.embedding_dim} numbers ({encoder}), not face embeddings of "
        f"{FACE_NUMBERS}: it is no InstantID",
        hint="take InstantID's: hf download InstantX/InstantID ip-adapter.bin --local-dir .",
        code="other-family",
    )


def _pairs(shapes: Mapping[str, Shape]) -> str:
    widths = sorted({shape[0] for shape in shapes.values()})
    contexts = sorted({shape[1] for shape in shapes.values()})
    return (
        f"{len(shapes) // 2} K/V pairs of width {', '.join(map(str, widths))} for {', '.join(map(str, contexts))} "
        "numbers per token"
    )


def _base_hint(context: int, output_dim: int) -> str:
    titles = {unet.cross_attention_dim: unet.title for unet in UNETS.values()}
    if output_dim in titles and context != output_dim:
        return f"take a base of the {titles[output_dim]} family, or an adapter made for this one"
    return "take an adapter that was made for this base"

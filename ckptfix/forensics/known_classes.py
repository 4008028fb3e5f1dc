"""The classes that people load image projections into, as names and shapes of their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ckptfix.errors import UsageError
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import Choice, claim_canonical
from ckptfix.reference import DEFAULT_DIM_HEAD, RESAMPLER, AdapterConfig
from ckptfix.tensors.ops import OPS
from ckptfix.tensors.views import Shape


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A class and how it is built. `layout` is the mapping that has its names, `renamed` what differs from it.

    `built` has the published sizes that it is built with, by the file's UNet ("" for any other); empty where it is
    built with the file's own. `depth` is the one that it always has.
    """

    name: str
    title: str
    source: str
    layout: str = "resampler"
    renamed: Mapping[str, str] = field(default_factory=dict)
    built: Mapping[str, AdapterConfig] = field(default_factory=dict)
    depth: int | None = None

    def config(self, own: AdapterConfig) -> AdapterConfig:
        if self.built:
            return self.built.get(own.unet or "", self.built[""])
        if self.depth is not None:
            heads = max(own.inner // DEFAULT_DIM_HEAD, 1)
            return replace(own, depth=self.depth, heads=heads, dim_head=DEFAULT_DIM_HEAD, ff_mult=4)
        return own

    def parameters(self, own: AdapterConfig) -> dict[str, Shape]:
        """Name -> shape, without `image_proj.`, of an instance for a file of these sizes."""
        canonical = RESAMPLER.tensors(self.config(own))
        claims = claim_canonical(list(canonical), Choice(projection=layout_parts(self.layout)["projection"]), None)
        found: dict[str, Shape] = {}
        for claim in claims:
            shapes = OPS[claim.rule.op].shapes([canonical[name] for name in claim.inputs if name], claim.rule.params)
            for name, shape in zip(claim.outputs, shapes, strict=True):
                short = name.removeprefix("image_proj.")
                found[self.renamed.get(short, short)] = shape
        return found


CLASSES: Mapping[str, KnownClass] = {
    known.name: known
    for known in (
        KnownClass(
            "instantid-upstream",
            "InstantID's Resampler in the sizes that its pipeline builds",
            "instantX-research/InstantID: ip_adapter/resampler.py, pipeline_stable_diffusion_xl_instantid.py",
            built={"": AdapterConfig()},
        ),
        KnownClass(
            "resampler",
            "the same class in the file's own sizes",
            "instantX-research/InstantID and tencent-ailab/IP-Adapter: ip_adapter/resampler.py",
        ),
        KnownClass(
            "seed-flexible",
            "a hand-written Resampler (queries, norm, norm_latents) in the file's own sizes",
            "generic research code; the class of the error 'Missing key(s): queries, layers.0.0.norm.weight'",
            layout="resampler-norm-latents",
            renamed={"latents": "queries"},
        ),
        KnownClass(
            "diffusers",
            "diffusers' IPAdapterPlusImageProjection, sized as diffusers does",
            "huggingface/diffusers: src/diffusers/models/embeddings.py, loaders/unet.py",
            layout="diffusers-plus",
            depth=4,
        ),
        KnownClass(
            "tencent-plus",
            "the Resampler that IPAdapterPlus builds: as wide as the UNet's cross-attention, 12 heads",
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlus",
            built={
                "sd15": AdapterConfig(dim=768, heads=12, embedding_dim=1280, output_dim=768),
                "": AdapterConfig(dim=2048, heads=12, embedding_dim=1280),
            },
        ),
        KnownClass(
            "tencent-plus-xl",
            "the Resampler that IPAdapterPlusXL builds",
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlusXL",
            built={"": AdapterConfig(embedding_dim=1280)},
        ),
    )
}


def known_class(name: str) -> KnownClass:
    """UsageError that lists them for another name."""
    if name not in CLASSES:
        raise UsageError(f"unknown class {name!r}", hint=f"known classes: {', '.join(CLASSES)}")
    return CLASSES[name]

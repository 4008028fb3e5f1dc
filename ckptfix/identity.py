"""Which published adapter a file is, from its tensors alone: the name of the file is never looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ckptfix.companions import companions_among
from ckptfix.dimensions import Status
from ckptfix.families.known import HeadedConfig
from ckptfix.known_files import KnownFile
from ckptfix.plan import Plan
from ckptfix.products import PRODUCTS, product_of
from ckptfix.reference import BASES, RESAMPLER

# What feeds a projection of this width. Source: the model cards of the encoders and tencent-ailab/IP-Adapter.
ENCODERS = {
    512: "face embedding (insightface antelopev2)",
    768: "CLIP ViT-L/14",
    1024: "CLIP ViT-L/14-336 tokens",
    1152: "SigLIP",
    1280: "CLIP ViT-H/14 tokens",
    1664: "CLIP ViT-bigG/14 tokens",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something known about the adapter, and how well: shown by tensors, implied by them, or assumed."""

    name: str
    value: str | int | float
    status: Status

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "status": self.status}


@dataclass(frozen=True, slots=True)
class Identity:
    """Family, variant and base in a few words, and every fact with how well it is known."""

    family: str
    variant: str
    base: str
    facts: tuple[Fact, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "variant": self.variant,
            "base": self.base,
            "facts": [fact.to_dict() for fact in self.facts],
        }


def identify(plan: Plan, published: KnownFile | None = None) -> Identity:
    """`published` is the file that this one is byte for byte, where that was asked and found."""
    family, variant, certainty = _family(plan)
    if published is not None:
        product = PRODUCTS[published.product]
        family, variant, certainty = product.family, f"{product.title}: {published.title}", "confirmed"
    return Identity(
        family,
        variant,
        base=_base(plan) if plan.known else "unknown",
        facts=tuple(_facts(plan, family, variant, certainty)),
    )


def _base(plan: Plan) -> str:
    """The model that the adapter is for: the published adapter's, else the one whose UNet the K/V pairs fit."""
    unet = BASES.get(plan.shown.config.unet or "")
    product = product_of(plan.shown.config)
    return product.base if product and product.base else unet.title if unet else "unknown"


def _family(plan: Plan) -> tuple[str, str, Status]:
    """Family and variant: the published adapter of exactly these sizes, else what the encoder width suggests."""
    if not plan.known:
        return "unknown", "unknown", "assumed"
    if not _has_projection(plan):
        return "unknown", "K/V pairs without an image projection, as any family has them", "assumed"
    certainty: Status = "assumed" if "assumed" in _encoder_widths(plan).values() else "inferred"
    product = product_of(plan.shown.config)
    companions = (companion.family for companion in companions_among(plan.unexpected))
    named = next(filter(None, companions), "")
    if named:
        kind = product.title if product is not None else plan.shown.family.title
        return named, f"{named}'s adapter part, built as {kind}", certainty
    if product is not None:
        return product.family, product.described, certainty
    if plan.shown.family is not RESAMPLER:
        return _FAMILY_NAMES[plan.shown.family.name], f"{plan.shown.family.title}, in sizes of its own", certainty
    width = plan.shown.config.to_dict()["embedding_dim"]
    if width == 512:
        return "InstantID", "a Resampler on a face embedding, in sizes of its own", certainty
    if width in ENCODERS:
        return "IP-Adapter Plus", "a Resampler on CLIP tokens, in sizes of its own", certainty
    return "Resampler adapter", "in sizes of its own", "assumed"


def _has_projection(plan: Plan) -> bool:
    return any(output.startswith("image_proj.") for step in plan.steps for output in step.outputs)


# The field that counts the tokens.
_TOKENS = {"linear": "clip_extra_context_tokens", "mlp-faceid": "num_tokens", "faceid-plus": "num_tokens"}
# What people call the adapters that hold such a projection.
_FAMILY_NAMES = {
    "resampler-posemb": "IP-Adapter Plus",
    "linear": "IP-Adapter",
    "mlp-full": "IP-Adapter Full",
    "mlp-faceid": "IP-Adapter FaceID",
    "faceid-plus": "IP-Adapter FaceID Plus",
}


def _encoder_widths(plan: Plan) -> dict[str, Status]:
    """The fields of the config that say how wide the encoder's output is, and how well each is known."""
    fields = (name for name, symbol in plan.shown.family.fields.items() if symbol in ("embedding_dim", "id_dim"))
    return {name: plan.shown.status[name] for name in fields}


def _facts(plan: Plan, family: str, variant: str, certainty: Status) -> Iterator[Fact]:
    if not plan.known:
        return
    status, config = plan.shown.status, plan.shown.config
    sizes = config.to_dict()
    yield Fact("family", family, certainty)
    yield Fact("variant", variant, certainty)
    product = product_of(plan.shown.config) if _has_projection(plan) else None
    if product is not None and product.twins and certainty != "confirmed":
        yield Fact("twins", ", ".join(product.twins), "confirmed")
    if config.unet:
        yield Fact("base", _base(plan), "inferred" if status["unet"] == "confirmed" else status["unet"])
    yield from _input_facts(plan)
    if plan.dimensions.lora_rank:
        yield Fact("lora_rank", plan.dimensions.lora_rank, "confirmed")
    for name, size in sizes.items():
        yield Fact(name, size, status[name])
    if isinstance(config, HeadedConfig):
        yield Fact("inner", config.inner, status["inner"])


def _input_facts(plan: Plan) -> Iterator[Fact]:
    """What goes in, and how many tokens come out; nothing for K/V pairs alone, which fit any encoder."""
    if not _has_projection(plan):
        return
    status, config = plan.shown.status, plan.shown.config
    sizes = config.to_dict()
    product = product_of(config)
    widths = _encoder_widths(plan)
    encoders = [ENCODERS[int(sizes[name])] for name in widths if sizes[name] in ENCODERS]
    if product is not None or encoders:
        known = "assumed" not in widths.values()
        yield Fact(
            "encoder", product.encoder if product else " and ".join(encoders), "inferred" if known else "assumed"
        )
    for name, well in widths.items():
        of_face = name == "id_embeddings_dim" and ENCODERS.get(int(sizes[name]), ENCODERS[512]) == ENCODERS[512]
        yield Fact("face_width" if of_face else "encoder_width", sizes[name], well)
    if config.tokens:
        yield Fact("tokens", config.tokens, status[_TOKENS.get(plan.shown.family.name, "num_queries")])

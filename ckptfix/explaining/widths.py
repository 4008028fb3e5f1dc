"""What a number in an error stands for: which encoder gives vectors of this width, which base takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ckptfix.identity import ENCODERS
from ckptfix.reference import UNETS

# Width of one whole-image vector. Source: openai and laion model cards, projection_dim; insightface for the face.
_EMBEDS: Final = {
    512: "face embedding (insightface)",
    768: "CLIP ViT-L/14 image embedding",
    1024: "CLIP ViT-H/14 image embedding",
    1280: "CLIP ViT-bigG/14 image embedding",
}
# Width of the tokens that a base's cross-attention takes.
_CONTEXTS: Final = {unet.cross_attention_dim: unet.title for unet in UNETS.values()} | {
    2432: "Stable Diffusion 3.5 Large",
    4096: "FLUX, or another base with a T5 text encoder",
}
_PLAIN_TOKENS: Final = 4  # of an IP-Adapter with a linear projection; tencent-ailab/IP-Adapter: ip_adapter.py
_ROLES: Final[Mapping[str, Mapping[int, str]]] = {
    "tokens": ENCODERS,
    "embeds": _EMBEDS,
    "context": _CONTEXTS,
    "rows": {_PLAIN_TOKENS * width: f"4 tokens of {width}, {title}" for width, title in _CONTEXTS.items()},
}
ROLES: Final = frozenset({*_ROLES, "byte"})
_HOLE: Final = re.compile(r"\{(?P<name>\w+)(?:\|(?P<role>\w+))?\}")


def meaning_of(value: int, role: str) -> str:
    """In words, what this number is in that role; empty where nothing is known of it."""
    if role == "byte":
        return repr(chr(value)) if 0 < value < 256 else ""
    return _ROLES[role].get(value, "") if role else ""


def filled(template: str, facts: Mapping[str, str | int], role: str = "") -> str:
    """`{stored|tokens}` becomes `1280 (CLIP ViT-H/14 tokens)`; the role `role` is the one given here. KeyError."""

    def fill(hole: re.Match[str]) -> str:
        value = facts[hole["name"]]
        asked = role if hole["role"] == "role" else hole["role"] or ""
        said = meaning_of(int(value), asked) if asked else ""
        return f"{value} ({said})" if said else str(value)

    return _HOLE.sub(fill, template)


def holes(template: str) -> list[tuple[str, str]]:
    """The names in a template and the role of each."""
    return [(hole["name"], hole["role"] or "") for hole in _HOLE.finditer(template)]

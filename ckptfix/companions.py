"""Tensors that trainers and pipelines save beside an adapter: known by name, and no part of what loaders read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 300  # characters: a hostile file has longer names to offer


@dataclass(frozen=True, slots=True)
class Companion:
    """`pattern` is looked for from the start of a name; `lost` says what an adapter is without it.

    `family` is what people call the adapter that it comes with, empty where it comes with any.
    """

    title: str
    pattern: re.Pattern[str]
    lost: str
    seen: str
    family: str = ""


COMPANIONS = (
    Companion(
        "ConsistentID's facial encoder",
        re.compile(r"FacialEncoder\."),
        "the adapter part stands without it, ConsistentID's pipeline does not",
        "JackAILab/ConsistentID: pipelines/BaseConsistentID.py, evaluation/convert_weights.py",
        "ConsistentID",
    ),
    Companion(
        "the image encoder that ai-toolkit trained along",
        re.compile(r"image_encoder\."),
        "the adapter was trained on what this encoder makes of an image, not on the published one's",
        "ostris/ai-toolkit: toolkit/ip_adapter.py, state_dict with train_image_encoder",
    ),
    Companion(
        "ai-toolkit's preprocessor of images",
        re.compile(r"preprocessor\."),
        "the adapter was trained on what it makes of an image",
        "ostris/ai-toolkit: toolkit/saving.py",
    ),
    Companion(
        "the strengths that ai-toolkit trained, one for each layer",
        re.compile(r"(ip_adapter\.|adapter_modules\.)?\d{1,6}\.ip_scaler$|ip_scale(\.|$)"),
        "every layer's tokens would be of another strength",
        "ostris/ai-toolkit: toolkit/saving.py",
    ),
)


def companion_of(name: str) -> Companion | None:
    return next((row for row in COMPANIONS if row.pattern.match(name[:_LONGEST])), None)


def companions_among(names: Iterable[str]) -> tuple[Companion, ...]:
    """Each one of which a name occurs, in the order of the table."""
    found = {id(row) for name in names if (row := companion_of(name)) is not None}
    return tuple(row for row in COMPANIONS if id(row) in found)

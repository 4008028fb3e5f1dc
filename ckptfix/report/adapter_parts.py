"""The parts of an adapter that a drawing shows one by one: blocks of the projection, K/V pairs by UNet block."""

from __future__ import annotations

import re

from ckptfix.reference import BASES

OTHER = "other"
_BLOCK = re.compile(r"image_proj\.[a-z_.]*layers\.(\d+)\.")
_SITE = re.compile(r"ip_adapter\.(\d+)\.")


def part_of(name: str, unet: str | None) -> str:
    """The part that a canonical name belongs to; `unet` (a key of `BASES`) says where its K/V pairs sit."""
    block, site = _BLOCK.match(name), _SITE.match(name)
    if block:
        return f"projection, block {block[1]}"
    if site:
        paths = {place.index: place.path for place in BASES[unet].sites} if unet else {}
        path = paths.get(int(site[1]), "")
        where = path.partition(".")[0] if not path.startswith(("down", "up")) else ".".join(path.split(".")[:2])
        return f"K/V, {where}" if where else "K/V"
    return "projection, ends" if name.startswith("image_proj.") else OTHER


def part_order(part: str) -> tuple[int, list[int | str]]:
    """A sort key: projection first, then K/V by block, then the rest; numbers by value."""
    rank = 0 if part.startswith("projection") else 1 if part.startswith("K/V") else 2
    words: list[int | str] = [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)]
    return rank, words

"""An adapter's sizes, asked of its own tensors: every tensor votes, so that one bad shape is outvoted and named."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ckptfix.errors import RefusedError
from ckptfix.reference import ATTENTION_NAMES, DEFAULT_DIM_HEAD, RESAMPLER_SHAPES, UNETS, AdapterConfig, UNet
from ckptfix.tensors.views import Shape

Status = Literal["confirmed", "inferred", "assumed"]
BLOCK = re.compile(r"image_proj\.layers\.(\d{1,6})\.(.+)")
_MOST_BLOCKS = 100  # no published adapter has more than 10; a name can claim a million
SITE = re.compile(r"ip_adapter\.(\d{1,6})\.to_([kv])_ip\.weight")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """`status` says, per field of the config, whether tensors showed it, imply it, or it is assumed.

    `widths` holds the hidden width of each UNet level, as the K/V pairs show it.
    """

    config: AdapterConfig
    status: Mapping[str, Status]
    widths: Mapping[int, int]

    def attention_shapes(self) -> dict[str, Shape]:
        """Canonical name -> shape of every K/V tensor the UNet asks for, in site order."""
        if self.config.unet is None:
            return {}
        return {
            template.replace("{site}", str(site.index)): (
                self.widths.get(site.level, site.width),
                self.config.output_dim,
            )
            for site in UNETS[self.config.unet].sites
            for template in ATTENTION_NAMES
        }


def read_dimensions(
    shapes: Mapping[str, Shape],
    *,
    heads: int | None = None,
    dim_head: int | None = None,
    assumed: AdapterConfig | None = None,
) -> Dimensions:
    """The sizes that most tensors agree on; what no tensor shows is taken from `assumed` (default: InstantID).

    `shapes` has canonical names. RefusedError if the declared heads and dim_head cannot make the inner width.
    """
    fallback = assumed or AdapterConfig()
    depth = _depth(shapes)
    kept = {name: shape for name, shape in shapes.items() if depth is None or _block_of(name) < depth}
    preferred = {**_symbols(fallback), "hidden": 0}
    sizes: dict[str, int] = {}
    status: dict[str, Status] = {}
    rows = list(_rows(kept))
    for symbol in ("dim", "output_dim", "inner", "hidden", "embedding_dim", "num_queries"):
        votes = _votes(rows, symbol, sizes)
        if symbol == "hidden":
            preferred["hidden"] = int(fallback.ff_mult * sizes["dim"])
        if votes:
            sizes[symbol] = max(votes, key=lambda size: (votes[size], size == preferred[symbol], -size))
            status[symbol] = "confirmed"
        else:
            sizes[symbol] = _from_elements(kept, symbol, sizes) or preferred[symbol]
            status[symbol] = "assumed"
    if status["inner"] == "assumed":  # nothing contradicts what was declared
        sizes["inner"] = _assumed_inner(fallback, heads, dim_head)
    known_heads, known_dim_head = _head_counts(sizes["inner"], heads, dim_head)
    ratio = sizes["hidden"] / sizes["dim"]
    unet, unet_status = _unet(kept, sizes["output_dim"], status["output_dim"], fallback)
    config = AdapterConfig(
        dim=sizes["dim"],
        depth=depth or fallback.depth,
        dim_head=known_dim_head,
        heads=known_heads,
        num_queries=sizes["num_queries"],
        embedding_dim=sizes["embedding_dim"],
        output_dim=sizes["output_dim"],
        ff_mult=int(ratio) if ratio == int(ratio) else ratio,
        unet=unet.name,
    )
    return Dimensions(
        config,
        {
            "dim": status["dim"],
            "depth": "confirmed" if depth else "assumed",
            "dim_head": "assumed",
            "heads": "assumed",
            "inner": status["inner"],
            "num_queries": status["num_queries"],
            "embedding_dim": status["embedding_dim"],
            "output_dim": status["output_dim"],
            "ff_mult": status["hidden"],
            "unet": unet_status,
        },
        _level_widths(kept, unet),
    )


def _symbols(config: AdapterConfig) -> dict[str, int]:
    names = ("dim", "output_dim", "inner", "hidden", "embedding_dim", "num_queries")
    return {name: getattr(config, name) for name in names}


def _block_of(name: str) -> int:
    found = BLOCK.fullmatch(name)
    return int(found[1]) if found else -1


def _depth(shapes: Mapping[str, Shape]) -> int | None:
    """The depth that leaves the fewest tensors missing or to spare, blocks that lost nothing being no spares.

    A stray tensor of layer 7 does not make a depth of 8; a whole layer 7 does, and what lies before it is missing.
    """
    per_block = Counter(
        _block_of(name)
        for name in shapes
        if (found := BLOCK.fullmatch(name)) and f"image_proj.layers.{{block}}.{found[2]}" in RESAMPLER_SHAPES
    )
    if not per_block:
        return None
    each = sum("{block}" in template for template in RESAMPLER_SHAPES)
    whole = [block for block, count in per_block.items() if count == each and block < _MOST_BLOCKS]
    least = max(whole, default=0) + 1
    best, fewest, problems = least, per_block.total(), per_block.total()
    # Past the number of blocks that occur at all, every further one is missing whole: no need to look there.
    for depth in range(1, max(least, min(max(per_block), len(per_block)) + 1) + 1):
        problems += each - 2 * per_block[depth - 1]  # what is missing of this block, less what is no longer to spare
        if depth == least or (depth > least and problems <= fewest):
            best, fewest = depth, problems
    return best


# Shape, symbols, and weight of the vote: K/V pairs only break ties among the tensors of the projection.
Row = tuple[Shape, tuple[str, ...], float]


def _rows(shapes: Mapping[str, Shape]) -> Iterator[Row]:
    for name, shape in shapes.items():
        block = BLOCK.fullmatch(name)
        symbols = RESAMPLER_SHAPES.get(f"image_proj.layers.{{block}}.{block[2]}" if block else name)
        weight = 1.0
        if symbols is None and SITE.fullmatch(name):
            symbols, weight = ("width", "output_dim"), 0.001
        if symbols is not None and len(symbols) == len(shape):
            yield shape, symbols, weight


def _votes(rows: Iterable[Row], wanted: str, known: Mapping[str, int]) -> Mapping[int, float]:
    """Size -> votes for it, from tensors whose other axes agree with what is already known."""
    votes: dict[int, float] = {}
    for shape, symbols, weight in rows:
        claims = []
        agrees = True
        for size, symbol in zip(shape, symbols, strict=True):
            factor, _, name = symbol.rpartition("*")
            each, rest = divmod(size, int(factor or 1))
            if name == wanted and not rest and each:
                claims.append(each)
            elif name.isdigit():
                agrees &= size == int(name)
            elif name in known:
                agrees &= not rest and each == known[name]
        if agrees:
            for size in claims:
                votes[size] = votes.get(size, 0) + weight
    return votes


def _from_elements(shapes: Mapping[str, Shape], symbol: str, sizes: Mapping[str, int]) -> int | None:
    """The size that a tensor of the wrong shape would have if its elements were laid out right."""
    name = {"embedding_dim": "image_proj.proj_in.weight", "num_queries": "image_proj.latents"}.get(symbol)
    if name is None or name not in shapes:
        return None
    elements = math.prod(shapes[name])
    return elements // sizes["dim"] if elements and elements % sizes["dim"] == 0 else None


def _assumed_inner(fallback: AdapterConfig, heads: int | None, dim_head: int | None) -> int:
    if heads is None and dim_head is None:
        return fallback.inner
    width = dim_head or DEFAULT_DIM_HEAD
    return width * (heads or max(1, fallback.inner // width))


def _shown(count: int | None) -> str:
    return "?" if count is None else str(count)


def _head_counts(inner: int, heads: int | None, dim_head: int | None) -> tuple[int, int]:
    if heads is None and dim_head is None:
        # Below 8 a head could hardly attend to anything: one head is the likelier reading.
        dim_head = next((width for width in (DEFAULT_DIM_HEAD, 32, 16, 8) if inner % width == 0), inner)
    if heads is None and dim_head and inner % dim_head == 0:
        heads = inner // dim_head
    if dim_head is None and heads and inner % heads == 0:
        dim_head = inner // heads
    if not heads or not dim_head or heads < 0 or heads * dim_head != inner:
        raise RefusedError(
            f"heads {_shown(heads)} x dim_head {_shown(dim_head)} does not make the inner width {inner} of this file",
            hint=f"give --heads and --dim-head whose product is {inner}; published adapters use dim_head 64",
            code="config",
        )
    return heads, dim_head


def _unet(shapes: Mapping[str, Shape], output_dim: int, status: Status, fallback: AdapterConfig) -> tuple[UNet, Status]:
    """By the width of the text side if it is a known one and most sites are that UNet's, else by the site numbers."""
    sites = [int(found[1]) for name in shapes if (found := SITE.fullmatch(name))]
    by_width = next((unet for unet in UNETS.values() if unet.cross_attention_dim == output_dim), None)
    if status == "confirmed" and by_width is not None:
        its_own = sum(site <= by_width.sites[-1].index for site in sites)
        if 2 * its_own >= len(sites):
            return by_width, "confirmed"
    if not sites:
        return UNETS[fallback.unet or "sdxl"], "assumed"
    numbers = set(sites)
    misfits = {name: len(numbers ^ {site.index for site in UNETS[name].sites}) for name in ("sd15", "sdxl")}
    nearest = UNETS[min(misfits, key=misfits.__getitem__)]
    own = len(numbers & {site.index for site in nearest.sites})
    return nearest, "inferred" if 2 * own >= len(numbers) else "assumed"


def _level_widths(shapes: Mapping[str, Shape], unet: UNet) -> dict[int, int]:
    """The width that most K/V tensors of each level have; a level without any keeps the UNet's published one.

    Where K and V of a level's only site disagree, the widths of the other levels decide.
    """
    levels = {site.index: site for site in unet.sites}
    votes: dict[int, Counter[int]] = {}
    for name, shape in shapes.items():
        found = SITE.fullmatch(name)
        if found and len(shape) == 2 and int(found[1]) in levels:
            votes.setdefault(levels[int(found[1])].level, Counter())[shape[0]] += 1
    published = {site.level: site.width for site in unet.sites}
    everywhere = sum(votes.values(), Counter[int]())
    return {
        level: max(counts, key=lambda width: (counts[width], width == published[level], everywhere[width], -width))
        for level, counts in votes.items()
    }

"""An adapter's sizes, asked of its own tensors: every tensor votes, so that one bad shape is outvoted and named."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ckptfix.errors import RefusedError
from ckptfix.families.config import Config
from ckptfix.families.family import Family
from ckptfix.families.known import HeadedConfig
from ckptfix.lora import lora_rank, lora_shapes
from ckptfix.reference import BASES, DEFAULT_DIM_HEAD, RESAMPLER, TRANSFORMERS, UNETS, AdapterConfig, Base
from ckptfix.tensors.views import Shape

Status = Literal["confirmed", "inferred", "assumed"]
BLOCK = re.compile(r"(image_proj\.(?:\w+\.)?layers)\.(\d{1,6})\.(.+)")
_MOST_BLOCKS = 100  # no published adapter has more than 10; a name can claim a million
SITE = re.compile(r"ip_adapter\.(\d{1,6})\.to_([kv])_ip\.weight")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """`status` says, per field of the config, whether tensors showed it, imply it, or it is assumed.

    `widths` holds the hidden width of each level of the base, as the K/V pairs show it; `context_dim` the width of the
    tokens that they take; `lora_rank` the rank of the LoRA that comes along, 0 without one.
    """

    family: Family
    config: Config
    status: Mapping[str, Status]
    widths: Mapping[int, int]
    context_dim: int
    lora_rank: int = 0

    @property
    def resampler(self) -> AdapterConfig:
        """The sizes of a Resampler; RefusedError for another family."""
        if not isinstance(self.config, AdapterConfig) or self.family is not RESAMPLER:
            raise RefusedError(
                f"the image projection is no plain Resampler but another family: {self.family.title}",
                hint="take InstantID's: hf download InstantX/InstantID ip-adapter.bin --local-dir .",
                code="other-family",
            )
        return self.config

    @property
    def inner(self) -> int:
        """heads x dim_head, which shapes do show; 0 where the projection has no attention."""
        return self.config.inner if isinstance(self.config, HeadedConfig) else 0

    @property
    def head_sizes(self) -> dict[str, int]:
        """`heads` and `dim_head` for the ops that need them; empty where the projection has no attention."""
        config = self.config
        return {"heads": config.heads, "dim_head": config.dim_head} if isinstance(config, HeadedConfig) else {}

    @property
    def transformer(self) -> str:
        """The transformer that the adapter is for; empty for a UNet."""
        return self.config.unet if self.config.unet and self.config.unet in TRANSFORMERS else ""

    def tensors(self) -> dict[str, Shape]:
        """Canonical name -> shape of a whole adapter of these sizes."""
        return self.family.tensors(self.config) | self.attention_shapes()

    def attention_shapes(self) -> dict[str, Shape]:
        """Canonical name -> shape of every K/V tensor the base asks for, in site order; then those of the LoRA."""
        if self.config.unet is None:
            return {}
        base, rank = BASES[self.config.unet], self.lora_rank
        pairs = base.pairs(self.context_dim, self.widths)
        return pairs | (lora_shapes(base.sites, self.widths, self.context_dim, rank) if rank else {})


def read_dimensions(
    shapes: Mapping[str, Shape],
    *,
    family: Family = RESAMPLER,
    heads: int | None = None,
    dim_head: int | None = None,
    assumed: Config | None = None,
    base: str = "",
) -> Dimensions:
    """The sizes that most tensors agree on; what no tensor shows is taken from `assumed` (default: the family's).

    `shapes` has canonical names. `base` is the transformer (of `TRANSFORMERS`) whose blocks the K/V pairs are numbered
    by; empty where they are numbered by a UNet's layers. RefusedError if the declared heads and dim_head cannot make
    the inner width.
    """
    fallback = family.sizes(assumed or family.default)
    depth = _depth(shapes, family)
    kept = {name: shape for name, shape in shapes.items() if depth is None or _block_of(name) < depth}
    sizes: dict[str, int] = {}
    status: dict[str, Status] = {}
    rows = list(_rows(kept, family))
    for symbol in family.symbols:
        votes = _votes(rows, symbol, sizes)
        preferred = _preferred(symbol, family, assumed or family.default, sizes, fallback)
        if votes:
            sizes[symbol] = max(votes, key=lambda size: (votes[size], size == preferred, -size))
            status[symbol] = "confirmed"
        elif symbol in family.optional.values() and assumed is None:
            sizes[symbol], status[symbol] = 0, "inferred"
        else:
            sizes[symbol] = _from_elements(kept, symbol, sizes) or preferred
            status[symbol] = "assumed"
    sizes["depth"], status["depth"] = (depth, "confirmed") if depth else (fallback.get("depth", 0), "assumed")
    if family.has_heads:
        if status["inner"] == "assumed":  # nothing contradicts what was declared
            sizes["inner"] = _assumed_inner(fallback["inner"], heads, dim_head)
        sizes["heads"], sizes["dim_head"] = head_counts(sizes["inner"], heads, dim_head)
        status["heads"] = status["dim_head"] = "assumed"
    assumed_base = (assumed or family.default).unet
    unet, unet_status, context = _base(kept, sizes["output_dim"], status["output_dim"], base, assumed_base)
    fields: dict[str, Status] = {name: status[symbol.partition("/")[0]] for name, symbol in family.fields.items()}
    return Dimensions(
        family,
        family.config(sizes, unet.name),
        fields | ({"inner": status["inner"]} if family.has_heads else {}) | {"unet": unet_status},
        _level_widths(kept, unet),
        context,
        lora_rank(kept),
    )


def _preferred(
    symbol: str, family: Family, assumed: Config, sizes: Mapping[str, int], fallback: Mapping[str, int]
) -> int:
    """The size to take where votes tie or are none: a ratio's is that of what is already known."""
    for name, ratio in family.fields.items():
        top, _, bottom = ratio.partition("/")
        if top == symbol and bottom:
            return int(assumed.to_dict()[name] * sizes[bottom])
    return fallback[symbol]


def _block_of(name: str) -> int:
    found = BLOCK.fullmatch(name)
    return int(found[2]) if found else -1


def _template(name: str) -> str:
    """The name as a family's shapes list it."""
    found = BLOCK.fullmatch(name)
    return f"{found[1]}.{{block}}.{found[3]}" if found else name


def _depth(shapes: Mapping[str, Shape], family: Family) -> int | None:
    """The depth that leaves the fewest tensors missing or to spare, blocks that lost nothing being no spares.

    A stray tensor of layer 7 does not make a depth of 8; a whole layer 7 does, and what lies before it is missing.
    """
    blocks = ((name, _block_of(name)) for name in shapes)
    per_block = Counter(block for name, block in blocks if block >= 0 and _template(name) in family.shapes)
    if not per_block:
        return None
    each = sum("{block}" in template for template in family.shapes)
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


def _rows(shapes: Mapping[str, Shape], family: Family) -> Iterator[Row]:
    for name, shape in shapes.items():
        symbols = family.shapes.get(_template(name))
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
            factors = symbol.split("*")
            others = [int(factor) if factor.isdigit() else known.get(factor) for factor in factors if factor != wanted]
            if None in others:
                continue  # nothing is known of this axis yet
            share = math.prod(filter(None, others))
            if wanted in factors:
                each, rest = divmod(size, share)
                if not rest and each:
                    claims.append(each)
            else:
                agrees &= size == share
        if agrees:
            for size in claims:
                votes[size] = votes.get(size, 0) + weight
    return votes


def _from_elements(shapes: Mapping[str, Shape], symbol: str, sizes: Mapping[str, int]) -> int | None:
    """The size that a tensor of the wrong shape would have if its elements were laid out right."""
    name = {"embedding_dim": "image_proj.proj_in.weight", "num_queries": "image_proj.latents"}.get(symbol)
    if name is None or name not in shapes or "dim" not in sizes:
        return None
    elements = math.prod(shapes[name])
    return elements // sizes["dim"] if elements and elements % sizes["dim"] == 0 else None


def _assumed_inner(usual: int, heads: int | None, dim_head: int | None) -> int:
    if heads is None and dim_head is None:
        return usual
    width = dim_head or DEFAULT_DIM_HEAD
    return width * (heads or max(1, usual // width))


def _shown(count: int | None) -> str:
    return "?" if count is None else str(count)


def head_counts(inner: int, heads: int | None = None, dim_head: int | None = None) -> tuple[int, int]:
    """heads and dim_head, what is not declared assumed; RefusedError if they do not make `inner`."""
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


def _base(
    shapes: Mapping[str, Shape], output_dim: int, status: Status, named: str, fallback: str | None
) -> tuple[Base, Status, int]:
    """The base, how well it is known, and the width that its K/V pairs take."""
    if named:
        return TRANSFORMERS[named], "confirmed", output_dim
    if not shapes and fallback and fallback in TRANSFORMERS:
        return TRANSFORMERS[fallback], "assumed", output_dim
    context = _context(shapes, output_dim)
    return *_unet(shapes, context, status, fallback), context


def _context(shapes: Mapping[str, Shape], output_dim: int) -> int:
    """The width that the K/V pairs take: that of the tokens, or what the UNet narrows it to where most pairs say so."""
    narrowed = UNETS["sdxl"].narrowed(output_dim)
    found = Counter(shape[1] for name, shape in shapes.items() if len(shape) == 2 and SITE.fullmatch(name))
    return narrowed if found[narrowed] >= found[output_dim] else output_dim


def _unet(shapes: Mapping[str, Shape], context: int, status: Status, fallback: str | None) -> tuple[Base, Status]:
    """By the width of the text side if it is a known one and most sites are that UNet's, else by the site numbers."""
    sites = [int(found[1]) for name in shapes if (found := SITE.fullmatch(name))]
    by_width = next((unet for unet in UNETS.values() if unet.cross_attention_dim == context), None)
    if status == "confirmed" and by_width is not None:
        its_own = sum(site <= by_width.sites[-1].index for site in sites)
        if 2 * its_own >= len(sites):
            return by_width, "confirmed"
    if not sites:
        return UNETS[fallback or "sdxl"], "assumed"
    numbers = set(sites)
    misfits = {name: len(numbers ^ {site.index for site in UNETS[name].sites}) for name in ("sd15", "sdxl")}
    nearest = UNETS[min(misfits, key=misfits.__getitem__)]
    own = len(numbers & {site.index for site in nearest.sites})
    return nearest, "inferred" if 2 * own >= len(numbers) else "assumed"


def _level_widths(shapes: Mapping[str, Shape], unet: Base) -> dict[int, int]:
    """The width that most K/V tensors of each level have; a level without any keeps the base's published one.

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

"""A family: one published kind of image projection, as the names and the sizes of its tensors tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptfix.families.config import Config

Sizes = Mapping[str, int]


def multiple(ratio: float, size: int) -> int:
    """`ratio` times `size` as a whole number; the small term keeps 100/96 * 96 from being cut to 99."""
    return math.floor(ratio * size + 1e-6)


def product_of(symbol: str, sizes: Sizes) -> int:
    """The size that a symbol of a shape stands for: `dim`, `2*inner`, `num_tokens*output_dim`, `1`."""
    return math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in symbol.split("*"))


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One kind of image projection; `name` is also the name of the layout in which it is published.

    `shapes` has every canonical name, `{block}` counting from 0, in the order of upstream's module. `fields` ties each
    field of the config to the symbol of its size, or to the ratio of two. `default` fills in what no tensor shows.
    `optional` are parts that a file may lack: the prefix of their names, and the symbol that is then 0. `caveat` says
    what stock loaders do wrong with such a projection.
    """

    name: str
    title: str
    shapes: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, str]
    default: Config
    optional: Mapping[str, str] = field(default_factory=dict)
    caveat: str = ""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The sizes that tensors show, in the order in which one can be told from those before it."""
        wanted = [part for symbol in self.fields.values() for part in reversed(symbol.split("/"))]
        shown = ("inner" if name == "heads" else name for name in wanted if name not in ("depth", "dim_head"))
        return tuple(dict.fromkeys(shown))

    @property
    def has_heads(self) -> bool:
        return "heads" in self.fields

    def sizes(self, config: Config) -> dict[str, int]:
        """Symbol -> size, of a config of this family."""
        values = config.to_dict()
        sizes: dict[str, int] = {}
        for name, symbol in self.fields.items():
            top, _, bottom = symbol.partition("/")
            sizes[top] = multiple(values[name], sizes[bottom]) if bottom else int(values[name])
        if self.has_heads:
            sizes["inner"] = sizes["heads"] * sizes["dim_head"]
        return sizes

    def config(self, sizes: Sizes, unet: str | None) -> Config:
        values = {}
        for name, symbol in self.fields.items():
            top, _, bottom = symbol.partition("/")
            ratio = sizes[top] / sizes[bottom] if bottom else sizes[top]
            values[name] = int(ratio) if ratio == int(ratio) else ratio
        return type(self.default)(**values, unet=unet)

    def tensors(self, config: Config) -> dict[str, tuple[int, ...]]:
        """Canonical name -> shape of every tensor of the projection, in module order."""
        sizes = self.sizes(config)
        return {
            template.replace("{block}", str(block)): tuple(product_of(symbol, sizes) for symbol in symbols)
            for block in range(sizes.get("depth", 1))
            for template, symbols in self.shapes.items()
            if ("{block}" in template or block == 0) and self.has(template, sizes)
        }

    def has(self, template: str, sizes: Sizes) -> bool:
        """Whether a projection of these sizes has this tensor at all."""
        return all(sizes[symbol] for prefix, symbol in self.optional.items() if template.startswith(prefix))

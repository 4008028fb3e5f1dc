"""The attention layers that K/V pairs meet: which UNet they were made for, and what loaders do that check no width."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ckptfix.consumers.arrival import Raised, Tree
from ckptfix.consumers.modules import Module
from ckptfix.reference import TRANSFORMERS, UNETS, UNet
from ckptfix.tensors.views import Shape

_STRAYS = 2  # ill-shaped tensors that do not speak for another UNet
_PAIR = re.compile(r"(.*?)\.?to_([kv])_ip(\.\d+)?\.weight")


@dataclass(frozen=True, slots=True)
class Layers:
    """The UNet an adapter is for: `widths` by site number, in the order of its attention processors."""

    unet: UNet
    widths: Mapping[int, int]
    context: int  # numbers per token; cross_attention_dim

    @property
    def title(self) -> str:
        published = {site.index: site.width for site in self.unet.sites}
        narrow = "" if self.widths == published else " of the file's own widths"
        return f"{self.unet.title}{narrow}"


def published_layers(name: str) -> Layers:
    unet = UNETS[name]
    return Layers(unet, {site.index: site.width for site in unet.sites}, unet.cross_attention_dim)


def layers_of(pairs: Tree) -> Layers:
    """The UNet these pairs were made for, as far as shapes show: by the numbers per token, else by how many there are.

    The widths are the published ones, unless the pairs are as consistent with others (a narrow UNet of the same make).
    """
    shapes = {name: shape for name, shape in pairs.items() if _PAIR.fullmatch(name) and isinstance(shape, tuple)}
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    contexts = Counter(shape[1] for shape in matrices.values())
    context = max(contexts, key=lambda width: (contexts[width], -width), default=0)
    if any(context == base.cross_attention_dim for base in TRANSFORMERS.values()):
        return published_layers("sdxl")  # made for no UNet: whichever it meets has other widths
    unet = next((unet for unet in UNETS.values() if unet.cross_attention_dim == context), None)
    if unet is None:
        count = sum(".to_k_ip" in f".{name}" for name in shapes)
        unet = min((UNETS["sdxl"], UNETS["sd15"]), key=lambda unet: abs(len(unet.sites) - count))
    return Layers(unet, _widths(unet, matrices), context or unet.cross_attention_dim)


def _widths(unet: UNet, matrices: Mapping[str, Shape]) -> dict[int, int]:
    published = {site.index: site.width for site in unet.sites}
    found, wanted = sorted({shape[0] for shape in matrices.values()}), sorted(set(published.values()))
    if unet.cross_attention_dim in {shape[1] for shape in matrices.values()} and set(found) <= set(wanted):
        return published
    votes: dict[int, Counter[int]] = {}
    for site in unet.sites:
        for part in "kv":
            shape = matrices.get(f"{site.index}.to_{part}_ip.weight")
            if shape is not None:
                votes.setdefault(site.level, Counter())[shape[0]] += 1
    strays = sum(counts.total() - max(counts.values()) for counts in votes.values())
    if strays <= _STRAYS:
        voted = {level: counts.most_common(1)[0][0] for level, counts in votes.items()}
        return {site.index: voted.get(site.level, site.width) for site in unet.sites}
    if len(found) == len(wanted):  # the order is wrong: the narrowest belong to the narrowest level
        return {index: found[wanted.index(width)] for index, width in published.items()}
    return published


def check_use(pairs: Tree, layers: Layers, module: Module, *, key: str) -> str:
    """Replay a picture's way through the layers for a loader that takes any width of K and V.

    Such a loader looks the pair up when the layer runs, and cuts what comes out into rows as wide as the layer: too
    wide a K gives more tokens, too narrow a one fewer. Returns what goes wrong without an error, "" if nothing does;
    raises what would be raised. `key` is the loader's word for a layer, of `index` and `part`.
    """
    wrong, tokens = "", module.tokens
    running = sorted(layers.unet.sites, key=lambda site: site.down_mid_up)
    for site in running:
        wanted = layers.widths[site.index]
        found = {}
        for part in "kv":
            shape = pairs.get(f"{site.index}.to_{part}_ip.weight")
            if not isinstance(shape, tuple):
                raise Raised(f"KeyError: {key.format(index=site.index, part=part)!r}")
            if len(shape) != 2 or shape[1] != module.width:
                raise Raised("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
            rows, rest = divmod(tokens * shape[0], wanted)
            if rest:
                raise Raised(
                    f"RuntimeError: shape is invalid for input of size (layer {site.index}: K/V of width {shape[0]} "
                    f"where the layer is {wanted} wide)"
                )
            found[part] = (rows, shape[0])
        if found["k"][0] != found["v"][0]:
            raise Raised(f"RuntimeError: K of layer {site.index} has {found['k'][0]} tokens, V {found['v'][0]}")
        if not wrong and found["k"][0] != tokens:
            wrong = (
                f"layer {site.index} of {layers.title} is {wanted} wide, its K/V pair {found['k'][1]}: {tokens} tokens "
                f"are cut into {found['k'][0]} without an error"
            )
    return wrong

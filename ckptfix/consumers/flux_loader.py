"""diffusers' `FluxPipeline.load_ip_adapter`, replayed: it reads XLabs' names and the canonical ones, and nothing else.

Source: huggingface/diffusers 0.42, src/diffusers/loaders/ip_adapter.py and loaders/transformer_flux.py.
"""

from __future__ import annotations

from collections import Counter

from ckptfix.consumers.arrival import Arrival, Raised, Tree, axis, group, open_safetensors, torch_load
from ckptfix.consumers.diffusers_loader import load_part
from ckptfix.consumers.modules import Module
from ckptfix.consumers.outcome import Declared, Outcome, failed, settled
from ckptfix.reference import TRANSFORMERS, Base
from ckptfix.tensors.views import Shape

SOURCE = "huggingface/diffusers: src/diffusers/loaders/transformer_flux.py"
_KEYS = "ValueError: Required keys are (`image_proj` and `ip_adapter`) missing from the state dict."
_NO_PROJECTION = "AttributeError: 'NoneType' object has no attribute 'state_dict'"
_META_DEVICE = "RuntimeError: Tensor on device meta is not on the expected device cpu!"
_GROUPS = {
    "ip_adapter_proj_model.": "image_proj",
    "image_proj.": "image_proj",
    "double_blocks.": "ip_adapter",
    "ip_adapter.": "ip_adapter",
}
_WORDS = {
    "ip_adapter_double_stream_k_proj": "to_k_ip",
    "ip_adapter_double_stream_v_proj": "to_v_ip",
    "processor.": "",
}
_SIXTEEN = 16 * 4096  # rows of a projection that is taken to make 16 tokens; any other makes 4


def load_in_flux(arrival: Arrival, declared: Declared, *, low_cpu_mem_usage: bool) -> Outcome:
    """`low_cpu_mem_usage=True` is the default where accelerate is installed."""
    try:
        tree = _read(arrival)
        if list(tree) != ["image_proj", "ip_adapter"]:
            raise Raised(_KEYS)
        image_proj, pairs = group(tree, "image_proj"), group(tree, "ip_adapter")
        context = _load_pairs(image_proj, pairs, into_meta=low_cpu_mem_usage)
        module = _load_projection(image_proj, into_meta=low_cpu_mem_usage)
    except Raised as error:
        return failed(str(error))
    missing = [name for name in module.tensors if name not in _renamed(image_proj)]
    if missing:
        return failed(_META_DEVICE, f"it loads, and fails at the first picture for want of {', '.join(missing)}")
    if module.width != context:
        why = f"it loads, then the first block gets tokens {module.width} wide where K and V take {context}"
        return failed("RuntimeError: mat1 and mat2 shapes cannot be multiplied", why)
    blocks = len(TRANSFORMERS["flux-double"].sites)
    return settled(module, arrival, declared, f"all tensors fit {module.name} and the {blocks} double blocks of FLUX.1")


def _read(arrival: Arrival) -> Tree:
    if not arrival.name.endswith(".safetensors"):
        return torch_load(arrival)
    groups: dict[str, Tree] = {"image_proj": {}, "ip_adapter": {}}
    for name, node in open_safetensors(arrival).items():
        prefix = next((prefix for prefix in _GROUPS if name.startswith(prefix)), "")
        if not prefix:
            continue
        found = name.removeprefix(prefix)
        for old, new in _WORDS.items() if _GROUPS[prefix] == "ip_adapter" else ():
            found = found.replace(old, new)
        groups[_GROUPS[prefix]][found] = node
    return dict(groups)


def _load_pairs(image_proj: Tree, pairs: Tree, *, into_meta: bool) -> int:
    """The pair of each double block, weights and biases; returns how wide the tokens are that the blocks take."""
    flux = TRANSFORMERS["flux-double"]
    rows, context = _blocks(image_proj, pairs, flux)
    for site in flux.sites:
        given: Tree = {}
        for param in ("weight", "bias"):
            for part in "kv":
                name = f"{site.index}.to_{part}_ip.{param}"
                if name not in pairs:
                    raise Raised(f"KeyError: {name!r}")
                given[f"to_{part}_ip.0.{param}"] = pairs[name]
        expected: dict[str, Shape] = {}
        if "proj.weight" in image_proj:  # without one it makes room for no adapter at all
            for part in "kv":
                expected |= {f"to_{part}_ip.0.weight": (rows, context), f"to_{part}_ip.0.bias": (rows,)}
        ordered = given if into_meta else dict(sorted(given.items(), key=lambda item: item[0][:7]))  # by module
        load_part("FluxIPAdapterAttnProcessor", expected, ordered, into_meta=into_meta)
    return context


def _blocks(image_proj: Tree, pairs: Tree, flux: Base) -> tuple[int, int]:
    """Width of the blocks and of the tokens they take: FLUX.1's, or those of a narrow transformer of the same make."""
    shapes = Counter(shape for name, shape in pairs.items() if name.endswith("_ip.weight") and isinstance(shape, tuple))
    rows, columns = next((shape for shape, _ in shapes.most_common() if len(shape) == 2), (0, 0))
    if rows == flux.sites[0].width:
        return rows, flux.cross_attention_dim
    return rows, axis(image_proj, "norm.weight", 0) if "norm.weight" in image_proj else columns


def _load_projection(image_proj: Tree, *, into_meta: bool) -> Module:
    if "proj.weight" not in image_proj:
        raise Raised(_NO_PROJECTION)
    rows = axis(image_proj, "proj.weight", 0)
    tokens = 16 if rows == _SIXTEEN else 4
    width, reads = rows // tokens, axis(image_proj, "proj.weight", -1)
    made = {"image_embeds.weight": (tokens * width, reads), "image_embeds.bias": (tokens * width,)}
    expected: dict[str, Shape] = {**made, "norm.weight": (width,), "norm.bias": (width,)}
    load_part("ImageProjection", expected, _renamed(image_proj), into_meta=into_meta)
    return Module("ImageProjection", expected, tokens, width, reads)


def _renamed(image_proj: Tree) -> Tree:
    return {name.replace("proj", "image_embeds"): node for name, node in image_proj.items()}

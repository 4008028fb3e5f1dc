"""InvokeAI, replayed: flat safetensors by four prefixes, sizes from shapes, depth and heads fixed.

Source: invoke-ai/InvokeAI, invokeai/backend/ip_adapter/ip_adapter.py, resampler.py and ip_attention_weights.py; for
FLUX invokeai/backend/flux/ip_adapter/state_dict_utils.py and xlabs_ip_adapter_flux.py.
"""

from __future__ import annotations

from itertools import count

from ckptfix.consumers import modules
from ckptfix.consumers.arrival import (
    Arrival,
    Raised,
    Tree,
    axis,
    group,
    open_safetensors,
    site_number,
    split_groups,
    torch_load,
)
from ckptfix.consumers.modules import Module, load_strictly
from ckptfix.consumers.outcome import Declared, Outcome, failed, settled, wrong
from ckptfix.consumers.unet_layers import check_use, published_layers
from ckptfix.reference import TRANSFORMERS
from ckptfix.tensors.views import Shape
from ckptfix.text import printable

SOURCE = "invoke-ai/InvokeAI: invokeai/backend/ip_adapter/ip_adapter.py"
_PREFIXES = {
    "image_proj.": "image_proj",
    "ip_adapter.": "ip_adapter",
    "image_proj_model.": "image_proj_model",
    "adapter_modules.": "adapter_modules",
}
_FOLDER_FILE = "ip_adapter.bin"  # what a folder of InvokeAI's own format holds
_CLIP = "RuntimeError: Selected CLIP Vision Model is incompatible with the current IP Adapter"
_HIDDEN, _EMBEDS = (1280, 1664, 1024), (1024, 1280, 768)
_STREAM = "double_blocks.{}.processor.ip_adapter_double_stream_{}_proj.{}"
# Source: invokeai/backend/flux/ip_adapter/state_dict_utils.py, is_state_dict_xlabs_ip_adapter.
_XLABS = {_STREAM.format(0, part, param) for part in "kv" for param in ("weight", "bias")} | {
    f"ip_adapter_proj_model.{part}.{param}" for part in ("proj", "norm") for param in ("weight", "bias")
}


def load_in_invokeai(arrival: Arrival, declared: Declared) -> Outcome:
    if arrival.is_safetensors and arrival.tree.keys() >= _XLABS:
        return _load_in_flux(arrival, declared)
    try:
        groups = _read(arrival)
        image_proj, pairs = group(groups, "image_proj"), group(groups, "ip_adapter")
        module = _module(image_proj, pairs, arrival.name)
        load_strictly(module.name, module.tensors, image_proj)
        _load_pairs(pairs)
        if module.reads not in (_EMBEDS if module.name == "ImageProjModel" else _HIDDEN):
            raise Raised(_CLIP)
        layers = published_layers("sdxl" if module.width == 2048 else "sd15")
        slipped = check_use(pairs, layers, module, key="{index}")
    except Raised as error:
        return failed(str(error), "it loads and fails at the first picture" if str(error) == _CLIP else "")
    said = f"all tensors fit {module.name}, and the K/V pairs their layers"
    return wrong(slipped) if slipped else settled(module, arrival, declared, said)


def _load_in_flux(arrival: Arrival, declared: Declared) -> Outcome:
    """XLabs' adapters for FLUX, by the names of the first block; each further one is looked for until one lacks."""
    tree = arrival.tree
    wanted = len(TRANSFORMERS["flux-double"].sites)
    try:
        for name in tree:
            if not name.startswith(("ip_adapter_proj_model.", "double_blocks.")):
                raise Raised(f"ValueError: Unexpected key: {printable(name)}")
        hidden, context = (axis(tree, _STREAM.format(0, "k", "weight"), number) for number in (0, 1))
        rows, reads = (axis(tree, "ip_adapter_proj_model.proj.weight", number) for number in (0, 1))
        module = modules.linear(context, reads, rows // context)
        given = split_groups(tree, {"ip_adapter_proj_model.": "projection"})["projection"]
        load_strictly(module.name, module.tensors, given)
        blocks = next(block for block in count() if _STREAM.format(block, "k", "weight") not in tree)
        for block in range(blocks):
            _load_double_block(tree, block, hidden, context)
    except Raised as error:
        return failed(str(error))
    if blocks < wanted:
        why = f"it loads with {blocks} blocks, and fails at the first picture, which has {wanted}"
        return failed(f"IndexError: index {blocks} is out of range", why)
    return settled(module, arrival, declared, f"all tensors fit {module.name} and the {blocks} double blocks of FLUX.1")


def _load_double_block(tree: Tree, block: int, hidden: int, context: int) -> None:
    expected: dict[str, Shape] = {}
    given: Tree = {}
    for part, param in (("k", "bias"), ("k", "weight"), ("v", "bias"), ("v", "weight")):
        name = _STREAM.format(block, part, param)
        if name not in tree:
            raise Raised(f"KeyError: {name!r}")
        short = name.partition(".processor.")[2]
        given[short] = tree[name]
        expected[short] = (hidden,) if param == "bias" else (hidden, context)
    load_strictly("IPDoubleStreamBlock", expected, given)


def _read(arrival: Arrival) -> Tree:
    if arrival.name.endswith(".safetensors"):
        tree = open_safetensors(arrival)
        for name in tree:
            if not name.startswith(tuple(_PREFIXES)):
                raise Raised(f"RuntimeError: Encountered unexpected IP Adapter state dict key: '{printable(name)}'.")
        return dict(split_groups(tree, _PREFIXES))
    if arrival.name != _FOLDER_FILE:
        raise Raised(f"NotADirectoryError: [Errno 20] Not a directory: '{arrival.name}/{_FOLDER_FILE}'")
    return torch_load(arrival)


def _module(image_proj: Tree, pairs: Tree, name: str) -> Module:
    if "proj.weight" in image_proj:
        return modules.linear(axis(image_proj, "norm.weight", 0), axis(image_proj, "proj.weight", -1), 4)
    if "proj_in.weight" in image_proj:
        context = axis(pairs, "1.to_k_ip.weight", -1)
        if context not in (768, 2048):
            raise Raised(f"Exception: Unsupported IP-Adapter Plus cross-attention dimension: {context}.")
        return modules.resampler(
            dim=axis(image_proj, "latents", 2),
            heads=12 if context == 768 else 20,
            num_queries=axis(image_proj, "latents", 1),
            embedding_dim=axis(image_proj, "proj_in.weight", -1),
            output_dim=axis(image_proj, "norm_out.weight", 0),
        )
    if "proj.0.weight" in image_proj:
        return modules.full(axis(image_proj, "proj.3.weight", 0), axis(image_proj, "proj.0.weight", 0))
    raise Raised(f"ValueError: '{name}' has an unrecognized IP-Adapter model architecture.")


def _load_pairs(pairs: Tree) -> None:
    expected: dict[str, Shape] = {}
    for name in pairs:
        if "to_k_ip.weight" in name:
            number = site_number(name)
            shape = (axis(pairs, name, 0), axis(pairs, name, 1))
            expected |= {f"{number}.to_{part}_ip.weight": shape for part in "kv"}
    load_strictly("ModuleDict", expected, pairs)

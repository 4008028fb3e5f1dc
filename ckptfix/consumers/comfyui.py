"""ComfyUI's two packages for adapters, replayed: what each builds from a few shapes and the file's name.

Source: cubiq/ComfyUI_IPAdapter_plus, utils.py (ipadapter_model_loader) and IPAdapterPlus.py (ipadapter_execute);
cubiq/ComfyUI_InstantID, InstantID.py; comfyanonymous/ComfyUI, comfy/utils.py (load_torch_file).
"""

from __future__ import annotations

from ckptfix.consumers import modules
from ckptfix.consumers.arrival import (
    Arrival,
    Raised,
    Tree,
    axis,
    group,
    open_safetensors,
    split_groups,
    torch_load,
)
from ckptfix.consumers.modules import Module, load_strictly
from ckptfix.consumers.outcome import Declared, Outcome, failed, is_plus_v2, settled, wrong
from ckptfix.consumers.unet_layers import check_use, published_layers

IPADAPTER_SOURCE = "cubiq/ComfyUI_IPAdapter_plus: IPAdapterPlus.py, utils.py"
INSTANTID_SOURCE = "cubiq/ComfyUI_InstantID: InstantID.py"
# Widths that CLIP models give to the node: hidden states of ViT-L, ViT-H and bigG; image embeddings of the same.
_HIDDEN, _EMBEDS = (1280, 1664, 1024), (1024, 1280, 768)
_LORA = "0.to_q_lora.down.weight"
_KEY = "{index}_to_{part}_ip"


def load_in_ipadapter_plus(arrival: Arrival, declared: Declared) -> Outcome:
    try:
        groups = _read(arrival, {"image_proj.": "image_proj", "ip_adapter.": "ip_adapter"}, adapter_modules=True)
        if not groups.get("ip_adapter"):
            raise Raised(f"Exception: invalid IPAdapter model {arrival.name}")
        image_proj, pairs = group(groups, "image_proj"), group(groups, "ip_adapter")
        module, kolors = _ipadapter_module(image_proj, pairs, arrival.name.lower())
        load_strictly(module.name, module.tensors, image_proj)
        _linears(pairs)
        layers = published_layers("sdxl" if axis(pairs, "1.to_k_ip.weight", 1) == 2048 else "sd15")
        slipped = check_use(pairs, layers, module, key=_KEY)
    except Raised as error:
        return failed(str(error))
    if slipped:
        return wrong(slipped)
    if kolors and module.name == "Resampler" and module.reads != 1024:
        return wrong(
            "takes it for Kolors by its width of 2048 and feeds pictures of 336 pixels; no Kolors adapter reads CLIP "
            f"tokens {module.reads} wide"
        )
    if module.name == "ProjModelFaceIdPlus" and not kolors and "plusv2" not in arrival.name.lower():
        if is_plus_v2(arrival.name, layers):
            return wrong("leaves the shortcut of FaceID-PlusV2 off: the file name does not contain plusv2")
        return settled(
            module, arrival, declared, f"taken for FaceID-Plus; a PlusV2 needs plusv2 in its name; {_fits(module)}"
        )
    return settled(module, arrival, declared, _fits(module))


def _ipadapter_module(image_proj: Tree, pairs: Tree, name: str) -> tuple[Module, bool]:
    """The projection that is built, and whether the file is taken for Kolors."""
    unnorm = "unnorm" in name
    inner = "perceiver_resampler.layers.0.0.to_out.weight"
    full = "proj.3.weight" in image_proj
    context = axis(pairs, "1.to_k_ip.weight", 1)
    kolors_face = inner in image_proj and axis(image_proj, inner, 0) == 4096
    plain = "layers.0.0.to_out.weight"
    kolors = kolors_face or (context == 2048 and plain in image_proj and axis(image_proj, plain, 0) == 2048)
    plus = (full or "latents" in image_proj or "perceiver_resampler.proj_in.weight" in image_proj) and not unnorm
    portrait = "proj.2.weight" in image_proj and not full and _LORA not in pairs and not kolors_face
    face = portrait or _LORA in pairs or unnorm or kolors_face
    width = 4096 if kolors_face else 2048 if kolors else context
    if not kolors and ((plus and context == 2048 and not face) or unnorm):
        width = 1280
    tokens = 6 if kolors_face else 16 if (plus and not face) or portrait or unnorm else 4
    if face and not unnorm:
        if plus:
            return modules.faceid_plus(
                width, _clip(image_proj, "perceiver_resampler.proj_in.weight", _HIDDEN), tokens
            ), kolors
        return modules.faceid(width, tokens), kolors
    if full:
        return modules.full(width, _clip(image_proj, "proj.0.weight", _HIDDEN)), kolors
    if plus or unnorm:
        heads = 20 if context == 2048 and not kolors else 12
        reads = 512 if unnorm else _clip(image_proj, "proj_in.weight", _HIDDEN)
        return (
            modules.resampler(dim=width, heads=heads, num_queries=tokens, embedding_dim=reads, output_dim=context),
            kolors,
        )
    return modules.linear(width, _clip(image_proj, "proj.weight", _EMBEDS), tokens), kolors


def _clip(image_proj: Tree, name: str, widths: tuple[int, ...]) -> int:
    """The input width: that of the CLIP model the user connects, taken to be the fitting one if there is any."""
    shape = image_proj.get(name)
    return shape[-1] if isinstance(shape, tuple) and shape and shape[-1] in widths else widths[0]


def load_in_comfyui_instantid(arrival: Arrival, declared: Declared) -> Outcome:
    try:
        groups = _read(arrival, {"image_proj.": "image_proj", "ip_adapter.": "ip_adapter"}, adapter_modules=False)
        pairs = group(groups, "ip_adapter")
        context = axis(pairs, "1.to_k_ip.weight", 1)
        module = modules.resampler(dim=1280, heads=20, num_queries=16, embedding_dim=512, output_dim=context)
        load_strictly(module.name, module.tensors, group(groups, "image_proj"))
        _linears(pairs)
        slipped = check_use(pairs, published_layers("sdxl"), module, key=_KEY)
    except Raised as error:
        return failed(str(error))
    return wrong(slipped) if slipped else settled(module, arrival, declared, _fits(module))


def _fits(module: Module) -> str:
    return f"all tensors fit {module.name}, and the K/V pairs their layers"


def _read(arrival: Arrival, prefixes: dict[str, str], *, adapter_modules: bool) -> Tree:
    """`load_torch_file`, then the groups; by the suffix of the name, whatever the content is."""
    if arrival.name.lower().endswith(".safetensors"):
        if adapter_modules:
            prefixes = {**prefixes, "adapter_modules.": "ip_adapter"}
        return dict(split_groups(open_safetensors(arrival), prefixes))
    tree = torch_load(arrival)
    only = next(iter(tree.values())) if len(tree) == 1 else None
    inside = tree.get("state_dict", only)
    groups = dict(inside) if isinstance(inside, dict) else dict(tree)
    if adapter_modules and "adapter_modules" in groups:
        groups["ip_adapter"] = groups.pop("adapter_modules")
    return groups


def _linears(pairs: Tree) -> None:
    """A Linear is made of every entry, whatever its name: a bias has too few axes for one."""
    for name in pairs:
        axis(pairs, name, 1)

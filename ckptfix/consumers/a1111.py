"""sd-webui-controlnet, the extension of A1111's web interface, replayed: kinds are told by the file's name.

Source: Mikubill/sd-webui-controlnet, scripts/controlnet_model_guess.py, scripts/ipadapter/ipadapter_model.py and
scripts/ipadapter/plugable_ipadapter.py.
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
    site_number,
    split_groups,
    torch_load,
)
from ckptfix.consumers.modules import Module, load_strictly
from ckptfix.consumers.outcome import Declared, Outcome, failed, is_plus_v2, settled, wrong
from ckptfix.consumers.unet_layers import check_use, published_layers

SOURCE = "Mikubill/sd-webui-controlnet: scripts/ipadapter/ipadapter_model.py, scripts/controlnet_model_guess.py"
_HIDDEN, _EMBEDS = (1280,), (1024, 1280)  # ViT-H's hidden states; image embeddings of ViT-H and bigG


def load_in_a1111(arrival: Arrival, declared: Declared) -> Outcome:
    try:
        groups = _read(arrival)
        image_proj, pairs = group(groups, "image_proj"), group(groups, "ip_adapter")
        module = _module(image_proj, pairs, arrival.name)
        load_strictly(module.name, module.tensors, image_proj)
        for name in pairs:
            axis(pairs, name, 1)
        layers = published_layers("sdxl" if axis(pairs, "1.to_k_ip.weight", 1) == 2048 else "sd15")
        if module.name in ("Resampler", "MLPProjModel", "ImageProjModel") and "instant_id" not in arrival.name:
            widths = _EMBEDS if module.name == "ImageProjModel" else _HIDDEN
            if module.reads not in widths:
                raise Raised("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
        slipped = check_use(pairs, layers, module, key="{index}_to_{part}_ip")
    except Raised as error:
        return failed(str(error))
    if slipped:
        return wrong(slipped)
    said = f"all tensors fit {module.name}, and the K/V pairs their layers"
    if module.name == "ProjModelFaceIdPlus" and "v2" not in arrival.name:
        if is_plus_v2(arrival.name, layers):
            return wrong("leaves the shortcut of FaceID-PlusV2 off: the file name does not contain v2")
        said = f"taken for FaceID-Plus; a PlusV2 needs v2 in its name; {said}"
    return settled(module, arrival, declared, said)


def _read(arrival: Arrival) -> Tree:
    if arrival.name.lower().endswith(".safetensors"):
        tree = open_safetensors(arrival)
    else:
        tree = torch_load(arrival)
        inside = tree.get("state_dict", tree)
        tree = inside if isinstance(inside, dict) else tree
    if any("image_proj." in name for name in tree) and any("ip_adapter." in name for name in tree):
        groups = split_groups(tree, {"image_proj.": "image_proj", "ip_adapter.": "ip_adapter"})
        sorted(groups["ip_adapter"], key=site_number)
        return dict(groups)
    if "ip_adapter" not in tree:
        raise Raised("Exception: [ControlNet Error] Cannot recognize the ControlModel!")
    return tree


def _module(image_proj: Tree, pairs: Tree, name: str) -> Module:
    full = "proj.3.weight" in image_proj
    plus = full or "latents" in image_proj or "perceiver_resampler.proj_in.weight" in image_proj
    context = axis(pairs, "1.to_k_ip.weight", 1)
    xl_plus = context == 2048 and plus
    tokens = 16 if plus or "portrait" in name else 4
    if "pulid" in name.lower():
        return Module("PuLIDEncoder", {"id_embedding_mapping.0.weight": (1024, 1280)}, 32, context, 1280)
    if "instant_id" in name:
        return modules.resampler(dim=1280, heads=20, num_queries=16, embedding_dim=512, output_dim=context)
    if "faceid" in name:
        return modules.faceid_plus(context, 1280, 4) if plus else modules.faceid(context, tokens)
    if not plus:
        reads = axis(image_proj, "proj.weight", 1)
        return modules.linear(context, reads, axis(image_proj, "proj.weight", 0) // max(context, 1))
    if full and not xl_plus:
        return modules.full(context, axis(image_proj, "proj.0.weight", 1))
    # For SDXL the input's width is read from the latents: right only because ViT-H is as wide as they are.
    reads = axis(image_proj, "latents", 2) if xl_plus else axis(image_proj, "proj_in.weight", 1)
    if full:
        return modules.full(context, reads)
    return modules.resampler(
        dim=1280 if xl_plus else context,
        heads=20 if xl_plus else 12,
        num_queries=tokens,
        embedding_dim=reads,
        output_dim=context,
    )

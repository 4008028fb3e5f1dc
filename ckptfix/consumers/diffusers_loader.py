"""diffusers' `load_ip_adapter`, replayed: what it builds from which shapes, what it renames, how it loads.

Source: huggingface/diffusers 0.42, src/diffusers/loaders/ip_adapter.py and loaders/unet.py; the classes in
models/embeddings.py; models/model_loading_utils.py, load_model_dict_into_meta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptfix.consumers.arrival import Arrival, Raised, Tree, axis, group, open_safetensors, split_groups, torch_load
from ckptfix.consumers.diffusers_modules import Built, projection
from ckptfix.consumers.modules import load_strictly, size_text
from ckptfix.consumers.outcome import Declared, Outcome, failed, is_plus_v2, settled, wrong
from ckptfix.consumers.unet_layers import Layers, layers_of
from ckptfix.folding import folded
from ckptfix.tensors.views import Shape

SOURCE = "huggingface/diffusers: src/diffusers/loaders/unet.py"
META_LEFT = (
    "NotImplementedError: Cannot copy out of meta tensor; no data! Please use torch.nn.Module.to_empty() instead of "
    "torch.nn.Module.to() when moving module from meta to a different device."
)
_MISMATCH = (
    "ValueError: Cannot load  because {name} expected shape {expected}, but got {found}. If you want to instead "
    "overwrite randomly initialized weights, please make sure to pass both `low_cpu_mem_usage=False` and "
    "`ignore_mismatched_sizes=True`. For more information, see also: "
    "https://github.com/huggingface/diffusers/issues/1619#issuecomment-1345604389 as an example."
)
_PEFT = "PEFT backend is required to load these weights."
# First parts of names that take part in the arithmetic of some published projection: dropping them changes the output.
_COMPUTES = (
    "layers.",
    "perceiver_resampler.",
    "pos_emb.",
    "to_latents_from_mean_pooled_seq.",
    "time_embedding.",
    "new_input_layers.",
    "prompt_layers.",
    "proj_new_input.",
    "proj_prompt_input.",
)


def load_in_diffusers(arrival: Arrival, declared: Declared, *, low_cpu_mem_usage: bool) -> Outcome:
    """`low_cpu_mem_usage=True` is the default where accelerate is installed."""
    try:
        tree = _read(arrival)
        image_proj, pairs = group(tree, "image_proj"), group(tree, "ip_adapter")
        layers = layers_of(pairs)
        _load_pairs(image_proj, pairs, layers, into_meta=low_cpu_mem_usage)
        built = projection(image_proj)
        tensors = built.module.tensors
        load_part(built.module.name, tensors, built.given, into_meta=low_cpu_mem_usage)
        missing = [built.spelling.get(name, name) for name in tensors if name not in built.given]
        if missing:
            return failed(META_LEFT, f"the file lacks {folded(missing)}; the UNet is left half patched, load it again")
        loras = _loras(pairs, layers)
    except Raised as error:
        return failed(str(error))
    dropped = [f"image_proj.{built.origin[name]}" for name in built.given if name not in tensors]
    dropped += [f"ip_adapter.{name}" for name in pairs if _matters(name)]
    return _judged(arrival, declared, built, list(dict.fromkeys(dropped)), layers, loras=loras)


def _read(arrival: Arrival) -> Tree:
    if arrival.name.endswith(".safetensors"):
        prefixes = {"image_proj.": "image_proj", "ip_adapter.": "ip_adapter"}
        return dict(split_groups(open_safetensors(arrival), prefixes))
    try:
        tree = torch_load(arrival)
    except Raised as error:
        raise Raised(_unreadable(arrival)) from error
    if arrival.deflated_end is not None and arrival.deflated_end > arrival.size:
        raise Raised(_unreadable(arrival))
    if "image_proj" not in tree and "ip_adapter" not in tree:
        raise Raised("ValueError: Required keys are (`image_proj` and `ip_adapter`) missing from the state dict.")
    return tree


def _unreadable(arrival: Arrival) -> str:
    return f"OSError: Unable to load weights from checkpoint file for '{arrival.name}' at '{arrival.name}'. "


# With one of these there the number of tokens is not asked of the latents.
_CHOOSING = {"proj.weight", "proj.3.weight", "perceiver_resampler.proj_in.weight", "norm.weight"}


def _load_pairs(image_proj: Tree, pairs: Tree, layers: Layers, *, into_meta: bool) -> None:
    """The K/V pair of every cross-attention, by its odd number."""
    if not _CHOOSING & image_proj.keys():
        axis(image_proj, "latents", 1)
    for site, width in layers.widths.items():
        expected = {f"to_{part}_ip.0.weight": (width, layers.context) for part in "kv"}
        given: Tree = {}
        for part in "kv":
            name = f"{site}.to_{part}_ip.weight"
            if name not in pairs:
                raise Raised(f"KeyError: {name!r}")
            given[f"to_{part}_ip.0.weight"] = pairs[name]
        load_part("IPAdapterAttnProcessor2_0", expected, given, into_meta=into_meta)


def load_part(name: str, expected: Mapping[str, Shape], given: Tree, *, into_meta: bool) -> None:
    """Into meta tensors, what the module has no place for is passed over and what it lacks is not noticed."""
    if not into_meta:
        load_strictly(name, expected, given)
        return
    for key, found in given.items():
        shape = expected.get(key, found)
        if found != shape and isinstance(found, tuple) and isinstance(shape, tuple):
            raise Raised(_MISMATCH.format(name=key, expected=size_text(shape), found=size_text(found)))


def _loras(pairs: Tree, layers: Layers) -> bool:
    """Whether LoRA matrices are collected; all eight of a layer have to be there."""
    found = False
    for index in range(2 * len(layers.unet.sites)):
        if f"{index}.to_k_lora.down.weight" not in pairs:
            continue
        for direction in ("down", "up"):
            for part in ("k", "q", "v", "out"):
                name = f"{index}.to_{part}_lora.{direction}.weight"
                if name not in pairs:
                    raise Raised(f"KeyError: {name!r}")
        found = True
    return found


def _judged(
    arrival: Arrival, declared: Declared, built: Built, dropped: Sequence[str], layers: Layers, *, loras: bool
) -> Outcome:
    """The outcome where nothing is raised: what is left out, and what is read otherwise than it was meant."""
    module = built.module
    if not arrival.is_safetensors and arrival.deflated_end is not None:
        return wrong("maps the file into memory: the packed bytes of deflated records become weights")
    computing = [name for name in dropped if name.removeprefix("image_proj.").startswith(_COMPUTES) or _matters(name)]
    if computing:
        return wrong(f"drops {folded(computing)} without a word: {module.name} has no place for it")
    if loras:
        return wrong("leaves the LoRA matrices out unless peft is installed, with one line of warning", _PEFT, "peft")
    if module.width != layers.context:
        return failed(
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
            f"it loads, then the first attention layer gets tokens {module.width} wide where K and V take "
            f"{layers.context}",
        )
    if module.name.endswith("FaceIDPlusImageProjection") and is_plus_v2(arrival.name, layers):
        return wrong(
            "leaves the shortcut of FaceID-PlusV2 off: the names and shapes are those of FaceID-Plus",
            remedy="shortcut",
        )
    said = f"all tensors fit {module.name} and {len(layers.widths)} K/V pairs of {layers.title}"
    if module.name.endswith("FaceIDPlusImageProjection"):
        said += "; right for FaceID-Plus, a PlusV2 (the same names and shapes) needs shortcut = True"
    if dropped:
        said += f"; {folded(dropped)} is passed over, which no known projection uses"
    return settled(module, arrival, declared, said)


def _matters(name: str) -> bool:
    """Of what lies beside the K/V pairs: a bias of K moves all tokens alike, which softmax does not see."""
    return name.endswith((".to_v_ip.bias", "_content.weight"))

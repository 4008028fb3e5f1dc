"""Image projections that look like those of an adapter and compute something else: known by a name they cannot do
without, refused by name, never converted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ckptfix.findings import Finding
from ckptfix.text import printable


@dataclass(frozen=True, slots=True)
class LookAlike:
    """`telltale` is a pattern of names from any component on; `beside`, where given, has to occur in the file too.

    With `without` it is looked for in all names, not only in those that nothing explains, and that must not occur.
    """

    name: str
    title: str
    telltale: str
    why: str
    seen: str
    beside: str = ""
    without: str = ""


LOOK_ALIKES = (
    LookAlike(
        "time-resampler",
        "the time-conditioned resampler of InstantX's IP-Adapter for Stable Diffusion 3.5",
        r"layers\.\d+\.2\.1\.(weight|bias)$|image_proj(_model)?\.time_embedding\.|adaln_(proj|norm)\.",
        "it takes the timestep as a second input, which no adapter's projection does",
        "Slickytail/ComfyUI-InstantX-IPAdapter-SD3: models/resampler.py; huggingface/diffusers: "
        "src/diffusers/loaders/transformer_sd3.py",
    ),
    LookAlike(
        "resampler-instruct",
        "the resampler of IP-Adapter-Instruct",
        r"(proj_new_input|proj_prompt_input|new_input_layers|prompt_layers)\.",
        "it takes an instruction as a second input",
        "unity-research/IP-Adapter-Instruct: ip_adapter/resampler_Instruct.py",
    ),
    LookAlike(
        "pulid-flux",
        "PuLID for FLUX",
        r"(pulid_encoder|pulid_ca)\.",
        "its encoder takes five sizes of an image at once, and its attention layers are FLUX's",
        "ToTheBeginning/PuLID: pulid/pipeline_flux.py",
    ),
    LookAlike(
        "pulid-mlp",
        "PuLID's ID encoder of version 1",
        r"mapping_patch_\d+\.",
        "it is an MLP over five sizes of an image, without latents",
        "ToTheBeginning/PuLID: pulid/encoders.py",
    ),
    LookAlike(
        "pulid-idformer",
        "PuLID's IDFormer",
        r"id_embedding_mapping\.|mapping_[0-4]\.\d",
        "it takes five sizes of an image and a face embedding at once",
        "ToTheBeginning/PuLID: pulid/encoders_transformer.py",
    ),
    LookAlike(
        "imagen-perceiver",
        "the perceiver of imagen-pytorch",
        r"layers\.\d+\.0\.(q_scale|k_scale)$",
        "its attention norms the queries and keys, and norms once more behind",
        "lucidrains/imagen-pytorch: imagen_pytorch/imagen_pytorch.py",
    ),
    LookAlike(
        "idefics-perceiver",
        "the perceiver of Idefics",
        r"blocks\.\d+\.0\.(context_layer_norm|latents_layer_norm)\.",
        "its feed-forward layer is a ReLU, where an adapter's is a GELU",
        "huggingface/transformers: src/transformers/models/idefics/perceiver.py",
    ),
    LookAlike(
        "storymaker",
        "StoryMaker's projection",
        r"bg_embed$|resample\.(latents|proj_in|layers)\b",
        "it joins a FaceID Plus projection, a Resampler and learned backgrounds",
        "RedAIGC/StoryMaker: ip_adapter/ip_adapter_faceid.py",
    ),
    LookAlike(
        "zipper",
        "ai-toolkit's zipper resampler",
        r"ctx_alpha(\.|$)",
        "it is another architecture, without attention",
        "ostris/ai-toolkit: toolkit/models/zipper_resampler.py",
    ),
    LookAlike(
        "photomaker",
        "PhotoMaker's ID encoder",
        r"id_encoder\.|qformer_perceiver\.|fuse_module\.",
        "it is fused into the text embedding, and needs no K/V pairs",
        "TencentARC/PhotoMaker: photomaker/model.py, model_v2.py",
    ),
    LookAlike(
        "csgo",
        "CSGO's adapter",
        r"(content|style)_image_proj\.|to_[kv]_ip_content\.",
        "it has two projections and two sets of K/V pairs, one for content and one for style",
        "instantX-research/CSGO: ip_adapter/ip_adapter.py",
    ),
    LookAlike(
        "sd3",
        "an IP-Adapter for Stable Diffusion 3",
        r"norm_ip\.linear\.",
        "its attention layers norm queries, keys and tokens by the timestep, as no UNet's do",
        "huggingface/diffusers: src/diffusers/loaders/transformer_sd3.py",
    ),
    LookAlike(
        "flamingo-media",
        "a Flamingo resampler with frame or media embeddings",
        r"(frame_embs|media_time_embs|media_pos_emb)$",
        "it adds embeddings of time to its input, which the Resampler has no place for",
        "mlfoundations/open_flamingo: open_flamingo/src/helpers.py; lucidrains/flamingo-pytorch: "
        "flamingo_pytorch/flamingo_pytorch.py",
    ),
    LookAlike(
        "flamingo",
        "a Flamingo resampler",
        r"layers\.\d+\.0\.norm_media\.",
        "it has no proj_in and no proj_out, and they would have to be made up",
        "mlfoundations/open_flamingo: open_flamingo/src/helpers.py",
        without=r"proj_in\.",
    ),
    LookAlike(
        "qwen-vl-resampler",
        "a resampler as Qwen-VL has it",
        r"ln_kv\.|kv_proj\.weight$",
        "it is one layer of attention with fixed positions",
        "QwenLM/Qwen-VL: visual.py",
    ),
    LookAlike(
        "video-model",
        "a whole video model (DynamiCrafter, VideoCrafter)",
        r"model\.diffusion_model\.",
        "its image projection has queries for every frame and no K/V pairs of an adapter",
        "Doubiiu/DynamiCrafter: lvdm/models/ddpm3d.py",
        beside=r"image_proj_model\.",
    ),
)
_ANY = re.compile("|".join(rf"(?P<r{number}>(?:^|\.)(?:{row.telltale}))" for number, row in enumerate(LOOK_ALIKES)))
_MOST, _LONGEST = 5_000, 300  # names, characters: a hostile file has millions to offer


def look_alike(left: Iterable[str], names: Iterable[str]) -> Finding | None:
    """An error that names the projection that the names left over give away; `names` are all those of the file."""
    left, names = tuple(left), tuple(names)[:_MOST]
    if not left:
        return None
    whole = {number for number, row in enumerate(LOOK_ALIKES) if row.without and not _occurs(row.without, names)}
    found = {(number, shown) for number, shown in _telltales(left) if not LOOK_ALIKES[number].without}
    found |= {(number, shown) for number, shown in _telltales(names) if number in whole} if whole else set()
    for number, shown in sorted(found):
        row = LOOK_ALIKES[number]
        if row.beside and not _occurs(row.beside, names):
            continue
        return refusal_of(row.title, f"it holds {printable(shown)}: {row.why}", left)
    return None


def _occurs(pattern: str, names: tuple[str, ...]) -> bool:
    compiled = re.compile(rf"(?:^|\.)(?:{pattern})")
    return any(compiled.search(name[:_LONGEST]) for name in names)


def _telltales(left: tuple[str, ...]) -> set[tuple[int, str]]:
    """(row, name), the first name of each row."""
    found: dict[int, str] = {}
    for name in left[:_MOST]:
        match = _ANY.search(name[:_LONGEST])
        if match is not None and match.lastgroup is not None:
            number = next(n for n in range(len(LOOK_ALIKES)) if match[f"r{n}"] is not None)
            found.setdefault(number, name)
    return set(found.items())


def refusal_of(title: str, because: str, tensors: tuple[str, ...]) -> Finding:
    return Finding(
        "other-model",
        "error",
        f"is {title}, not an adapter that can be converted: {because}",
        "use it with the code that it was made for: no InstantID or IP-Adapter loader computes this",
        tensors,
    )

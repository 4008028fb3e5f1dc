"""The published adapters, known by their sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptfix.families.config import Config
from ckptfix.families.known import FaceIdConfig, FaceIdPlusConfig, FullConfig, LinearConfig
from ckptfix.reference import AdapterConfig

_FACE = "face embedding (insightface antelopev2)"
_BUFFALO = "face embedding (insightface buffalo_l)"
_VIT_H, _VIT_H_TOKENS = "CLIP ViT-H/14", "CLIP ViT-H/14 tokens"
_KOLORS = "Kolors (the UNet of SDXL)"
_VIT_L = "CLIP ViT-L/14"
_VIT_G, _VIT_G_TOKENS = "CLIP ViT-bigG/14", "CLIP ViT-bigG/14 tokens"
_H94 = "h94/IP-Adapter: "
_FACEID = "h94/IP-Adapter-FaceID: "
_XLABS = "XLabs-AI/x-flux: src/flux/xflux_pipeline.py"


@dataclass(frozen=True, slots=True)
class Product:
    """A published adapter; `encoder` is what feeds it, `family` the name that people know it by.

    `lora` says whether LoRA matrices come with the K/V pairs. `base` is its model where the UNet does not say it all.
    `twins` are other published adapters of the same names
    and shapes: nothing in the tensors' names and sizes tells them apart.
    """

    name: str
    title: str
    family: str
    encoder: str
    config: Config
    seen: str
    lora: bool = False
    base: str = ""
    twins: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        return f"{self.title} (the same shapes as {', '.join(self.twins)})" if self.twins else self.title


PRODUCTS: Mapping[str, Product] = {
    product.name: product
    for product in (
        Product(
            "instantid",
            "InstantID",
            "InstantID",
            _FACE,
            AdapterConfig(),
            "instantX-research/InstantID: pipeline_stable_diffusion_xl_instantid.py",
            twins=("IP-Adapter FaceID portrait SDXL unnorm",),
        ),
        Product(
            "instantid-sd15",
            "InstantID for Stable Diffusion 1.5",
            "InstantID",
            _FACE,
            AdapterConfig(output_dim=768, unet="sd15"),
            "TheDenk/InstantID-SD1.5: train.py",
        ),
        Product(
            "plus-sd15",
            "IP-Adapter Plus for Stable Diffusion 1.5",
            "IP-Adapter Plus",
            _VIT_H_TOKENS,
            AdapterConfig(dim=768, heads=12, embedding_dim=1280, output_dim=768, unet="sd15"),
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlus",
            twins=("IP-Adapter Plus Face", "ostris' composition adapter"),
        ),
        Product(
            "plus-sdxl",
            "IP-Adapter Plus for SDXL (ViT-H)",
            "IP-Adapter Plus",
            _VIT_H_TOKENS,
            AdapterConfig(embedding_dim=1280),
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlusXL",
            twins=("IP-Adapter Plus Face", "ostris' composition adapter", "MIP-Adapter"),
        ),
        Product(
            "plus-sdxl-trained",
            "IP-Adapter Plus for SDXL (ViT-H), trained with the defaults of tutorial_train_plus.py",
            "IP-Adapter Plus",
            _VIT_H_TOKENS,
            AdapterConfig(dim=2048, heads=12, embedding_dim=1280),
            "tencent-ailab/IP-Adapter: tutorial_train_plus.py (dim = cross_attention_dim, heads = 12)",
        ),
        Product(
            "plus-sdxl-trained-vit-g",
            "IP-Adapter Plus for SDXL (ViT-bigG), trained with the defaults of tutorial_train_plus.py",
            "IP-Adapter Plus",
            _VIT_G_TOKENS,
            AdapterConfig(dim=2048, heads=12, embedding_dim=1664),
            "tencent-ailab/IP-Adapter: tutorial_train_plus.py (dim = cross_attention_dim, heads = 12)",
        ),
        Product(
            "kolors",
            "Kolors IP-Adapter-Plus",
            "IP-Adapter Plus",
            "CLIP ViT-L/14-336 tokens",
            AdapterConfig(dim=2048, heads=12, embedding_dim=1024),
            "Kwai-Kolors/Kolors: kolors/pipelines",
            base=_KOLORS,
        ),
        Product(
            "base-sd15",
            "IP-Adapter for Stable Diffusion 1.5",
            "IP-Adapter",
            _VIT_H,
            LinearConfig(unet="sd15"),
            _H94 + "models/ip-adapter_sd15",
            twins=("IP-Adapter sd15 light",),
        ),
        Product(
            "base-sd15-vit-g",
            "IP-Adapter for Stable Diffusion 1.5 (ViT-bigG)",
            "IP-Adapter",
            _VIT_G,
            LinearConfig(clip_embeddings_dim=1280, unet="sd15"),
            _H94 + "models/ip-adapter_sd15_vit-G",
        ),
        Product(
            "base-sdxl",
            "IP-Adapter for SDXL (ViT-bigG)",
            "IP-Adapter",
            _VIT_G,
            LinearConfig(cross_attention_dim=2048, clip_embeddings_dim=1280),
            _H94 + "sdxl_models/ip-adapter_sdxl",
        ),
        Product(
            "base-sdxl-vit-h",
            "IP-Adapter for SDXL (ViT-H)",
            "IP-Adapter",
            _VIT_H,
            LinearConfig(cross_attention_dim=2048, clip_embeddings_dim=1024),
            _H94 + "sdxl_models/ip-adapter_sdxl_vit-h",
        ),
        Product(
            "full-face-sd15",
            "IP-Adapter Full Face for Stable Diffusion 1.5",
            "IP-Adapter Full",
            _VIT_H_TOKENS,
            FullConfig(unet="sd15"),
            _H94 + "models/ip-adapter-full-face_sd15",
        ),
        Product(
            "faceid-sd15",
            "IP-Adapter FaceID for Stable Diffusion 1.5",
            "IP-Adapter FaceID",
            _BUFFALO,
            FaceIdConfig(unet="sd15"),
            _FACEID + "ip-adapter-faceid_sd15.bin",
            lora=True,
        ),
        Product(
            "faceid-sdxl",
            "IP-Adapter FaceID for SDXL",
            "IP-Adapter FaceID",
            _BUFFALO,
            FaceIdConfig(cross_attention_dim=2048),
            _FACEID + "ip-adapter-faceid_sdxl.bin",
            lora=True,
        ),
        Product(
            "portrait-sd15",
            "IP-Adapter FaceID portrait for Stable Diffusion 1.5",
            "IP-Adapter FaceID portrait",
            _BUFFALO,
            FaceIdConfig(num_tokens=16, unet="sd15"),
            _FACEID + "ip-adapter-faceid-portrait_sd15.bin",
            twins=("IP-Adapter FaceID portrait v11",),
        ),
        Product(
            "portrait-sdxl",
            "IP-Adapter FaceID portrait for SDXL",
            "IP-Adapter FaceID portrait",
            _BUFFALO,
            FaceIdConfig(cross_attention_dim=2048, num_tokens=16),
            _FACEID + "ip-adapter-faceid-portrait_sdxl.bin",
        ),
        Product(
            "faceid-plus-sd15",
            "IP-Adapter FaceID Plus for Stable Diffusion 1.5",
            "IP-Adapter FaceID Plus",
            f"{_BUFFALO} and {_VIT_H_TOKENS}",
            FaceIdPlusConfig(unet="sd15"),
            _FACEID + "ip-adapter-faceid-plus_sd15.bin",
            lora=True,
            twins=("IP-Adapter FaceID PlusV2, which is run with shortcut=True", "ConsistentID's adapter part"),
        ),
        Product(
            "faceid-plusv2-sdxl",
            "IP-Adapter FaceID PlusV2 for SDXL",
            "IP-Adapter FaceID Plus",
            f"{_BUFFALO} and {_VIT_H_TOKENS}",
            FaceIdPlusConfig(cross_attention_dim=2048, heads=32),
            _FACEID + "ip-adapter-faceid-plusv2_sdxl.bin",
            lora=True,
            twins=("ConsistentID's adapter part",),
        ),
        Product(
            "kolors-faceid-plus",
            "Kolors IP-Adapter-FaceID-Plus",
            "IP-Adapter FaceID Plus",
            f"{_FACE} and CLIP ViT-L/14-336 tokens",
            FaceIdPlusConfig(cross_attention_dim=4096, clip_embeddings_dim=1024, num_tokens=6, heads=64),
            "Kwai-Kolors/Kolors: kolors/pipelines/pipeline_stable_diffusion_xl_chatglm_256_ipadapter_FaceID.py",
            base=_KOLORS,
        ),
        Product(
            "xlabs-flux",
            "XLabs' IP-Adapter for FLUX.1",
            "IP-Adapter",
            _VIT_L,
            LinearConfig(4096, 768, 4, unet="flux-double"),
            _XLABS,
        ),
        Product(
            "xlabs-flux-v2",
            "XLabs' IP-Adapter v2 for FLUX.1",
            "IP-Adapter",
            _VIT_L,
            LinearConfig(4096, 768, 16, unet="flux-double"),
            _XLABS,
        ),
        Product(
            "instantx-flux",
            "InstantX's IP-Adapter for FLUX.1-dev",
            "IP-Adapter",
            "SigLIP",
            FaceIdConfig(4096, 1152, 128, unet="flux"),
            "Shakker-Labs/ComfyUI-IPAdapter-Flux: ipadapter_flux.py",
        ),
    )
}


def product_of(config: Config) -> Product | None:
    """The published adapter of these sizes; heads do not count, shapes cannot show them."""
    sizes = config.visible()
    for product in PRODUCTS.values():
        if type(product.config) is type(config) and product.config.visible() == sizes:
            return product
    return None

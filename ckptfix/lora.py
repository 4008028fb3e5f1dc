"""The LoRA that FaceID adapters bring along: eight small matrices at every attention layer, self-attention too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ckptfix.reference import Site
from ckptfix.tensors.views import Shape

# Canonical names. `{site}` is the place in `unet.attn_processors`, even ones included.
# Source: tencent-ailab/IP-Adapter, ip_adapter/attention_processor_faceid.py, LoRAIPAttnProcessor and LoRALinearLayer.
LORA_NAMES = tuple(
    f"ip_adapter.{{site}}.to_{part}_lora.{half}.weight" for part in ("q", "k", "v", "out") for half in ("down", "up")
)
_LORA = re.compile(r"ip_adapter\.\d{1,6}\.to_(?:q|k|v|out)_lora\.(down|up)\.weight")


def lora_rank(shapes: Mapping[str, Shape]) -> int:
    """The rank that most of the matrices have; 0 where there are none."""
    votes: Counter[int] = Counter()
    for name, shape in shapes.items():
        found = _LORA.fullmatch(name)
        if found and len(shape) == 2:
            votes[shape[found[1] == "up"]] += 1
    return max(votes, key=lambda rank: (votes[rank], -rank)) if votes else 0


def lora_shapes(sites: Iterable[Site], widths: Mapping[int, int], context_dim: int, rank: int) -> dict[str, Shape]:
    """Canonical name -> shape of every matrix; `widths` by UNet level. k and v at cross-attention see the tokens."""
    found: dict[str, Shape] = {}
    for site in sites:
        width = widths.get(site.level, site.width)
        for place in (site.index - 1, site.index):
            for template in LORA_NAMES:
                name = template.replace("{site}", str(place))
                sees_tokens = place == site.index and (".to_k_" in name or ".to_v_" in name)
                seen = context_dim if sees_tokens else width
                found[name] = (rank, seen) if ".down." in name else (width, rank)
    return found

"""InstantID's own pipeline, replayed: one Resampler of fixed sizes, strictly loaded, then every K/V pair of SDXL.

Source: instantX-research/InstantID, pipeline_stable_diffusion_xl_instantid.py, set_image_proj_model, set_ip_adapter.
"""

from __future__ import annotations

from ckptfix.consumers.arrival import Arrival, Raised, Tree, torch_load
from ckptfix.consumers.modules import load_strictly, resampler
from ckptfix.consumers.outcome import Declared, Outcome, failed, settled
from ckptfix.consumers.unet_layers import published_layers

SOURCE = "instantX-research/InstantID: pipeline_stable_diffusion_xl_instantid.py"


def load_in_instantid(arrival: Arrival, declared: Declared) -> Outcome:
    layers = published_layers("sdxl")
    module = resampler(dim=1280, heads=20, num_queries=16, embedding_dim=512, output_dim=layers.context)
    pairs = {
        f"{site}.to_{part}_ip.weight": (width, layers.context) for site, width in layers.widths.items() for part in "kv"
    }
    try:
        tree = torch_load(arrival)
        load_strictly(module.name, module.tensors, _inside(tree, "image_proj"))
        load_strictly("ModuleList", pairs, _inside(tree, "ip_adapter"))
    except Raised as error:
        return failed(str(error), "it reads pickles only, by torch.load" if arrival.is_safetensors else "")
    return settled(
        module, arrival, declared, f"all tensors fit its Resampler and {len(layers.widths)} K/V pairs of SDXL"
    )


def _inside(tree: Tree, name: str) -> Tree:
    """The group of that name, or all of the file where it has none."""
    found = tree.get(name, tree)
    return found if isinstance(found, dict) else {}

"""What a consumer does with a file, and what no loader can see: head width, row order, whole numbers for weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ckptfix.consumers.arrival import Arrival
from ckptfix.consumers.modules import DIM_HEAD, Module
from ckptfix.consumers.unet_layers import Layers
from ckptfix.manifest import FLOATING

Verdict = Literal["loads", "fails", "loads-wrong"]
BY_WEIGHTS: Final = "as the weights say"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the caller says of the file, None where nothing: shapes show neither. `order` names a layout whose rows do
    not lie as the canonical ones do; `order_seen` and `heads_seen` are where each is known from."""

    dim_head: int | None = None
    order: str | None = None
    order_seen: str = "as declared"
    heads_seen: str = "as declared"

    @property
    def asked_heads(self) -> bool:
        """Whether the weights tell the heads, and nobody declared them."""
        return self.heads_seen == BY_WEIGHTS


@dataclass(frozen=True, slots=True)
class Outcome:
    """`message` is what the consumer shows, in full and unescaped, "" if it shows nothing; `why` says the rest.

    `remedy` names what would help where that is no other file: `peft` or `shortcut`.
    """

    verdict: Verdict
    why: str
    message: str = ""
    remedy: str = ""


def failed(message: str, why: str = "") -> Outcome:
    return Outcome("fails", why, message)


def wrong(why: str, message: str = "", remedy: str = "") -> Outcome:
    return Outcome("loads-wrong", why, message, remedy)


def settled(module: Module, arrival: Arrival, declared: Declared, said: str) -> Outcome:
    """The outcome for a file all of whose tensors found their place; `said` is what there is to say of that."""
    if arrival.dtypes - FLOATING:
        kinds = ", ".join(sorted(arrival.dtypes - FLOATING))
        return wrong(f"takes whole numbers ({kinds}) for weights: a quantised file without its scales")
    if module.heads is None:
        return Outcome("loads", said)
    if declared.order is not None:
        return wrong(
            f"reads the rows of to_kv as K first, head by head; this file's lie as {declared.order}, "
            f"{declared.order_seen}: same names, same shapes, no error"
        )
    if declared.dim_head not in (None, DIM_HEAD):
        return wrong(
            f"makes {module.heads} heads of {DIM_HEAD}; this file's heads are {declared.dim_head} wide, "
            f"{declared.heads_seen}: same names, same shapes, no error",
        )
    known = "" if declared.dim_head else "assumed, shapes do not show it"
    heads = f"{module.heads} heads of {DIM_HEAD}"
    return Outcome("loads", f"{said}; {heads}" + (f" ({known})" if known else ", as declared"))


def is_plus_v2(name: str, layers: Layers) -> bool:
    """Whether a FaceID-Plus file is the second version: by its name, or because SDXL never had a first one.

    Source: h94/IP-Adapter-FaceID, the files published.
    """
    return "v2" in name.lower() or layers.unet.name == "sdxl"

"""What the sizes of any image projection have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ABC):
    """Sizes of one image projection: the arguments of the class that upstream builds it with.

    `unet` names the base whose attention sites the adapter serves (a key of `reference.BASES`), or None.
    """

    upstream: ClassVar[str]  # the name of that class
    usual: ClassVar[dict[str, float]] = {}  # sizes that the class sets itself, or has as defaults: named if they differ

    unet: str | None = "sdxl"

    @property
    @abstractmethod
    def token_width(self) -> int:
        """Width of each token that comes out."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """How many tokens come out; 0 where there is one for each that goes in."""

    @abstractmethod
    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        """What goes in, for that many samples and that many tokens of CLIP (or of a face) each."""

    def output_shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        return (batch, self.tokens or tokens, self.token_width)

    def constructor(self) -> str:
        """The call that builds a fitting projection with upstream's class."""
        shown = {name: size for name, size in self.to_dict().items() if self.usual_size(name) != size}
        return f"{self.upstream}({', '.join(f'{name}={size}' for name, size in shown.items())})"

    def usual_size(self, name: str) -> float | None:
        """What the class takes if the size is not named; None for a size that always is."""
        return self.usual.get(name)

    def visible(self) -> dict[str, int | float | str | None]:
        """Every size that shapes can show, and the UNet: of heads and dim_head only the product, `inner`."""
        sizes = self.to_dict()
        shown: dict[str, int | float | str | None] = {}
        for name, size in sizes.items():
            if name == "dim_head":
                shown["inner"] = sizes["heads"] * size
            elif name != "heads":
                shown[name] = size
        return {**shown, "unet": self.unet}

    def to_dict(self) -> dict[str, int | float]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "unet"}

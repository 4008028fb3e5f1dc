"""Who read the file that an error is about, where the traceback shows that it was a library of another model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptfix.text import printable

_BEFORE: Final = 4_000  # characters of the traceback before the error that are looked at
_FRAME: Final = re.compile(
    r"File [\"'](?P<folder>[^\"'\n]{0,200}(?:site|dist)-packages[/\\](?P<package>\w{1,60}))(?:[/\\][^\"'\n]{1,200})?"
    r"[\"'], line \d{1,7},? in (?P<function>[\w<>.]{1,80})"
)
# What only reads for others, and what reads adapters: a frame of these says nothing of another model.
_READERS: Final = frozenset(
    {"torch", "safetensors", "accelerate", "huggingface_hub", "numpy", "fsspec", "dill", "joblib", "cloudpickle"}
    | {"diffusers", "transformers", "ip_adapter", "peft", "comfy", "ckptfix"}
)
_WEIGHTS: Final = re.compile(r"[^\s'\"<>|()\[\],;=]{1,200}\.(?:pth?|bin|safetensors|ckpt)\b")


@dataclass(frozen=True, slots=True)
class OtherReader:
    """The innermost frame of a library that reads models of its own; `where` is what to inspect.

    That is the file which the traceback names, else the library's folder, below which it keeps its weights.
    """

    package: str
    function: str
    where: str


def other_reader(text: str, position: int, adapter: re.Pattern[str]) -> OtherReader | None:
    """The library whose frame is the last before the error at `position`; None where that is no other model's.

    `adapter` fits words about an adapter: where they stand after that frame, or in it, it is the adapter's after all.
    """
    start = text.rfind("Traceback (most recent call last)", 0, position)
    before = text[max(start, position - _BEFORE, 0) : position]
    frames = [frame for frame in _FRAME.finditer(before) if frame["package"] not in _READERS]
    if not frames or adapter.search(before, frames[-1].start("package")):
        return None
    frame = frames[-1]
    named = {found[0] for found in _WEIGHTS.finditer(before, frame.start()) if not found[0].startswith("*")}
    where = named.pop() if len(named) == 1 else frame["folder"]
    return OtherReader(frame["package"], printable(frame["function"]), printable(where))

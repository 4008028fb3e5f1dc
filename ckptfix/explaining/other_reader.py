"""Who read the file that an error is about, where the traceback shows that it was a library of another model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptfix.text import printable

_BEFORE: Final = 4_000  # characters of the traceback before the error that are looked at
# Libraries that people also unpack beside their scripts.
_KNOWN: Final = "facexlib|gfpgan|basicsr|realesrgan|spandrel|face_alignment|open_clip|segment_anything|ultralytics"
_FRAME: Final = re.compile(
    r"File [\"']?(?P<folder>[^\"',\n]{0,200}[/\\]"
    rf"(?:(?:site|dist)-packages[/\\](?P<package>\w{{1,60}})|(?P<known>{_KNOWN})))"
    r"(?:[/\\][^\"',\n]{1,200}?)?[\"']?,? line \d{1,7},? in (?P<function>[\w<>.]{1,80})"
)
# Function -> library, and the folder that it reads from. Source: xinntao/facexlib, facexlib/parsing/__init__.py and
# facexlib/detection/__init__.py (model_dir).
_FUNCTIONS: Final = {
    "init_parsing_model": ("facexlib", "facexlib/weights"),
    "init_detection_model": ("facexlib", "facexlib/weights"),
}
_FUNCTION: Final = re.compile(rf"\b(?P<function>{'|'.join(_FUNCTIONS)})\b")
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
    if not frames:
        return _named_function(before, adapter)
    frame = frames[-1]
    package = frame["package"] or frame["known"]
    if adapter.search(before, frame.end("folder") - len(package)):
        return None
    where = _weights(before[frame.start() :]) or printable(frame["folder"])
    return OtherReader(package, printable(frame["function"]), where)


def _named_function(before: str, adapter: re.Pattern[str]) -> OtherReader | None:
    """Where the text holds no such frame: a function of that library, by its own name."""
    named = list(_FUNCTION.finditer(before))
    if not named or adapter.search(before, named[-1].end()):
        return None
    function = named[-1]["function"]
    package, folder = _FUNCTIONS[function]
    return OtherReader(package, function, _weights(before[named[-1].end() :]) or folder)


def _weights(after: str) -> str:
    """The one file of weights that the text names; empty where it names none, or several."""
    named = {found[0] for found in _WEIGHTS.finditer(after)}
    return printable(named.pop()) if len(named) == 1 else ""

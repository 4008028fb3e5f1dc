"""The cross-attention of a base model's UNet, found in what people have of it: a folder, or one file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ckptfix.errors import DamagedError, UsageError
from ckptfix.evidence.attention_layers import read_matrix
from ckptfix.evidence.statistic import Matrix
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.manifest import TensorInfo
from ckptfix.parts import open_whole
from ckptfix.reference import UNet
from ckptfix.tensors.view_bytes import ByteReader
from ckptfix.tensors.views import View, show
from ckptfix.text import plural, some

# The files of a saved UNet, the likelier first. Source: huggingface/diffusers, src/diffusers/utils/constants.py
# (WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME) and the variant "fp16" of published models.
_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")
_SUFFIXES = ("safetensors", "bin")
_LDM_PREFIX = "model.diffusion_model."
_RESNETS = 2  # per level of the UNets here: layers_per_block of unet/config.json
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)")
_WHAT_TO_GIVE = (
    "give the folder of a saved pipeline (it has unet/diffusion_pytorch_model*.safetensors), that file, or a "
    "single-file checkpoint of the base model"
)


class BaseUNet:
    """to_q and to_out of every cross-attention layer of an open base model."""

    def __init__(self, checkpoint: ByteReader, unet: UNet) -> None:
        """UsageError if it is no UNet, or not this one."""
        self._checkpoint = checkpoint
        self._source = checkpoint.manifest.source
        tensors = checkpoint.manifest.tensors
        ldm = any(name.startswith(_LDM_PREFIX) for name in tensors)
        self._pairs: Mapping[str, tuple[TensorInfo | None, TensorInfo | None]] = {
            site.path: (tensors.get(f"{path}.to_q.weight"), tensors.get(f"{path}.to_out.0.weight"))
            for site in unet.sites
            for path in [ldm_path(site.path) if ldm else site.path]
        }
        lacking = [path for path, pair in self._pairs.items() if None in pair]
        if len(lacking) == len(unet.sites):
            raise self._wrong(f"has no cross-attention of a UNet such as {unet.title}'s", _WHAT_TO_GIVE)
        if lacking:
            of = f"{len(lacking)} of {plural(len(unet.sites), 'cross-attention layer')}"
            raise self._wrong(
                f"lacks to_q or to_out in {of} of {unet.title}: {some(lacking)}",
                f"give the whole UNet, and the one that the adapter is for: {unet.title}",
            )

    def views(self, path: str, width: int) -> tuple[View, View]:
        """to_q (width, in) and to_out (out, width) of the layer at `path`; UsageError if it has another width."""
        pair = self._pairs[path]
        q, out = (View.of(tensor) for tensor in pair if tensor is not None)
        if len(q.shape) != 2 or len(out.shape) != 2 or (q.shape[0], out.shape[1]) != (width, width):
            raise self._wrong(
                f"is another UNet than the adapter's: {path} has to_q {show(q.shape)} and to_out {show(out.shape)}, "
                f"the adapter's to_k_ip has {plural(width, 'row')} there",
                "give the base model that the adapter was trained on, or one of the same kind",
            )
        return q, out

    def read(self, view: View) -> Matrix:
        """The numbers of one of the views. DamagedError, told of the base."""
        try:
            return read_matrix(self._checkpoint, view)
        except DamagedError as error:
            error.source = self._source
            raise

    def _wrong(self, problem: str, hint: str) -> UsageError:
        return UsageError(problem, hint=hint, code="base", source=self._source)


@contextmanager
def open_base_unet(base: str | os.PathLike[str], unet: UNet, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[BaseUNet]:
    """The UNet of a saved pipeline's folder, of its unet folder, or of one file (diffusers' names or LDM's).

    Raises UsageError for a folder without one and for another UNet, else what `open_whole` does.
    """
    with open_whole(weights_of(Path(base)), limits=limits) as checkpoint:
        yield BaseUNet(checkpoint, unet)


def ldm_path(path: str) -> str:
    """A layer's path under the names of single-file checkpoints.

    Source: huggingface/diffusers, src/diffusers/loaders/single_file_utils.py, convert_ldm_unet_checkpoint: each level
    counts its resnets and one sampler, down after conv_in.
    """
    found = _BLOCK.fullmatch(path)
    if found is None:
        return _LDM_PREFIX + path.replace("mid_block.attentions.0", "middle_block.1")
    level, place, rest = int(found[2]), int(found[3]), found[4]
    down = found[1] == "down"
    number = (_RESNETS + 1) * level + place + down
    return f"{_LDM_PREFIX}{'input' if down else 'output'}_blocks.{number}.1.{rest}"


def weights_of(base: Path) -> list[Path]:
    """The files that hold the UNet of a pipeline's folder, or the one file that was named; UsageError: none there."""
    if not base.is_dir():
        return [base]
    folder = base / "unet" if (base / "unet").is_dir() else base
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            whole = folder / f"{stem}.{suffix}"
            index = folder / f"{stem}.{suffix}.index.json"
            shards = sorted(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.{suffix}"))
            for files in ([whole], [index], shards):
                if files and files[0].is_file():
                    return files
    raise UsageError("has no weights of a UNet", hint=_WHAT_TO_GIVE, code="base", source=str(base))

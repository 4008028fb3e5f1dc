"""Bytes <-> manifest and byte spans; the only package that opens or writes a checkpoint.

Reading: `open_checkpoint(path)` gives a `Checkpoint` (index read, tensor bytes still on disk).
Writing: `write_safetensors`, `write_torch_zip`, both through `atomic.replacing`.
"""

from ckptfix.formats.checkpoint import Checkpoint, open_checkpoint
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits

__all__ = ["DEFAULT_LIMITS", "Checkpoint", "Limits", "open_checkpoint"]

"""Every budget of the readers in one place: what a hostile file may cost before it is refused.

The values keep the reading of any file within 150 MB and 2 s. The healthy files they were set against: InstantID
(191 tensors, 7 thousand opcodes, a 25 KB pickle) and training dumps of an SDXL UNet with optimizer state (some 5
thousand tensors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ckptfix.errors import UnsafeError

MIB = 1 << 20
# Of a safetensors header, in bytes, set by the format. Source: huggingface/safetensors, safetensors/src/tensor.rs,
# MAX_HEADER_SIZE.
HEADER_CAP = 100_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets for one file; sizes in bytes, lengths in characters."""

    tensors: int = 8_000
    records: int = 25_000
    # the pickle machine and the walk over what it built
    pickle_bytes: int = 8 * MIB
    opcodes: int = 400_000
    memo: int = 200_000
    globals: int = 5_000
    depth: int = 100
    nodes: int = 200_000
    aliases: int = 5_000
    key_length: int = 1_000
    name_length: int = 4_000
    name_bytes: int = 2 * MIB
    # safetensors
    header_bytes: int = 8 * MIB
    metadata_entries: int = 10_000
    # logical bytes: what all tensors would take when written out dense
    logical_floor: int = 256 * MIB
    logical_ratio: int = 16
    # inflated bytes: deflated records, gzip, a zip in a zip
    inflated_bytes: int = 64 << 30
    inflated_floor: int = 64 * MIB
    inflated_ratio: int = 100
    inflated_large: int = 256 * MIB  # from here on only the smaller ratio, that of numbers and not of zeros
    inflated_large_ratio: int = 10

    def raised(self, budgets: Mapping[str, int]) -> Limits:
        """With these fields changed; the budgets that a healthy file uses up in step with them rise along."""
        tensors = budgets.get("tensors", 0) / self.tensors
        opcodes = budgets.get("opcodes", 0) / self.opcodes
        return replace(
            self,
            **budgets,
            records=int(self.records * max(1, tensors)),
            name_bytes=int(self.name_bytes * max(1, tensors)),
            memo=int(self.memo * max(1, opcodes)),
            nodes=int(self.nodes * max(1, opcodes)),
        )


DEFAULT_LIMITS = Limits()

# Budgets that a healthy file could reach, and the option that raises each.
OPTIONS = {
    "tensors": "--max-tensors",
    "opcodes": "--max-opcodes",
    "pickle_bytes": "--max-pickle-bytes",
    "header_bytes": "--max-header-bytes",
    "inflated_bytes": "--max-inflated-bytes",
}


def limit_error(budget: str, message: str) -> UnsafeError:
    """The refusal of a file that goes over `budget`, a field of `Limits`."""
    option = OPTIONS.get(budget)
    hint = (
        f"if you trust the file's source, raise the budget: {option} {4 * getattr(DEFAULT_LIMITS, budget)}"
        if option
        else "no healthy checkpoint needs this much; get the file again from a source you trust"
    )
    return UnsafeError(f"{message} (budget: {budget.replace('_', ' ')})", hint=hint, code="limit", budget=budget)

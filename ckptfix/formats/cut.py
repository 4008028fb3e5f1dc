"""What is said of a cut file, whatever its container."""

from __future__ import annotations

import shlex

from ckptfix.errors import UnreadableError
from ckptfix.findings import Finding
from ckptfix.text import plural, some


def salvage_hint(source: str) -> str:
    """What to do with a file of which a part is gone."""
    command = f"ckptfix convert {shlex.quote(source)} --partial --out partial.safetensors"
    return f"get the file again, or keep what is whole: {command}"


def report_cut(source: str, missing: str, whole: int, lost: list[str], *, partial: bool) -> Finding:
    """The finding for a file of which `whole` tensors can be had; raises it as `UnreadableError` unless `partial`.

    `missing` says what is gone: `1,024 bytes missing at its end`.
    """
    message = f"is cut: {missing}, {whole:,} of {plural(whole + len(lost), 'tensor')} are whole"
    if not partial:
        raise UnreadableError(
            message, hint=salvage_hint(source), code="truncated", source=source, whole=whole, lost=lost
        )
    if lost:
        message += f"; lost: {some(lost)}"
    return Finding("truncated", "error", message, "get the whole file if you can", tuple(lost))

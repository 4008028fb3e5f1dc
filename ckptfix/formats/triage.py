"""What container a file is, by its content and never by its name."""

from __future__ import annotations

from typing import Final, Literal

from ckptfix.findings import Finding
from ckptfix.formats.bytesource import ByteSource, read_some
from ckptfix.formats.limits import HEADER_CAP, Limits
from ckptfix.manifest import Container

Kind = Literal["zip", "legacy", "safetensors", "gzip"]

MAGIC: Final = 0x1950A86A20F9469CFC6C  # pytorch, torch/serialization.py, MAGIC_NUMBER
_MAGIC_LINE: Final = f"L{MAGIC}L\n.".encode()  # as pickle protocol 0 and 1 write it
_MAGIC_LONG: Final = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_HEAD: Final = 64  # bytes


def identify(source: ByteSource, limits: Limits) -> Kind:
    """The container to read `source` as. Raises `UnreadableError` for what is no checkpoint, `UnsafeError`."""
    head = read_some(source, 0, _HEAD)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_CAP:
        return "safetensors"
    if _is_legacy(head):
        return "legacy"
    from ckptfix.formats.foreign_files import refusal  # only here: start-up time

    raise refusal(source, limits)


def _is_legacy(head: bytes) -> bool:
    """Whether the first pickle is torch's magic number, in any protocol."""
    if head[:1] == b"\x80":
        start = 11 if head[2:3] == b"\x95" else 2  # after PROTO, and FRAME where there is one
        return head.startswith(_MAGIC_LONG, start)
    return head.startswith(_MAGIC_LINE)


def suffix_finding(suffix: str, container: Container) -> Finding | None:
    """A warning where the suffix promises another container than the content is."""
    suffix = suffix.lower()
    if container == "safetensors" and suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return Finding(
            "suffix",
            "warning",
            f"is a safetensors file though its name ends in {suffix}: read by content, but torch.load cannot read it",
            "rename it to .safetensors",
        )
    if container != "safetensors" and suffix == ".safetensors":
        return Finding(
            "suffix",
            "warning",
            "is a torch pickle though its name ends in .safetensors: read by content without running it, but "
            "safetensors readers refuse it",
            "ckptfix convert writes a true safetensors file",
        )
    return None

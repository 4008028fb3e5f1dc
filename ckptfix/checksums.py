"""Checksums as findings: those that a file keeps of its data, and its own against those of published files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from ckptfix.errors import DamagedError
from ckptfix.findings import Finding
from ckptfix.formats.address import is_remote
from ckptfix.known_files import KnownFile, of_size
from ckptfix.manifest import Manifest
from ckptfix.products import PRODUCTS
from ckptfix.tensors.view_bytes import ByteReader

Progress = Callable[[str, int, int], None]


def checksum_findings(checkpoint: ByteReader, progress: Progress | None) -> Iterator[Finding]:
    records = checkpoint.manifest.records
    total, done = sum(record.size for record in records.values()), 0
    for name, record in records.items():
        try:
            checkpoint.check(name)
        except DamagedError as error:
            yield _damage_finding(checkpoint.manifest, name, error)
        done += record.size
        if progress:
            progress("checksums", done, total)


def _damage_finding(manifest: Manifest, record: str, error: DamagedError) -> Finding:
    """A checksum that fails, with the tensors that lie in the record."""
    tensors = tuple(name for name, tensor in manifest.tensors.items() if tensor.span.record == record)
    return Finding(error.code, "error", error.message, hint=error.hint, tensors=tensors)


def published_findings(manifest: Manifest, checked: bool, published: KnownFile | None) -> Iterator[Finding]:
    """A file as long as a published one may be it: its sha256 says, if it was asked for."""
    for known in of_size(manifest.size) if published is None else ():
        it = f"{PRODUCTS[known.product].title}'s {known.title}"
        yield Finding(
            "published-file",
            "note",
            f"is as long as {it}, and has other bytes" if checked else f"is as long as {it}, to the byte",
            "" if checked else _sha256_hint(manifest.source),
        )


def _sha256_hint(source: str) -> str:
    if is_remote(source):
        return "its sha256 tells: download it, then ckptfix inspect --checksums FILE"
    return f"its sha256 tells: ckptfix inspect --checksums {shlex.quote(source)}"

"""An open checkpoint: its manifest, and the bytes of its records on demand."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ckptfix.errors import CkptfixError, DamagedError, UnreadableError
from ckptfix.findings import Finding
from ckptfix.formats.address import file_suffix, is_remote
from ckptfix.formats.bytesource import DISTRIBUTED, GATHER, ByteSource, chunks_of, open_local, read_at, spool
from ckptfix.formats.inflation import BrokenStreamError, inflate
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits, limit_error
from ckptfix.formats.triage import identify, suffix_finding
from ckptfix.manifest import Manifest, Record
from ckptfix.text import plural, printable, some

if TYPE_CHECKING:
    from ckptfix.formats.remote import RemoteFile

_WRAPPINGS: Final = 2


def open_checkpoint(
    path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS, partial: bool = False
) -> Checkpoint:
    """Open a checkpoint file and read its index; tensor bytes stay where they are until they are asked for.

    `path` may be an address too, https:// or hf://owner/repo[@revision]/path, of which only what is needed is got.

    With `partial` a cut or damaged file gives a manifest of exactly the tensors that are whole, and a finding
    `truncated`, `checksum` or `missing-record` that names the others.
    Raises `UsageError` (no such file), `UnreadableError`, `UnsafeError`, `UnavailableError` (no network, no access).
    """
    if isinstance(path, str) and is_remote(path):
        from ckptfix.formats.remote import open_remote  # only here: start-up time

        distant = open_remote(path)
        return open_source(distant, suffix=file_suffix(path), limits=limits, partial=partial, findings=distant.findings)
    suffix = Path(path).suffix
    try:
        return open_source(open_local(path), suffix=suffix, limits=limits, partial=partial)
    except UnreadableError as error:
        if suffix != DISTRIBUTED:
            raise
        raise UnreadableError(
            "is one shard of a checkpoint that torch.distributed (FSDP) saved as a folder",
            hint=GATHER,
            code="shard",
            source=str(path),
        ) from error


def open_source(
    source: ByteSource,
    *,
    suffix: str = "",
    limits: Limits = DEFAULT_LIMITS,
    partial: bool = False,
    findings: Sequence[Finding] = (),
) -> Checkpoint:
    """Open the checkpoint in `source` (see `open_checkpoint`), which belongs to the `Checkpoint` from then on.

    `findings` are what is known of the source before.
    """
    name, size = source.name, source.size
    wrappings: list[Finding] = []
    with ExitStack() as stack:
        try:
            while True:
                stack.pop_all()
                stack.callback(source.close)
                found = _read(source, limits, partial=partial)
                if isinstance(found, Manifest):
                    break
                source, finding = found
                wrappings.append(finding)
                if len(wrappings) > _WRAPPINGS:
                    raise limit_error("wrappings", f"is wrapped over {_WRAPPINGS} times")
        except DamagedError as error:  # damage that hides the index, not only a tensor
            raise UnreadableError(error.message, hint=error.hint, code=error.code, source=name) from error
        except CkptfixError as error:
            error.source = name
            raise
        stack.pop_all()
    lying = suffix_finding(suffix, found.container)
    seen = (*findings, *wrappings, *([lying] if lying else []), *found.findings)
    manifest = replace(found, source=name, size=size, findings=seen, file_sizes=(size,))
    return Checkpoint(source, manifest, limits)


def _read(source: ByteSource, limits: Limits, *, partial: bool) -> Manifest | tuple[ByteSource, Finding]:
    """The manifest of a file, or what is inside it where it only wraps a checkpoint.

    Each reader is imported where it is needed: start-up time.
    """
    kind = identify(source, limits)
    if kind == "gzip":
        from ckptfix.formats.unpacking import ungzip

        return ungzip(source, limits)
    if kind == "legacy":
        from ckptfix.formats.torch_legacy import read_torch_legacy

        return read_torch_legacy(source, limits, partial=partial)
    if kind == "safetensors":
        from ckptfix.formats.safetensors_file import read_safetensors

        return read_safetensors(source, limits, partial=partial)
    return _read_zip(source, limits, partial=partial)


def _read_zip(source: ByteSource, limits: Limits, *, partial: bool) -> Manifest | tuple[ByteSource, Finding]:
    from ckptfix.formats.zip_directory import NoDirectoryError, read_directory

    try:
        directory = read_directory(source, limits)
    except NoDirectoryError:
        from ckptfix.formats.torch_zip_cut import read_cut_zip

        return read_cut_zip(source, limits, partial=partial)
    if any(entry.name.rpartition("/")[2] == "data.pkl" for entry in directory):
        from ckptfix.formats.torch_zip import read_torch_zip

        return read_torch_zip(source, directory, limits, partial=partial)
    from ckptfix.formats.unpacking import unzip, wrapped_entry

    return unzip(source, wrapped_entry(directory, source), limits)


class Checkpoint:
    """The manifest of an open file and access to its records.

    All offsets count the bytes of a record as tensors see them, whether it is stored or deflated. Reading raises
    `DamagedError` where the file is damaged or has changed, `UnsafeError` where a record inflates over its budget.
    """

    def __init__(self, source: ByteSource, manifest: Manifest, limits: Limits) -> None:
        self.manifest = manifest
        self._source = source
        self._limits = limits
        self._inflated: dict[str, ByteSource] = {}
        self._checked: set[str] = set()
        self._located: dict[str, Record] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        for spooled in self._inflated.values():
            spooled.close()
        self._inflated.clear()
        self._source.close()

    @property
    def distant(self) -> tuple[RemoteFile, ...]:
        """The file on the net that is read directly: none for a local file, or one that had to be unpacked first."""
        if not self._source.remote:
            return ()
        from ckptfix.formats.remote import RemoteFile  # only here: start-up time

        return (self._source,) if isinstance(self._source, RemoteFile) else ()

    def read(self, record: str, offset: int, size: int) -> bytes:
        """`size` bytes of a record from `offset` on."""
        source, start = self._bytes_of(self._span(record, offset, size))
        return read_at(source, start + offset, size)

    def chunks(self, record: str, offset: int, size: int) -> Iterator[memoryview]:
        """The same bytes in parts of some MiB; each view is valid until the next.

        A whole record is checked against its CRC in the same pass, once: a `DamagedError` follows the last part.
        """
        entry = self._span(record, offset, size)
        whole = offset == 0 and size == entry.size and record not in self._checked
        crc = 0
        for part in self._parts(entry, offset, size):
            if whole:
                crc = zlib.crc32(part, crc)
            yield part
        if whole:
            self._judge(entry, crc)

    def check(self, record: str) -> None:
        """Read a record and compare its CRC, once; nothing to do where the container keeps none."""
        entry = self.manifest.records[record]
        if record in self._checked or entry.crc is None:
            return
        crc = 0
        for part in self._parts(entry, 0, entry.size):
            crc = zlib.crc32(part, crc)
        self._judge(entry, crc)

    def _judge(self, entry: Record, crc: int) -> None:
        if entry.crc is None or crc == entry.crc:
            self._checked.add(entry.name)
            return
        raise self._damaged(entry, f"fails its checksum ({crc:08x}, not {entry.crc:08x})")

    def _damaged(self, entry: Record, problem: str) -> DamagedError:
        tensors = [name for name, tensor in self.manifest.tensors.items() if tensor.span.record == entry.name]
        return DamagedError(
            f"record {printable(entry.name)} {problem}: {plural(len(tensors), 'tensor')} damaged: {some(tensors)}",
            hint="get the file again; the data was damaged in a download or on the disk",
            source=self.manifest.source,
            record=entry.name,
            tensors=tensors,
        )

    def _span(self, record: str, offset: int, size: int) -> Record:
        entry = self.manifest.records[record]
        if offset < 0 or size < 0 or offset + size > entry.size:
            raise IndexError(f"bytes {offset} to {offset + size} of record {record}, which has {entry.size}")
        return entry

    def _placed(self, entry: Record) -> Record:
        """The record with its true position, which for a remote archive its own header shows, read once."""
        if entry.unread is None:
            return entry
        if entry.name not in self._located:
            from ckptfix.formats.zip_directory import located_record  # only here: start-up time

            self._located[entry.name] = located_record(self._source, entry)
        return self._located[entry.name]

    def _parts(self, entry: Record, offset: int, size: int) -> Iterator[memoryview]:
        if entry.deflated and size == entry.size and entry.name not in self._inflated:
            for part in self._inflate(entry):
                yield memoryview(part)
        else:
            source, start = self._bytes_of(entry)
            yield from chunks_of(source, start + offset, size)

    def _inflate(self, entry: Record) -> Iterator[bytes]:
        what = f"record {printable(entry.name)}"
        entry = self._placed(entry)
        try:
            yield from inflate(
                self._source, entry.position, entry.stored_size, self._limits, what=what, size=entry.size
            )
        except BrokenStreamError as error:
            raise self._damaged(entry, error.problem) from error

    def _bytes_of(self, entry: Record) -> tuple[ByteSource, int]:
        """Where to read a record: in the file, or for a deflated one in a spool file that is filled once."""
        if not entry.deflated:
            return self._source, self._placed(entry).position
        if entry.name not in self._inflated:
            self._inflated[entry.name] = spool(self._inflate(entry), self.manifest.source)
        return self._inflated[entry.name], 0

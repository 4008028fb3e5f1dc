"""Files that hold a checkpoint in one more wrapping: gzip, or a zip archive around the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ckptfix.errors import UnreadableError
from ckptfix.findings import Finding
from ckptfix.formats.bytesource import SUFFIXES, ByteSource, Window, spool
from ckptfix.formats.inflation import GZIP, inflate
from ckptfix.formats.limits import Limits
from ckptfix.formats.zip_directory import Entry, located
from ckptfix.text import printable, some

_HINT = "unpack it for other readers, or let ckptfix convert write a file that every reader takes"


def ungzip(source: ByteSource, limits: Limits) -> tuple[ByteSource, Finding]:
    """What a gzip file holds, in a spool file; closes `source`."""
    inner = spool(inflate(source, 0, source.size, limits, what="the gzip data", wbits=GZIP), source.name)
    source.close()
    finding = Finding("compressed", "warning", "is gzip-compressed: read through, but other readers refuse it", _HINT)
    return inner, finding


def wrapped_entry(entries: Sequence[Entry], source: ByteSource) -> Entry:
    """The checkpoint inside an archive that is no torch file itself.

    Raises `UnreadableError` where it holds no checkpoint, or several.
    """
    files = [entry for entry in entries if not entry.name.endswith("/")]
    found = [entry for entry in files if PurePosixPath(entry.name).suffix.lower() in SUFFIXES]
    if len(found) == 1:
        return found[0]
    names = [entry.name for entry in found or files]
    raise UnreadableError(
        f"is a zip archive of {len(found)} checkpoints: {some(names)}"
        if found
        else f"is a zip archive, not a checkpoint: it holds {some(names) or 'nothing'}",
        hint="unpack it and name the checkpoint inside",
        code="not-a-checkpoint",
        source=source.name,
    )


def unzip(source: ByteSource, entry: Entry, limits: Limits) -> tuple[ByteSource, Finding]:
    """The file inside an archive: a window where it is stored, a spool file where it is deflated."""
    shown = printable(entry.name)
    entry = located(source, entry)
    inner: ByteSource
    if entry.deflated:
        parts = inflate(source, entry.start, entry.stored_size, limits, what=shown, size=entry.size)
        inner = spool(parts, source.name)
        source.close()
    else:
        inner = Window(source, entry.start, entry.size)
    message = f"is a zip archive around {shown}: read through, but other readers refuse it"
    return inner, Finding("compressed", "warning", message, _HINT)

"""Bytes at positions: the one way in which the readers touch a file.

Reads are by span (`pread`), never through a memory map: a file that shrinks while it is mapped kills the process.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from ckptfix.errors import DamagedError, OutputError, UnreadableError, UsageError
from ckptfix.text import printable, some

# Pieces of this size are read and written. Larger writes let Linux take its page cache in folios of that size, which a
# virtual machine has to be given by its host first: 4 MiB pieces took 2 to 4 times as long as these (kernel 6.18).
CHUNK = 512 << 10
SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors"})
# Without O_NONBLOCK a named pipe would wait for a writer for ever; not every system has each flag.
_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
    _FLAGS |= getattr(os, _flag, 0)


class ByteSource(Protocol):
    """A run of `size` bytes that can be read in any order. `name` is what to call it in messages."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def remote(self) -> bool:
        """Whether every read at a new place costs a request."""

    def expect(self, offset: int, size: int) -> None:
        """Say that these bytes are read next, in order: a remote source then gets them by one request."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on; `DamagedError` if the source ends before."""

    def close(self) -> None: ...


def check_within(source: ByteSource, offset: int, size: int) -> None:
    """DamagedError for a read that goes past the end of a source."""
    if offset + size > source.size:
        raise DamagedError(
            f"a read at byte {offset:,} goes past the end",
            hint="get the file again",
            code="truncated",
            source=source.name,
        )


class LocalFile:
    """An open regular file; the size is taken once, and a file that shrinks later gives a `DamagedError`."""

    remote = False

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self.size = os.fstat(descriptor).st_size

    def read_into(self, offset: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            try:
                count = _read_into(self._descriptor, target[done:], offset + done)
            except OSError as error:
                raise DamagedError(
                    f"reading at byte {offset + done:,} failed: {error.strerror}",
                    hint="check the disk or the network folder, or copy the file again",
                    code="read",
                    source=self.name,
                ) from error
            if count == 0:
                raise DamagedError(
                    f"ends at byte {offset + done:,}, {len(target) - done:,} bytes before a stored run does",
                    hint="is the file still being written? wait for the download to end, then try again",
                    code="truncated",
                    source=self.name,
                )
            done += count

    def expect(self, offset: int, size: int) -> None:
        """Nothing to prepare: the system reads ahead."""

    def next_data(self, offset: int) -> int:
        """The first position from `offset` on that is not in a hole of a sparse file; the size where none is."""
        if not hasattr(os, "SEEK_DATA"):
            return offset
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset

    def trailing_hole(self, start: int) -> int:
        """Where the hole begins that a sparse file ends with, looked for from `start` on; the size where none is."""
        if not hasattr(os, "SEEK_HOLE"):
            return self.size
        position = start
        for _ in range(1_000):
            try:
                hole = os.lseek(self._descriptor, position, os.SEEK_HOLE)
            except OSError:
                break
            position = self.next_data(hole)
            if position >= self.size:
                return hole
        return self.size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _read_into(descriptor: int, target: memoryview, offset: int) -> int:
    """Read at an offset; systems without preadv move the file's position instead."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [target], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, len(target))
    target[: len(data)] = data
    return len(data)


class Window:
    """A part of another source as a source of its own; closing it closes the whole."""

    def __init__(self, whole: ByteSource, start: int, size: int) -> None:
        self._whole = whole
        self._start = start
        self.name = whole.name
        self.size = size
        self.remote = whole.remote

    def expect(self, offset: int, size: int) -> None:
        self._whole.expect(self._start + offset, size)

    def read_into(self, offset: int, target: memoryview) -> None:
        check_within(self, offset, len(target))
        self._whole.read_into(self._start + offset, target)

    def close(self) -> None:
        self._whole.close()


def read_at(source: ByteSource, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, all of them inside the source: a declared size never decides an allocation."""
    if offset < 0 or size < 0 or offset + size > source.size:
        raise DamagedError(
            f"bytes {offset:,} to {offset + size:,} lie outside the {source.size:,} that are there",
            hint="get the file again",
            code="truncated",
            source=source.name,
        )
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def read_some(source: ByteSource, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset` on: fewer where the source ends before."""
    there = min(size, source.size - offset)
    return read_at(source, offset, there) if there > 0 else b""


def chunks_of(source: ByteSource, offset: int, size: int, chunk: int = CHUNK) -> Iterator[memoryview]:
    """The bytes of a span in order, each view over one reused buffer and valid until the next."""
    buffer = memoryview(bytearray(min(chunk, size)))
    source.expect(offset, size)
    done = 0
    while done < size:
        part = buffer[: min(chunk, size - done)]
        source.read_into(offset + done, part)
        done += len(part)
        yield part


def spool(parts: Iterable[bytes], name: str) -> LocalFile:
    """The joined parts in a file without a name, which is gone when closed; `OutputError` on a full disk."""
    import tempfile  # only here: start-up time

    try:
        with tempfile.TemporaryFile(prefix="ckptfix-") as file:
            for part in parts:
                file.write(part)
            file.flush()
            return LocalFile(os.dup(file.fileno()), name)
    except OSError as error:
        raise OutputError(
            f"unpacking into {tempfile.gettempdir()} failed: {error.strerror}",
            hint="free some space there, or point TMPDIR at a folder that has it",
            source=name,
        ) from error


def open_local(path: str | os.PathLike[str]) -> LocalFile:
    """Open a regular file for reading.

    Raises `UsageError` for what is missing, a folder or a device, `UnreadableError` where permission is missing.
    """
    shown = printable(os.fspath(path), 1000)
    try:
        descriptor = os.open(path, _FLAGS)
    except PermissionError as error:
        raise UnreadableError(
            "permission denied", hint=f"ask for read permission: ls -l {shown}", code="permission", source=shown
        ) from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError("no such file", hint=_near(Path(path)), code="no-such-file", source=shown) from error
    except OSError as error:
        raise UsageError(
            f"cannot be opened: {error.strerror}", hint="check the path", code="no-such-file", source=shown
        ) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return LocalFile(descriptor, shown)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise UsageError("is a folder, not a file", hint=_inside(Path(path)), code="folder", source=shown)
    raise UsageError(
        "is a pipe, socket or device, not a regular file",
        hint="save the checkpoint to a file first",
        code="not-a-file",
        source=shown,
    )


def _checkpoints_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if Path(entry.name).suffix in SUFFIXES)
    except (OSError, ValueError):
        return []


# Source: pytorch, torch/distributed/checkpoint/filesystem.py and format_utils.py; accelerate, commands/merge.py
DISTRIBUTED = ".distcp"
GATHER = (
    "gather it first: accelerate merge-weights FOLDER OUT, or "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER whole.pt"
)


def _inside(folder: Path) -> str:
    names = _checkpoints_in(folder)
    if any(entry.name.endswith(DISTRIBUTED) for entry in folder.iterdir()):
        return f"it is a checkpoint in shards: {GATHER}"
    return f"name one of its files: {some(names, 5)}" if names else "it holds no checkpoint file; name a file"


def _near(path: Path) -> str:
    """What the user may have meant: close names in the same folder first, then any checkpoint there."""
    folder = path.parent
    try:
        if not folder.is_dir():
            return f"the folder {printable(str(folder))} does not exist either; check the path"
        present = sorted(entry.name for entry in os.scandir(folder))
    except (OSError, ValueError):
        return "check the path"
    from difflib import get_close_matches  # only here: start-up time

    close = get_close_matches(path.name, present[:2000], n=3, cutoff=0.6)
    names = close or _checkpoints_in(folder)
    return f"did you mean {some(names, 5)}?" if names else "no checkpoint lies in that folder; check the path"

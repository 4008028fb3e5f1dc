"""The one careful writer: the target is at every moment either the old file or the whole new one.

A unique file beside the target is written, its size checked, given its mode, flushed to the disk, reopened by the
caller for comparison, renamed, and the folder flushed. Whatever ends this early, the unfinished file is removed;
what a killed run leaves, the next run removes.

A target that is a link stays one: the file it leads to is replaced. A target with other hard links leaves those to
the old bytes: writing through them could not be undone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ckptfix.errors import OutputError
from ckptfix.formats.target import check_target, output_error, target_exists
from ckptfix.formats.temporary import forget, lock, new_name, remove, remove_leftovers

if sys.platform == "darwin":
    import fcntl
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["PendingFile", "check_target", "move_without_replacing", "replacing", "write_text"]

# Gathers headers and paddings; a larger piece goes to the system as it is, uncopied.
_BUFFER_BYTES = 128 << 10
_NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOTSUP}  # what network file systems without it answer


@contextmanager
def replacing(target: Path, *, force: bool = False, needed: int | None = None) -> Iterator[PendingFile]:
    """Write `target` within the block; it takes its place when the block ends well, and only then.

    Without `force` a file that appears at `target` meanwhile is kept, and UsageError says so. `needed` (bytes) only
    serves the message of a full disk. OutputError: what the system refused, and why. OSErrors of the block that do
    not come from this file, such as those of an input, pass through.
    """
    check_target(target, force=force)
    pending = PendingFile(target, needed)
    try:
        pending._open()
        yield pending
        pending.sync()
        pending._commit(force)
    finally:
        pending._discard()


def write_text(target: Path, text: str, *, force: bool = False) -> None:
    """Write a small UTF-8 file with the same care. `text` comes with its own line ends."""
    data = text.encode()
    with replacing(target, force=force, needed=len(data)) as pending:
        pending.stream.write(data)


class PendingFile:
    """A file being written: `stream` takes bytes (whole pieces, seekable), `path` is its name until it is renamed."""

    stream: BinaryIO
    path: Path

    def __init__(self, target: Path, needed: int | None) -> None:
        self._target = target
        self._needed = needed
        self._resolved = Path(os.path.realpath(target))
        self._old: os.stat_result | None = None
        self.path = new_name(self._resolved)
        self._raw: _RawOutput | None = None  # from opening to `sync`
        self._descriptors: list[int] = []  # closed at the end: the folder, and what holds the lock
        self._folder: int | None = None

    def sync(self, size: int | None = None) -> None:
        """Flush, check the size, set the mode, fsync and close, so that `path` can be reopened and compared.

        `size` is what the writer says it wrote, in bytes; without it the end of the last write counts. The mode comes
        before the fsync, which makes it safe too. Done once: `replacing` calls it when the block has not.
        """
        if self._raw is None:
            return
        with self._translated():
            self.stream.flush()
            descriptor = self._raw.fileno()
            expected = self._raw.end if size is None else size
            found = os.fstat(descriptor).st_size
            if found != expected:
                raise OutputError(
                    f"the file system kept {found:,} of {expected:,} bytes",
                    hint="check the disk, and choose another place with --out",
                    source=str(self._target),
                )
            self._take_mode_of_target(descriptor)
            _flush_to_disk(descriptor)
            self.stream.close()
        self._raw = None

    def _open(self) -> None:
        with self._translated():
            if sys.platform != "win32":
                self._folder = os.open(self._resolved.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._descriptors.append(self._folder)
            remove_leftovers(self._resolved)
            descriptor = self._create()
            self._raw = _RawOutput(descriptor, self._failure)
            self.stream = BufferedWriter(self._raw, _BUFFER_BYTES)
            if sys.platform != "win32":  # the lock outlives the stream
                self._descriptors.append(os.dup(descriptor))

    def _create(self) -> int:
        """A new file with the mode that the umask asks for, or a private one where an old file's mode will follow.

        The kernel applies the umask (and a folder's default ACL): it cannot be read without changing it for a moment,
        which another thread would see.
        """
        self._old = _status(self._resolved)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        while True:
            try:
                descriptor = os.open(self.path, flags, 0o666 if self._old is None else 0o600)
            except FileExistsError:
                pass
            else:
                if lock(descriptor):
                    return descriptor
                os.close(descriptor)
            forget(self.path)
            self.path = new_name(self._resolved)

    def _take_mode_of_target(self, descriptor: int) -> None:
        if self._old is None or sys.platform == "win32":
            return
        new = os.fstat(descriptor)
        if (self._old.st_uid, self._old.st_gid) != (new.st_uid, new.st_gid):
            with contextlib.suppress(OSError):  # only root may give a file away
                os.fchown(descriptor, self._old.st_uid, self._old.st_gid)
        mode = stat.S_IMODE(self._old.st_mode) & 0o777
        if mode != stat.S_IMODE(new.st_mode):  # where no mode can be set (FAT), all files have the same
            os.fchmod(descriptor, mode)

    def _commit(self, force: bool) -> None:
        with self._translated():
            if force:
                self.path.replace(self._resolved)
            else:
                try:
                    move_without_replacing(self.path, self._resolved)
                except FileExistsError:
                    raise target_exists(self._target) from None
        forget(self.path)
        if self._folder is None:
            return
        try:
            os.fsync(self._folder)
        except OSError as error:
            if error.errno not in _NO_FOLDER_FSYNC:
                raise OutputError(
                    f"the new file is in place, but its folder could not be flushed to the disk ({error.strerror})",
                    hint="check the disk, then run the command again with --force",
                    source=str(self._target),
                ) from error

    def _discard(self) -> None:
        """Close what is open, without flushing, and remove the file if it still has its temporary name."""
        with contextlib.suppress(OSError):
            if self._raw is not None:
                self._raw.close()
        remove(self.path)
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())

    def _failure(self, error: OSError) -> OutputError:
        written = self._raw.end if self._raw is not None else None
        return output_error(error, self._target, written=written, needed=self._needed)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(error) from error


class _RawOutput(FileIO):
    """The unfinished file. Its errors say that they are about the output, whoever calls; `end` is its size so far."""

    def __init__(self, descriptor: int, failure: Callable[[OSError], OutputError]) -> None:
        super().__init__(descriptor, "wb")
        self.end = 0
        self._failure = failure

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            count = super().write(data)
        except OSError as error:
            raise self._failure(error) from error
        self.end = max(self.end, self.tell())
        return count


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _flush_to_disk(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync stops at the drive's cache there
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def move_without_replacing(source: Path, target: Path) -> None:
    """FileExistsError if anything is at `target`, without a moment in which it could appear.

    Only a file system without hard links (FAT, some network shares) leaves such a moment between look and rename.
    """
    if sys.platform == "win32":  # rename replaces nothing there
        source.rename(target)
        return
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        source.rename(target)
    else:
        source.unlink()

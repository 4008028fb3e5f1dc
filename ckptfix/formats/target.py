"""May this file be written at all? And, when writing fails, what to say."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from ckptfix.errors import CkptfixError, OutputError, UsageError

_ELSEWHERE = "choose another place with --out"
_MAKE_ROOM = f"free some space, or {_ELSEWHERE}"
_CAUSES = {
    errno.ENOSPC: ("disk-full", "the disk is full", _MAKE_ROOM),
    errno.EDQUOT: ("disk-full", "the disk quota is used up", _MAKE_ROOM),
    errno.EFBIG: (
        "output",
        "the file grew past a size limit",
        f"lift the limit (`ulimit -f unlimited`), or {_ELSEWHERE}: FAT32 takes no file over 4 GiB",
    ),
    errno.EROFS: ("output", "the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("output", "no permission to write there", f"check `ls -ld` of the folder, or {_ELSEWHERE}"),
    errno.EPERM: ("output", "no permission to write there", f"check `ls -ld` of the folder, or {_ELSEWHERE}"),
    errno.EIO: ("output", "the disk reports an input/output error", f"check the disk, and {_ELSEWHERE}"),
    errno.ENOENT: ("output", "the folder or the unfinished file vanished meanwhile", "run the command again"),
}


def check_target(target: Path, *, force: bool, inputs: Sequence[Path] = (), option: str = "--out") -> None:
    """Refuse, before any work, a target that could not be written in the end, or must not be.

    UsageError: it is one of `inputs` (the same device and inode, so through links too, and `force` is no excuse), it
    exists and `force` is off, it is a folder or a device, its folder is missing. OutputError: its folder is read-only.
    `option` is what names the target on the command line, for the hints.
    """
    try:
        _check(target, force, inputs)
    except CkptfixError as error:
        error.hint = error.hint.replace("--out", option)
        raise


def _check(target: Path, force: bool, inputs: Sequence[Path]) -> None:
    resolved = Path(os.path.realpath(target))
    try:
        status = os.lstat(resolved)
    except FileNotFoundError:
        _check_folder(target, resolved.parent)
        return
    except NotADirectoryError:
        raise _usage(target, f"{resolved.parent} is not a folder", _ELSEWHERE) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _usage(target, "the file name is too long", "choose a shorter one with --out") from None
        raise output_error(error, target) from error
    _check_existing(target, status, force, inputs)
    _check_folder(target, resolved.parent)


def _check_existing(target: Path, status: os.stat_result, force: bool, inputs: Sequence[Path]) -> None:
    if stat.S_ISLNK(status.st_mode):  # what realpath leaves of a loop
        raise _usage(target, "is a link that leads back to itself", f"remove it, or {_ELSEWHERE}")
    if stat.S_ISDIR(status.st_mode):
        example = shlex.quote(str(target / "fixed.safetensors"))
        raise _usage(target, "is a folder, not a file", f"name a file in it: --out {example}")
    if not stat.S_ISREG(status.st_mode):
        raise _usage(target, "is a device, a pipe or a socket, not a file", _ELSEWHERE)
    if any(_is_same_file(path, status) for path in inputs):
        raise _usage(target, "the output would replace the input", f"the input is never changed: {_ELSEWHERE}")
    if not force:
        raise target_exists(target)


def _is_same_file(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:  # a missing input is the reader's error to report
        return False


def _check_folder(target: Path, folder: Path) -> None:
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise _usage(target, f"{folder} is not a folder", _ELSEWHERE)
        raise _usage(target, "its folder does not exist", f"make it first: mkdir -p {shlex.quote(str(folder))}")
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # R_OK: a folder is opened to be flushed
        return
    raise output_error(OSError(errno.EROFS if _is_read_only(folder) else errno.EACCES, ""), target)


def _is_read_only(folder: Path) -> bool:
    return sys.platform != "win32" and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _usage(target: Path, message: str, hint: str) -> UsageError:
    return UsageError(message, hint=hint, code="target", source=str(target))


def target_exists(target: Path) -> UsageError:
    return UsageError(
        "already exists",
        hint="add --force to replace it, or choose another name with --out",
        code="target-exists",
        source=str(target),
    )


def output_error(error: OSError, target: Path, *, written: int | None = None, needed: int | None = None) -> OutputError:
    """What the system's error means for the person: `written` and `needed` are bytes, where known."""
    number = error.errno or 0
    code, message, hint = _CAUSES.get(
        number, ("output", f"cannot be written ({error.strerror or error})", f"try again, or {_ELSEWHERE}")
    )
    if written is not None:
        message += f" after {written:,} of {needed:,} bytes" if needed else f" after {written:,} bytes"
    elif needed:
        message += f", {needed:,} bytes are needed"
    details = {"errno": errno.errorcode.get(number, str(number)), "written": written, "needed": needed}
    known = {key: value for key, value in details.items() if value is not None}
    return OutputError(message, hint=hint, code=code, source=str(target), **known)

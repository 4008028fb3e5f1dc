"""Names of unfinished files, and the removal of those that killed runs left behind.

A name is `.ckptfix-<target>-<pid>-<random>.tmp`: hidden, recognisable, and telling whose it is. A leftover goes only
when its process is gone *and* nobody holds its lock: process ids alone lie across containers that share a folder, and
locks alone say nothing where the file system has none.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PATTERN = re.compile(r"\.ckptfix-(?P<label>.+)-(?P<pid>\d{1,9})-[0-9a-f]{16}\.tmp", re.DOTALL)
_LABEL_BYTES = 100  # of 255 that a name may have

# Unfinished files of this process. An interrupt can arrive between any two instructions, in a clean-up too: what is
# still listed when the interpreter ends is removed then.
_unfinished: set[Path] = set()


def new_name(target: Path) -> Path:
    """A fresh name beside `target` (resolved), listed for removal at exit until `forget`."""
    path = target.with_name(f".ckptfix-{_label(target)}-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    _unfinished.add(path)
    return path


def forget(path: Path) -> None:
    """The file has its final name, or was never made."""
    _unfinished.discard(path)


def remove(path: Path) -> None:
    """Remove the file unless it is forgotten; errors would hide the one that led here."""
    if path in _unfinished:
        with contextlib.suppress(OSError):
            path.unlink()
        forget(path)


def lock(descriptor: int) -> bool:
    """Mark the file as being written. False if a clean-up took it for a leftover first: then it is gone."""
    if sys.platform != "win32":  # where an open file cannot be removed anyway
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks on this file system: clean-ups then leave it alone
            return True
        return os.fstat(descriptor).st_nlink > 0
    return True


def remove_leftovers(target: Path) -> None:
    """Remove unfinished files of dead processes for this `target` (resolved), quietly: they cost only space."""
    label = _label(target)
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            match = _PATTERN.fullmatch(path.name)
            if match and match["label"] == label and path not in _unfinished and not _is_running(int(match["pid"])):
                with contextlib.suppress(OSError):
                    _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    if sys.platform == "win32":
        path.unlink()
    elif stat.S_ISREG(path.lstat().st_mode):
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, os.O_RDWR | flags)  # NFS locks only what is open for writing
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _is_running(pid: int) -> bool:
    """Our own number on a file that is not ours comes from an earlier process, as in containers that restart."""
    if pid == os.getpid() or sys.platform == "win32":  # os.kill ends a process there, whatever the signal
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _label(target: Path) -> str:
    """The target's name, or the beginning and a digest of one so long that ours would be too long for a folder."""
    encoded = os.fsencode(target.name)
    if len(encoded) <= _LABEL_BYTES:
        return target.name
    start = encoded[: _LABEL_BYTES - 17].decode(errors="ignore")
    return f"{start}~{hashlib.sha256(encoded).hexdigest()[:16]}"


@atexit.register
def _remove_unfinished() -> None:
    for path in list(_unfinished):
        if f"-{os.getpid()}-" in path.name:  # a forked child has its parent's list, not its files
            with contextlib.suppress(OSError):
                path.unlink()

"""Whatever fails, whenever: the old file or the whole new one, its mode and links kept, and no litter."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from ckptfix.errors import CkptfixError, ExitCode, OutputError, UsageError
from ckptfix.formats import atomic, temporary
from ckptfix.formats.atomic import check_target, replacing, write_text
from ckptfix.termination import Terminated, terminating_as_exception
from tests.killing import assert_next_run_cleans, kill_once

OLD, NEW = b"old " * 10, b"new!" * 50_000
PIECE = 40_000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fixed.safetensors"


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def write(target: Path, *, force: bool = False, data: bytes = NEW) -> None:
    with replacing(target, force=force, needed=len(data)) as pending:
        for start in range(0, len(data), PIECE):
            pending.stream.write(data[start : start + PIECE])
        pending.sync(len(data))
        assert pending.path.read_bytes() == data


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def says(error: CkptfixError) -> tuple[str, str, str, int]:
    return error.code, error.message, error.hint, error.exit_code


# --- the good way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_a_new_file(target: Path, force: bool) -> None:
    write(target, force=force)
    assert target.read_bytes() == NEW
    assert names(target.parent) == [target.name]


def test_force_replaces_a_file(target: Path) -> None:
    target.write_bytes(OLD)
    write(target, force=True)
    assert target.read_bytes() == NEW
    assert names(target.parent) == [target.name]


def test_the_old_file_stays_until_the_block_ends(target: Path) -> None:
    target.write_bytes(OLD)
    with replacing(target, force=True) as pending:
        pending.stream.write(NEW)
        pending.sync()
        assert target.read_bytes() == OLD
        assert pending.path.parent == target.parent
        assert pending.path.name.startswith(f".ckptfix-{target.name}-{os.getpid()}-")
    assert target.read_bytes() == NEW


def test_a_block_without_sync_is_synced(target: Path) -> None:
    with replacing(target) as pending:
        pending.stream.write(NEW)
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("force", [False, True])
def test_the_order_of_the_last_steps(target: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    """All bytes, then the mode, then the flush of the file, then its name, then the flush of the folder."""
    if force:
        target.write_bytes(OLD)
    done: list[str] = []
    for name in ("fchmod", "fsync", "replace", "link", "unlink"):
        _spy(monkeypatch, name, done)
    write(target, force=force)
    moved = ["replace"] if force else ["link", "unlink"]
    assert done == [*["fchmod"] * force, f"fsync of a file of {len(NEW)}", *moved, "fsync of the folder"]


def _spy(monkeypatch: pytest.MonkeyPatch, name: str, done: list[str]) -> None:
    real = getattr(os, name)

    def spy(*arguments: Any, **options: Any) -> Any:
        told = name
        if name == "fsync":
            found = os.fstat(arguments[0])
            told += " of the folder" if stat.S_ISDIR(found.st_mode) else f" of a file of {found.st_size}"
        done.append(told)
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, spy)


def test_write_text_is_utf_8_with_line_ends_as_given(target: Path) -> None:
    write_text(target, "é\r\n\n")
    assert target.read_bytes() == "é\r\n\n".encode()
    with pytest.raises(UsageError):
        write_text(target, "again")
    write_text(target, "again", force=True)
    assert target.read_text() == "again"


def test_seeking_back_does_not_cut(target: Path) -> None:
    with replacing(target) as pending:
        pending.stream.write(b"....5678")
        pending.stream.seek(0)
        pending.stream.write(b"1234")
    assert target.read_bytes() == b"12345678"


# --- mode, links, names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_asks_for(target: Path, umask: int, expected: int) -> None:
    os.umask(umask)
    write(target)
    assert mode(target) == expected
    assert os.umask(umask) == umask


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o666, 0o755, 0o444])
def test_a_replaced_file_keeps_its_mode(target: Path, kept: int) -> None:
    target.write_bytes(OLD)
    target.chmod(kept)
    write(target, force=True)
    assert target.read_bytes() == NEW
    assert mode(target) == kept


def test_a_private_file_is_private_while_it_is_written(target: Path) -> None:
    target.write_bytes(OLD)
    target.chmod(0o640)
    with replacing(target, force=True) as pending:
        assert mode(pending.path) == 0o600


def test_root_keeps_the_owner(target: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    target.write_bytes(OLD)
    os.chown(target, 12345, 23456)
    write(target, force=True)
    assert (target.stat().st_uid, target.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("force", [False, True])
def test_a_link_stays_a_link(tmp_path: Path, force: bool) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    real, link, outer = folder / "real.bin", tmp_path / "link.bin", tmp_path / "outer.bin"
    link.symlink_to(Path("elsewhere/real.bin"))
    outer.symlink_to(link)
    if force:
        real.write_bytes(OLD)
    write(outer, force=force)
    assert outer.readlink() == link
    assert link.readlink() == Path("elsewhere/real.bin")
    assert not real.is_symlink() and real.read_bytes() == NEW
    assert names(folder) == ["real.bin"]


def test_other_hard_links_keep_the_old_bytes(target: Path) -> None:
    target.write_bytes(OLD)
    other = target.with_name("other")
    other.hardlink_to(target)
    write(target, force=True)
    assert target.read_bytes() == NEW
    assert other.read_bytes() == OLD
    assert target.stat().st_nlink == 1


@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, "a\nb \t'\"$[x].bin", "-rf", ".hidden", "a-1-0123456789abcdef.tmp"]
)
def test_any_name_that_the_folder_takes(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    write(target)
    write(target, force=True, data=OLD)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == [name]


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"\xff" * 120)
    write(target)
    assert target.read_bytes() == NEW


def test_a_relative_target_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away").mkdir()
    with replacing(Path("out.bin")) as pending:
        pending.stream.write(NEW)
        os.chdir("away")
    assert (tmp_path / "out.bin").read_bytes() == NEW


# --- early refusals ---------------------------------------------------------------------------------------------


def refused(target: Path, *, force: bool = False, inputs: tuple[Path, ...] = ()) -> CkptfixError:
    with pytest.raises(CkptfixError) as caught:
        check_target(target, force=force, inputs=inputs)
    assert caught.value.source == str(target)
    return caught.value


def test_an_existing_file_needs_force(target: Path) -> None:
    target.write_bytes(OLD)
    assert says(refused(target)) == (
        "target-exists",
        "already exists",
        "add --force to replace it, or choose another name with --out",
        ExitCode.USAGE,
    )
    check_target(target, force=True)
    with pytest.raises(UsageError):
        write(target)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("way", ["same", "symlink", "hard link", "dotted"])
def test_the_input_is_never_the_target(target: Path, way: str, force: bool) -> None:
    target.write_bytes(OLD)
    (target.parent / "sub").mkdir()
    name = target.with_name("other name")
    if way == "same":
        name = target
    elif way == "symlink":
        name.symlink_to(target)
    elif way == "hard link":
        name.hardlink_to(target)
    else:
        name = target.parent / "sub" / ".." / target.name
    assert says(refused(name, force=force, inputs=(target.with_name("missing"), target))) == (
        "target",
        "the output would replace the input",
        "the input is never changed: choose another place with --out",
        ExitCode.USAGE,
    )
    assert says(refused(target, force=force, inputs=(name,)))[1] == "the output would replace the input"


def test_a_copy_of_the_input_is_another_file(target: Path) -> None:
    target.write_bytes(OLD)
    copy = target.with_name("copy")
    copy.write_bytes(OLD)
    check_target(copy, force=True, inputs=(target,))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert says(refused(tmp_path, force=True)) == (
        "target",
        "is a folder, not a file",
        f"name a file in it: --out {tmp_path}/fixed.safetensors",
        ExitCode.USAGE,
    )


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "no such"
    assert says(refused(folder / "x.bin")) == (
        "target",
        "its folder does not exist",
        f"make it first: mkdir -p '{folder}'",
        ExitCode.USAGE,
    )


def test_a_dangling_link_into_a_missing_folder(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("gone/x.bin")
    assert says(refused(link))[1] == "its folder does not exist"


def test_a_file_is_no_folder(target: Path) -> None:
    target.write_bytes(OLD)
    assert says(refused(target / "x.bin"))[1] == f"{target} is not a folder"


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    assert says(refused(one, force=True))[1] == "is a link that leads back to itself"


def test_devices_pipes_and_sockets_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as opened:
        opened.bind(str(tmp_path / "s"))
    for special in (tmp_path / "pipe", tmp_path / "s", Path("/dev/null")):
        assert says(refused(special, force=True))[1] == "is a device, a pipe or a socket, not a file"


def test_a_name_too_long_for_the_folder(tmp_path: Path) -> None:
    error = refused(tmp_path / ("x" * 256))
    assert (error.message, error.exit_code) == ("the file name is too long", ExitCode.USAGE)


def test_a_read_only_folder() -> None:
    with open_to_all() as folder:
        target = folder / "x.bin"
        target.write_bytes(OLD)
        folder.chmod(0o555)
        found = as_nobody(lambda: says(refused(target, force=True)))
        folder.chmod(0o755)
    expected = (
        "output",
        "no permission to write there",
        "check `ls -ld` of the folder, or choose another place with --out",
        ExitCode.UNREADABLE,
    )
    assert found == repr(expected)


@contextlib.contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that an ordinary user can reach, as those of pytest cannot be when root runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(call: Callable[[], object]) -> str:
    """repr(call()) in a forked child without root's rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writing, repr(call()).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        return stream.read()


# --- faults -----------------------------------------------------------------------------------------------------

FAULTS = ("open", "fstat", "fchmod", "fsync", "replace", "link", "unlink", "dup", "close")


class Faults:
    """Counts the calls that can fail and lets one of them do so, before or after it has had its effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], BaseException], *, after: bool) -> None:
        self.calls: list[str] = []
        self.at = -1
        self._make = make
        self._after = after
        for name in FAULTS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        faults = self

        class Faulty(FileIO):
            write = faults._wrap("write", FileIO.write)
            close = faults._wrap("raw close", FileIO.close)

        class Output(atomic._RawOutput, Faulty):
            pass

        monkeypatch.setattr(atomic, "_RawOutput", Output)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            due = len(self.calls) - 1 == self.at
            if due and not self._after:
                raise self._make(name)
            result = real(*arguments, **options)
            if due:
                raise self._make(name)
            return result

        return call

    def run(self, at: int, work: Callable[[], None]) -> None:
        self.calls.clear()
        self.at = at
        try:
            work()
        finally:
            self.at = -1


def prepare(target: Path, force: bool) -> None:
    target.unlink(missing_ok=True)
    if force:
        target.write_bytes(OLD)
        target.chmod(0o640)


def assert_old_or_new(target: Path, force: bool) -> bytes | None:
    if not target.exists():
        assert not force
        return None
    data = target.read_bytes()
    assert data == NEW or (force and data == OLD)
    assert mode(target) == (0o640 if force else 0o644)
    return data


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("force", [False, True])
def test_every_call_failing_once(target: Path, monkeypatch: pytest.MonkeyPatch, force: bool, number: int) -> None:
    faults = Faults(monkeypatch, lambda _: OSError(number, os.strerror(number)), after=False)
    prepare(target, force)
    faults.run(-1, lambda: write(target, force=force))
    calls = list(faults.calls)
    assert {"write", "fsync", "raw close", "replace" if force else "link"} <= set(calls)
    moved = calls.index("replace" if force else "link")
    flushed = len(calls) - 1 - calls[::-1].index("fsync")
    assert calls.count("fsync") == 2

    for at, name in enumerate(calls):
        prepare(target, force)
        raised = True
        try:
            faults.run(at, lambda: write(target, force=force))
            raised = False
        except OutputError as error:
            assert error.exit_code == ExitCode.UNREADABLE
            assert error.source == str(target)
        data = assert_old_or_new(target, force)
        assert raised == (at <= flushed), (at, name)  # what follows is tidying up
        assert (data == NEW) == (at > moved), (at, name)
        assert names(target.parent) in ([target.name], []), (at, name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("force", [False, True])
def test_an_interrupt_at_every_call(target: Path, monkeypatch: pytest.MonkeyPatch, force: bool, after: bool) -> None:
    faults = Faults(monkeypatch, lambda _: Terminated(signal.SIGTERM), after=after)
    prepare(target, force)
    faults.run(-1, lambda: write(target, force=force))
    calls = list(faults.calls)
    for at in range(len(calls)):
        prepare(target, force)
        with pytest.raises(Terminated):
            faults.run(at, lambda: write(target, force=force))
        data = assert_old_or_new(target, force)
        assert data == NEW or at <= calls.index("replace" if force else "link"), calls[at]
        temporary._remove_unfinished()  # what the interpreter does at its end
        assert names(target.parent) in ([target.name], []), calls[at]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated(signal.SIGTERM), ZeroDivisionError, OSError("read")])
def test_an_error_of_the_block_passes_unchanged(target: Path, error: BaseException | type[BaseException]) -> None:
    target.write_bytes(OLD)
    with pytest.raises(error if isinstance(error, type) else type(error)) as caught, replacing(target, force=True) as p:
        p.stream.write(NEW)
        raise error
    assert not isinstance(caught.value, OutputError)
    assert target.read_bytes() == OLD
    assert names(target.parent) == [target.name]


def test_a_size_limit_at_any_byte(target: Path) -> None:
    """The real thing, from the kernel: EFBIG after so many bytes."""
    target.write_bytes(OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in [0, 1, *range(10_000, len(NEW), 19_997), len(NEW) - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError) as caught:
                write(target, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert says(caught.value) == (
            "output",
            f"the file grew past a size limit after {limit:,} of 200,000 bytes",
            "lift the limit (`ulimit -f unlimited`), or choose another place with --out: "
            "FAT32 takes no file over 4 GiB",
            ExitCode.UNREADABLE,
        )
        assert caught.value.details == {"errno": "EFBIG", "written": limit, "needed": 200_000}
        assert target.read_bytes() == OLD
        assert names(target.parent) == [target.name]


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=128k"):
        target = tmp_path / "x.bin"
        target.write_bytes(OLD)
        with pytest.raises(OutputError) as caught:
            write(target, force=True)
        code, message, hint, exit_code = says(caught.value)
        assert code == "disk-full"
        assert message.startswith("the disk is full after ") and message.endswith(" of 200,000 bytes")
        assert hint == "free some space, or choose another place with --out"
        assert exit_code == ExitCode.UNREADABLE
        assert target.read_bytes() == OLD
        assert names(tmp_path) == ["x.bin"]


def test_a_read_only_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path, "ro"):
        assert says(refused(tmp_path / "x.bin")) == (
            "output",
            "the file system is read-only",
            "choose another place with --out",
            ExitCode.UNREADABLE,
        )


def test_a_file_system_that_keeps_less_than_was_written(target: Path) -> None:
    target.write_bytes(OLD)
    with pytest.raises(OutputError, match="the file system kept 40 of 80 bytes"), replacing(target, force=True) as p:
        p.stream.write(OLD * 2)
        p.stream.flush()
        os.truncate(p.path, 40)
    assert target.read_bytes() == OLD


def test_a_writer_that_says_another_size(target: Path) -> None:
    with pytest.raises(OutputError, match="kept 40 of 41 bytes"), replacing(target) as pending:
        pending.stream.write(OLD)
        pending.sync(41)
    assert names(target.parent) == []


def test_an_unfinished_file_that_someone_removes(target: Path) -> None:
    with pytest.raises(OutputError) as caught, replacing(target) as pending:
        pending.path.unlink()
    assert caught.value.message.startswith("the folder or the unfinished file vanished meanwhile")


def test_a_folder_that_cannot_be_flushed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_folder_fsync(monkeypatch, errno.EIO)
    with pytest.raises(OutputError) as caught:
        write(target)
    assert caught.value.message == (
        "the new file is in place, but its folder could not be flushed to the disk (Input/output error)"
    )
    assert target.read_bytes() == NEW


def test_a_file_system_that_never_flushes_folders(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_folder_fsync(monkeypatch, errno.EINVAL)
    write(target)
    assert target.read_bytes() == NEW


def fail_folder_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


# --- others at work ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_appears_meanwhile_is_kept(target: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        without_hard_links(monkeypatch)
    with pytest.raises(UsageError) as caught, replacing(target) as pending:
        pending.stream.write(NEW)
        target.write_bytes(OLD)
    assert says(caught.value)[0] == "target-exists"
    assert target.read_bytes() == OLD
    assert names(target.parent) == [target.name]


def test_a_file_system_without_hard_links(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_hard_links(monkeypatch)
    write(target)
    assert target.read_bytes() == NEW
    assert names(target.parent) == [target.name]


def without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("force", [False, True])
def test_racing_writers(target: Path, force: bool) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_race, args=(target, i, force, barrier, results)) for i in range(4)]
    for writer in writers:
        writer.start()
    codes = sorted(results.get(timeout=30) for _ in writers)
    for writer in writers:
        writer.join()
    assert codes == (["done"] * 4 if force else ["done", *["target-exists"] * 3])
    data = target.read_bytes()
    assert data == data[:1] * 400_000
    assert names(target.parent) == [target.name]


def _race(target: Path, number: int, force: bool, barrier: Any, results: Any) -> None:
    barrier.wait()
    try:
        with replacing(target, force=force) as pending:
            for _ in range(100):
                pending.stream.write(b"%d" % number * 4_000)
        results.put("done")
    except UsageError as error:
        results.put(error.code)


def leftover(target: Path, pid: int) -> Path:
    path = target.with_name(f".ckptfix-{target.name}-{pid}-{'0' * 16}.tmp")
    path.write_bytes(b"unfinished")
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("force", [False, True])
def test_leftovers_of_the_dead_are_removed(target: Path, force: bool) -> None:
    leftover(target, dead_pid()).chmod(0o444)
    leftover(target, os.getpid())  # of an earlier process with our number
    write(target, force=force)
    assert names(target.parent) == [target.name]


def test_files_of_the_living_and_of_other_targets_stay(target: Path) -> None:
    dead = dead_pid()
    kept = [
        leftover(target, os.getppid()),
        leftover(target.with_name("other"), dead),
        leftover(target.with_name(f"x-{target.name}"), dead),
        target.with_name(f".ckptfix-{target.name}-{dead}-short.tmp"),
        target.with_name(f"ckptfix-{target.name}-{dead}-{'0' * 16}.tmp"),
        target.with_name("notes.tmp"),
    ]
    for path in kept:
        path.touch()
    link = target.with_name(f".ckptfix-{target.name}-{dead}-{'1' * 16}.tmp")
    link.symlink_to(kept[-1])
    folder = target.with_name(f".ckptfix-{target.name}-{dead}-{'2' * 16}.tmp")
    folder.mkdir()
    write(target)
    assert set(target.parent.iterdir()) == {target, link, folder, *kept}


def test_a_lock_protects_a_writer_whose_number_seems_dead(target: Path) -> None:
    """As from another container that shares the folder."""
    path = leftover(target, dead_pid())
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(target)
        assert path.exists()
    write(target, force=True)
    assert not path.exists()


def test_an_unfinished_file_is_locked_until_it_is_renamed(target: Path) -> None:
    with replacing(target) as pending:
        pending.stream.write(NEW)
        for _ in range(2):
            with pending.path.open("rb") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pending.sync()


def test_a_file_taken_for_a_leftover_before_it_is_locked_is_made_anew(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = fcntl.flock, list[Path]()

    def flock(descriptor: int, operation: int) -> None:
        if len(taken) < 2:
            (path,) = target.parent.glob(".ckptfix-*")
            path.unlink()
            taken.append(path)
            if len(taken) == 2:
                raise BlockingIOError
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write(target)
    assert len(taken) == 2
    assert target.read_bytes() == NEW
    assert names(target.parent) == [target.name]


def test_two_threads_with_one_target(target: Path) -> None:
    with replacing(target, force=True) as first:
        first.stream.write(NEW)
        thread = threading.Thread(target=write, args=(target,), kwargs={"data": OLD})
        thread.start()
        thread.join()
        assert target.read_bytes() == OLD
        assert first.path.exists()
    assert target.read_bytes() == NEW
    assert names(target.parent) == [target.name]


def test_a_forked_child_leaves_its_parents_file(target: Path) -> None:
    with replacing(target) as pending:
        pending.stream.write(NEW)
        child = os.fork()
        if not child:
            temporary._remove_unfinished()
            os._exit(0)
        os.waitpid(child, 0)
    assert target.read_bytes() == NEW


# --- signals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is started with it ignored
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_becomes_an_exception_and_the_next_ones_are_ignored(number: signal.Signals, exit_code: int) -> None:
    with pytest.raises(Terminated) as caught, terminating_as_exception():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == exit_code
    assert not isinstance(caught.value, Exception)
    for later in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), later)


@pytest.mark.usefixtures("own_signals")
def test_after_ctrl_c_the_next_ones_are_ignored() -> None:
    with pytest.raises(KeyboardInterrupt), terminating_as_exception():
        os.kill(os.getpid(), signal.SIGINT)
    for later in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), later)


def test_ctrl_c_in_an_exec_ends_with_our_exit_code() -> None:
    """A plain KeyboardInterrupt that crosses an exec makes Python end by the signal, whatever it is told after."""
    code = (
        "import os, signal, sys\n"
        "from ckptfix.termination import Interrupted, terminating_as_exception\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    with terminating_as_exception():\n"
        "        exec('os.kill(os.getpid(), signal.SIGINT)')\n"
        "except Interrupted:\n"
        "    sys.exit(130)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_signals_do_what_they_did_after_the_block(error: type[Exception] | None) -> None:
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ZeroDivisionError), terminating_as_exception():
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        if error:
            raise error
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("own_signals")
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with terminating_as_exception():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_changes() -> None:
    seen: list[object] = []

    def work() -> None:
        with terminating_as_exception():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize("force", [True, False], ids=["force", "keep"])
def test_kills_at_random_moments(tmp_path: Path, force: bool) -> None:
    """A handful; hundreds in `make torture`."""
    chance = random.Random()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        kill_once(tmp_path, number, force=force, chance=chance)
    assert_next_run_cleans(tmp_path)

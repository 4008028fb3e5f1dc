"""One file read as users do, and the verdict: anything but a result or one of our errors is a find."""

from __future__ import annotations

import contextlib
import io
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from ckptfix.cli import run
from ckptfix.conversion import convert
from ckptfix.errors import CkptfixError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.fuzzing.guard import BreachError, Guard, HangError
from tests.fuzzing.truth import Content, Contents, difference, safetensors_contents, torch_contents

EXITS = {0, 1, 3, 4}


class FindError(Exception):
    """Something that must not happen; `kind` sorts finds, `place` tells those of one kind apart."""

    def __init__(self, kind: str, place: str, detail: str) -> None:
        super().__init__(f"{kind} at {place}: {detail}")
        self.kind, self.place, self.detail = kind, place, detail


class Judge:
    """Judges files one by one; `folder` is the only place where anything may be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "in" / "mutant.bin"
        self._out = folder / "out" / "fixed.safetensors"
        for path in (self._path, self._out):
            path.parent.mkdir()
        self._path.write_bytes(b"")
        self._guard = Guard(folder)
        self._guard.untouched = str(self._path)

    def judge(self, data: bytes, *, commands: bool = False, converts: bool = False) -> str:
        """What came out, in a word for statistics. Raises `FindError`.

        With `commands` the command line inspects it too, with `converts` it is converted and the output compared.
        """
        self._path.write_bytes(data)
        before = self._path.stat()
        try:
            outcome, contents = self._read(data)
            if commands:
                self._inspect()
            if converts:
                self._convert(data)
        except (BreachError, HangError) as error:
            raise FindError(type(error).__name__, place_of(error), str(error)) from error
        after = self._path.stat()
        if (before.st_mtime_ns, before.st_size) != (
            after.st_mtime_ns,
            after.st_size,
        ) or self._path.read_bytes() != data:
            raise FindError("input modified", outcome, "")
        litter = [entry.name for folder in (self._path.parent, self._out.parent) for entry in os.scandir(folder)]
        if set(litter) - {self._path.name}:
            raise FindError("litter", outcome, str(litter))
        if contents is not None:
            self._compare(data, contents, "reader")
        return outcome

    def _read(self, data: bytes) -> tuple[str, Contents | None]:
        """Open and read every tensor, and once more what is whole of a cut file."""
        try:
            outcome, contents = self._read_once(partial=False)
        except CkptfixError as error:
            outcome, contents = f"refused: {_checked(error)}", None
            if error.code in ("truncated", "missing-record"):
                with contextlib.suppress(CkptfixError):
                    self._read_once(partial=True)
        return outcome, contents

    def _read_once(self, *, partial: bool) -> tuple[str, Contents | None]:
        with self._errors_only(), self._guard.armed(), open_checkpoint(self._path, partial=partial) as checkpoint:
            manifest = checkpoint.manifest
            contents, damaged = _contents(checkpoint)
        if damaged or any(finding.severity == "error" for finding in manifest.findings):
            return "opened with errors", None
        return "opened", contents

    def _inspect(self) -> None:
        """Both forms of `ckptfix inspect`: no traceback, one of our exit codes, one JSON document."""
        for form in (["--json", "--checksums"], ["--values"]):
            out, err = io.StringIO(), io.StringIO()
            streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
            with streams[0], streams[1], self._errors_only(), self._guard.armed():
                code = run(["inspect", str(self._path), *form])
            if code not in EXITS:
                raise FindError("exit code", f"inspect {form[0]}", str(code))
            text = out.getvalue()
            if form[0] == "--json":
                json.loads(text)
            shown = text + err.getvalue()
            if any(not char.isprintable() and char not in "\n" for char in shown):
                raise FindError("unescaped output", f"inspect {form[0]}", ascii(shown)[:300])

    def _convert(self, data: bytes) -> None:
        """Whatever convert writes with exit 0 is what torch or safetensors read from the same file."""
        try:
            with self._errors_only(), self._guard.armed():
                result = convert(self._path, self._out, force=True)
            written = self._out.read_bytes() if self._out.exists() else None
        except CkptfixError as error:
            _checked(error)
            written = self._out.read_bytes() if self._out.exists() else None
            if written is not None:
                raise FindError("output of a refused file", error.code, error.message) from error
            return
        finally:
            self._out.unlink(missing_ok=True)
        if written is None:
            if result.written or not result.refused:
                raise FindError("no output", "convert", str(result.exit_code))
            return
        found = safetensors_contents(written)
        if found is None or not result.written:
            raise FindError("bad output", "convert", "safetensors cannot read it")
        if result.exit_code == 0:
            self._compare(data, found, "convert")

    def _compare(self, data: bytes, found: Contents, who: str) -> None:
        truth = safetensors_contents if data[8:9] == b"{" else torch_contents
        true = truth(data)
        problem = None if true is None else difference(found, true)
        if problem:
            raise FindError("wrong numbers", who, problem)

    @contextlib.contextmanager
    def _errors_only(self) -> Iterator[None]:
        """Let our errors pass and turn every other exception into a find."""
        try:
            yield
        except CkptfixError:
            raise
        except Exception as error:
            detail = "".join(traceback.format_exception(error))[-1500:]
            raise FindError(type(error).__name__, place_of(error), detail) from error


def _contents(checkpoint: Checkpoint) -> tuple[dict[str, Content], bool]:
    """Every tensor's bytes, and whether one of them is damaged."""
    contents: dict[str, Content] = {}
    damaged = False
    for name, tensor in checkpoint.manifest.tensors.items():
        try:
            data = b"".join(view_chunks(checkpoint, View.of(tensor)))
        except CkptfixError as error:
            _checked(error)
            damaged = True
            continue
        if len(data) != tensor.nbytes:
            raise AssertionError(f"{name}: {len(data)} bytes, not {tensor.nbytes}")
        contents[name] = Content(tensor.dtype.name, tensor.shape, data)
    return contents, damaged


def _checked(error: CkptfixError) -> str:
    """The code of an error that says what a person needs."""
    if not error.message or not error.hint or int(error.exit_code) not in EXITS:
        raise AssertionError(f"an error without message, hint or right exit code: {error.to_dict()}")
    json.dumps(error.to_dict())
    return error.code


def place_of(error: BaseException) -> str:
    """Module and line of ckptfix where an exception came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/ckptfix/" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"

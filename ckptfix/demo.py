"""demo: a file as it goes wrong, in InstantID's real names and sizes, and the three commands at work on it.

The file is one that a hand-written class would save: the published nested .bin, but `queries` for `latents`. Its
weights are seeded noise of a sane scale, so that it computes; it is no trained adapter. Only verify and generate need
torch.
"""

from __future__ import annotations

import math
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ckptfix.conversion import convert
from ckptfix.errors import CkptfixError, ExitCode, OutputError, UsageError
from ckptfix.formats import open_checkpoint
from ckptfix.formats.atomic import replacing
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.torch_writer import write_torch_zip
from ckptfix.inspection import inspect
from ckptfix.manifest import DTYPES
from ckptfix.reference import AdapterConfig, expected_tensors
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View

Progress = Callable[[str, int, int], None]
Shape = tuple[int, ...]

# What is made, what convert makes of it, the file without a tensor, what convert refuses to make of that, a picture.
FILES = ("ip-adapter.bin", "fixed.safetensors", "one-missing.bin", "impossible.safetensors", "self-test.png")
LOST = "image_proj.layers.2.0.to_q.weight"
_PIECE = 1 << 20  # numbers of noise made at once


class Result(Protocol):
    """What a step's library call returned."""

    @property
    def exit_code(self) -> ExitCode: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One step, done. `command` is what a person types for it, `expected` the exit code that it should have.

    `result` is None where nothing was called; `skipped` then says why, where something should have been.
    """

    title: str
    command: str
    seconds: float
    expected: ExitCode
    result: Result | None = None
    skipped: CkptfixError | None = None

    @property
    def exit_code(self) -> ExitCode:
        if self.skipped is not None:
            return self.skipped.exit_code
        return self.result.exit_code if self.result is not None else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "command": self.command,
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
            "expected_exit_code": int(self.expected),
            "skipped": self.skipped.to_dict()["error"] if self.skipped else None,
            "result": self.result.to_dict() if self.result else None,
        }


@dataclass(frozen=True, slots=True)
class Demo:
    """The steps that were taken. `kept` says whether the files are still in `folder`."""

    folder: str
    kept: bool
    steps: tuple[DemoStep, ...]

    @property
    def exit_code(self) -> ExitCode:
        """PROBLEM if a step ended otherwise than it should, UNAVAILABLE if one could not be taken."""
        if any(step.exit_code != step.expected and step.skipped is None for step in self.steps):
            return ExitCode.PROBLEM
        return ExitCode.UNAVAILABLE if any(step.skipped for step in self.steps) else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ckptfix.demo/1",
            "folder": self.folder,
            "kept": self.kept,
            "exit_code": int(self.exit_code),
            "seconds": round(sum(step.seconds for step in self.steps), 3),
            "steps": [step.to_dict() for step in self.steps],
        }


def run_demo(
    place: Path,
    *,
    kept: bool = True,
    seed: int = 0,
    config: AdapterConfig | None = None,
    self_test: bool = True,
    tell: Callable[[DemoStep], None] = lambda step: None,
    progress: Progress | None = None,
) -> Demo:
    """Make the file in `place`, inspect, convert and verify it, and show a refusal; `tell` gets each finished step.

    `self_test` runs generate's wiring self-test between the two: a tiny random SDXL that paints noise.
    """
    config = config or AdapterConfig()
    made, fixed, cut, never, picture = (place / name for name in FILES)
    steps: list[DemoStep] = []

    def take(title: str, command: str, expected: ExitCode, work: Callable[[], Result | None]) -> None:
        start = time.perf_counter()
        result, skipped = None, None
        try:
            result = work()
        except CkptfixError as error:
            if error.exit_code != ExitCode.UNAVAILABLE:
                raise
            skipped = error
        steps.append(DemoStep(title, command, time.perf_counter() - start, expected, result, skipped))
        tell(steps[-1])

    take(
        f"A file as a hand-written class saves it: {made.name}, `queries` where InstantID says `latents`",
        "",
        ExitCode.OK,
        lambda: write_adapter(made, config, seed, progress),
    )
    take("Look at it", _line("inspect", made), ExitCode.PROBLEM, lambda: inspect(made, progress=progress))
    take(
        "Convert it: names change, no value does",
        _line("convert", made, "--out", fixed),
        ExitCode.OK,
        lambda: convert(made, fixed, progress=progress),
    )
    take("Prove that the result computes", _line("verify", fixed), ExitCode.OK, lambda: _verify(fixed, progress))
    if self_test:
        take(
            "Run the whole of diffusers' pipeline, in miniature: random weights, the picture is noise",
            _line("generate", "--base", "tiny", "--seed", str(seed), "--output", picture),
            ExitCode.OK,
            lambda: _generate(picture, seed, progress),
        )
    take(
        f"The same file without one tensor: {cut.name} lacks {LOST}",
        "",
        ExitCode.OK,
        lambda: write_without(made, cut, LOST, progress),
    )
    take(
        "Nothing is made up: convert refuses it",
        _line("convert", cut, "--out", never),
        ExitCode.PROBLEM,
        lambda: convert(cut, never, progress=progress),
    )
    return Demo(str(place.resolve()), kept, tuple(steps))


def _line(command: str, *arguments: str | Path) -> str:
    return shlex.join(["ckptfix", command, *map(str, arguments)])


def _verify(path: Path, progress: Progress | None) -> Result:
    from ckptfix.verification import verify  # here: the other steps need no torch

    return verify(path, progress=progress)


def _generate(picture: Path, seed: int, progress: Progress | None) -> Result:
    from ckptfix.generation import Wishes, generate
    from ckptfix.generation.libraries import absent_dependencies

    for absent in absent_dependencies():
        raise absent
    return generate(Wishes(base="tiny", seed=seed, output=picture), progress=progress)


@contextmanager
def workplace(folder: Path | None, *, keep: bool, config: AdapterConfig | None = None) -> Iterator[Path]:
    """The folder, or a temporary one, with room for the files; they are removed at the end unless `keep`.

    UsageError if one of them exists already, OutputError if the folder cannot be made or the disk has no room.
    """
    if folder is None:
        place, ours = Path(tempfile.mkdtemp(prefix="ckptfix-demo-")), True
    else:
        place, ours = folder.absolute(), not folder.exists()
        _make_folder(place)
        _check_unused(place)
    try:
        _check_room(place, 3 * _file_bytes(config or AdapterConfig()))
        yield place
    finally:
        if not keep:
            for name in FILES:
                (place / name).unlink(missing_ok=True)
            if ours and not any(place.iterdir()):
                place.rmdir()


def _check_unused(place: Path) -> None:
    for name in FILES:
        if (place / name).exists():
            raise UsageError(
                f"{name} exists there already",
                hint="name an empty folder, or leave DIR out to use a temporary one",
                code="target-exists",
                source=str(place),
            )


def _make_folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be made: {error.strerror}", hint="name another folder", source=str(place)
        ) from error


def _check_room(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"the demo needs {needed / 1e9:.1f} GB for its files, {free / 1e9:.1f} GB are free",
            hint="name a folder on another disk: ckptfix demo DIR",
            code="disk-full",
            source=str(place),
            needed=needed,
            free=free,
        )


def _file_bytes(config: AdapterConfig) -> int:
    return sum(math.prod(shape) * 2 for shape in expected_tensors(config).values())


def write_adapter(path: Path, config: AdapterConfig, seed: int, progress: Progress | None = None) -> None:
    """A whole adapter in float16 noise as a nested .bin, its latents under the name `queries`."""
    tensors = []
    for number, (name, shape) in enumerate(expected_tensors(config).items()):
        own = name.replace("image_proj.latents", "image_proj.queries")
        tensors.append(OutputTensor(own, shape, DTYPES["F16"], partial(_noise, name, shape, (seed, number))))
    _write(path, tensors, "make the file", progress)


def write_without(source: Path, path: Path, lost: str, progress: Progress | None = None) -> None:
    """A copy of a nested .bin that lacks one tensor."""
    with open_checkpoint(source) as checkpoint:
        tensors = [
            OutputTensor(name, info.shape, info.dtype, partial(view_chunks, checkpoint, View.of(info)))
            for name, info in checkpoint.manifest.tensors.items()
            if name != lost
        ]
        _write(path, tensors, "copy the file", progress)


def _write(path: Path, tensors: list[OutputTensor], stage: str, progress: Progress | None) -> None:
    total, done = sum(tensor.nbytes for tensor in tensors), 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(stage, done, total)

    nesting = {tensor.name: tuple(tensor.name.split(".", 1)) for tensor in tensors}
    with replacing(path, needed=total) as pending:
        write_torch_zip(pending.stream, tensors, nesting=nesting, progress=report)


def _noise(name: str, shape: Shape, seed: tuple[int, int]) -> Iterator[bytes]:
    """Float16 bytes: matrices N(0, 1/fan_in), scales near 1, biases near 0."""
    import numpy as np

    generator = np.random.Generator(np.random.SFC64(seed))
    vector = len(shape) == 1
    scale = np.float32(0.02 if vector else shape[-1] ** -0.5)
    centre = np.float32(1 if vector and name.endswith("weight") else 0)
    left = math.prod(shape)
    while left:
        piece = generator.standard_normal(min(left, _PIECE), dtype=np.float32)
        left -= piece.size
        piece *= scale
        piece += centre
        yield piece.astype("<f2").tobytes()

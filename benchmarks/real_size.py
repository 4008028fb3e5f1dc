"""inspect and convert on the 1.69 GB InstantID file beside what people use today: whole processes, in turn, one run.

Usage: python benchmarks/real_size.py [--rounds N] [--folder DIR] [--save]
`--save` writes benchmarks/real_size.md and benchmarks/real_size.svg. Ratios are what counts: machines differ.

Every run starts without the output of the one before: a file system may take a rewritten file's old blocks again, which
one contender would gain from and another not. The measuring process stays small (it imports neither numpy nor ckptfix
before it has measured), because Linux counts its peak memory as the least that a child has used.
"""

from __future__ import annotations

import argparse
import datetime
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
LIST_TORCH = (
    "import torch; d = torch.load({file!r}, weights_only=True, map_location='cpu'{mmap})\n"
    "for group in d.values():\n    for name, tensor in group.items(): print(name, tensor.dtype, tuple(tensor.shape))"
)
SAVE_FILE = (
    "import torch; from safetensors.torch import save_file\n"
    "d = torch.load({file!r}, weights_only=True, map_location='cpu')\n"
    "save_file({{f'{{g}}.{{k}}': v.contiguous() for g, t in d.items() for k, v in t.items()}}, {out!r})\n"
    "import os; os.fsync(os.open({out!r}, os.O_RDONLY))"
)
COPY = (
    "import os, subprocess; subprocess.run(['cp', {file!r}, {out!r}], check=True); "
    "os.fsync(os.open({out!r}, os.O_RDONLY))"
)


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One command line; `group` names the panel of the plot it stands in. `copied`: it reads a copy of the file too."""

    name: str
    group: str
    command: list[str]
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians over the rounds: wall seconds and peak resident memory in MB."""

    seconds: float
    megabytes: float


def instantid_file(path: Path) -> None:
    """The published file's 191 names and shapes, nested, fp32, seeded noise: 1.69 GB."""
    import numpy as np

    from ckptfix.formats.output import OutputTensor
    from ckptfix.formats.torch_writer import write_torch_zip
    from ckptfix.manifest import DTYPES
    from ckptfix.reference import AdapterConfig, expected_tensors

    generator = np.random.default_rng(0)

    def noise(count: int) -> Iterator[bytes]:
        while count:
            step = min(count, 1 << 20)
            yield (generator.standard_normal(step, np.float32) * 0.02).tobytes()
            count -= step

    tensors = []
    for name, shape in expected_tensors(AdapterConfig()).items():
        tensors.append(OutputTensor(name, shape, DTYPES["F32"], partial(noise, math.prod(shape))))
    with path.open("wb") as stream:
        write_torch_zip(stream, tensors, nesting={tensor.name: tuple(tensor.name.split(".", 1)) for tensor in tensors})


def contenders(source: Path, folder: Path) -> list[Contender]:
    python = sys.executable
    tool = [python, "-m", "ckptfix"]
    file, copy = str(source), str(folder / "copy")
    out = str(folder / "out.safetensors")
    convert = [*tool, "convert", file, "--out", out, "-q"]
    return [
        Contender("ckptfix --help", "start", [*tool, "--help"]),
        Contender("python -c 'import click'", "start", [python, "-c", "import click"]),
        Contender("ckptfix inspect", "inspect", [*tool, "inspect", file, "--json"]),
        Contender(
            "torch.load(mmap=True), list", "inspect", [python, "-c", LIST_TORCH.format(file=file, mmap=", mmap=True")]
        ),
        Contender("torch.load, list", "inspect", [python, "-c", LIST_TORCH.format(file=file, mmap="")]),
        Contender("cp + fsync", "convert", [python, "-c", COPY.format(file=file, out=copy)]),
        Contender("ckptfix convert", "convert", convert),
        Contender("ckptfix convert --proof", "convert", [*convert, "--proof"]),
        Contender("torch.load + save_file + fsync", "convert", [python, "-c", SAVE_FILE.format(file=file, out=copy)]),
        Contender("sha256sum", "convert", ["sha256sum", file]),
        Contender("cmp", "diff", ["cmp", file, copy], copied=True),
        Contender("ckptfix diff", "diff", [*tool, "diff", file, copy, "-q"], copied=True),
    ]


def run(command: list[str]) -> Figure:
    """One process, from start to end, with its own peak memory as the kernel counted it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Figure(seconds, usage.ru_maxrss * scale / 1e6)


def measure(rounds: int, folder: Path) -> dict[Contender, Figure]:
    source = folder / "ip-adapter.bin"
    maker = multiprocessing.get_context("spawn").Process(target=instantid_file, args=(source,))
    maker.start()
    maker.join()
    order = contenders(source, folder)
    figures: dict[Contender, list[Figure]] = {contender: [] for contender in order}
    for number in range(rounds + 1):
        for contender in order:
            for left in folder.iterdir():
                if left != source:
                    left.unlink()
            if contender.copied:
                shutil.copyfile(source, folder / "copy")
            os.sync()  # nobody pays for what another left unwritten
            figure = run(contender.command)
            if number:  # the first round warms the page cache and Python's bytecode
                figures[contender].append(figure)
            print(
                f"round {number} {contender.name}: {figure.seconds:.2f} s, {figure.megabytes:.0f} MB", file=sys.stderr
            )
    return {
        contender: Figure(
            statistics.median(figure.seconds for figure in found), max(figure.megabytes for figure in found)
        )
        for contender, found in figures.items()
    }


def table(figures: dict[Contender, Figure], rounds: int) -> str:
    seconds = {contender.name: figure.seconds for contender, figure in figures.items()}
    lines = [
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, page cache warm, median of {rounds} round{'s' * (rounds > 1)} in turn in "
        f"one run; load of the machine at the end {os.getloadavg()[0]:.1f}.",
        "The file: InstantID's 191 names and shapes in fp32, nested .bin, 1.69 GB.",
        "",
        "| command | seconds | peak MB |",
        "|---|---|---|",
    ]
    lines += [f"| {c.name} | {f.seconds:.2f} | {f.megabytes:.0f} |" for c, f in figures.items()]
    on_top = seconds["ckptfix convert --proof"] - seconds["ckptfix convert"]
    listing = seconds["torch.load(mmap=True), list"] / seconds["ckptfix inspect"]
    saving = seconds["torch.load + save_file + fsync"] / seconds["ckptfix convert"]
    lines += [
        "",
        "| ratio | found | goal |",
        "|---|---|---|",
        f"| ckptfix --help, seconds | {seconds['ckptfix --help']:.3f} | ≤ 0.150 |",
        f"| torch mmap listing / inspect | {listing:.1f} | ≥ 8 |",
        f"| convert / (cp + fsync) | {seconds['ckptfix convert'] / seconds['cp + fsync']:.2f} | ≤ 3 |",
        f"| torch.load + save_file / convert | {saving:.2f} | |",
        f"| what --proof adds / sha256sum | {on_top / seconds['sha256sum']:.2f} | ≤ 1.5 |",
        f"| diff of identical files / cmp | {seconds['ckptfix diff'] / seconds['cmp']:.2f} | ≤ 3 |",
    ]
    return "\n".join(lines) + "\n"


def plot(figures: dict[Contender, Figure], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(1, 4, figsize=(14, 3.2), layout="constrained")
    for axis, group in zip(axes, ("start", "inspect", "convert", "diff"), strict=True):
        rows = [(contender.name, figure.seconds) for contender, figure in figures.items() if contender.group == group]
        colours = ["#2f6f8f" if name.startswith("ckptfix") else "#b8c4cc" for name, _ in rows]
        bars = axis.barh([name for name, _ in rows], [seconds for _, seconds in rows], color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.set_title(f"{group}, seconds", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    picture.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go (7 GB); default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="write the table and the plot beside this script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options.rounds, Path(folder))
    text = table(figures, options.rounds)
    print(text)
    if options.save:
        (HERE / "real_size.md").write_text(text, encoding="utf-8")
        plot(figures, HERE / "real_size.svg")


if __name__ == "__main__":
    main()

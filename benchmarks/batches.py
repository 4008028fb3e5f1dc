"""inspect on many files, with one worker and with two: whole processes, in turn, one run.

Usage: python benchmarks/batches.py [--rounds N] [--folder DIR] [--small N] [--large N] [--save]
`--save` writes benchmarks/batches.md. Ratios are what counts: machines differ.

The large files are links to one of 846 MB, so that reading it costs processor time and no disk. Memory is the peak that
the kernel counted (VmHWM), of the command's own process and of its largest worker, asked for fifty times a second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
MAKE_SMALL = (
    "import sys, pathlib; from tests.fixtures.make_checkpoints import *\n"
    "place = pathlib.Path(sys.argv[1])\n"
    "for number in range(int(sys.argv[2])):\n"
    "    whole = canonical(seed=number)\n"
    "    if number % 2: save_safetensors(place / f'{number:04}.safetensors', whole)\n"
    "    else: save_nested_bin(place / f'{number:04}.bin', renamed(whole, '.latents', '.queries'))\n"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the table; a `group` is compared with its run of one worker."""

    group: str
    folder: str
    options: tuple[str, ...]
    jobs: int


@dataclass(frozen=True, slots=True)
class Figure:
    """Wall seconds, processor seconds (workers included), and peak resident memory in MB of the command and of its
    largest worker."""

    seconds: float
    processor: float
    parent: float
    worker: float


def make(folder: Path, small: int, large: int) -> None:
    for name in ("small", "tenfold", "large", "few"):
        (folder / name).mkdir()
    subprocess.run([sys.executable, "-c", MAKE_SMALL, str(folder / "small"), str(small)], cwd=ROOT, check=True)
    for number in range(10):
        for path in (folder / "small").iterdir():
            os.link(path, folder / "tenfold" / f"{number}-{path.name}")
    demo = [sys.executable, "-m", "ckptfix", "-q", "demo", str(folder / "demo"), "--keep"]
    subprocess.run(demo, stdout=subprocess.DEVNULL, check=True)
    for number in range(large):
        os.link(folder / "demo" / "ip-adapter.bin", folder / "large" / f"{number:02}.bin")
    for number in range(large // 5):
        os.link(folder / "demo" / "ip-adapter.bin", folder / "few" / f"{number:02}.bin")


def runs(small: int, large: int) -> list[Run]:
    groups: list[tuple[str, str, tuple[str, ...]]] = [
        (f"{small} files of 0.8 MB", "small", ()),
        (f"{large} files of 846 MB", "large", ()),
        (f"{large} files of 846 MB, --checksums", "large", ("--checksums",)),
        (f"{large // 5} files of 846 MB, --values", "few", ("--values",)),
    ]
    pairs = [Run(*group, jobs) for group in groups for jobs in (1, 2)]
    return [*pairs, Run(f"{10 * small} files of 0.8 MB", "tenfold", (), 2)]  # for its memory


def peak(pid: int) -> float:
    """MB so far; 0 for a process that has ended, or where the system has no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith("VmHWM")), 0.0)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def run(wanted: Run, folder: Path) -> Figure:
    """One command; ends the benchmark if a result is missing or out of its place."""
    place = folder / wanted.folder
    command = [sys.executable, "-m", "ckptfix", "inspect", str(place), "--ndjson", "--jobs", str(wanted.jobs)]
    parent = worker = 0.0
    with tempfile.TemporaryFile("w+", dir=folder) as out:
        start = time.perf_counter()
        process = subprocess.Popen([*command, *wanted.options], stdout=out)
        ended = 0
        while not ended:
            parent = max(parent, peak(process.pid))
            worker = max([worker, *map(peak, children(process.pid))])
            time.sleep(0.02)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        names = [json.loads(line)["file"]["path"] for line in out]
    if names != sorted(str(path) for path in place.iterdir()):
        raise SystemExit(f"{command}: results are missing or out of order")
    return Figure(seconds, usage.ru_utime + usage.ru_stime, parent, worker)


def measure(rounds: int, folder: Path, small: int, large: int) -> dict[Run, Figure]:
    make(folder, small, large)
    order = runs(small, large)
    figures: dict[Run, list[Figure]] = {wanted: [] for wanted in order}
    for number in range(rounds):
        for wanted in order:
            figures[wanted].append(figure := run(wanted, folder))
            print(f"round {number} {wanted}: {figure}", file=sys.stderr)
    return {
        wanted: Figure(
            statistics.median(figure.seconds for figure in found),
            statistics.median(figure.processor for figure in found),
            max(figure.parent for figure in found),
            max(figure.worker for figure in found),
        )
        for wanted, found in figures.items()
    }


def table(figures: dict[Run, Figure], rounds: int, load: float) -> str:
    lines = [
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, page cache warm, median of {rounds} round{'s' * (rounds > 1)} in turn in "
        f"one run; load of the machine before {load:.1f}, at the end (two workers included) {os.getloadavg()[0]:.1f}.",
        "`ckptfix inspect FOLDER --ndjson --jobs N`; every result was there, in order.",
        "",
        "| files | jobs | seconds | ratio | processor seconds | peak MB of the command | of its largest worker |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = {wanted.group: figure.seconds for wanted, figure in figures.items() if wanted.jobs == 1}
    for wanted, figure in figures.items():
        worker = f"{figure.worker:.0f}" if wanted.jobs > 1 else ""
        ratio = f"{alone[wanted.group] / figure.seconds:.2f}" if wanted.group in alone else ""
        lines.append(
            f"| {wanted.group} | {wanted.jobs} | {figure.seconds:.2f} | {ratio} | {figure.processor:.2f} "
            f"| {figure.parent:.0f} | {worker} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--small", type=int, default=200, help="how many small files")
    parser.add_argument("--large", type=int, default=20, help="how many large files")
    parser.add_argument("--folder", type=Path, help="where the files go (3 GB); default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="write the table beside this script")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options.rounds, Path(folder), options.small, options.large)
    text = table(figures, options.rounds, load)
    print(text)
    if options.save:
        (HERE / "batches.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

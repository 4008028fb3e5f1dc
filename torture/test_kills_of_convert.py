"""`ckptfix convert` killed at random moments: the old file or the whole new one, and no litter but what SIGKILL leaves.

The seed is in the test's name: repeat one with -k.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.arrivals import nested, saved

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
KILLS = 40  # by seed
OLD = b"the old file" * 1000


OUT = "out.safetensors"


def command(source: Path) -> list[str]:
    """Run in the folder of the output: the proof holds the path as it was given."""
    return [sys.executable, "-m", "ckptfix", "-q", "convert", str(source), "--out", OUT, "--force", "--proof"]


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "adapter.bin"
    path.write_bytes(saved(nested()))
    return path


@pytest.fixture(scope="module")
def run(source: Path) -> tuple[dict[str, bytes], float]:
    """What a run that nobody disturbs writes, by name, and how many seconds it takes."""
    folder = source.parent / "undisturbed"
    folder.mkdir()
    started = time.monotonic()
    subprocess.run(command(source), cwd=folder, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, time.monotonic() - started


@pytest.mark.parametrize("seed", range(8))
def test_convert_killed_at_any_moment(
    tmp_path: Path, source: Path, run: tuple[dict[str, bytes], float], seed: int
) -> None:
    new, seconds = run
    chance = random.Random(seed)
    for _ in range(KILLS):
        number = chance.choice(list(EXIT_CODES))
        for name in new:
            (tmp_path / name).write_bytes(OLD)
        process = subprocess.Popen(command(source), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # most of the run is start-up: aim at its last half, where the file is written
        time.sleep(chance.uniform(0.4, 1.1) * seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        told = f"seed {seed}, {number.name}, exit {process.returncode}: {err.decode()}"
        # -number: before Python or the command has its handlers, and after it has given them back
        expect(process.returncode in (0, EXIT_CODES[number], -number), told)
        expect(b"Traceback" not in out + err, told)
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        litter = found.keys() - new.keys()
        expect(all(name.startswith(".ckptfix-") and name.endswith(".tmp") for name in litter), told)
        expect(not litter or number == signal.SIGKILL, f"{told} left {litter}")
        for name, data in new.items():
            expect(found.get(name) in (OLD, data), f"{told}: {name} is neither old nor new")
        expect(process.returncode != 0 or all(found[name] == data for name, data in new.items()), told)
        if number == signal.SIGKILL:
            subprocess.run(command(source), cwd=tmp_path, check=True, capture_output=True)
            left = {path.name for path in tmp_path.iterdir()} - new.keys()
            expect(not left, f"{told}: the next run left {left}")
    expect(source.read_bytes() == saved(nested()), "the input was modified")

"""inspect on any hostile file: at most 150 MB and 2 s, and an answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.bombs import BOMBS

MEMORY = 150 << 20  # bytes, the interpreter included
SECONDS = 2.0  # of processor time, the best of three runs: a busy machine shares its caches too

# The peak is the process's own: ru_maxrss would count what its parent held when it was forked.
MEASURED = """
import resource, sys
from ckptfix.cli import run
code = run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(used.ru_utime + used.ru_stime, peak.split()[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_inspect_answers_within_150_mb_and_2_s(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb.bin"
    BOMBS[kind](path)
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=SECONDS) >= SECONDS:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "inspect", str(path), "--json"],
            capture_output=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            timeout=60,
        )
        assert done.returncode in (1, 3, 4)
        assert len(done.stdout) < 32 << 20
        *told, figures = done.stderr.decode().splitlines()
        assert not any("Traceback" in line for line in told)
        seconds.append(float(figures.split()[0]))
        assert int(figures.split()[1]) * 1024 < MEMORY
    assert min(seconds) < SECONDS
    assert [entry.name for entry in tmp_path.iterdir()] == ["bomb.bin"]

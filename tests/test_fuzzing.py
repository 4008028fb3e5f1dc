"""What the fuzzer found once stays mended, and a few thousand mutants find nothing; a million are `make fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def fuzz(*options: str) -> str:
    """Its report; in a process of its own, since its watch on audit events cannot be taken off again."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_finds_stay_mended() -> None:
    assert fuzz("--replay").splitlines()[-1].endswith(" 0 still do harm")


@pytest.mark.slow
def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    report = fuzz("--seed", "2024", "--count", "4000", "--finds", str(tmp_path))
    assert "4,000 mutants" in report
    assert not list(tmp_path.iterdir())

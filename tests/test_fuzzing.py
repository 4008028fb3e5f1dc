"""What the fuzzer found once stays mended, and a few thousand mutants find nothing; a million are `make fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FINDS = ROOT / "tests" / "fixtures" / "fuzz_finds"


def test_old_finds_stay_mended_and_a_short_run_finds_nothing() -> None:
    """In a process of its own, since its watch on audit events cannot be taken off again."""
    kept = sorted(FINDS.iterdir())
    command = [sys.executable, "-m", "tests.fuzzing", "--seed", "2024", "--count", "3000", "--seconds", "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{len(kept)} finds, 0 still do harm\nseed 2024: 3,000 mutants ")
    assert sorted(FINDS.iterdir()) == kept

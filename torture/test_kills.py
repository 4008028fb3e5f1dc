"""Hundreds of kills at random moments: `make torture`. The seed is in the test's name: repeat one with -k."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.killing import assert_next_run_cleans, kill_once

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ROUNDS = 25


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("force", [True, False], ids=["force", "keep"])
def test_old_or_new_file_after_every_kill(tmp_path: Path, seed: int, force: bool) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        kill_once(tmp_path, chance.choice(SIGNALS), force=force, chance=chance)
    assert_next_run_cleans(tmp_path)

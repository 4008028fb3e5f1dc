"""Kill the careful writer hundreds of times at random moments: `python -m tests.torture [KILLS]`, or `make torture`.

Each run must leave the old file or the whole new one, and nothing else but what the next run cleans up.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.killing import assert_next_run_cleans, kill_once

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's choice of moments")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{arguments.kills} kills, seed {seed}", flush=True)
    chance, start = random.Random(seed), time.monotonic()
    for force in (True, False):
        with tempfile.TemporaryDirectory(prefix="ckptfix-torture-") as folder:
            for number in range(arguments.kills // 2):
                kill_once(Path(folder), SIGNALS[number % len(SIGNALS)], force=force, chance=chance)
                if not force:
                    (Path(folder) / "target.bin").unlink(missing_ok=True)
            assert_next_run_cleans(Path(folder))
        print(f"  {'replacing' if force else 'creating'}: the old file or the whole new one, each time", flush=True)
    print(f"done in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

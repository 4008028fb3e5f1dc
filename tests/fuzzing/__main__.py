"""`python -m tests.fuzzing`: old finds, then mutants until a count or a time is reached; exit 1 if one did harm.

`--first` goes on where an earlier run of the same seed ended: a campaign is split into ranges of one seed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.bases import all_bases
from tests.fuzzing.campaign import Tally, campaign, fast_folder, warm_up
from tests.fuzzing.finds import FOLDER, all_finds, keep, load
from tests.fuzzing.judge import FindError, Judge


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="stop after this time (default 60)")
    parser.add_argument("--count", type=int, default=10**9, help="stop after this many mutants")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other mutants (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    parser.add_argument("--finds", type=Path, default=FOLDER, help="folder that keeps what is found, as text")
    given = parser.parse_args()
    bases = all_bases()
    warm_up(bases)
    if replay(given.finds):
        return 1
    started = time.monotonic()
    tally, numbers = Tally(), range(given.first, given.first + given.count)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends the run; what was done is reported
        for tally in campaign(bases, given.seed, numbers, seconds=given.seconds, jobs=given.jobs):
            tell(tally, given, time.monotonic() - started)
    report(tally, given.seed, time.monotonic() - started)
    return 1 if tally.finds else 0


def tell(tally: Tally, given: argparse.Namespace, seconds: float) -> None:
    """Keep what is new at once, and show on a terminal how far the run is."""
    for find in tally.finds.values():
        if find.path is None:
            what = f"seed {given.seed}, mutant {find.number} of {find.base}: {find.kind} at {find.place}"
            find.path = keep(find.data, what + "\n" + find.detail, folder=given.finds)
            print(f"kept {find.path}: {what}", flush=True)
    if sys.stderr.isatty():
        print(f"\r{tally.mutants:,} mutants, {len(tally.finds)} finds, {seconds:,.0f} s", end="", file=sys.stderr)


def report(tally: Tally, seed: int, seconds: float) -> None:
    print(f"seed {seed}: {tally.mutants:,} mutants in {seconds:,.0f} s, {tally.mutants / max(seconds, 0.001):,.0f}/s")
    for outcome, number in tally.outcomes.most_common():
        print(f"  {number:>10,}  {outcome}")
    print(f"slowest: {tally.slowest:.3f} s of processor time (mutant {tally.slowest_number})")
    for name, counts in sorted(tally.by_base.items()):
        print(f"  {name}: " + ", ".join(f"{number:,} {outcome}" for outcome, number in counts.most_common()))
    print(f"finds: {len(tally.finds)}")
    for key, number in tally.found.most_common():
        find = tally.finds[key]
        print(f"  {number:,} × {find.kind} at {find.place} (first: mutant {find.number} of {find.base})")
        print("    " + "\n    ".join(find.detail.strip().splitlines()[-6:]))


def replay(folder: Path) -> bool:
    """Judge every find again, by all commands, in a process of its own; whether one still does harm."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_replay, args=(folder,))
    process.start()
    process.join()
    return process.exitcode != 0


def _replay(folder: Path) -> None:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="ckptfix-fuzz-", dir=fast_folder()) as name:
        tempfile.tempdir = name
        judge = Judge(Path(name))
        finds = all_finds(folder)
        for path in finds:
            try:
                judge.judge(load(path), commands=True, converts=True)
            except FindError as error:
                failed += 1
                print(f"{path.name}: {error}")
    print(f"{len(finds)} finds, {failed} still do harm", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())

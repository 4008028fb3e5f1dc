"""Runs mutants in batches, each in a process of its own, so that a crash or a hang costs one batch and is known."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzzing.bases import Base
from tests.fuzzing.judge import FindError, Judge
from tests.fuzzing.mutations import mutate

BATCH = 2_000
SILENCE = 60.0  # seconds without a new mutant, after which a process counts as hung where no alarm reaches it
_COMMANDS_EVERY = 250

Key = tuple[str, str]


@dataclass(slots=True)
class Find:
    """`path` is where it is kept as text."""

    number: int
    base: str
    kind: str
    place: str
    detail: str
    data: bytes
    path: Path | None = None

    @property
    def key(self) -> Key:
        return self.kind, self.place


@dataclass(slots=True)
class Tally:
    """`finds` keeps the first of each kind and place; `found` counts them all."""

    mutants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    by_base: dict[str, Counter[str]] = field(default_factory=dict)
    finds: dict[Key, Find] = field(default_factory=dict)
    found: Counter[Key] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_number: int = -1

    def add(self, other: Tally) -> None:
        self.mutants += other.mutants
        self.outcomes += other.outcomes
        for name, counts in other.by_base.items():
            self.by_base.setdefault(name, Counter()).update(counts)
        for key, find in other.finds.items():
            self.finds.setdefault(key, find)
        self.found += other.found
        if other.slowest > self.slowest:
            self.slowest, self.slowest_number = other.slowest, other.slowest_number


def mutant(bases: list[Base], seed: int, number: int) -> tuple[Base, bytes]:
    """Mutant `number` of a seed, the same on every machine."""
    chance = Random(f"{seed}/{number}")
    (base,) = chance.choices(bases, [base.weight for base in bases])
    return base, mutate(base.sample.copy(), chance)


def run_batch(bases: list[Base], seed: int, numbers: range, progress: Any) -> Tally:
    """Judge a range of mutants in this process."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="ckptfix-fuzz-", dir=fast_folder()) as name:
        tempfile.tempdir = name  # what is unpacked goes where writing is allowed
        judge = Judge(Path(name))
        for number in numbers:
            progress.value = number
            base, data = mutant(bases, seed, number)
            started = time.process_time()
            try:
                commands = number % _COMMANDS_EVERY == 0
                outcome = judge.judge(data, commands=commands, converts=base.adapter)
            except FindError as error:
                outcome = "find"
                find = Find(number, base.name, error.kind, error.place, error.detail, data)
                tally.finds.setdefault(find.key, find)
                tally.found[find.key] += 1
            spent = time.process_time() - started
            if spent > tally.slowest:
                tally.slowest, tally.slowest_number = spent, number
            tally.mutants += 1
            tally.outcomes[outcome] += 1
            tally.by_base.setdefault(base.name, Counter())[outcome.split(":")[0]] += 1
        tempfile.tempdir = None
    return tally


def fast_folder() -> str | None:
    """A folder in memory where there is one: a million files need not reach a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def campaign(bases: list[Base], seed: int, chosen: range, *, seconds: float, jobs: int) -> Iterator[Tally]:
    """Batches until the chosen numbers or `seconds` are used up; yields the sum after each. `warm_up` comes before."""
    gc.freeze()  # children share these pages
    context = multiprocessing.get_context("fork")
    total = Tally()
    running: dict[Connection, tuple[Any, range, Any, list[Any]]] = {}
    started, first = time.monotonic(), chosen.start
    while True:
        while len(running) < jobs and first < chosen.stop and time.monotonic() - started < seconds:
            numbers = range(first, min(first + BATCH, chosen.stop))
            first = numbers.stop
            ours, theirs = context.Pipe(duplex=False)
            progress = context.Value("q", -1, lock=False)
            process = context.Process(target=_child, args=(theirs, bases, seed, numbers, progress))
            process.start()
            theirs.close()
            running[ours] = (process, numbers, progress, [None, time.monotonic()])
        if not running:
            return
        ready = wait(list(running), timeout=1)
        for connection in list(running):
            process, numbers, progress, seen = running[connection]
            if seen[0] != progress.value:
                seen[:] = [progress.value, time.monotonic()]
            silent = time.monotonic() - seen[1] > SILENCE
            if connection in ready or silent:
                if silent:
                    process.kill()
                total.add(_collect(connection, process, bases, seed, numbers, progress.value))
                del running[connection]
                yield total


def _child(pipe: Connection, bases: list[Base], seed: int, numbers: range, progress: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which reports
    pipe.send(run_batch(bases, seed, numbers, progress))
    pipe.close()


def _collect(connection: Connection, process: Any, bases: list[Base], seed: int, numbers: range, last: int) -> Tally:
    """A batch's tally; of a process that died, the mutant that killed it."""
    try:
        tally: Tally = connection.recv()
    except EOFError:
        process.join()
        if process.exitcode > 0:
            raise SystemExit(f"the fuzzer itself failed at mutant {last}") from None
        base, data = mutant(bases, seed, last)
        find = Find(last, base.name, "crash or hang", f"exit {process.exitcode}", "the process died", data)
        tally = Tally(mutants=last - numbers.start + 1, finds={find.key: find}, found=Counter([find.key]))
    process.join()
    connection.close()
    return tally


def warm_up(bases: list[Base]) -> None:
    """Import what reading imports late, so that an import while a file is judged is a breach."""
    import encodings.cp437
    import encodings.raw_unicode_escape
    import encodings.utf_16  # noqa: F401
    import pkgutil

    import ckptfix.formats

    for module in pkgutil.iter_modules(ckptfix.formats.__path__, "ckptfix.formats."):
        importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(prefix="ckptfix-fuzz-") as name:
        out = Path(name) / "out"
        out.mkdir()
        for base in bases:
            path = Path(name) / "base.bin"
            path.write_bytes(base.sample.copy().build())
            _use_all(path, out / "fixed.safetensors")


def _use_all(path: Path, out: Path) -> None:
    import contextlib
    import io

    from ckptfix.cli import run

    for command in (
        ["inspect", str(path), "--json", "--checksums"],
        ["inspect", str(path), "--values"],
        ["convert", str(path), "--out", str(out), "--force"],
    ):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(command)

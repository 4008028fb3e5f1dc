"""Workers: order, a bounded window, workers that are really killed, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from ckptfix.workers import in_order

ROOT = Path(__file__).parents[1]


def work(word: str) -> str:
    """Slower the earlier the word; `die` kills the process, `die-once FILE` the first one only, `bug` is one."""
    order, _, file = word.partition(" ")
    if order == "die" or (order == "die-once" and not Path(file).exists()):
        if file:
            Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "bug":
        raise KeyError(word)
    if order == "sleep":
        Path(file, str(os.getpid())).touch()
        time.sleep(60)
    time.sleep(0.05 if word < "c" else 0)
    return word.upper()


def died(word: str) -> str:
    return f"{word} died"


def test_results_come_in_order() -> None:
    assert list(in_order(work, "abcdefgh", died=died, jobs=3)) == list("ABCDEFGH")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_worker_that_is_killed_costs_only_its_own_result(tmp_path: Path) -> None:
    once = f"die-once {tmp_path / 'seen'}"
    words = ["a", once, "b", "c", "d", "e", "die", "f", "die", "g"]  # no `die` in the window in which `once` first runs
    results = list(in_order(work, words, died=died, jobs=2))
    assert results == ["A", once.upper(), "B", "C", "D", "E", "die died", "F", "die died", "G"]


def test_a_bug_in_a_worker_looks_like_one() -> None:
    with pytest.raises(KeyError, match="bug"):
        list(in_order(work, ["a", "bug", "c"], died=died, jobs=2))


def test_no_more_is_taken_than_the_window_holds() -> None:
    taken: list[str] = []

    def arguments() -> Iterator[str]:
        for number in range(100):
            taken.append(str(number))
            yield str(number)

    with ThreadPoolExecutor(2) as pool:
        results = in_order(work, arguments(), died=died, jobs=2, executor=pool)
        for number in range(100):
            assert next(results) == str(number)
            assert len(taken) <= number + 4
        assert next(results, None) is None


def test_a_broken_executor_of_the_caller_gives_results_for_all() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        results = list(in_order(work, ["a", "die", "c", "d", "e", "f"], died=died, jobs=1, executor=pool))
    assert results[:2] == ["A", "die died"]
    assert results[3:] == ["d died", "e died", "f died"]


class Failing(Executor):
    """Each call ends in this exception, as a pool whose worker has died gives it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit(self, call: object, /, *arguments: object, **options: object) -> Future[str]:  # type: ignore[override]
        future: Future[str] = Future()
        future.set_exception(self.error)
        return future


def test_a_worker_that_dask_gives_up_is_a_dead_one() -> None:
    from distributed import KilledWorker

    gone = KilledWorker("task", None, 3)  # type: ignore[arg-type]
    for error in (gone, BrokenProcessPool("died")):
        assert list(in_order(work, "ab", died=died, jobs=1, executor=Failing(error))) == ["a died", "b died"]
    with pytest.raises(KeyError):
        list(in_order(work, "ab", died=died, jobs=1, executor=Failing(KeyError())))


# -- nothing is left behind --------------------------------------------------------------------------------------------


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.wait_procs(processes, timeout=10)[1] if process.status() != "zombie"]


def test_closing_ends_workers_in_the_midst_of_a_call(tmp_path: Path) -> None:
    results = in_order(work, ["a", *[f"sleep {tmp_path}"] * 6], died=died, jobs=2)
    assert next(results) == "A"
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    workers = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10
    assert still_running(workers) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"from tests.test_workers import *\nlist(in_order(work, ['sleep {tmp_path}'] * 4, died=died, jobs=2))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        while len(list(tmp_path.iterdir())) < 2:
            assert parent.poll() is None
            time.sleep(0.02)
        workers = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        parent.kill()
    assert still_running(workers) == []

"""Calls spread over worker processes, or over any executor; their results in the order of their arguments.

A pool's workers hold a lifeline: the end of a pipe whose other end this process has. It closes when we close it or die,
and then they end at once, in the midst of a call too. (`ProcessPoolExecutor` alone waits for running calls, and its
workers outlive a killed parent: each keeps the queue open that it waits on.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures.process import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


def in_order(
    call: Callable[[str], T],
    arguments: Iterable[str],
    *,
    died: Callable[[str], T],
    jobs: int,
    executor: Executor | None = None,
) -> Iterator[T]:
    """`call` of each argument, in order, at most 2 x `jobs` of them submitted and not yet taken.

    Without `executor` in a pool of `jobs` processes. If one of them is killed, whatever had not finished is tried
    again, each argument alone in a new process; `died` makes the result of one that kills that too, and of all that a
    broken `executor` leaves. Any other exception of `call` is raised. Closing the iterator ends the pool's work.
    """
    waiting = iter(arguments)
    pending: deque[tuple[str, Future[T]]] = deque()
    pool: Executor | None = executor
    try:
        while True:
            for argument in islice(waiting, 2 * jobs - len(pending)):
                pool = pool or WorkerPool(jobs)
                pending.append((argument, _submitted(pool, call, argument)))
            if not pending:
                return
            if not _broke(pending[0][1]):
                yield pending.popleft()[1].result()
            elif isinstance(pool, WorkerPool):
                pool.kill()
                pool = None
                while pending:
                    argument, future = pending.popleft()
                    yield _alone(call, argument, died) if _broke(future) else future.result()
            else:
                yield died(pending.popleft()[0])
    finally:
        if isinstance(pool, WorkerPool):
            pool.kill()
        else:
            for _, future in pending:
                future.cancel()


class WorkerPool(ProcessPoolExecutor):
    """A pool of new processes (not forked: threads of the caller's could hold locks) that end when it is told to."""

    def __init__(self, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        far, self._lifeline = context.Pipe(duplex=False)
        self._far = far  # open until every worker has its copy
        super().__init__(jobs, mp_context=context, initializer=_hold, initargs=(far,))

    def kill(self) -> None:
        """End the workers at once, and wait until they have ended."""
        self._lifeline.close()
        self.shutdown(wait=True, cancel_futures=True)
        self._far.close()


def _hold(lifeline: Connection) -> None:
    """In a worker: end when the lifeline does. Ctrl-C reaches every process of a terminal; only the parent answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _submitted(pool: Executor, call: Callable[[str], T], argument: str) -> Future[T]:
    try:
        with _without_interrupts():
            return pool.submit(call, argument)
    except BrokenExecutor as error:  # a worker died since the last call
        future: Future[T] = Future()
        future.set_exception(error)
        return future


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start in this block never get Ctrl-C: they inherit the mask, which is there before `_hold` is."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _broke(future: Future[T]) -> bool:
    """Whether the process that had the call is gone; waits for the end of the call.

    Dask says so with an exception of its own, after tries of its own (distributed, scheduler.py: KilledWorker).
    """
    killed = getattr(sys.modules.get("distributed"), "KilledWorker", BrokenExecutor)
    return isinstance(future.exception(), BrokenExecutor | killed)


def _alone(call: Callable[[str], T], argument: str, died: Callable[[str], T]) -> T:
    pool = WorkerPool(1)
    try:
        future = _submitted(pool, call, argument)
        return died(argument) if _broke(future) else future.result()
    finally:
        pool.kill()

"""One ``map`` over jobs: in this process, over threads of it, over spawned workers, or over a Ray cluster.

A job is a block to collect or a run to train: it stands for itself, so it may be done again, and anywhere.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, connection, get_context, parent_process
from types import FrameType
from typing import Any, Protocol, TypeVar

from dom2data.errors import FAILED, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

RETRIES = 2
"""how often jobs are done again whose worker was killed"""
NAMES = ("local", "threads", "processes", "ray")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_STOP = {signal.SIGINT, signal.SIGTERM}
_interrupts: list[int] = []
"""those that a worker got while its job did not heed any; the parent sends them when it stops"""


class Executor(Protocol):
    """Where jobs are done. ``function`` must be a module's function, or a ``partial`` of one."""

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        """``function(job)`` for every job, in the order of completion.

        ``needs`` are files (paths or URLs) that wherever a job is done must be the same as here. An exception
        of a job ends it; interrupted or closed early, it drops the jobs not yet begun. Raises UserError: code
        1 when a worker dies again and again, 3 when a worker has other code or other files.
        """
        ...


def choose(
    name: str | None = None,
    workers: int = 1,
    address: str | None = None,
    gpus: float = 0.0,
    threads: bool = False,
) -> Executor:
    """The executor of a command line; without a name, threads or processes where there are several workers.

    ``threads``: whether jobs may be threads of one process, which then is the better choice.
    ``address`` of a Ray cluster; ``gpus`` that one of its jobs takes. Raises UserError for an unknown name,
    or where Ray's options are given to another.
    """
    name = name or ("local" if workers == 1 else "threads" if threads else "processes")
    names = [known for known in NAMES if threads or known != "threads"]
    if name not in names:
        raise UserError(f"expected an executor ({', '.join(names)}), found {name!r}; choose one")
    if name == "ray":
        from dom2data.on_ray import Ray

        return Ray(workers, address, gpus)
    if address or gpus:
        flag = "--address" if address else "--gpus"
        raise UserError(f"expected --executor ray with {flag}, found {name}; give both or neither")
    if name == "local" and workers > 1:
        many = "threads" if threads else "processes"
        raise UserError(f"expected one worker with --executor local, found {workers}; {many} has many")
    if name == "local":
        return Local()
    return Threads(workers) if name == "threads" else Processes(workers)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def interrupted() -> bool:
    """Whether this process is a worker that was told to stop before its job could heed it."""
    return bool(_interrupts)


@dataclass(frozen=True)
class Local:
    """In this process, one job after another, in their order."""

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        with one_thread():
            yield from map(function, jobs)


@dataclass(frozen=True)
class Threads:
    """Over threads of this process, for jobs that spend their time outside the interpreter."""

    workers: int

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        count = min(self.workers, len(jobs))
        if count <= 1:
            yield from Local().map(function, jobs)
            return
        with one_thread(), ThreadPoolExecutor(count) as pool:  # leaving waits for the jobs begun
            yield from _busy(lambda job: pool.submit(function, job), count, deque(jobs), {})


@dataclass(frozen=True)
class Processes:
    """Over spawned processes on this machine, of one thread each."""

    workers: int

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        if min(self.workers, len(jobs)) <= 1:
            yield from Local().map(function, jobs)  # a process would take longer to start
            return
        left = deque(jobs)
        for _ in range(RETRIES + 1):
            try:
                with _terminated_as_interrupted():
                    yield from self._attempt(function, left)
                return
            except BrokenProcessPool:
                continue
        raise UserError(
            f"expected every worker to finish, found one killed {RETRIES + 1} times (out of memory?); "
            "fewer processes at once need less of it (--workers, --jobs)",
            FAILED,
        )

    def _attempt(self, function: Callable[[Job], Result], left: deque[Job]) -> Generator[Result]:
        """Do the jobs in ``left``; those lost with a killed worker are put back, then it raises."""
        count, others = min(self.workers, len(left)), set(active_children())
        pool = ProcessPoolExecutor(count, get_context("spawn"), _start_worker)
        running: dict[Future[Result], Job] = {}
        try:
            yield from _busy(partial(_submit, pool, function), count, left, running)
        except BrokenProcessPool:
            left.extendleft(reversed(running.values()))
            raise
        except (KeyboardInterrupt, GeneratorExit):  # here, or where the results went
            for worker in set(active_children()) - others:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(worker.pid or 0, signal.SIGINT)
            raise
        finally:
            _close(pool)


def _busy(
    submit: Callable[[Job], Future[Result]],
    count: int,
    left: deque[Job],
    running: dict[Future[Result], Job],
) -> Generator[Result]:
    """Move jobs from ``left`` to ``running`` and yield what becomes of them."""
    while left or running:
        # Never more than are being worked at: a job handed over can no longer be dropped.
        while left and len(running) < count:
            running[submit(left[0])] = left[0]
            left.popleft()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            if isinstance(future.exception(), BrokenProcessPool):
                raise future.exception() or BrokenProcessPool
            del running[future]
            yield future.result()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """While entered, SIGTERM is one interrupt, however often it comes: ``timeout`` sends it twice.

    Where it would have ended the process, that is; whoever has it handled or ignored goes on to.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    main = threading.main_thread()
    if threading.current_thread() is not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if threading.current_thread() is main:  # which a generator that is closed late may not be in
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Result], job: Job) -> Future[Result]:
    """A worker that this starts keeps interrupts back until it can heed them (``_start_worker``)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        return pool.submit(_begin, function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(function: Callable[[Job], Result], job: Job) -> Result:
    """In a worker, which may have been interrupted while it imported what the job needs."""
    if interrupted():
        raise KeyboardInterrupt
    return function(job)


def _close(pool: ProcessPoolExecutor) -> None:
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except KeyboardInterrupt:  # the second one
        for worker in active_children():
            worker.kill()
        raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: small batches gain nothing from more, and the order of sums stays fixed.

    Collecting does without torch, so it is not imported here; an environment that does finds one thread.
    """
    torch: Any = sys.modules.get("torch")
    before = cores() if torch is None else torch.get_num_threads()
    environment = {name: os.environ.get(name) for name in _THREADS}
    if torch is None:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    else:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(before)


def _start_worker() -> None:
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # before numpy, torch and numba are imported
    os.setpgrp()  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
    # A worker finishes its block, unless its job knows better, and begins no other.
    signal.signal(signal.SIGINT, lambda number, _: _interrupts.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent would leave its workers waiting for jobs for ever."""
    parent: Any = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

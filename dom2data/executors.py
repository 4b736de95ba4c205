"""Executors with one ``map`` over jobs: in this process, in threads, in spawned workers, or on a Ray cluster.

A job is a block to collect or a run to train. It is self-contained, so it can be repeated, and run anywhere.
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
"""how many times jobs are repeated whose worker was killed"""
NAMES = ("local", "threads", "processes", "ray")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_STOP = {signal.SIGINT, signal.SIGTERM}
_interrupts: list[int] = []
"""interrupts that a worker received and its job did not handle; the parent sends them when it stops"""


class Executor(Protocol):
    """Runs jobs. ``function`` must be a module-level function, or a ``partial`` of one."""

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        """Yield ``function(job)`` for every job, in the order of completion.

        ``needs`` are files (paths or URLs) that must be the same here and wherever jobs run. An exception in
        a job ends the iteration. When interrupted or closed early, jobs not yet started are dropped. Raises
        UserError: code 1 when a worker dies repeatedly, 3 when a worker has other code or other files.
        """
        ...


def choose(
    name: str | None = None,
    workers: int = 1,
    address: str | None = None,
    gpus: float = 0.0,
    threads: bool = False,
) -> Executor:
    """Return the executor for command-line options; without a name, threads or processes if several workers.

    ``threads``: whether jobs may run in threads of one process, which is then preferred. ``address``: that of
    a Ray cluster; ``gpus``: GPUs per job there. Raises UserError for an unknown name, for Ray's options with
    another executor, or for several workers with ``local``.
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def interrupted() -> bool:
    """Whether this process is a worker that was interrupted before its job could handle it."""
    return bool(_interrupts)


@dataclass(frozen=True)
class Local:
    """Runs jobs in this process, one after another, in order."""

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        with one_thread():
            yield from map(function, jobs)


@dataclass(frozen=True)
class Threads:
    """Runs jobs in threads of this process, for jobs that mostly release the GIL."""

    workers: int

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        count = min(self.workers, len(jobs))
        if count <= 1:
            yield from Local().map(function, jobs)
            return
        with one_thread(), ThreadPoolExecutor(count) as pool:  # leaving waits for the jobs already started
            yield from _busy(lambda job: pool.submit(function, job), count, deque(jobs), {})


@dataclass(frozen=True)
class Processes:
    """Runs jobs in spawned processes on this machine, with one thread each."""

    workers: int

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        if min(self.workers, len(jobs)) <= 1:
            yield from Local().map(function, jobs)  # starting a process would take longer
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
        """Run the jobs in ``left``; if a worker is killed, put its jobs back and raise BrokenProcessPool."""
        count, others = min(self.workers, len(left)), set(active_children())
        pool = ProcessPoolExecutor(count, get_context("spawn"), _start_worker)
        running: dict[Future[Result], Job] = {}
        try:
            yield from _busy(partial(_submit, pool, function), count, left, running)
        except BrokenProcessPool:
            left.extendleft(reversed(running.values()))
            raise
        except (KeyboardInterrupt, GeneratorExit):  # raised here, or in the consumer of the results
            for worker in set(active_children()) - others:
                with suppress(ProcessLookupError):  # the worker has just ended
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
    """Move jobs from ``left`` to ``running`` and yield their results."""
    while left or running:
        # Submit only as many as can run now, because a submitted job can no longer be dropped.
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
    """While entered, treat SIGTERM as one interrupt, however often it comes: ``timeout`` sends it twice.

    Applies only in the main thread, and if SIGTERM would end the process: another handler is left in place.
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
        if threading.current_thread() is main:  # a generator may be closed late, in another thread
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Result], job: Job) -> Future[Result]:
    """Submit a job; a worker that this starts blocks interrupts until ``_start_worker``."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        return pool.submit(_begin, function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(function: Callable[[Job], Result], job: Job) -> Result:
    """Run a job in a worker, unless it was interrupted while importing what the job needs."""
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
    """Use one thread in torch: small batches gain nothing from more, and the order of sums stays fixed.

    Collecting does not need torch, so it is not imported here; if an environment imports it, it gets one.
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
    # A worker finishes its block, unless its job handles interrupts itself, and starts no other.
    signal.signal(signal.SIGINT, lambda number, _: _interrupts.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Exit when the parent is killed, because the worker would otherwise wait for jobs forever."""
    parent: Any = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

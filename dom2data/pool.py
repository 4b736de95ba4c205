"""The same map over jobs in this process or over spawned workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process
from typing import TypeVar

from dom2data.errors import FAILED, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Generator[Result]:
    """``function(job)`` for every job, in the order of completion; with one worker, here and in order.

    Interrupted, it drops the jobs not yet begun, passes the interrupt on to the workers once, waits for them,
    and raises; ``function`` must be a module's function. Raises UserError (code 1) when a worker dies.
    """
    if min(workers, len(jobs)) <= 1:
        with one_thread():
            yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _start_worker)
    waiting = iter(jobs)
    try:
        # Never more than are being worked at: a job handed over can no longer be dropped.
        running = {pool.submit(function, job) for job in islice(waiting, workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(function, job) for job in islice(waiting, len(done))}
            for future in done:
                yield future.result()
    except KeyboardInterrupt:
        for worker in active_children():
            os.kill(worker.pid or 0, signal.SIGINT)
        raise
    except BrokenProcessPool as error:
        message = "expected every worker to finish, found one killed (out of memory?); rerun with --workers 1"
        raise UserError(message, FAILED) from error
    finally:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:  # the second one
            for worker in active_children():
                worker.kill()
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: small batches gain nothing from more, and the order of sums stays fixed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker() -> None:
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # before numpy, torch and numba are imported
    os.setpgrp()  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker finishes its block, unless its job knows better
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _die_with_parent() -> None:
    """A killed parent would leave its workers waiting for jobs for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

"""The executor for a Ray cluster: one started here, or an existing one.

Ray schedules jobs, restarts them when a worker or a node dies, and transfers their results. This module only
uses it, after checking that the other nodes would compute the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.executors import RETRIES, one_thread

Job = TypeVar("Job")
Result = TypeVar("Result")

REACH_S = 10.0
"""seconds within which a cluster must respond"""
LOOK_S = 60.0
"""seconds that the check of a node may take"""
SAVE_S = 60.0
"""seconds that interrupted jobs have for saving"""
_PACKAGES = ("dom2_policies", "dom2data", "dom2")
_VERSIONS = ("dom2", "numpy", "torch", "numba", "mujoco", "zarr")


@dataclass(frozen=True)
class Ray:
    """Runs ``workers`` jobs in parallel (0: one per core of the cluster), each on one core and ``gpus`` GPUs.

    Without ``address`` (``host:port``, ``auto``, ``ray://...``), Ray is started locally for the lifetime of
    this process.
    """

    workers: int = 0
    address: str | None = None
    gpus: float = 0.0

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Sequence[str] = ()
    ) -> Generator[Result]:
        if not jobs:
            return
        ray = connect(self.address, self.workers)
        look(ray, needs)
        task = ray.remote(_do if self.gpus else _without_gpu).options(
            num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES
        )
        self._require_room(ray)
        count = self.workers or int(ray.cluster_resources().get("CPU", 1))
        waiting = iter(jobs)
        running = [task.remote(function, job) for job in islice(waiting, count)]
        try:
            while running:
                done, running = ray.wait(running)
                running += [task.remote(function, job) for job in islice(waiting, len(done))]
                for reference in done:
                    yield _result(ray, reference)
        finally:
            _stop(ray, running)

    def _require_room(self, ray: Any) -> None:
        """Raises UserError for more GPUs than any node has: such a job would wait forever."""
        most = max((node["Resources"].get("GPU", 0.0) for node in _alive(ray)), default=0.0)
        if self.gpus > most:
            raise UserError(f"expected a node with {self.gpus:g} GPUs, found at most {most:g}; ask for fewer")


def connect(address: str | None, workers: int) -> Any:
    """Connect to Ray and return the module. Raises UserError: code 2 when Ray is not installed, 1 when it
    cannot be reached, 3 when the cluster has another version of Ray or of Python."""
    try:
        import ray
    except ImportError as error:
        raise UserError("expected Ray, found it not installed; pip install 'dom2[ray]'") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        quiet |= {"num_cpus": workers or None, "include_dashboard": False, "object_store_memory": 100_000_000}
    try:
        if address:
            _answers(address)
        with _importing_the_same():
            ray.init(address or "local", **quiet)
    except Exception as error:  # Ray raises many types
        reason = " ".join(str(error).split()) or type(error).__name__
        if "ersion mismatch" in reason:
            message = f"expected the Ray and Python of this machine on {address}, found: {reason[:300]}"
            raise UserError(f"{message}; install the same versions", CHECK_FAILED) from error
        raise UserError(
            f"expected to reach Ray at {address or 'this machine'}, found: {reason[:300]}; "
            "`ray status --address ADDRESS` tells whether a cluster is there",
            FAILED,
        ) from error
    return ray


@contextmanager
def _importing_the_same() -> Iterator[None]:
    """Let workers of a local Ray find the same modules as this process, as spawned workers do."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _answers(address: str) -> None:
    """Raises OSError if nothing listens at the address: Ray itself would keep trying for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


def look(ray: Any, needs: Sequence[str]) -> None:
    """Raises UserError (code 3) when a node has other code, versions or files than this machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    expected = identity(needs)
    asked = {
        ray.remote(identity)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(needs): node["NodeManagerHostname"]
        for node in _alive(ray)
    }
    for reference, host in asked.items():
        try:
            found = ray.get(reference, timeout=LOOK_S)
        except Exception as error:
            reason = " ".join(str(error).split())[-200:]
            message = f"node {host}: expected dom2 of this version, found: {reason}; install it there"
            raise UserError(message, CHECK_FAILED) from error
        _compare(host, expected, found)


def _compare(host: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            there = found.get(name, "none")
            hint = "use a place that all nodes reach" if "/" in name else "install the same there"
            raise UserError(
                f"node {host}: expected {name} = {value[:40]} as here, found {there[:100]}; {hint}",
                CHECK_FAILED,
            )


def identity(needs: Sequence[str]) -> dict[str, str]:
    """Return what this machine computes with: versions, and hashes of the code and of each needed file."""
    found = {name: importlib.metadata.version(name) for name in _VERSIONS}
    found |= {"python": platform.python_version(), "code": code_hash()}
    for name in needs:
        try:
            with fsspec.open(name, "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
        except Exception as error:  # each filesystem has its own exceptions
            found[name] = " ".join(str(error).split()) or type(error).__name__
    return found


def code_hash() -> str:
    """Return the hash of the Python files and the behaviour policies installed here, in hex."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)  # not imported: dom2 is a layer above this package
        if found is None or found.origin is None:
            continue
        folder = Path(found.origin).parent
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".json", ".safetensors"):
                digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _stop(ray: Any, running: Sequence[Any]) -> None:
    """Interrupt jobs, as Ctrl-C would, wait while they save, then kill the rest."""
    for force in (False, True):
        for reference in running:
            with suppress(Exception):
                ray.cancel(reference, force=force)
        if running:
            running = ray.wait(running, num_returns=len(running), timeout=0.0 if force else SAVE_S)[1]


def _do(function: Callable[[Job], Result], job: Job) -> Result | UserError:
    """Run a job on a worker; a UserError is returned as a result, so that it arrives unchanged."""
    try:
        with one_thread():
            return function(job)
    except UserError as error:
        return error
    except KeyboardInterrupt:  # perhaps in the middle of an import: this process must not be reused
        os._exit(FAILED)


def _without_gpu(function: Callable[[Job], Result], job: Job) -> Result | UserError:
    """Run a job with GPUs hidden: not every version of Ray hides them, and all jobs would take the first."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return _do(function, job)


def _result(ray: Any, reference: Any) -> Any:
    try:
        found = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the job's own exception
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise UserError(
            f"expected every worker to finish, found one killed {RETRIES + 1} times (out of memory?); "
            "the same command continues",
            FAILED,
        ) from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        message = f"expected Ray to finish every job, found: {reason}; the same command continues"
        raise UserError(message, FAILED) from error
    if isinstance(found, UserError):
        raise found
    return found

"""Runs as jobs: what to fit, on which data, and what to evaluate. The first process to claim a job does it.

A run's folder holds all that is known of its job. Existing results are never made again, so jobs can be
stopped, killed, done in any order, and done by several commands at once.
"""

from __future__ import annotations

import datetime
import json
import re
import time
import traceback
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from filelock import FileLock, Timeout

from dom2 import algorithms, checkpoint, evaluate, fit, results, run
from dom2.config import build
from dom2.run import Run, Settings
from dom2_policies import zoo
from dom2data import dataset as datasets
from dom2data import envs, executors, generate, ids, named, recipes, retrain
from dom2data.errors import CHECK_FAILED, USAGE, UserError, told, users_line
from dom2data.spec import Progress, quiet
from dom2data.store import manifest as manifests

ERRORS = "error.txt"
"""file in a run's folder with every error that ended the run, oldest first"""
_SCHEDULE = ("updates", "log_every", "checkpoint_every", "eval_every", "eval_episodes", "threads", "device")
"""settings that may differ between a job and its existing run"""
_LONGEST = 150
"""longest folder name in characters; filesystems allow 255 bytes"""

Word = Literal["done", "interrupted", "failed", "retried", "elsewhere"]
"""``retried``: failed, and about to be tried again; ``elsewhere``: another process works on it"""
Stage = Literal["missing", "begun", "fitted", "done", "other"]


@dataclass(frozen=True)
class Job:
    """A run as a worker needs it: what to fit, on which data, in which folder, and what to evaluate."""

    folder: Path
    env: str
    dataset: str
    root: Path | None
    settings: dict[str, Any]
    config: dict[str, Any]
    """all hyper-parameters of the algorithm"""
    shifts: tuple[str, ...]
    episodes: int
    command: tuple[str, ...] = ()
    """the command recorded as the run's origin"""
    longer: bool = False
    """whether an evaluation with more episodes is accepted, too"""


def at_once(jobs: Iterable[Job]) -> int:
    """Default number of jobs at once: one per core, but only one if any uses the GPU."""
    shared = any(run.usable_device(job.settings.get("device", "auto")) == "cuda" for job in jobs)
    return 1 if shared else executors.cores()


class Outcome(NamedTuple):
    """The outcome of a job."""

    job: Job
    word: Word
    seconds: float
    error: str = ""
    settled: bool = False
    """whether a failure would repeat itself"""


def place(dataset: str, algorithm: str, settings: Iterable[tuple[str, Any]] = ()) -> Path:
    """Return the folder, relative to its grid's, of a run with these settings: ``tag-medium/dom2,eta=2.0``.

    Characters that a filesystem might not allow become ``_``; a name that is too long ends in its hash.
    """
    words = (f"{name}={plain(value)}" for name, value in settings)
    return Path(safe(dataset), safe(",".join((algorithm, *words))))


def plain(value: Any) -> str:
    """Format a setting's value for a name: 2.0, 0.5_0.9."""
    return "_".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def safe(name: str) -> str:
    """Return a deterministic folder name for ``name``; a long one ends in its hash."""
    safe = re.sub(r"[^\w.,=+-]+", "_", name, flags=re.ASCII).lstrip(".") or "_"
    if len(safe) <= _LONGEST:
        return safe
    return f"{safe[:_LONGEST]}-{sha256(name.encode()).hexdigest()[:12]}"


def schedule(updates: int) -> dict[str, int]:
    """Settings of one run among many: one thread, a hundred lines of metrics, ten checkpoints or more."""
    return {
        "updates": updates,
        "threads": 1,
        "log_every": max(1, updates // 100),
        "checkpoint_every": max(1, min(1000, updates // 10)),
    }


def available(name: str, root: Path | None) -> bool:
    """Return whether a dataset with this name exists."""
    try:
        ids.resolve(name, ids.root(root))
    except UserError:
        return False
    return True


def supply(
    name: str,
    env: str,
    quality: str,
    root: Path | None,
    steps: int | None = None,
    progress: Progress = quiet,
) -> None:
    """Generate a dataset unless it exists; first train its behaviour policies if none are shipped.

    If two commands want the same dataset, the second waits for the first.
    """
    if available(name, root):
        return
    with only_one(name, root):
        if available(name, root):
            return
        parts = recipes.quality(quality)
        shipped = env in envs.NAMES or parts.parts == ((recipes.UNIFORM, 1.0),)
        folder = zoo.FOLDER if shipped else retrain.retrained(env, 0, ids.root(root), progress)
        taken = None if parts.replay else steps
        plan = generate.plan(env, quality, steps=taken, out=name, root=root, checkpoints_in=folder)
        generate.generate(plan, executor=plan.executor(), progress=progress)


def only_one(name: str, root: Path | None) -> FileLock:
    """Return a lock that other commands making this dataset for a grid wait for, and that waits for them."""
    lock = ids.root(root) / ".dom2data" / f".supply-{ids.split(name)[1]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)


def stage(job: Job) -> Stage:
    """Return how far a job is; this does not need its dataset."""
    if not (job.folder / "config.json").exists():
        return "other" if job.folder.is_dir() and not run.empty(job.folder) else "missing"
    try:
        found = results.look(job.folder)
        another = found.state == "broken" or unlike(job, found.run)
    except (UserError, ValueError, OSError):
        return "other"
    if another:
        return "other"
    if found.updates < job.settings["updates"]:
        return "begun"
    return "done" if not pending(job, found.kept) else "fitted"


def asked(job: Job) -> dict[str, Any]:
    """Return, as in JSON, the settings that a run must share with its job: all but those of ``_SCHEDULE``."""
    wanted = asdict(run.resolved(build(Settings, job.settings), job.env))
    wanted = {name: value for name, value in wanted.items() if name not in _SCHEDULE}
    return json.loads(json.dumps(wanted | job.config))  # tuples are lists in a document


def setup(job: Job) -> str:
    """Return a short name for ``asked``, equal for runs that differ only in settings of ``_SCHEDULE``."""
    # Data from memory or files give the same minibatches. A setting with the value that runs had before the
    # setting existed is left out, so that older names stay valid.
    usual = run.OLDER.items()
    wanted = {key: value for key, value in asked(job).items() if key != "data" and (key, value) not in usual}
    return sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]


def unlike(job: Job, found: Run) -> list[str]:
    """List where a run differs from the one that a job asks for: ``name: expected, found``.

    Raises UserError like ``checkpoint.updates``.
    """
    wanted, updates = asked(job), checkpoint.updates(found.folder)
    # From ``Run.settings``, so that a run older than one of the settings has its default.
    older = run.OLDER_CONFIGS.get(found.settings.algorithm, {})
    there = json.loads(json.dumps(asdict(found.settings))) | older | found.document["config"]
    if {wanted["data"], there["data"]} == {"memory", "mapped"}:  # the same minibatches
        there["data"] = wanted["data"]
    differences = [
        f"{name}: expected {value}, found {there.get(name)}"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    if not ids.stands_for(job.dataset, dataset := found.document["dataset"]["id"]):  # a copied folder
        differences.append(f"dataset: expected {job.dataset}, found {dataset}")
    if updates > job.settings["updates"]:
        differences.append(f"updates: expected {job.settings['updates']}, found {updates}")
    return differences


def pending(job: Job, kept: Iterable[dict[str, Any]]) -> list[str]:
    """List shifts without an evaluation of the last update, with enough episodes, in the standard way."""

    def will_do(found: dict[str, Any]) -> bool:
        episodes, last = found["episodes"], found["updates"] == job.settings["updates"]
        enough = episodes >= job.episodes if job.longer else episodes == job.episodes
        return last and enough and evaluate.way(found) == evaluate.STANDARD

    there = {each["shift"] for each in kept if will_do(each)}
    return [shift for shift in job.shifts if shift not in there]


def same_data(left: Iterable[Job], jobs: Iterable[Job]) -> None:
    """Raise UserError (code 3), naming both, if a dataset that runs are left on is not the data that finished
    runs of that name learned from: a table cannot hold both."""
    roots = {job.dataset: job.root for job in left}
    facts: list[results.Fact] = []
    for name, root in roots.items():
        data = datasets.open(name, root)
        facts += results.facts_of_data(name, data.id, data.hash, str(ids.root(root)))
    for job in jobs:
        if job.dataset in roots and stage(job) in ("fitted", "done"):
            found = run.read(job.folder).document["dataset"]
            facts += results.facts_of_data(job.dataset, found["id"], found["hash"], str(job.folder))
    results.agree(facts)


def carry_out(jobs: Sequence[Job], executor: executors.Executor, retries: int = 0) -> Generator[Outcome]:
    """Fit and evaluate; yield outcomes in the order of completion.

    If a job fails, it is reported and the others go on; then failures that might not repeat themselves are
    tried again, up to ``retries`` times. The first interrupt saves and stops all jobs; the last outcomes are
    then ``interrupted``, even for runs that had just ended. A job that another process works on is left to it
    (``elsewhere``).
    """
    left = list(jobs)
    for more in range(retries, -1, -1):
        failed: list[Job] = []
        with closing(executor.map(work, left, needs(left))) as outcomes:
            for outcome in outcomes:
                if outcome.word == "failed" and more and not outcome.settled:
                    failed.append(outcome.job)
                    outcome = outcome._replace(word="retried")
                yield outcome
                if outcome.word == "interrupted":
                    return
        left = failed
        if not left:
            return


def needs(jobs: Sequence[Job]) -> list[str]:
    """List the files that show whether a worker elsewhere has the same data: the datasets' markers."""
    found = {(job.dataset, ids.root(job.root)) for job in jobs}
    return sorted(
        str(ids.directory(ids.resolve(name, base), base) / manifests.MARKER) for name, base in found
    )


def work(job: Job) -> Outcome:
    """Do the fitting and the evaluations that are left, unless another process works on the job."""
    claim = job.folder.with_name(f".{job.folder.name}.claim")
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Claim it before reading the run: two processes that begin the same run would destroy each other's.
        with FileLock(claim, timeout=0), fit.Interrupts() as interrupts:
            outcome = _work(job, interrupts)
    except Timeout:
        return Outcome(job, "elsewhere", 0.0)
    # Whatever its outcome, no other job must begin; its folder tells whether it is done.
    return outcome._replace(word="interrupted") if interrupts.requested else outcome


def _work(job: Job, interrupts: fit.Interrupts) -> Outcome:
    started = time.monotonic()
    found: Run | None = None
    try:
        found = begin(job)
        torch.set_num_threads(found.settings.threads)  # the result depends on it
        if checkpoint.updates(found.folder) < found.settings.updates and not interrupts.requested:
            fit.fit(found, root=job.root, interrupts=interrupts)
        fitted = checkpoint.updates(found.folder) == found.settings.updates
        for shift in pending(job, evaluate.kept(job.folder)) if fitted else ():
            if not interrupts.requested:
                device = run.usable_device(found.settings.device)
                document = evaluate.evaluate(found, job.episodes, shift=shift, device=device)
                evaluate.keep(found.folder, document)
        left = pending(job, evaluate.kept(job.folder))
        return Outcome(job, "interrupted" if left else "done", time.monotonic() - started)
    except UserError as error:
        if found is not None:  # otherwise the folder may belong to another run
            keep_error(found.folder, error.message)
        settled = error.code in (USAGE, CHECK_FAILED)
        return Outcome(job, "failed", time.monotonic() - started, error.message, settled)
    except Exception as error:  # one run's defect must not end a grid of hours
        where = users_line(error)
        reason = f"{where[0]}: {told(error)}" if where else told(error)
        if found is not None:
            keep_error(found.folder, traceback.format_exc())
            reason += f" (traceback in {found.folder / ERRORS})"
        return Outcome(job, "failed", time.monotonic() - started, reason)


def keep_error(folder: Path, text: str) -> None:
    """Append an error to those of a run's earlier attempts."""
    file = folder / ERRORS
    before = file.read_text() if file.exists() else ""
    attempt = len(re.findall(r"^--- attempt ", before, flags=re.M)) + 1
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run.write(file, f"{before}--- attempt {attempt} failed, {now} ---\n{text.rstrip()}\n")


def begin(job: Job) -> Run:
    """Begin a job's run, or open the existing one.

    Raises UserError (code 3) if another run is there, or the data or the environment have changed.
    """
    named.remember(job.settings["algorithm"])  # a user has asked for this job
    data = datasets.open(job.dataset, job.root)
    if not (job.folder / "config.json").exists():
        settings: Settings = build(Settings, job.settings)
        config = build(algorithms.load(settings.algorithm).config_type, job.config)
        return run.create(job.folder, run.describe(settings, config, data, list(job.command)))
    found = run.read(job.folder)
    differences = unlike(job, found)
    if found.document["dataset"]["hash"] != data.hash:
        differences.append(
            f"hash of the data: expected {data.hash}, found {found.document['dataset']['hash']}"
        )
    if differences:
        raise UserError(
            f"{job.folder}: expected the run that is asked for, found another ({'; '.join(differences)}); "
            "move it away or choose another folder",
            CHECK_FAILED,
        )
    run.mismatch(found.spec, data.env)
    found.amend(updates=job.settings["updates"])
    return found

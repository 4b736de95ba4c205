"""Runs as jobs: what to fit on what, where, and what to evaluate; each done once, by whoever claims it first.

A run's folder tells all that is known of its job. What is there is never made again, so that jobs may be
stopped, killed, done in any order, and by several commands at once.
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
"""in a run's folder: every error that ended it, one below the other"""
_SCHEDULE = ("updates", "log_every", "checkpoint_every", "eval_every", "eval_episodes", "threads", "device")
"""settings that may differ between what is asked for and what is there"""
_LONGEST = 150
"""characters of a folder's name; a filesystem takes 255 bytes"""

Word = Literal["done", "interrupted", "failed", "retried", "elsewhere"]
"""``retried``: failed, and about to be tried again; ``elsewhere``: another process is at it"""
Stage = Literal["missing", "begun", "fitted", "done", "other"]


@dataclass(frozen=True)
class Job:
    """A run as a worker needs it: what to fit on what, where, and what to evaluate."""

    folder: Path
    env: str
    dataset: str
    root: Path | None
    settings: dict[str, Any]
    config: dict[str, Any]
    """of the algorithm, complete"""
    shifts: tuple[str, ...]
    episodes: int
    command: tuple[str, ...] = ()
    """what is recorded as having asked for the run"""
    longer: bool = False
    """whether an evaluation by more episodes will do as well"""


def at_once(jobs: Iterable[Job]) -> int:
    """How many there are at once where nobody says: one a core, but one alone where they share a GPU."""
    shared = any(run.usable_device(job.settings.get("device", "auto")) == "cuda" for job in jobs)
    return 1 if shared else executors.cores()


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    word: Word
    seconds: float
    error: str = ""
    settled: bool = False
    """a failure that would be the same again"""


def place(dataset: str, algorithm: str, settings: Iterable[tuple[str, Any]] = ()) -> Path:
    """``tag-medium/dom2,eta=2.0``: the folder, below that of its grid, of a run with settings of its own.

    What a filesystem might not take is replaced by ``_``, and an end that is too long by its hash.
    """
    words = (f"{name}={plain(value)}" for name, value in settings)
    return Path(safe(dataset), safe(",".join((algorithm, *words))))


def plain(value: Any) -> str:
    """A setting's value in a name: 2.0, 0.5_0.9"""
    return "_".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def safe(name: str) -> str:
    """A name of a folder for ``name``, the same each time; a long one ends in its hash."""
    safe = re.sub(r"[^\w.,=+-]+", "_", name, flags=re.ASCII).lstrip(".") or "_"
    if len(safe) <= _LONGEST:
        return safe
    return f"{safe[:_LONGEST]}-{sha256(name.encode()).hexdigest()[:12]}"


def schedule(updates: int) -> dict[str, int]:
    """Settings of a run that is one of many: one thread, a hundred lines of metrics, ten checkpoints."""
    return {
        "updates": updates,
        "threads": 1,
        "log_every": max(1, updates // 100),
        "checkpoint_every": max(1, min(1000, updates // 10)),
    }


def available(name: str, root: Path | None) -> bool:
    """Whether there is a dataset of this name."""
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
    """Generate a dataset unless it is there, with its behaviour policies where none are shipped.

    Of two commands that want the same one, the second waits for the first.
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
    """While entered, no other command makes this dataset for its grid; it waits for one that does."""
    lock = ids.root(root) / ".dom2data" / f".supply-{ids.split(name)[1]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)


def stage(job: Job) -> Stage:
    """How far a job is, told without its dataset."""
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
    """What a run must have in common with a job to be the one it asks for, its length apart, as in JSON."""
    wanted = asdict(run.resolved(build(Settings, job.settings), job.env))
    wanted = {name: value for name, value in wanted.items() if name not in _SCHEDULE}
    return json.loads(json.dumps(wanted | job.config))  # tuples are lists in a document


def setup(job: Job) -> str:
    """A short name of ``asked``: equal for runs that differ in their length alone."""
    # Data from memory or files are the same minibatches; a setting at the value that it had before it could
    # be chosen leaves the names of before.
    usual = run.OLDER.items()
    wanted = {key: value for key, value in asked(job).items() if key != "data" and (key, value) not in usual}
    return sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]


def unlike(job: Job, found: Run) -> list[str]:
    """Where a run is not the one that a job asks for: ``name: expected, found``.

    Raises UserError like ``checkpoint.updates``.
    """
    wanted, updates = asked(job), checkpoint.updates(found.folder)
    # Through the settings, so that a run begun before one of them was known has its default.
    older = run.OLDER_CONFIGS.get(found.settings.algorithm, {})
    there = json.loads(json.dumps(asdict(found.settings))) | older | found.document["config"]
    if {wanted["data"], there["data"]} == {"memory", "mapped"}:  # the same minibatches
        there["data"] = wanted["data"]
    differences = [
        f"{name}: expected {value}, found {there.get(name)}"
        for name, value in wanted.items()
        if there.get(name) != value
    ]
    if not ids.stands_for(job.dataset, dataset := found.document["dataset"]["id"]):  # as of a folder copied
        differences.append(f"dataset: expected {job.dataset}, found {dataset}")
    if updates > job.settings["updates"]:
        differences.append(f"updates: expected {job.settings['updates']}, found {updates}")
    return differences


def pending(job: Job, kept: Iterable[dict[str, Any]]) -> list[str]:
    """Shifts without a kept evaluation of the last update, by as many episodes, in the standard way."""

    def will_do(found: dict[str, Any]) -> bool:
        episodes, last = found["episodes"], found["updates"] == job.settings["updates"]
        enough = episodes >= job.episodes if job.longer else episodes == job.episodes
        return last and enough and evaluate.way(found) == evaluate.STANDARD

    there = {each["shift"] for each in kept if will_do(each)}
    return [shift for shift in job.shifts if shift not in there]


def same_data(left: Iterable[Job], jobs: Iterable[Job]) -> None:
    """Raises UserError (code 3), naming both, where a dataset's name stands for other data than those that
    runs of it learned from, and there are runs left: no table holds both."""
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
    """Fit and evaluate; outcomes in the order of completion.

    A job that fails is reported and the others go on; then those that might do better are tried again,
    ``retries`` times. The first interrupt saves and stops all of them; then the last outcomes are
    ``interrupted``, also of runs that it met at their ends. What another process is at is left to it, as
    ``elsewhere``.
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
    """The files by which a worker elsewhere shows that it has the same data: the datasets' markers."""
    found = {(job.dataset, ids.root(job.root)) for job in jobs}
    return sorted(
        str(ids.directory(ids.resolve(name, base), base) / manifests.MARKER) for name, base in found
    )


def work(job: Job) -> Outcome:
    """Fit what is not fitted and evaluate what is not evaluated, unless another process is at it."""
    claim = job.folder.with_name(f".{job.folder.name}.claim")
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Before anything of the run is looked at: two that begin the same one would destroy each other's.
        with FileLock(claim, timeout=0), fit.Interrupts() as interrupts:
            outcome = _work(job, interrupts)
    except Timeout:
        return Outcome(job, "elsewhere", 0.0)
    # Whatever became of it, nothing else is to begin; its folder tells whether it is done.
    return outcome._replace(word="interrupted") if interrupts.requested else outcome


def _work(job: Job, interrupts: fit.Interrupts) -> Outcome:
    started = time.monotonic()
    found: Run | None = None
    try:
        found = begin(job)
        torch.set_num_threads(found.settings.threads)  # which its result depends on
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
        if found is not None:  # else the folder is not this job's to write into
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
    """Write an error below those that are kept of a run's earlier attempts."""
    file = folder / ERRORS
    before = file.read_text() if file.exists() else ""
    attempt = len(re.findall(r"^--- attempt ", before, flags=re.M)) + 1
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run.write(file, f"{before}--- attempt {attempt} failed, {now} ---\n{text.rstrip()}\n")


def begin(job: Job) -> Run:
    """The run of a job: begun now, or what is there of it.

    Raises UserError (code 3) when something else is there, or the data or the environment have changed.
    """
    named.remember(job.settings["algorithm"])  # a job is what a user has asked for
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

"""A target's grid: which of its datasets, runs and evaluations are there, and the making of the others.

Every cell has a run folder of its own under ``<runs>/<scale>/<dataset>/<algorithm>``, shared by all targets.
What is there is never made again, so that a grid may be stopped, killed, or worked at in any order.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from dom2 import algorithms, checkpoint, evaluate, experiments, fit, results, run
from dom2.config import build
from dom2.experiments import Cell, Scale
from dom2.run import Run, Settings
from dom2_policies import zoo
from dom2data import dataset as datasets
from dom2data import envs, executors, generate, ids, recipes, retrain, subsample
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.store import manifest as manifests

EVAL_EPISODES = 20
"""of each seed, in an evaluation while training"""
_SCHEDULE = ("updates", "log_every", "checkpoint_every", "eval_every", "eval_episodes", "threads", "device")
"""settings that may differ between what is asked for and what is there"""

Word = Literal["done", "interrupted", "failed", "elsewhere"]
Stage = Literal["missing", "begun", "fitted", "done", "other"]


@dataclass(frozen=True)
class Job:
    """A cell as a worker needs it: what to fit on what, where, and what to evaluate."""

    folder: Path
    env: str
    dataset: str
    root: Path | None
    settings: dict[str, Any]
    config: dict[str, Any]
    """of the algorithm, complete"""
    shifts: tuple[str, ...]
    episodes: int


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    word: Word
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Grid:
    """The cells of a target at a scale."""

    target: str
    scale_name: str
    cells: tuple[Cell, ...]
    seeds: int
    runs: Path
    root: Path | None = None

    @property
    def scale(self) -> Scale:
        return experiments.SCALES[self.scale_name]

    @property
    def base(self) -> Path:
        """Where the runs of this scale are."""
        return self.runs / self.scale_name

    def folder(self, cell: Cell) -> Path:
        return self.base / cell.folder

    def dataset(self, cell: Cell) -> str:
        """The short id of a cell's whole dataset; one of a reduced size has the scale in its name."""
        reduced = self.scale.steps and not recipes.quality(cell.quality).replay
        return f"{cell.env}-{cell.quality}" + (f"-{self.scale_name}" if reduced else "")

    def share(self, cell: Cell) -> str:
        """The short id of what a cell learns from."""
        if cell.fraction == 1.0:
            return self.dataset(cell)
        name = subsample.default_id(ids.full(self.dataset(cell)), subsample.Selection(fraction=cell.fraction))
        return ids.split(name)[1]

    def jobs(self) -> list[Job]:
        """A job for every folder of the grid, each once."""
        found: dict[Path, Job] = {}
        for cell in self.cells:
            found.setdefault(cell.folder, self._job(cell))
        return list(found.values())

    def _job(self, cell: Cell) -> Job:
        updates = self.scale.updates_of(cell)
        own = {field.name for field in fields(Settings)}
        hyper = {name: value for name, value in cell.settings if name not in own}
        settings = {
            "algorithm": cell.algorithm,
            "updates": updates,
            "batch_size": self.scale.batch_size,
            "seeds": self.seeds,
            "threads": 1,
            "log_every": max(1, updates // 100),
            "checkpoint_every": max(1, min(1000, updates // 10)),
            "eval_every": max(1, updates // self.scale.evaluations),
            "eval_episodes": min(EVAL_EPISODES, self.scale.episodes_of(cell)),
        }
        return Job(
            folder=self.folder(cell),
            env=cell.env,
            dataset=self.share(cell),
            root=self.root,
            settings=settings | {name: value for name, value in cell.settings if name in own},
            config=asdict(fit.configure(cell.algorithm, self.scale.preset, cell.env, cell.quality, hyper)),
            shifts=experiments.TARGETS[self.target].shifts,
            episodes=self.scale.episodes_of(cell),
        )


def datasets_missing(grid: Grid) -> list[str]:
    """Short ids of the whole datasets that are not there."""
    return [name for name in dict.fromkeys(map(grid.dataset, grid.cells)) if not _there(name, grid.root)]


def _there(name: str, root: Path | None) -> bool:
    try:
        ids.resolve(name, ids.root(root))
    except UserError:
        return False
    return True


def prepare(grid: Grid, progress: generate.Progress | None = None) -> None:
    """Generate the datasets that are not there, with their behaviour policies where none are shipped."""
    for cell in {grid.share(cell): cell for cell in grid.cells}.values():
        name, part = grid.dataset(cell), grid.share(cell)
        if not _there(name, grid.root):
            quality = recipes.quality(cell.quality)
            shipped = cell.env in envs.NAMES or quality.parts == ((recipes.UNIFORM, 1.0),)
            base = ids.root(grid.root)
            folder = zoo.FOLDER if shipped else retrain.retrained(cell.env, 0, base, progress)
            steps = None if quality.replay else grid.scale.steps
            plan = generate.plan(
                cell.env, cell.quality, steps=steps, out=name, root=grid.root, checkpoints_in=folder
            )
            executor = executors.choose(workers=plan.best_workers(executors.cores()))
            generate.generate(plan, executor=executor, progress=progress)
        if part != name and not _there(part, grid.root):
            subsample.subsample(datasets.open(name, grid.root), cell.fraction, root=grid.root)


def stage(job: Job) -> Stage:
    """How far a job is, told without its dataset."""
    if not (job.folder / "config.json").exists():
        return "other" if job.folder.is_dir() and any(job.folder.iterdir()) else "missing"
    if results.state(job.folder) == "broken":
        return "other"
    done, wanted = checkpoint.updates(job.folder), job.settings["updates"]
    if done > wanted or unlike(job, run.read(job.folder)):
        return "other"
    if done < wanted:
        return "begun"
    return "done" if not pending(job) else "fitted"


def unlike(job: Job, found: Run) -> list[str]:
    """Where a run is not the one that a job asks for: ``name: expected, found``."""
    wanted = asdict(build(Settings, job.settings))
    if wanted["augment"] == "auto":
        wanted["augment"] = algorithms.load(wanted["algorithm"]).augment
    wanted = {name: value for name, value in wanted.items() if name not in _SCHEDULE}
    there = found.document["settings"] | found.document["config"]
    asked = json.loads(json.dumps(wanted | job.config))  # tuples are lists in a document
    return [
        f"{name}: expected {value}, found {there.get(name)}"
        for name, value in asked.items()
        if there.get(name) != value
    ]


def pending(job: Job) -> list[str]:
    """Shifts without an evaluation of the last update, by as many episodes."""
    kept = {each["shift"]: each for each in evaluate.kept(job.folder)}
    wanted = (job.settings["updates"], job.episodes)
    return [s for s in job.shifts if s not in kept or (kept[s]["updates"], kept[s]["episodes"]) != wanted]


def carry_out(jobs: list[Job], executor: executors.Executor) -> Iterator[Outcome]:
    """Fit and evaluate; outcomes in the order of completion.

    A job that fails is reported and the others go on. The first interrupt saves and stops all of them; then
    the last outcomes are ``interrupted``. What another process is at is left to it, as ``elsewhere``.
    """
    with closing(executor.map(work, jobs, needs(jobs))) as outcomes:
        for outcome in outcomes:
            yield outcome
            if outcome.word == "interrupted":
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
        with FileLock(claim, timeout=0):
            return _work(job)
    except Timeout:
        return Outcome(job, "elsewhere", 0.0)


def _work(job: Job) -> Outcome:
    started = time.monotonic()

    def outcome(word: Word, error: str = "") -> Outcome:
        return Outcome(job, word, time.monotonic() - started, error)

    try:
        with fit.Interrupts() as interrupts:
            found = begin(job)
            if checkpoint.updates(found.folder) < found.settings.updates and not interrupts.requested:
                fit.fit(found, root=job.root)
            fitted = checkpoint.updates(found.folder) == found.settings.updates
            for shift in pending(job) if fitted else ():
                if not interrupts.requested:
                    evaluate.keep(found.folder, evaluate.evaluate(found, job.episodes, shift=shift))
        return outcome("interrupted" if pending(job) else "done")
    except UserError as error:
        return outcome("failed", error.message)
    except Exception as error:  # one cell's defect must not end a grid of hours; its traceback is kept
        if job.folder.is_dir():
            (job.folder / "error.txt").write_text(traceback.format_exc())
        return outcome("failed", f"{type(error).__name__}: {error} (traceback in {job.folder / 'error.txt'})")


def begin(job: Job) -> Run:
    """The run of a job: begun now, or what is there of it.

    Raises UserError (code 3) when something else is there, or the data or the environment have changed.
    """
    data = datasets.open(job.dataset, job.root)
    if not (job.folder / "config.json").exists():
        settings: Settings = build(Settings, job.settings)
        config = build(algorithms.load(settings.algorithm).config_type, job.config)
        return run.create(job.folder, run.describe(settings, config, data, ["reproduce", job.dataset]))
    found = run.read(job.folder)
    differences, updates = unlike(job, found), checkpoint.updates(job.folder)
    if found.document["dataset"]["hash"] != data.hash:
        differences.append(
            f"hash of the data: expected {data.hash}, found {found.document['dataset']['hash']}"
        )
    if updates > job.settings["updates"]:
        differences.append(f"updates: expected {job.settings['updates']}, found {updates}")
    if differences:
        raise UserError(
            f"{job.folder}: expected this grid's run, found another ({'; '.join(differences)}); "
            "move it away or choose another --runs",
            CHECK_FAILED,
        )
    run.mismatch(found.spec, data.env)
    found.amend(updates=job.settings["updates"])
    return found

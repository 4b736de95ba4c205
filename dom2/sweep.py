"""Custom grids: a TOML file that names data, algorithms and settings, and the runs that it asks for."""

from __future__ import annotations

import difflib
import functools
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dom2 import algorithms, checkpoint, config, evaluate, fit, jobs, presets, track
from dom2.jobs import Job, Outcome
from dom2.run import Settings
from dom2.run import read as read_run
from dom2.tables import normalized
from dom2data import dataset as datasets
from dom2data import ids, recipes
from dom2data.envs import shifts
from dom2data.errors import UserError
from dom2data.spec import Progress, quiet

ABOVE = ("algorithm", "seeds", "updates")
"""settings of a run that have their own keys above the tables"""


@dataclass(frozen=True)
class Spec:
    """The content of a sweep's file. In a table, a subtable named after an algorithm applies to it alone."""

    datasets: tuple[str, ...] = ()
    """Names of datasets, each used with every algorithm; missing standard ones are generated."""
    algorithms: tuple[str, ...] = ("dom2",)
    """Names of algorithms."""
    seeds: int = 1
    """Seeds of each run, trained as one stack."""
    updates: int | None = None
    """Updates of each run; by default those of ``presets.updates``."""
    preset: str = "compact"
    """Preset of the algorithm's hyper-parameters."""
    episodes: int = 100
    """Episodes of each seed's evaluation."""
    shifts: tuple[str, ...] = ("none",)
    """Shifts under which each run is evaluated; runs are compared under the first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Name -> value, for any setting of the run or of the algorithm."""
    grid: dict[str, Any] = field(default_factory=dict)
    """Name -> list of values; every combination is a run."""
    search: dict[str, Any] = field(default_factory=dict)
    """Name -> range of values for a search to try."""


class Asked(NamedTuple):
    """A run of a sweep: its job, and the settings that distinguish it from the others."""

    job: Job
    varied: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A spec, and the folders of its runs and its data."""

    spec: Spec
    out: Path
    root: Path

    def runs(self) -> list[Asked]:
        """Return a run for every combination of the grid, algorithm and dataset, without duplicates.

        Raises UserError for invalid settings.
        """
        found: dict[Path, Asked] = {}
        for data, name in itertools.product(self.spec.datasets, self.spec.algorithms):
            for varied in combinations(self.spec, name):
                asked = self.run(data, name, varied, varied)
                before = found.setdefault(asked.job.folder, asked)
                if before.job != asked.job:
                    raise UserError(
                        f"expected settings with different names, found two for {asked.job.folder}; "
                        "leave one out"
                    )
        return list(found.values())

    def run(self, data: str, name: str, varied: Mapping[str, Any], called: Mapping[str, Any]) -> Asked:
        """Return an algorithm's run on a dataset with settings ``varied``; ``called`` names its folder."""
        env, quality = kind(data, self.root)
        known = ("none", *shifts.applying(env))
        for shift in self.spec.shifts:
            if shift not in known:
                raise UserError(f"shifts: expected of {env} ({', '.join(known)}), found {shift!r}")
        values = {**entries(self.spec, "settings", name), **varied}
        types = known_settings(name)
        values = {key: plain(value, types[key]) for key, value in values.items()}
        own = {each.name for each in config.fields(Settings)}
        hyper = {key: value for key, value in values.items() if key not in own}
        mine = {key: value for key, value in values.items() if key in own}
        try:  # report an error in the file now, not when a worker meets it
            config.build(Settings, mine)
            usual = self.spec.updates or presets.updates(name, self.spec.preset, env)
            schedule = jobs.schedule(mine.get("updates", usual))
            settings = {"algorithm": name, "seeds": self.spec.seeds} | schedule | mine
            settings = asdict(config.build(Settings, settings))
            hyper = asdict(fit.configure(name, self.spec.preset, env, quality, hyper))
        except ValueError as error:  # a value outside its setting's range
            raise UserError(f"{name}: {error}") from error
        job = Job(
            folder=self.out / jobs.place(data, name, called.items()),
            env=env,
            dataset=data,
            root=self.root,
            settings=settings,
            config=hyper,
            shifts=self.spec.shifts,
            episodes=self.spec.episodes,
            command=("sweep",),
            longer=True,
        )
        return Asked(job, {key: values[key] for key in varied})

    def missing(self) -> list[str]:
        """Names of the datasets that have to be generated."""
        return [name for name in self.spec.datasets if not jobs.available(name, self.root)]

    def prepare(self, shown: Progress = quiet) -> None:
        """Generate the missing datasets."""
        for name in self.missing():
            env, quality = kind(name, self.root)
            jobs.supply(name, env, quality or "", self.root, progress=shown)


def read(path: Path) -> Spec:
    """Read a sweep's file. Raises UserError that names the file, the key and what was expected of it."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"expected a sweep's TOML file, found no {path} ({error.strerror})") from error
    except ValueError as error:  # not TOML, or not text
        raise UserError(f"{path}: expected TOML, found: {error}; docs/sweep.md has an example") from error
    try:
        spec: Spec = config.build(Spec, document)
        check(spec)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.code) from error
    return spec


def check(spec: Spec) -> None:
    """Raise UserError if a spec names nothing to do, or something that does not exist."""
    for name in ("datasets", "algorithms", "shifts"):
        if not getattr(spec, name):
            raise UserError(f"{name}: expected at least one, found none")
    if spec.episodes < 1:
        raise UserError(f"episodes: expected 1 or more, found {spec.episodes}")
    if spec.grid and spec.search:
        raise UserError("expected [grid] or [search], found both; make two files of them")
    for name in spec.algorithms:
        known = known_settings(name)
        for table in ("settings", "grid", "search"):
            if not isinstance(getattr(spec, table).get(name, {}), dict):
                raise UserError(f"[{table}.{name}]: expected a table, found {getattr(spec, table)[name]!r}")
            for key in entries(spec, table, name):
                if key in ABOVE and table == "settings":
                    raise UserError(f"[settings] {key}: expected above the tables, found in one; move it")
                if key not in known or key == "algorithm":
                    raise UserError(unknown(spec, table, name, key))
        for key, values in entries(spec, "grid", name).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"[grid] {key}: expected a list of values, found {values!r}")
        twice = set(entries(spec, "settings", name)) & {
            *entries(spec, "grid", name), *entries(spec, "search", name)
        }  # fmt: skip
        if twice:
            raise UserError(f"{sorted(twice)[0]}: expected in one table, found in [settings] and another")


def unknown(spec: Spec, table: str, name: str, key: str) -> str:
    """Explain what is wrong with a key that an algorithm does not have, and what may have been meant."""
    having = [other for other in spec.algorithms if key in known_settings(other)]
    if having:
        return (
            f"[{table}] {key}: expected a setting of every algorithm, found none of {name}; "
            f"move it to [{table}.{having[0]}]"
        )
    near = difflib.get_close_matches(key, [*known_settings(name), *spec.algorithms], n=1)
    hint = f"did you mean {near[0]}?" if near else f"dom2 fit --algorithm {name} --help lists them"
    return f"[{table}] {key}: expected a setting of {name}, found none of that name; {hint}"


def known_settings(name: str) -> dict[str, Any]:
    """Types of all settings of an algorithm's run: the run's and the algorithm's own."""
    found = (*config.fields(Settings), *config.fields(algorithms.load(name).config_type))
    return {each.name: each.type for each in found}


def entries(spec: Spec, table: str, name: str) -> dict[str, Any]:
    """Entries of a table for an algorithm: those for all algorithms, then those under its own name."""
    found: dict[str, Any] = getattr(spec, table)
    return {k: v for k, v in found.items() if k not in spec.algorithms} | found.get(name, {})


def combinations(spec: Spec, name: str) -> Iterator[dict[str, Any]]:
    """Yield the settings of each run of an algorithm on a dataset, in the order of the file."""
    grid, types = entries(spec, "grid", name), known_settings(name)
    for values in itertools.product(*grid.values()):
        yield {key: plain(value, types[key]) for key, value in zip(grid, values, strict=True)}


def plain(value: Any, type_: Any) -> Any:
    """Convert a value from TOML to its setting's type, so that 1 and 1.0 name one run."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if type_ is float and type(value) is int else value


@functools.cache
def kind(data: str, root: Path) -> tuple[str, str | None]:
    """(environment, quality) of a dataset that exists or can be generated.

    Raises UserError for any other name.
    """
    standard = recipes.standard(data)
    if standard and not jobs.available(data, root):
        return standard
    found = datasets.open(ids.resolve(data, root), root)
    return found.env, found.quality


def another(runs: Sequence[Asked], out: Path) -> str:
    """Explain how the runs below a folder are another sweep's; empty if one of these runs is among them."""
    there = {file.parent for file in out.glob("*/*/config.json")}
    reason = "it asks for none of the runs there" if there else ""
    for job in (each.job for each in runs if each.job.folder in there):
        try:
            unlike = jobs.unlike(job, read_run(job.folder))
        except UserError:  # it cannot be read: the worker will say so
            return ""
        if not unlike:
            return ""
        reason = f"{job.folder.relative_to(out).as_posix()}: {unlike[0]}"
    return reason


def row(asked: Asked, out: Path, outcome: Outcome | None = None) -> dict[str, Any]:
    """Make a JSON record of what a run's folder and the outcome of this command tell about it."""
    job, stage = asked.job, jobs.stage(asked.job)
    status = stage if stage == "done" or outcome is None else outcome.word
    returns: dict[str, list[float]] = {}
    if stage == "done":
        returns = {
            each["shift"]: [seed["mean"] for seed in each["per_seed"]] for each in evaluate.kept(job.folder)
        }
    ours = stage not in ("missing", "other")
    return {
        "run": job.folder.relative_to(out).as_posix(),
        "dataset": job.dataset,
        "algorithm": job.settings["algorithm"],
        "settings": asked.varied,
        "status": status,
        "updates": checkpoint.updates(job.folder) if ours else 0,
        "evaluations": {
            shift: {
                "mean": float(np.mean(returns[shift])),
                "std": float(np.std(returns[shift])),
                "per_seed": returns[shift],
                "score": None if (score := normalized(job.env, np.array(returns[shift]))) is None
                else float(score.mean()),
            }
            for shift in job.shifts if shift in returns
        },
        "minutes": track.seconds(track.read(job.folder)) / 60 if ours else 0.0,
        "error": outcome.error if outcome and status == "failed" else "",
    }  # fmt: skip


def value(record: Mapping[str, Any], shift: str, metric: str) -> float | None:
    """The value by which a run is compared, its ``score`` or mean ``return``; None if it has none."""
    found = record["evaluations"].get(shift)
    return None if found is None else found["mean" if metric == "return" else "score"]


def best_first(records: Sequence[dict[str, Any]], shift: str, metric: str) -> list[dict[str, Any]]:
    """Sort runs by value, best first; runs without a value come last, in their order."""

    def key(record: dict[str, Any]) -> tuple[bool, float]:
        found = value(record, shift, metric)
        return found is None, -(found or 0.0)

    return sorted(records, key=key)

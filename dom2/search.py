"""Search for settings: Optuna proposes them, ordinary jobs run them, and Optuna gets the results.

The studies, one for each algorithm, are kept in a file in the sweep's folder. A killed search can therefore
continue, and several commands can share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from dom2 import config, jobs, sweep
from dom2.jobs import Outcome
from dom2.sweep import Asked, Sweep
from dom2.tables import normalized
from dom2data.errors import CHECK_FAILED, UserError

FILE = "search.journal"
METRICS = ("score", "return")


@dataclass(frozen=True)
class Range:
    """Values of a setting that a search may try: from ``low`` to ``high``, or one of ``choices``."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Uniform on a logarithmic scale."""
    step: float | None = None
    """Distance between values."""
    choices: tuple[Any, ...] | None = None


class Trial(NamedTuple):
    """A set of values to try, and a run with them on each dataset."""

    algorithm: str
    number: int
    params: dict[str, Any]
    runs: tuple[Asked, ...]
    state: str
    """Optuna's state: running (or left unfinished), complete, fail"""
    value: float | None


class Search:
    """A search over the ranges of a sweep's spec, with ``trials`` trials for each of its algorithms.

    Raises UserError without Optuna, without ranges, or with a metric that the data lack (code 2), and if the
    folder holds a different search (code 3).
    """

    def __init__(self, asked: Sweep, trials: int, metric: str, seed: int):
        self.asked, self.trials, self.metric, self.seed = asked, trials, metric, seed
        if metric == "return" and len(asked.spec.datasets) > 1:
            raise UserError("expected one dataset with --metric return, found several; score compares them")
        envs = [sweep.kind(data, asked.root)[0] for data in asked.spec.datasets]
        if metric == "score" and any(normalized(env, np.zeros(1)) is None for env in envs):
            raise UserError(
                "expected data of a published task with --metric score, found an environment without "
                "reference returns; --metric return takes one dataset of any"
            )
        self.ranges = {name: ranges(asked, name) for name in asked.spec.algorithms}
        self._left: set[tuple[str, int]] = set()  # trials taken before, which are not taken again

    def take(self, count: int) -> list[Trial]:
        """Return the next trials, at most ``count``, of one algorithm: unfinished ones, then new ones."""
        for name in self.ranges:
            with self._lock():
                study = self._study(name)
                open_ = [t for t in self._trials(study, name) if t.state == "running"]
                taken = [t for t in open_ if (name, t.number) not in self._left][:count]
                while len(taken) < count and len(study.get_trials(deepcopy=False)) < self.trials:
                    taken += self._ask(study, name)
            if taken:
                self._left |= {(name, trial.number) for trial in taken}
                return taken
        return []

    def tell(self, outcomes: Mapping[Path, Outcome]) -> None:
        """Tell Optuna of every trial whose runs are all done, by any process, or of which one failed here."""
        for name in self.ranges:
            with self._lock():
                study = self._study(name)
                for trial in self._trials(study, name):
                    if trial.state != "running":
                        continue
                    words = [outcomes[r.job.folder].word for r in trial.runs if r.job.folder in outcomes]
                    if (found := self._value(trial)) is not None:
                        study.tell(trial.number, found)
                    elif "failed" in words:
                        study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)

    def all(self) -> list[Trial]:
        """Return every trial so far, in order."""
        found: list[Trial] = []
        if (self.asked.out / FILE).exists():
            for name in self.ranges:
                with self._lock():
                    if (study := self._study(name, begin=False)) is not None:
                        found += self._trials(study, name)
        return found

    def runs(self) -> list[Asked]:
        """Return the runs of all trials."""
        return [run for trial in self.all() for run in trial.runs]

    def sample(self, name: str) -> list[Asked]:
        """Return the runs of a fictitious trial within the ranges, for estimates."""
        return self._runs(name, -1, corners(self.ranges[name])[0])

    def _lock(self) -> FileLock:
        """A lock that is held while trials are numbered or reported, so that two commands do not collide."""
        self.asked.out.mkdir(parents=True, exist_ok=True)
        return FileLock(self.asked.out / f".{FILE}.lock")

    def _study(self, name: str, begin: bool = True) -> Any:
        """Return an algorithm's study; if there is none, begin it, or return None without ``begin``."""
        optuna = _optuna()
        backend = optuna.storages.journal.JournalFileBackend(str(self.asked.out / FILE))
        storage = optuna.storages.JournalStorage(backend)
        if not begin and name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        about, found = self._about(name), study.user_attrs.get("about")
        if found is None:
            study.set_user_attr("about", about)
        elif found != about:
            other = next(key for key in about | found if found.get(key) != about.get(key))
            raise UserError(
                f"{self.asked.out}: expected the search that was begun there, found another {other} "
                f"({about.get(other)}, was {found.get(other)}); choose another --out",
                CHECK_FAILED,
            )
        return study

    def _about(self, name: str) -> dict[str, Any]:
        """What all trials of a study must share to be comparable."""
        spec = asdict(self.asked.spec)
        shared = {key: spec[key] for key in ("datasets", "seeds", "updates", "preset", "episodes", "shifts")}
        shared |= {
            "settings": sweep.entries(self.asked.spec, "settings", name),
            "search": {key: asdict(each) for key, (each, _) in self.ranges[name].items()},
            "metric": self.metric,
            "seed": self.seed,
        }
        return json.loads(json.dumps(shared))

    def _ask(self, study: Any, name: str) -> list[Trial]:
        """Ask for the next trial; if its values are not valid together, record a failure and return none."""
        optuna, number = _optuna(), len(study.get_trials(deepcopy=False))
        # A generator for each trial: a single one would start again when a search is continued.
        drawn = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(drawn[0]))
        trial = study.ask(
            {key: distribution(each, type_) for key, (each, type_) in self.ranges[name].items()}
        )
        assert trial.number == number
        try:
            return [self._trial(name, number, trial.params, "running", None)]
        except UserError:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            return []

    def _trials(self, study: Any, name: str) -> list[Trial]:
        """Return the study's trials whose values are complete and valid together."""
        found = []
        for each in study.get_trials(deepcopy=False):
            if set(each.params) == set(self.ranges[name]):  # otherwise asking for it was interrupted
                with suppress(UserError):
                    found.append(
                        self._trial(name, each.number, each.params, each.state.name.lower(), each.value)
                    )
        return found

    def _trial(
        self, name: str, number: int, params: Mapping[str, Any], state: str, value: float | None
    ) -> Trial:
        values = {
            key: json.loads(params[key]) if each.choices is not None else params[key]
            for key, (each, _) in self.ranges[name].items()
        }
        return Trial(name, number, values, tuple(self._runs(name, number, values)), state, value)

    def _runs(self, name: str, number: int, params: Mapping[str, Any]) -> list[Asked]:
        called = {"trial": number}
        return [self.asked.run(data, name, params, called) for data in self.asked.spec.datasets]

    def _value(self, trial: Trial) -> float | None:
        """Mean of the metric over datasets; None while one of the runs is not done."""
        if any(jobs.stage(each.job) != "done" for each in trial.runs):
            return None
        spec = self.asked.spec
        rows = [sweep.row(each, self.asked.out) for each in trial.runs]
        values = [sweep.value(row, spec.shifts[0], self.metric) for row in rows]
        return float(np.mean([each for each in values if each is not None]))


def ranges(asked: Sweep, name: str) -> dict[str, tuple[Range, Any]]:
    """Return the range and type of every setting that is searched for an algorithm.

    Raises UserError if there are no ranges, or a range holds a value that its setting cannot have.
    """
    types, found = sweep.known_settings(name), {}
    for key, table in sweep.entries(asked.spec, "search", name).items():
        if not isinstance(table, dict):
            raise UserError(f"[search] {key}: expected {{low, high}} or {{choices}}, found {table!r}")
        try:
            found[key] = (config.build(Range, table), types[key])
            distribution(*found[key])
        except (UserError, ValueError) as error:
            raise UserError(f"[search] {key}: {error}") from error
    if not found:
        raise UserError(
            f"expected ranges for {name} in a table [search], found none; eta = {{low = 0.1, high = 10.0}}"
        )
    for values in corners(found):
        asked.run(asked.spec.datasets[0], name, values, {"trial": 0})  # ends must be valid settings
    return found


def corners(found: Mapping[str, tuple[Range, Any]]) -> list[dict[str, Any]]:
    """Return a smallest list of settings that includes every end and every choice of the ranges."""
    columns = {
        key: each.choices if each.choices is not None else [type_(each.low), type_(each.high)]
        for key, (each, type_) in found.items()
    }
    longest = max(map(len, columns.values()))
    return [{key: column[i % len(column)] for key, column in columns.items()} for i in range(longest)]


def distribution(range_: Range, type_: Any) -> Any:
    """Convert a range to Optuna's form. Raises UserError or ValueError if it does not fit the type."""
    kinds = _optuna().distributions
    if range_.choices is not None:
        if not range_.choices or range_.low is not None or range_.high is not None:
            raise UserError(f"expected choices, or low and high, found {asdict(range_)}")
        # As JSON text: a value may be a list, which Optuna cannot store.
        return kinds.CategoricalDistribution([json.dumps(each) for each in range_.choices])
    if type_ not in (int, float):
        raise UserError(f"expected choices for {config.describe(type_)}, found {asdict(range_)}")
    if range_.low is None or range_.high is None:
        raise UserError(f"expected low and high, found {asdict(range_)}")
    low, high = range_.low, range_.high
    if type_ is int:
        if any(each != int(each) for each in (low, high, range_.step or 1)):
            raise UserError(f"expected whole numbers, found {asdict(range_)}")
        return kinds.IntDistribution(int(low), int(high), range_.log, int(range_.step or 1))
    return kinds.FloatDistribution(float(low), float(high), range_.log, range_.step)


def _optuna() -> Any:
    """Import Optuna. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "expected Optuna with --search, found it not installed; pip install 'dom2[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

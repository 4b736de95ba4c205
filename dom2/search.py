"""Settings by search: Optuna proposes, runs are jobs like any others, and Optuna is told what came of them.

A study is a file in the sweep's folder, an algorithm has one of its own. So a killed search goes on, and
several commands share one.
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
    """What a search may try of a setting: from ``low`` to ``high``, or one of ``choices``."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Even on a logarithmic scale."""
    step: float | None = None
    """From one value to the next."""
    choices: tuple[Any, ...] | None = None


class Trial(NamedTuple):
    """Values that are tried, and a run with them on each dataset."""

    algorithm: str
    number: int
    params: dict[str, Any]
    runs: tuple[Asked, ...]
    state: str
    """Optuna's word: running (or left unfinished), complete, fail"""
    value: float | None


class Search:
    """A search over the ranges of a sweep's spec, for each of its algorithms, ``trials`` of each.

    Raises UserError: code 2 without Optuna, ranges, or a metric that the data have; 3 where the folder holds
    a search for something else.
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
        self._left: set[tuple[str, int]] = set()  # trials of others, or that failed: not taken again

    def take(self, count: int) -> list[Trial]:
        """The next trials, at most ``count`` of one algorithm: those left unfinished, then new ones."""
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
        """Settle every trial whose runs are all done, by whomever, or of which one has failed here."""
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
        """Every trial so far, in order."""
        found: list[Trial] = []
        if (self.asked.out / FILE).exists():
            for name in self.ranges:
                with self._lock():
                    if (study := self._study(name, begin=False)) is not None:
                        found += self._trials(study, name)
        return found

    def runs(self) -> list[Asked]:
        """Those of all trials."""
        return [run for trial in self.all() for run in trial.runs]

    def sample(self, name: str) -> list[Asked]:
        """The runs of a trial somewhere in the ranges, of a number that none has: for estimates."""
        return self._runs(name, -1, corners(self.ranges[name])[0])

    def _lock(self) -> FileLock:
        """Held while trials are numbered or settled, so that two commands do neither at once."""
        self.asked.out.mkdir(parents=True, exist_ok=True)
        return FileLock(self.asked.out / f".{FILE}.lock")

    def _study(self, name: str, begin: bool = True) -> Any:
        """Of an algorithm; where there is none, it is begun, or None without ``begin``."""
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
        """What all trials of a study share, without which they could not be compared."""
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
        """The next trial; none where its values do not go together, which is noted as a failure."""
        optuna, number = _optuna(), len(study.get_trials(deepcopy=False))
        # A generator for each trial: one that is seeded once would begin anew when a search goes on.
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
        """All that were asked for to the end, and whose values go together."""
        found = []
        for each in study.get_trials(deepcopy=False):
            if set(each.params) == set(self.ranges[name]):  # else it was killed while it was asked for
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
        """Mean over datasets; None while one of the runs is not done."""
        if any(jobs.stage(each.job) != "done" for each in trial.runs):
            return None
        spec = self.asked.spec
        rows = [sweep.row(each, self.asked.out) for each in trial.runs]
        values = [sweep.value(row, spec.shifts[0], self.metric) for row in rows]
        return float(np.mean([each for each in values if each is not None]))


def ranges(asked: Sweep, name: str) -> dict[str, tuple[Range, Any]]:
    """The range and the type of every setting that is searched for an algorithm.

    Raises UserError where there is none, or a value in one is not the setting's.
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
        asked.run(asked.spec.datasets[0], name, values, {"trial": 0})  # ends must be settings, too
    return found


def corners(found: Mapping[str, tuple[Range, Any]]) -> list[dict[str, Any]]:
    """As few settings as have every end and every choice of the ranges among them."""
    columns = {
        key: each.choices if each.choices is not None else [type_(each.low), type_(each.high)]
        for key, (each, type_) in found.items()
    }
    longest = max(map(len, columns.values()))
    return [{key: column[i % len(column)] for key, column in columns.items()} for i in range(longest)]


def distribution(range_: Range, type_: Any) -> Any:
    """A range as Optuna has it. Raises UserError or ValueError where it is none of this type."""
    kinds = _optuna().distributions
    if range_.choices is not None:
        if not range_.choices or range_.low is not None or range_.high is not None:
            raise UserError(f"expected choices, or low and high, found {asdict(range_)}")
        # As text: a value may be a list, which Optuna does not keep as it is.
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
    """Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "expected Optuna with --search, found it not installed; pip install 'dom2[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

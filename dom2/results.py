"""Results of runs, read from their folders: state, returns, and whether they can be compared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from dom2 import checkpoint, evaluate, run, track
from dom2.run import Run
from dom2data.errors import CHECK_FAILED, UserError

State = Literal[
    "evaluated", "complete", "running", "interrupted", "failed", "killed", "new", "broken", "foreign"
]
"""``killed``: the status says ``running``, but no process works on it; ``broken``: its files cannot be read
as a run's; ``foreign``: the folder is not a run's."""

Fact = tuple[str, str, str, str]
"""name of a thing, name of its property (hash, fingerprint), the value, and where that was read"""
_PARTS = ("config.json", "status", "metrics.jsonl", "checkpoint", "tensorboard")


@dataclass(frozen=True)
class Result:
    """A run and its evaluations. Curves and returns list seeds in order."""

    folder: str
    state: State
    algorithm: str
    dataset: dict[str, Any]
    """id, hash, env, quality, steps, episodes, return (mean and std) of the data"""
    fingerprint: str
    """of the environment that the data came from"""
    seeds: list[int]
    updates: int
    settings: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    returns: dict[str, list[float]]
    """by shift: mean return of each seed's evaluation after the last update"""
    episodes: dict[str, int]
    """by shift: episodes of each seed in that evaluation"""
    ways: dict[str, tuple[int, int, tuple[str, ...]]]
    """by shift: ``evaluate.way``"""
    curve: dict[str, list[Any]]
    """``updates`` [n] and ``returns`` [n, seeds] of the evaluations while training"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Look(NamedTuple):
    """The contents of a run's folder, each file read once; the status is read first and written last."""

    run: Run
    status: str
    updates: int
    kept: list[dict[str, Any]]

    @property
    def state(self) -> State:
        """The state of the run, from its files and from whether a process holds its lock."""
        if self.status == "running" and _held(self.run.folder):
            return "running"
        ended = self.updates == self.run.settings.updates
        if self.status in ("complete", "running", "interrupted") and ended:
            return "evaluated" if any(each["updates"] == self.updates for each in self.kept) else "complete"
        # A complete run with too few updates was asked for more since.
        words: dict[str, State] = {"running": "killed", "complete": "interrupted"}
        words |= {"interrupted": "interrupted", "failed": "failed", "new": "new"}
        return words.get(self.status, "broken")


def look(folder: Path) -> Look:
    """Read a run's folder. Raises UserError, ValueError or OSError if a file cannot be read."""
    found = run.read(folder)
    return Look(found, found.status, checkpoint.updates(folder), evaluate.kept(folder))


def state(folder: Path) -> State:
    """Return the state of the run in a folder, or ``broken`` or ``foreign``."""
    try:
        return look(folder).state
    except (UserError, ValueError, OSError):
        others = (part for part in _PARTS if part != "config.json")  # many programs have a file of this name
        ours = run.is_run(folder) or any((folder / part).exists() for part in others)
        return "broken" if ours else "foreign"


def _held(folder: Path) -> bool:
    try:
        with FileLock(folder / run.LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # nobody can lock here, so nobody can fit
        return False


def scan(base: Path) -> Iterator[Path]:
    """Yield every folder under ``base`` that is a run, was one, or holds other files."""
    for place, children, files in os.walk(base):
        folder = Path(place)
        if any((folder / part).exists() for part in _PARTS):
            children.clear()
            yield folder
        elif files and folder != base and not children:
            yield folder
        children[:] = sorted(child for child in children if not child.startswith("."))


def read(folder: Path) -> Result:
    """Read the result in a run's folder in any state. Raises UserError if it cannot be read."""
    try:
        found = look(folder)
    except ValueError as error:  # such as a status that is not text
        raise UserError(f"{folder}: expected a run, found {error}; fit it again", CHECK_FAILED) from error
    document, seeds, updates = found.run.document, list(found.run.seeds), found.updates
    lines = [line for line in track.read(folder) if _numbers(line.get("eval/return"), len(seeds))]
    fresh = {each["shift"]: each for each in found.kept if each["updates"] == updates}
    return Result(
        folder=str(folder),
        state=found.state,
        algorithm=document["settings"]["algorithm"],
        dataset=document["dataset"],
        fingerprint=found.run.spec.fingerprint,
        seeds=seeds,
        updates=updates,
        settings=document["settings"],
        config=document["config"],
        versions=document["versions"],
        returns={shift: [seed["mean"] for seed in each["per_seed"]] for shift, each in fresh.items()},
        episodes={shift: each["episodes"] for shift, each in fresh.items()},
        ways={shift: evaluate.way(each) for shift, each in fresh.items()},
        curve={
            "updates": [line["update"] for line in lines],
            "returns": [line["eval/return"] for line in lines],
        },
    )


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and [type(each) for each in value] == [float] * count


def comparable(results: Iterable[Result]) -> None:
    """Raise UserError (code 3), naming both, if two runs have data with one id but different contents, or
    environments with one name but different fingerprints."""
    agree(
        fact
        for each in results
        for fact in (
            (each.dataset["id"], "hash", each.dataset["hash"], each.folder),
            (each.dataset["env"], "fingerprint", each.fingerprint, each.folder),
        )
    )


def alike(results: Iterable[Result], shift: str) -> None:
    """Raise UserError (code 3), naming both, if two evaluations were made in different ways."""
    names = ("seed", "number of candidates", "environment")
    agree(
        ("evaluation", name, str(value), each.folder)
        for each in results
        for name, value in zip(names, each.ways[shift], strict=True)
    )


def agree(facts: Iterable[Fact]) -> None:
    """Raise UserError (code 3), naming both places, if two values of one thing differ."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for what, key, value, where in facts:
        known, place = first.setdefault((what, key), (value, where))
        if known != value:
            one, other = (each[:12] if len(each) == 64 else each for each in (known, value))  # shorten hashes
            raise UserError(
                f"{what}: expected one {key}, found {one} in {place} and {other} in {where}; "
                "leave one out or make it again",
                CHECK_FAILED,
            )


def facts_of_data(name: str, dataset_id: str, content_hash: str, where: str) -> list[Fact]:
    """Facts for ``agree``: the dataset that a name stands for, and the hash of its contents."""
    return [(name, "dataset", dataset_id, where), (dataset_id, "hash", content_hash, where)]


def last_best_mean(result: Result) -> dict[str, float] | None:
    """Means over seeds of the evaluations while training: the last, each seed's best, and the mean of the
    last five if there were more than five; and the number of evaluations.

    None if there were none. The best is biased upwards, because it is chosen by looking at the results.
    """
    rows: Sequence[Sequence[float]] = result.curve["returns"]
    if not rows:
        return None
    seeds = list(zip(*rows, strict=True))

    def mean(values: Iterable[float]) -> float:
        listed = list(values)
        return sum(listed) / len(listed)

    five = {"last five": mean(mean(seed[-5:]) for seed in seeds)} if len(rows) > 5 else {}
    return {
        "last": mean(seed[-1] for seed in seeds),
        "best": mean(max(seed) for seed in seeds),
        **five,
        "evaluations": len(rows),
    }

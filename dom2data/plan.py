"""Plans: everything that the bytes of a dataset depend on, decided before it is generated."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dom2_policies import zoo
from dom2data import dataset, envs, executors, ids, named, recipes, scores, verify
from dom2data.errors import UserError
from dom2data.recipes import Recipe
from dom2data.spec import EnvSpec
from dom2data.store import manifest as manifests
from dom2data.store import remote
from dom2data.store.layout import ArrayLayout, block_episodes, layout

State = Literal["missing", "complete", "damaged", "other"]
"""What exists under a plan's id: nothing; the planned dataset; the same with files lost; something else."""

STEPS = 1_000_000
# Rough speeds of one worker, and start-up times of the command and of spawned processes. They do not affect
# the data, only the default number of workers and the estimated time.
_STEPS_PER_SECOND = {"particles": 280_000, "halfcheetah": 30_000, "foreign": 5_000}
_TRAINING_STEPS_PER_SECOND = {"particles": 5_000, "halfcheetah": 1_000, "foreign": 2_000}
_START_S, _SPAWN_S = 1.0, 3.0


@dataclass(frozen=True)
class Plan:
    """What ``generate`` is about to do."""

    dataset_id: str
    base: Path | str
    """a folder, or a URL"""
    spec: EnvSpec
    recipe: Recipe
    checkpoints: Mapping[str, Path]
    zoo: Path
    expected_steps: int
    """``steps`` in whole episodes; for medium-replay, the steps that training to medium once took"""

    @property
    def ragged(self) -> bool:
        """Whether episodes may end early, so that their number is not known in advance."""
        return envs.is_foreign(self.recipe.env)

    @property
    def threads(self) -> bool:
        """Whether workers may be threads: the built-in environments run in parallel in threads."""
        return not self.ragged

    @property
    def replay(self) -> bool:
        """Whether this is a replay buffer, whose size depends on the training."""
        return self.recipe.steps is None

    @property
    def episodes(self) -> int:
        """Number of episodes, if all of them last the full horizon."""
        return math.ceil(self.expected_steps / self.spec.horizon)

    @property
    def layouts(self) -> dict[str, ArrayLayout]:
        """Layouts of the arrays to write, if there are as many steps as expected."""
        return layout(self.spec, self.episodes, self.episodes * self.spec.horizon)

    @property
    def n_blocks(self) -> int:
        """Number of blocks to collect, for episodes of equal length."""
        return self.layouts["actions"].n_chunks

    @property
    def nbytes(self) -> int:
        """Disk space needed (chunks are not compressed); ragged data are stored twice meanwhile."""
        return (2 if self.ragged else 1) * sum(array.nbytes for array in self.layouts.values())

    def seconds(self, workers: int) -> float:
        """Return a rough estimate of the time it takes."""
        kind = "foreign" if self.ragged else envs.task(self.recipe.env)
        if self.replay:
            rate = _TRAINING_STEPS_PER_SECOND.get(kind, _TRAINING_STEPS_PER_SECOND["particles"])
            return _START_S + self.expected_steps / rate
        workers = min(workers, math.ceil(self.episodes / block_episodes(self.spec.horizon)))
        rate = _STEPS_PER_SECOND.get(kind, _STEPS_PER_SECOND["particles"])
        spawned = _SPAWN_S if workers > 1 and not self.threads else 0.0
        return _START_S + spawned + self.expected_steps / (rate * workers)

    def best_workers(self, cores: int | None = None) -> int:
        """Return the smallest number of workers that is fastest on ``cores`` [this machine's]."""
        return min(range(1, (cores or executors.cores()) + 1), key=self.seconds)

    def executor(self) -> executors.Executor:
        """Return the fastest executor on this machine."""
        return executors.choose(workers=self.best_workers(), threads=self.threads)

    def home(self, there: str | None) -> Plan:
        """Return the plan with its base at the URL ``there`` if its id exists there, else unchanged."""
        sent = self if there is None else replace(self, base=there)
        return self if there is None or state(sent) == "missing" else sent


def plan(
    env: str,
    quality: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    out: str | None = None,
    root: str | Path | None = None,
    checkpoints_in: Path = zoo.FOLDER,
) -> Plan:
    """Decide everything that the bytes of a dataset depend on.

    Raises UserError like ``words``, and for a checkpoint that is missing, altered, or trained against another
    prey.
    """
    spec, dataset_id = words(env, quality, steps, seed, out)
    replay = recipes.quality(quality).replay
    if checkpoints_in != zoo.FOLDER:
        recipes.require_prey(env, checkpoints_in)
    found = recipes.checkpoints(env, quality, checkpoints_in)
    known = env in scores.PUBLISHED_RETURNS or not replay
    recipe = Recipe(
        env=env,
        quality=quality,
        steps=None if replay else steps or STEPS,
        seed=seed,
        noise=float(zoo.entry(env, checkpoints_in)["noise"]) if found else 0.0,
        policies={name: recipes.file_hash(path) for name, path in found.items()},
        fingerprint=spec.fingerprint,
        versions=recipes.versions(),
        level=None if known else recipes.entry(env, checkpoints_in).get("medium_level"),
    )
    expected = recipe.steps or recipes.medium_steps(env, checkpoints_in)
    expected = math.ceil(expected / spec.horizon) * spec.horizon
    return Plan(dataset_id, ids.place(root), spec, recipe, found, checkpoints_in, expected)


def words(env: str, quality: str, steps: int | None, seed: int, out: str | None) -> tuple[EnvSpec, str]:
    """Return the environment's spec and the dataset's full id, which do not depend on the policies.

    Raises UserError for an unknown environment or quality, ``steps`` below 1 or given with medium-replay, a
    seed below 0, or an invalid id.
    """
    named.remember(env)
    try:
        spec = envs.spec(env)
    except ValueError as error:
        near = difflib.get_close_matches(env, envs.KNOWN, n=1)
        raise UserError(
            f"{error}" + (f"; did you mean {near[0]}?" if near and near[0] != env else "")
        ) from error
    if recipes.quality(quality).replay and steps is not None:
        raise UserError(
            f"expected no --steps with {quality} (it is what the replay buffer holds), found {steps}; "
            "generate it whole, then `dom2data subsample --fraction F`"
        )
    if steps is not None and steps < 1:
        raise UserError(f"expected --steps of 1 or more, found {steps}")
    if seed < 0:
        raise UserError(f"expected a --seed of 0 or more, found {seed}")
    return spec, ids.full(out or f"{spec.env_id}-{quality}" + (f"-s{seed}" if seed else ""))


def state(todo: Plan, rehash: bool = False) -> State:
    """Return what exists under the plan's id, judged by its manifest and the sizes of its files.

    ``rehash`` (in a folder only) also reads everything and checks every hash.
    """
    if isinstance(todo.base, str):
        return _remote_state(todo, todo.base)
    data = ids.directory(todo.dataset_id, todo.base)
    if not data.parent.exists():
        return "missing"
    try:
        manifest = manifests.read(data)
    except UserError:
        return "other"
    if manifest["recipe"] != todo.recipe.to_json():
        return "other"
    if verify.files(data, manifest) is not None:
        return "damaged"
    if rehash:
        try:
            verify.verify(dataset.open(todo.dataset_id, todo.base))
        except UserError:
            return "damaged"
    return "complete"


def _remote_state(todo: Plan, url: str) -> State:
    source = remote.Place(url).source(todo.dataset_id)
    if not source.complete:
        return "missing"
    found = remote.accepted(source)
    return "complete" if found is not None and found["recipe"] == todo.recipe.to_json() else "other"

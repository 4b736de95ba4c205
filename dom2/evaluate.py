"""Returns of trained agents: every seed acts in its own episodes, the same ones at each evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dom2 import checkpoint, seeding
from dom2 import run as runs
from dom2.algorithms import Learner
from dom2.run import Run
from dom2.statistics import summary
from dom2_policies.policy import Policy
from dom2data import envs, named, scores
from dom2data.envs import shifts
from dom2data.envs.shifts import Shifted
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.spec import EnvSpec, Float32, VectorEnv

Returns = NDArray[np.float64]


class Played(NamedTuple):
    """Results of E episodes of each of S seeds."""

    returns: Returns  # [S, E], undiscounted team returns
    parameters: list[dict[str, list[Any]]]  # for each seed: what the shift drew, a value for each episode


def play(
    algorithm: Learner,
    n_seeds: int,
    env: VectorEnv,
    seed: int = 0,
    candidates: int = 1,
    purpose: int = seeding.EVALUATION,
) -> Played:
    """Play one episode of each seed's policy in each of the E rows; every call plays the same episodes.

    Nothing is drawn from the generators of training. Raises UserError if a return is not finite.
    """
    device = algorithm.members.device
    returns, parameters = [], []
    for index in range(n_seeds):
        start, generator = streams(seed, index, device, purpose)
        returns.append(rollout(env, algorithm.policy(index, candidates), generator, start))
        drawn = env.parameters if isinstance(env, Shifted) else {}
        parameters.append({name: values.tolist() for name, values in drawn.items()})
    found = Played(np.stack(returns), parameters)
    if not np.isfinite(found.returns).all():
        index, row = np.argwhere(~np.isfinite(found.returns))[0]
        raise UserError(
            f"expected finite returns, found {found.returns[index, row]} in episode {row} of the agents of "
            f"seed number {index}; their networks have run away, or the environment has",
            FAILED,
        )
    return found


def streams(
    seed: int, index: int, device: torch.device, purpose: int = seeding.EVALUATION
) -> tuple[np.random.SeedSequence, torch.Generator]:
    """Random sources for a run's ``index``-th seed: one for initial states, one for the policies' noise."""
    start, noise = np.random.SeedSequence(seed, spawn_key=(purpose, index)).spawn(2)
    return start, seeding.generator(noise, device)


def rollout(
    env: VectorEnv, policy: Policy, generator: torch.Generator, seed: np.random.SeedSequence
) -> Returns:
    """Play one episode per row; return team returns [E]. Raises UserError like ``acted``."""
    obs = env.reset(seed)
    total = np.zeros(obs.shape[:2])
    running = np.ones(env.num_envs, bool)
    for _ in range(env.spec.horizon):
        step = env.step(acted(policy, obs, generator, env.spec))
        total[running] += step.rewards[running]
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    return env.spec.team(total)


def acted(policy: Policy, obs: Float32, generator: torch.Generator, spec: EnvSpec) -> Float32:
    """Return a policy's actions [E, N, A] at obs [E, N, O], clipped to the environment's range.

    Clipping matters because the environments do not clip: agents could push harder than those in the data.
    Raises UserError for another shape, which might be broadcast, and for actions that are not finite, which
    would look like a fault of the environment.
    """
    if not hasattr(policy, "act"):
        raise UserError(f"expected the algorithm's policy to return one with act, found {policy!r}", FAILED)
    actions = policy.act(torch.from_numpy(obs).to(generator.device), generator).detach().cpu().numpy()
    shape = [*obs.shape[:2], spec.act_dim]
    if [*actions.shape] != shape:
        raise UserError(
            f"expected actions [E, N, A] = {shape} of the policy's act, for {len(obs)} episodes, found "
            f"{[*actions.shape]}; fix it",
            FAILED,
        )
    if not np.isfinite(actions).all():
        _, agent, component = np.argwhere(~np.isfinite(actions))[0]
        raise UserError(
            f"expected finite actions, found {actions[~np.isfinite(actions)][0]} of "
            f"{spec.agent_names[agent]} (component {component}); the networks have run away",
            FAILED,
        )
    return actions.clip(spec.act_low, spec.act_high)


def document(
    run: Run, played: Played, env: VectorEnv, candidates: int, seed: int, updates: int
) -> dict[str, Any]:
    """Make ``evaluation.json``: raw and normalised summaries of the returns, and what the shift drew."""
    data, values = run.document["dataset"], played.returns
    result: dict[str, Any] = {"return": summary(values, seed)}
    published, own = _references(run, "published"), _references(run, "own")
    for key, at in (("normalized", published), ("normalized_own", own)):
        result[key] = summary(scores.between(values, at), seed) if at else None
    shift = env.shift if isinstance(env, Shifted) else None
    return result | {
        "episodes": values.shape[1],
        "seeds": len(values),
        "env": data["env"],
        "shift": shift.name if shift else "none",
        "ranges": shift.constants if shift else {},
        "updates": updates,
        "candidates": candidates,
        "seed": seed,
        "run_created": run.document["created"],
        "dataset": {"id": data["id"], "hash": data["hash"], "mean": data["return"]["mean"]},
        "per_seed": [{"seed": s, "mean": float(row.mean()), "std": float(row.std()), "returns": row.tolist(),
                      "parameters": drawn}
                     for s, row, drawn in zip(run.seeds, values, played.parameters, strict=True)],
    }  # fmt: skip


def _references(run: Run, which: scores.Reference) -> dict[str, float] | None:
    """The returns that score 0 and 100 in an environment. Own references are those of the policies that made
    the data, if they came with it."""
    data = run.document["dataset"]
    if which == "own" and (own := data.get("references")):
        return own if own["random"] != own["expert"] else None
    try:
        return scores.references(data["env"], which)
    except UserError:  # an environment without these references has no score
        return None


def file(folder: Path, shift: str) -> Path:
    """The file with a run's evaluation under a shift; each shift has its own."""
    return folder / ("evaluation.json" if shift == "none" else f"evaluation-{shift}.json")


def keep(folder: Path, document: dict[str, Any]) -> None:
    """Write an evaluation into its run's folder, replacing the previous one under the same shift.

    Raises UserError if another run has replaced the run that was evaluated.
    """
    if runs.read(folder).document["created"] != document["run_created"]:
        raise UserError(
            f"expected the run that was evaluated in {folder}, found another in its place; evaluate that",
            FAILED,
        )
    runs.write(file(folder, document["shift"]), json.dumps(document, indent=2) + "\n")


def kept(folder: Path) -> list[dict[str, Any]]:
    """Read every evaluation in a run's folder, the standard one first.

    Raises UserError (code 3) if one cannot be read.
    """
    found = []
    for path in (file(folder, shift) for shift in ("none", *shifts.SHIFTS)):
        if path.exists():
            try:
                document = {"seed": 0} | json.loads(path.read_text())  # older ones lack the seed
                found.append(_whole(document))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(
                    f"{path}: expected an evaluation, found {error!r}; dom2 evaluate {folder} makes it anew",
                    CHECK_FAILED,
                ) from error
    return found


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation unchanged; raise an error of any kind if it lacks something that tables need."""
    means = [float(each["mean"]) for each in document["per_seed"]]
    counts = [document[name] for name in ("updates", "episodes", "candidates", "seed")]
    if document["shift"] not in ("none", *shifts.SHIFTS) or not all(type(each) is int for each in counts):
        raise ValueError(document["shift"], *counts)
    facts = [each["fact"] for each in document["mismatch"]]
    if not means or not np.isfinite(means).all() or not all(isinstance(fact, str) for fact in facts):
        raise ValueError("per_seed", means)
    return document


def way(document: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """How an evaluation was made: seed, candidates, and facts in which its environment differed from the
    data's. The device is not part of it: a GPU draws other noise, but from the same distribution."""
    facts = tuple(
        sorted(f"{each['fact']} = {json.dumps(each.get('found'))}" for each in document["mismatch"])
    )
    return document["seed"], document["candidates"], facts


STANDARD = (0, 1, ())
"""The ``way`` of the evaluations that tables use."""


def trained(run: Run, where: str = "cpu") -> Learner:
    """Load a run's algorithm with the weights of its last checkpoint. Raises UserError if there is none."""
    device = torch.device(where)
    algorithm = run.build(device, seeding.generators(run.seeds, seeding.LEARNING, device))
    updates, weights = checkpoint.load_weights(run.folder, device)
    with checkpoint.belonging(run.folder):
        algorithm.members.load_weights(weights)
    algorithm.members.updates = updates
    return algorithm


def evaluate(
    run: Run,
    episodes: int = 100,
    seed: int = 0,
    candidates: int = 1,
    shift: str = "none",
    allow_mismatch: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Evaluate a run's last checkpoint in the standard or a shifted environment; return ``evaluation.json``.

    Initial states and the policies' noise are the same under every shift; on a GPU (``device``) noise and
    rounding differ from the CPU's. Raises ValueError for a shift that the environment does not have, and
    UserError if the environment is no longer the one that the data came from, unless ``allow_mismatch``; then
    ``mismatch`` lists how it differs.
    """
    name = run.document["dataset"]["env"]
    mismatch = runs.mismatch(run.spec, name, allow_mismatch)
    named.environment(name)  # allowing a mismatch does not allow running code
    with envs.closing(envs.make(name, num_envs=episodes, shift=shift)) as env:
        algorithm = trained(run, device)
        played = play(algorithm, run.settings.seeds, env, seed, candidates)
    updates = algorithm.members.updates
    found = document(run, played, env, candidates, seed, updates)
    return found | {"device": device, "mismatch": mismatch}
